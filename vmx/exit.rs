// SPDX-License-Identifier: GPL-2.0

//! From an exit reason and its qualification to a typed [`VmExit`].
//!
//! SDM, "VMX Basic Exit Reasons", "Exit Qualification". A pure function of plain numbers: total over
//! all reasons.

use super::event::{self, VALID};
use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::exception::{ExceptionVector, PfError};
use crate::vcpu::exit::{
    CrAccess, CrKind, FaultFlags, GuestPageFault, LinearFault, MsrAccess, PioAccess, RawExit, VirtInsn,
    VmExit, VmxInsn,
};

/// Bit 31 of the exit reason: the entry failed.
pub(crate) const ENTRY_FAILURE: u64 = 1 << 31;
/// Stands for the exit reason where VMLAUNCH or VMRESUME itself failed; `info1` has the error number.
pub(crate) const VM_FAIL: u64 = u64::MAX;

/// Stands for the exit reason where the guest was not entered, since it is in a mode that the processor
/// cannot run; no basic reason is that high.
pub(crate) const SOFTWARE: u64 = 0xffff;

/// An access to a control register.
pub(crate) const REASON_CR: u16 = 28;
/// A fault of the EPT's rights.
pub(crate) const REASON_EPT_VIOLATION: u16 = 48;

/// What the processor reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExitReport {
    /// Exit reason, all 32 bits, or [`VM_FAIL`].
    pub(crate) reason: u64,
    /// Exit qualification.
    pub(crate) qualification: u64,
    /// Guest physical address.
    pub(crate) gpa: u64,
    /// Interruption information.
    pub(crate) interruption: u32,
    /// Interruption error code.
    pub(crate) error: u32,
    /// IDT-vectoring information.
    pub(crate) vectoring: u32,
    /// IDT-vectoring error code.
    pub(crate) vectoring_error: u32,
    /// Instruction length.
    pub(crate) length: u32,
}

impl ExitReport {
    /// Returns the basic exit reason; `None` where the entry failed.
    #[inline]
    pub(crate) fn basic(&self) -> Option<u16> {
        (self.reason != VM_FAIL && self.reason & ENTRY_FAILURE == 0).then_some(self.reason as u16)
    }

    /// Returns whether the entry failed by a machine check, which no exit will tell of. SDM, "Machine-Check Events
    /// During VM Entry".
    #[inline]
    pub(crate) fn is_machine_check(&self) -> bool {
        self.reason == ENTRY_FAILURE | 41
    }

    /// Returns the report in the run loop's terms.
    #[inline]
    pub(crate) fn raw(&self) -> RawExit {
        RawExit { reason: self.reason, info1: self.qualification, info2: self.gpa }
    }

    /// Returns whether an IRET that faulted had already ended the blocking of NMIs, so that it must be
    /// put back. SDM, "Resuming Guest Software after Handling an Exception".
    #[inline]
    pub(crate) fn has_unblocked_nmi(&self) -> bool {
        // The bit is undefined where a delivery was cut short. SDM, "Information for VM Exits Due to Vectored Events".
        if self.vectoring & VALID != 0 {
            return false;
        }
        match self.basic() {
            Some(0) => {
                // Undefined with #DF, too.
                let double = (self.interruption & 0xff) as u8 == ExceptionVector::DF.0;
                self.interruption & event::NMI_UNBLOCKED != 0 && !double
            }
            Some(REASON_EPT_VIOLATION) => self.qualification & (1 << 12) != 0,
            _ => false,
        }
    }
}

/// Translates a report.
#[inline]
pub(crate) fn decode(report: &ExitReport) -> VmExit {
    let raw = report.raw();
    if raw.reason == SOFTWARE {
        return VmExit::Emulate;
    }
    let Some(reason) = report.basic() else { return VmExit::EntryFailed(raw) };
    match reason {
        // Hot ones first.
        30 => pio(raw),
        31 => VmExit::Msr(MsrAccess::Read),
        32 => VmExit::Msr(MsrAccess::Write),
        REASON_EPT_VIOLATION => violation(report),
        49 => misconfiguration(report),
        12 => VmExit::Hlt,
        10 => VmExit::Cpuid,
        1 => VmExit::HostInterrupt,
        7 => VmExit::InterruptWindow,
        18 => VmExit::VirtInsn(VirtInsn::Hypercall),
        29 => VmExit::DebugRegister,
        0 => exception(report),
        8 => VmExit::NmiReturn,
        // INVD, WBINVD.
        13 | 54 => VmExit::CacheFlush,
        // RDPMC: no counters.
        15 => VmExit::Forbidden,
        REASON_CR => VmExit::Cr(cr_access(raw.info1)),
        14 => VmExit::Invlpg(Some(Gva(raw.info1))),
        19..=27 | 50 | 53 | 59 => {
            vmx_insn(reason).map_or(VmExit::Unknown(raw), |i| VmExit::VirtInsn(VirtInsn::Vmx(i)))
        }
        36 | 39 => VmExit::Mwait,
        // GETSEC, RSM outside SMM, ENCLS, UMWAIT, TPAUSE: absent for guests.
        11 | 17 | 60 | 67 | 68 => VmExit::Undefined,
        55 => VmExit::Xsetbv,
        9 => VmExit::TaskSwitch,
        // The task priority fell below what an interrupt waits for: the run loop looks anew.
        43 => VmExit::Resolved,
        2 => VmExit::TripleFault,
        // A host's INIT, SIPI or SMI: what it waits for happens outside the window. The preemption timer
        // ends the guest for the host's sake, too.
        3..=6 | 52 => VmExit::HostInterrupt,
        _ => VmExit::Unknown(raw),
    }
}

