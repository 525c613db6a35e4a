// SPDX-License-Identifier: GPL-2.0

//! What the program does when it is called: run a guest, show what would run, look at the host, or help a shell.

pub mod check;
pub mod completions;
pub mod pid_file;
pub mod print_config;
pub mod run;
pub mod settings;
