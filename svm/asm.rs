// SPDX-License-Identifier: GPL-2.0

//! The instructions of SVM.
//!
//! APM, "SVM Instruction Set".

#![expect(unsafe_code, reason = "instructions that change the processor's mode")]

use crate::arch::addr::Hpa;
use crate::host::fault::on_fault;
use core::arch::asm;

unsafe extern "C" {
    /// See enter.S.
    fn rvmm_svm_enter(vmcb: u64, gprs: *mut u64, host_vmcb: u64);
}

/// Stores FS, GS, TR, LDTR and the system call MSRs. Returns whether the processor did.
///
/// # Safety
/// `page` is a page owned for this use.
pub(super) unsafe fn vmsave(page: Hpa) -> bool {
    let fault: i64;
    // SAFETY: By this function's contract; a fault is the result. Bit 63 of an address is 0.
    unsafe {
        asm!("2: vmsave", "3:", on_fault!("3b", rax = -1), inlateout("rax") page.0 => fault, options(nostack, preserves_flags))
    };
    fault >= 0
}

/// Switches to the guest and comes back with its next exit. Where the processor faults instead of entering, the
/// VMCB says that it was refused.
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
