// SPDX-License-Identifier: GPL-2.0

//! From a VMCB's exit code to a typed [`VmExit`].
//!
//! APM, "SVM Intercept Exit Codes". A pure function of plain numbers: total over all codes.

use crate::arch::addr::{Gpa, Gva};
use crate::arch::exception::{ExceptionVector, PfError};
use crate::vcpu::exit::{
    CrAccess, CrKind, FaultFlags, GuestPageFault, LinearFault, MsrAccess, PioAccess, RawExit, SvmInsn,
    VirtInsn, VmExit,
};

/// The exit code of IN, OUT, INS and OUTS.
pub(super) const IOIO: u64 = 0x7b;
/// The exit code of a VMRUN that the processor refused.
const VMEXIT_INVALID: u64 = u64::MAX;
/// As [`VMEXIT_INVALID`], where only 32 bits are written.
const VMEXIT_INVALID32: u64 = 0xffff_ffff;

/// Returns whether an exit code says that the processor refused to enter.
#[inline]
pub(crate) fn is_refused(code: u64) -> bool {
    matches!(code, VMEXIT_INVALID | VMEXIT_INVALID32)
}

/// Translates a raw exit.
#[inline(always)]
pub(super) fn decode(raw: RawExit) -> VmExit {
    // One comparison each for those that come most often, then a search among the others.
    // This one alone in 32 bits, so that the compiler leaves it in front.
    if raw.reason as u32 == IOIO as u32 {
        return VmExit::Pio(PioAccess::from_info(raw.info1 as u32));
    }
    if raw.reason == 0x400 {
        return page_fault(raw);
    }
    if raw.reason == 0x7c {
        return VmExit::Msr(if raw.info1 & 1 == 0 { MsrAccess::Read } else { MsrAccess::Write });
    }
    match raw.reason {
        0x78 => VmExit::Hlt,
        0x00..=0x1f => VmExit::Cr(control_register(raw.reason)),
        0x72 => VmExit::Cpuid,
        // A physical interrupt, NMI, SMI or INIT, which waits for the host.
        0x60..=0x63 => VmExit::HostInterrupt,
        0x64 => VmExit::InterruptWindow,
        0x81 => VmExit::VirtInsn(VirtInsn::Hypercall),
        0x20..=0x3f => VmExit::DebugRegister,
        // Intercepted for shadow pages alone.
        0x4e => VmExit::PageFault(LinearFault {
            gva: Gva(raw.info2),
            error: PfError::from_bits_truncate(raw.info1 as u32),
        }),
        0x40..=0x5f => VmExit::Exception(ExceptionVector((raw.reason & 0x1f) as u8), raw.info1 as u32),
        0x74 => VmExit::NmiReturn,
        // INVD, WBINVD.
        0x76 | 0x89 => VmExit::CacheFlush,
        // RDPMC: no counters.
        0x6f => VmExit::Forbidden,
        0x7a => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Invlpga)),
        0x80 => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Vmrun)),
        0x82 => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Vmload)),
        0x83 => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Vmsave)),
        0x84 => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Stgi)),
        0x85 => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Clgi)),
        0x86 => VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Skinit)),
        // Processors without decode assists tell 0.
        0x79 => VmExit::Invlpg(Some(Gva(raw.info1)).filter(|gva| gva.0 != 0)),
        // MONITOR, MWAIT and its conditional form.
        0x8a..=0x8c => VmExit::Mwait,
        // RDPRU: absent for guests.
        0x8e => VmExit::Undefined,
        0x8d => VmExit::Xsetbv,
        0x7d => VmExit::TaskSwitch,
        // FERR_FREEZE: an x87 error with CR0.NE clear waits for an interrupt that no line of ours brings.
        0x7e => VmExit::HostInterrupt,
        0x7f => VmExit::TripleFault,
        VMEXIT_INVALID | VMEXIT_INVALID32 => VmExit::EntryFailed(raw),
        _ => VmExit::Unknown(raw),
    }
}

/// CLTS and LMSW are writes of CR0 to the processor.
fn control_register(code: u64) -> CrAccess {
    let kind = if code & 0x10 == 0 { CrKind::Read } else { CrKind::Write };
    CrAccess { number: (code & 0xf) as u8, kind }
}

/// APM, "Nested versus Guest Page Faults", EXITINFO1.
fn page_fault(raw: RawExit) -> VmExit {
    VmExit::GuestPageFault(GuestPageFault {
        gpa: Gpa(raw.info2),
        flags: FaultFlags::from_bits_truncate(raw.info1),
    })
}
