// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the instructions.

use crate::arch::cr::Cr4;
use crate::host::processor::registers;
use std::cell::Cell;

thread_local! {
    static CR2: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn cr2() -> u64 {
    CR2.get()
}

pub(super) fn set_cr2(value: u64) {
    CR2.set(value);
}

/// The host has machine checks on.
pub(super) fn cr4() -> u64 {
    Cr4::MCE.bits()
}

pub(super) fn dr6() -> u64 {
    registers(|r| r.dr6)
}

pub(super) fn set_dr6(value: u64) {
    registers(|r| r.dr6 = value);
}
