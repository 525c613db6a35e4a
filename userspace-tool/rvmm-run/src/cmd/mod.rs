// SPDX-License-Identifier: GPL-2.0

//! What the program does when it is called: run a guest, or look at the host.

pub mod check;
pub mod run;
