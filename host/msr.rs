// SPDX-License-Identifier: GPL-2.0

//! Reading and writing MSRs, and those of the host that guests see directly, switched over a window.
//!
//! No access can be an oops, whatever the processor says to it: [`try_rdmsr`] and [`try_wrmsr`] give an
//! error, for what a window depends on; [`rdmsr`] and [`wrmsr`] leave a line in the kernel's log.

use super::cpu::cpuid;
use super::cpu::PinnedCpu;
use super::fault::on_fault;
use crate::arch::mitigation::SpecFeatures;
use crate::arch::msr::{PRED_CMD, SPEC_CTRL, TSC_AUX};
use core::arch::asm;
use kernel::prelude::*;

/// Reads an MSR that every processor in question has. From one that does not have it, it is 0, and the kernel's
/// log says so once.
///
/// # Safety
/// Reading it has no side effect.
#[inline]
pub(crate) unsafe fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: By this function's contract; a fault goes on behind the instruction.
    unsafe {
        asm!("2: rdmsr", "3:", on_fault!("3b", rdmsr),
            in("ecx") msr, out("eax") lo, out("edx") hi, options(nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR that every processor in question has, with a value that it has had. One that refuses it keeps
/// what it has, and the kernel's log says so once.
///
/// # Safety
/// The host can live with the value until it is put back.
#[inline]
pub(crate) unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: By this function's contract; a fault goes on behind the instruction.
    unsafe {
        asm!("2: wrmsr", "3:", on_fault!("3b", wrmsr),
            in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// Reads an MSR.
///
/// # Errors
/// `EIO` where the processor refuses.
///
/// # Safety
/// Reading it has no side effect.
#[inline]
pub(crate) unsafe fn try_rdmsr(msr: u32) -> Result<u64> {
    let (lo, hi): (u64, u64);
    // SAFETY: By this function's contract; a fault is the result. RDMSR clears the upper halves.
    unsafe {
        asm!("2: rdmsr", "3:", on_fault!("3b", rax = -1),
            in("ecx") msr, lateout("rax") lo, lateout("rdx") hi, options(nostack, preserves_flags))
    };
    if (lo as i64) < 0 {
        return Err(EIO);
    }
    Ok(hi << 32 | lo)
}

/// Writes an MSR.
///
/// # Errors
/// `EIO` where the processor refuses; the MSR is as it was.
///
/// # Safety
/// The host can live with the value until it is put back.
#[inline]
pub(crate) unsafe fn try_wrmsr(msr: u32, value: u64) -> Result {
    let fault: i64;
    // SAFETY: By this function's contract; a fault is the result.
    unsafe {
        asm!("2: wrmsr", "3:", on_fault!("3b", rax = -1), in("ecx") msr,
            inlateout("rax") value & 0xffff_ffff => fault, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
    if fault < 0 {
        return Err(EIO);
    }
    Ok(())
}

fn read() -> u64 {
    // SAFETY: Only used where CPUID offers RDTSCP, which comes with this MSR.
    unsafe { rdmsr(TSC_AUX) }
}

fn write(value: u32) {
    // SAFETY: As in `read()`; any 32-bit value is taken, and the host reads it in user space only, which
    // it does not return to before the old value is back (see `TscAux`).
    unsafe { wrmsr(TSC_AUX, value.into()) };
}

/// Returns whether this processor has TSC_AUX (RDTSCP).
pub(crate) fn has_tsc_aux() -> bool {
    cpuid(0x8000_0000, 0).eax >= 0x8000_0001 && cpuid(0x8000_0001, 0).edx & (1 << 27) != 0
}

/// TSC_AUX holds the guest's value until this is dropped.
pub(crate) struct TscAux {
    host: u32,
    guest: u32,
}

impl TscAux {
    /// Loads the guest's value. `None` where the processor has no such MSR.
    pub(crate) fn load(guest: u32, present: bool, _cpu: &PinnedCpu) -> Option<TscAux> {
        if !present {
            return None;
        }
        let host = read() as u32;
        if host != guest {
            write(guest);
        }
        Some(TscAux { host, guest })
    }

    /// Changes the guest's value.
    pub(crate) fn set(&mut self, guest: u32) {
        self.guest = guest;
        write(guest);
    }
}

impl Drop for TscAux {
    fn drop(&mut self) {
        if self.host != self.guest {
            write(self.host);
        }
    }
}

impl SpecFeatures {
    /// Asks the calling CPU.
    pub(crate) fn of_this_cpu() -> SpecFeatures {
        SpecFeatures::of(cpuid)
    }

    /// Executes the guest's barrier command, where there is one.
    pub(crate) fn barrier(self, _cpu: &PinnedCpu) {
        if self.barrier {
            // SAFETY: The processor has the MSR; the barrier has no effect but on predictions.
            unsafe { wrmsr(PRED_CMD, 1) };
        }
    }
}

/// The guest's SPEC_CTRL, where it asks for more than the host has in force.
///
/// The guest runs with its bits and the host's together. So the value of guest mode is never weaker than
/// the host's, and nothing is lost in the few instructions between the exit and the switch back.
pub(crate) struct SpecCtrl {
    host: u32,
    guest: u32,
}

impl SpecCtrl {
    /// Prepares for a guest whose value is `guest`; `None` where nothing has to be switched.
    pub(crate) fn new(guest: u32, host: SpecFeatures, _cpu: &PinnedCpu) -> Option<SpecCtrl> {
        let guest = guest & host.control;
        if guest == 0 {
            return None;
        }
        // SAFETY: The processor has SPEC_CTRL: one of its bits is known.
        let host = unsafe { rdmsr(SPEC_CTRL) } as u32;
        Some(SpecCtrl { host, guest: guest | host }).filter(|s| s.guest != s.host)
    }

    /// Puts the guest's value in force: just before an entry.
    #[inline]
    pub(crate) fn show(&self) {
        // SAFETY: The processor has the MSR and its bits (see `new()`); `hide()` follows the exit.
        unsafe { wrmsr(SPEC_CTRL, self.guest.into()) };
    }

    /// Puts the host's value back: right after an exit.
    #[inline]
    pub(crate) fn hide(&self) {
        // SAFETY: The host's own value.
        unsafe { wrmsr(SPEC_CTRL, self.host.into()) };
    }
}
