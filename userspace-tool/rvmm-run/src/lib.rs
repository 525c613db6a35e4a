// SPDX-License-Identifier: GPL-2.0

//! The parts of `rvmm-run`, as a library so that tests and fuzzers reach each of them.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | command line |
//! | [`start`] | checks the input, opens everything, runs machines until the end |
//! | [`check`] | `--check` |
//! | [`kernel`], [`image`] | kernel and initrd loaders |
//! | [`memory`], [`layout`] | guest RAM and the memory map |
//! | [`acpi`] | ACPI tables |
//! | [`cpu`] | CPUID, entry state, run loop, dumps |
//! | [`machine`] | one VM: devices, threads |
//! | [`disk`], [`net`], [`console`] | host side of disks, network cards and console |
//! | [`sys`] | the one file with unsafe code |

pub mod acpi;
pub mod check;
pub mod cli;
pub mod console;
pub mod cpu;
pub mod disk;
pub mod error;
pub mod exit_status;
pub mod image;
pub mod kernel;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod net;
pub mod start;
pub mod sys;

use std::io::Write;

/// Writes a message of the tool to standard error, with line ends that a raw terminal shows right.
pub fn message(text: &str) {
    let end = if console::stdio::is_raw() { "\r\n" } else { "\n" };
    let text = format!("rvmm-run: {text}").replace('\n', end);
    let _ = write!(std::io::stderr(), "{}{end}", text.trim_end());
}
