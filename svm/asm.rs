// SPDX-License-Identifier: GPL-2.0

//! The instructions of SVM, and the MSRs that switch it on.
//!
//! APM, "SVM Instruction Set" and "Enabling SVM".

#![expect(unsafe_code, reason = "instructions that change the processor's mode")]

use crate::arch::addr::Hpa;
use core::arch::asm;

unsafe extern "C" {
    /// See enter.S.
    fn rvmm_svm_enter(vmcb: u64, gprs: *mut u64, host_vmcb: u64);
}

/// Reads an MSR.
///
/// # Safety
/// The processor has it.
pub(super) unsafe fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: By this function's contract RDMSR does not fault.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR.
///
/// # Safety
/// The processor has it, takes `value`, and the host can live with it until it is put back.
pub(super) unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: By this function's contract.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags))
    };
}

/// Stores FS, GS, TR, LDTR and the system call MSRs.
///
/// # Safety
/// EFER.SVME is set and `page` is a page owned for this use.
pub(super) unsafe fn vmsave(page: Hpa) {
    // SAFETY: By this function's contract.
    unsafe { asm!("vmsave", in("rax") page.0, options(nostack, preserves_flags)) };
}

/// Switches to the guest and comes back with its next exit.
///
/// # Safety
/// - Interrupts are off, EFER.SVME is set and VM_HSAVE_PA names a page nobody else uses now.
/// - `vmcb` is a VMCB whose control area intercepts physical interrupts and SVM's instructions, and
///   whose maps and table root are valid and stay so.
/// - `host` was filled by [`vmsave`] on this CPU, and nothing of what it holds has changed since.
#[inline(always)]
pub(super) unsafe fn enter(vmcb: Hpa, gprs: &mut [u64; 16], host: Hpa) {
    // SAFETY: By this function's contract; `gprs` has the 16 slots that the code uses.
    unsafe { rvmm_svm_enter(vmcb.0, gprs.as_mut_ptr(), host.0) };
}
