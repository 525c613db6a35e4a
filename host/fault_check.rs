// SPDX-License-Identifier: GPL-2.0

//! Whether instructions that fault go on as their entries in the exception table say.
//!
//! No guest and no caller brings such a fault about, so no test of a guest would see it. A module for a kernel with
//! `CONFIG_RUST_DEBUG_ASSERTIONS` looks when it is loaded.

#![expect(unsafe_code, reason = "instructions that fault")]

use super::cpu::PinnedCpu;
use super::fault::on_fault;
use super::fpu::GuestFpu;
use super::msr::{try_rdmsr, try_wrmsr};
use crate::arch::rule::rule;
use core::arch::asm;

/// A selector with nothing behind it: the GDT of Linux is shorter.
const NO_SEGMENT: u64 = 0xfff8;

/// A number that no processor gives an MSR: between the first two registers of the x2APIC.
const NO_MSR: u32 = 0x801;

/// Loads ES with [`NO_SEGMENT`], which faults. Gives RAX, which held that, and RCX, which held 0, after it.
macro_rules! load_nothing {
    ($($says:tt)*) => {{
        let (rax, rcx): (u64, u64);
        // SAFETY: The load faults, so ES keeps what it has.
        unsafe {
            asm!("2: mov es, eax", "3:", on_fault!("3b" $($says)*),
                inlateout("rax") NO_SEGMENT => rax, inlateout("rcx") 0u64 => rcx, options(nostack, preserves_flags))
        };
        (rax, rcx)
    }};
}

/// Has instructions fault, and looks whether the processor goes on where the entries say, with what they say.
///
/// # Errors
/// What did not come true.
pub(crate) fn check() -> Result<(), &'static str> {
    rule(load_nothing!() == (NO_SEGMENT, 0), "a fault goes on")?;
    rule(load_nothing!(, rax = -1) == (u64::MAX, 0), "a fault sets RAX to -1")?;
    rule(load_nothing!(, rax = 0) == (0, 0), "a fault sets RAX to 0")?;
    rule(load_nothing!(, rcx = 1) == (NO_SEGMENT, 1), "a fault sets RCX to 1")?;
    // SAFETY: Nobody has this MSR.
    rule(unsafe { try_rdmsr(NO_MSR) }.is_err(), "an MSR that is not there is an error to read")?;
    // SAFETY: As above.
    rule(unsafe { try_wrmsr(NO_MSR, 0) }.is_err(), "an MSR that is not there is an error to write")?;
    let mut fpu = GuestFpu::new().map_err(|_| "there is memory for a guest's extended state")?;
    fpu.check(&PinnedCpu::pin())
}