fn vmx_insn(reason: u16) -> Option<VmxInsn> {
    Some(match reason {
        19 => VmxInsn::Vmclear,
        20 => VmxInsn::Vmlaunch,
        21 => VmxInsn::Vmptrld,
        22 => VmxInsn::Vmptrst,
        23 => VmxInsn::Vmread,
        24 => VmxInsn::Vmresume,
        25 => VmxInsn::Vmwrite,
        26 => VmxInsn::Vmxoff,
        27 => VmxInsn::Vmxon,
        50 => VmxInsn::Invept,
        53 => VmxInsn::Invvpid,
        59 => VmxInsn::Vmfunc,
        _ => return None,
    })
}

/// SDM, "Exit Qualification for I/O Instructions".
fn pio(raw: RawExit) -> VmExit {
    let width = match raw.info1 & 7 {
        0 => AccessWidth::B1,
        1 => AccessWidth::B2,
        3 => AccessWidth::B4,
        _ => return VmExit::Unknown(raw),
    };
    let (is_in, is_string) = (raw.info1 & 8 != 0, raw.info1 & 16 != 0);
    VmExit::Pio(PioAccess::new((raw.info1 >> 16) as u16, width, is_in, is_string))
}

/// SDM, "Exit Qualification for EPT Violations".
fn violation(report: &ExitReport) -> VmExit {
    let q = report.qualification;
    let mut flags = FaultFlags::empty();
    flags.set(FaultFlags::WRITE, q & 2 != 0);
    flags.set(FaultFlags::FETCH, q & 4 != 0);
    flags.set(FaultFlags::PRESENT, q & 0x38 != 0);
    // Bit 7: there is a guest linear address; bit 8: the access was to what it translates to.
    flags.set(FaultFlags::FINAL, q & 0x180 == 0x180);
    VmExit::GuestPageFault(GuestPageFault { gpa: Gpa(report.gpa), flags })
}

/// An entry that the processor cannot use: only a bug of ours makes one.
fn misconfiguration(report: &ExitReport) -> VmExit {
    let flags = FaultFlags::PRESENT | FaultFlags::RESERVED;
    VmExit::GuestPageFault(GuestPageFault { gpa: Gpa(report.gpa), flags })
}

fn exception(report: &ExitReport) -> VmExit {
    if event::is_nmi(report.interruption) {
        return VmExit::HostInterrupt;
    }
    match ExceptionVector((report.interruption & 0xff) as u8) {
        // They exit without EPT alone.
        ExceptionVector::PF => VmExit::PageFault(LinearFault {
            gva: Gva(report.qualification),
            error: PfError::from_bits_truncate(report.error),
        }),
        vector => VmExit::Exception(vector, report.error),
    }
}

/// What the processor did not take, so that the guest was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryRefusal {
    /// The value of a field, or the field: its encoding.
    Field(u32),
    /// The guest's value of an MSR.
    Msr,
    /// The command to flush translations.
    Flush,
}

impl EntryRefusal {
    const MSR: u64 = 1 << 62;
    const FLUSH: u64 = 1 << 63;

    /// Returns the `info1` that tells of it with [`VM_FAIL`].
    pub(crate) fn info(self) -> u64 {
        match self {
            EntryRefusal::Field(encoding) => u64::from(encoding) << 32,
            EntryRefusal::Msr => Self::MSR,
            EntryRefusal::Flush => Self::FLUSH,
        }
    }
}

/// Says what [`VM_FAIL`] stands for, from its `info1`: an instruction error number, or a [`EntryRefusal`].
///
/// SDM, "VM Instruction Error Numbers".
pub(crate) fn fail_reason(info: u64) -> &'static str {
    match info {
        0 => "VMX operation could not be entered, or the VMCS not be loaded",
        4 => "VMLAUNCH wants a VMCS that is clear",
        5 => "VMRESUME wants a VMCS that was launched",
        6 => "VMRESUME after VMXOFF",
        7 => "a control field is invalid",
        8 => "a field of the host's state is invalid",
        26 => "events are blocked by MOV SS",
        EntryRefusal::MSR => "the processor does not take the guest's value of an MSR",
        EntryRefusal::FLUSH => "translations could not be flushed",
        field if field >> 32 != 0 => "the processor does not have a field of the VMCS",
        _ => "see the manual for this error",
    }
}

/// A write to a control register that touched a bit which is not the guest's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrWriteExit {
    /// CR0 or CR4.
    pub(crate) number: u8,
    /// The general register with the new value.
    pub(crate) source: u8,
}

/// Reads the qualification of a control register access.
///
/// SDM, "Exit Qualification for Control-Register Accesses".
fn cr_access(qualification: u64) -> CrAccess {
    let kind = match qualification >> 4 & 3 {
        0 => CrKind::Write,
        1 => CrKind::Read,
        2 => CrKind::Clts,
        _ => CrKind::Lmsw,
    };
    CrAccess { number: (qualification & 15) as u8, kind }
}

/// Reads the qualification of a control register access; `None` for one that is not a MOV to CR0 or CR4.
///
/// SDM, "Exit Qualification for Control-Register Accesses".
pub(crate) fn cr_write(qualification: u64) -> Option<CrWriteExit> {
    let number = (qualification & 15) as u8;
    let is_mov_to = qualification & 0x30 == 0;
    let source = (qualification >> 8 & 15) as u8;
    (is_mov_to && matches!(number, 0 | 4)).then_some(CrWriteExit { number, source })
}
