// SPDX-License-Identifier: GPL-2.0

//! The kernel's log: the lines of each thread, for its test to look at.

use core::cell::RefCell;

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Writes a line.
pub fn log(line: String) {
    LINES.with(|l| l.borrow_mut().push(line));
}

/// Takes the lines that this thread has written.
pub fn take_log() -> Vec<String> {
    LINES.with(|l| l.take())
}

/// As the kernel's.
#[macro_export]
macro_rules! pr_info {
    ($($arg:tt)*) => { $crate::print::log(format!($($arg)*)) };
}

/// As the kernel's.
#[macro_export]
macro_rules! pr_warn {
    ($($arg:tt)*) => { $crate::print::log(format!($($arg)*)) };
}

/// As the kernel's, but each time: tests are many in a process.
#[macro_export]
macro_rules! pr_warn_once {
    ($($arg:tt)*) => { $crate::print::log(format!($($arg)*)) };
}

/// As the kernel's.
#[macro_export]
macro_rules! pr_err {
    ($($arg:tt)*) => { $crate::print::log(format!($($arg)*)) };
}
