// SPDX-License-Identifier: GPL-2.0

//! What the program does when it is called: run a guest, show what would run, or look at the host.

pub mod check;
pub mod pid_file;
pub mod print_config;
pub mod run;
pub mod settings;
