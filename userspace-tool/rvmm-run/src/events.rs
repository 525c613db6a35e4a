// SPDX-License-Identifier: GPL-2.0

//! What the user is told while the program runs.

use std::io::Write;

use crate::console::stdio;

/// Writes a message of the tool to standard error, with line ends that a raw terminal shows right.
pub fn message(text: &str) {
    let end = if stdio::is_raw() { "\r\n" } else { "\n" };
    let text = format!("rvmm-run: {text}").replace('\n', end);
    let _ = write!(std::io::stderr(), "{}{end}", text.trim_end());
}
