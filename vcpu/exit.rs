// SPDX-License-Identifier: GPL-2.0

//! Why a guest left guest mode, in words that do not depend on the vendor.

use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::exception::{ExceptionVector, PfError};

/// The exceptions of a guest that exit, a bit each. #DB and #AC can be made to repeat for ever inside their own delivery;
/// #MC is the host's; #UD may be the other vendor's hypercall.
pub(crate) const WATCHED_EXCEPTIONS: u32 = 1 << ExceptionVector::DB.0
    | 1 << ExceptionVector::UD.0
    | 1 << ExceptionVector::AC.0
    | 1 << ExceptionVector::MC.0;

/// What the processor reported, as it reported it; for the flight recorder and for exits nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawExit {
    /// VMCB exit code or VMCS exit reason.
    pub(crate) reason: u64,
    /// EXITINFO1 or the exit qualification.
    pub(crate) info1: u64,
    /// EXITINFO2 or the guest physical address.
    pub(crate) info2: u64,
}

/// An access to one I/O port by IN or OUT.
///
/// One word, laid out as SVM's EXITINFO1, so that the commonest exit is taken apart only as far as its
/// handler looks. APM, "IOIO Intercept".
///
/// The width is the narrowest of those whose bit is set; processors set one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PioAccess(u32);

impl PioAccess {
    const IN: u32 = 1 << 0;
    const STRING: u32 = 1 << 2;
    const BYTE: u32 = 1 << 4;
    const WORD: u32 = 1 << 5;
    const DWORD: u32 = 1 << 6;

    /// IN or OUT, or with `is_string` INS or OUTS. [`AccessWidth::B8`] counts as [`AccessWidth::B4`]: no port is wider.
    pub(crate) fn new(port: u16, width: AccessWidth, is_in: bool, is_string: bool) -> PioAccess {
        let size = match width {
            AccessWidth::B1 => Self::BYTE,
            AccessWidth::B2 => Self::WORD,
            AccessWidth::B4 | AccessWidth::B8 => Self::DWORD,
        };
        let kind = if is_in { Self::IN } else { 0 } | if is_string { Self::STRING } else { 0 };
        PioAccess(u32::from(port) << 16 | size | kind)
    }

    /// Takes EXITINFO1.
    #[inline(always)]
    pub(crate) fn from_info(info: u32) -> PioAccess {
        PioAccess(info)
    }

    /// Returns the port.
    #[inline(always)]
    pub(crate) fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Returns the width; never [`AccessWidth::B8`].
    #[inline(always)]
    pub(crate) fn width(self) -> AccessWidth {
        if self.0 & Self::BYTE != 0 {
            AccessWidth::B1
        } else if self.0 & Self::WORD != 0 {
            AccessWidth::B2
        } else {
            AccessWidth::B4
        }
    }

    /// Returns the width in bytes.
    #[inline(always)]
    pub(crate) fn bytes(self) -> u32 {
        // The bits stand for the powers of two that they are.
        (self.0 >> 4) & 7
    }

    /// Returns the part of RAX that is written.
    #[inline(always)]
    pub(crate) fn written(self, rax: u64) -> u64 {
        rax & !u64::MAX.wrapping_shl(self.bytes().wrapping_mul(8))
    }

    /// Returns whether it is IN or INS.
    #[inline(always)]
    pub(crate) fn is_in(self) -> bool {
        self.0 & Self::IN != 0
    }

    /// Returns whether it is INS or OUTS, with or without REP: for the emulator.
    #[inline(always)]
    pub(crate) fn is_string(self) -> bool {
        self.0 & Self::STRING != 0
    }

    /// Returns whether it is an IN or OUT of one byte.
    #[inline(always)]
    pub(crate) fn is_plain_byte(self) -> bool {
        self.0 & (Self::BYTE | Self::STRING) == Self::BYTE
    }
}

/// RDMSR or WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

bitflags::bitflags! {
    /// What the processor says of a fault of the second-level table.
    ///
    /// Laid out as SVM's EXITINFO1, so that a fault is taken apart only as far as its handler looks. APM, "Nested versus
    /// Guest Page Faults, Fault Ordering".
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct FaultFlags: u64 {
        /// A translation was there; a right was missing.
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// A bit was set in the table that the processor reserves: a bug of ours.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch.
        const FETCH = 1 << 4;
        /// The address is that of the access itself, not of a page table entry on the way to it.
        const FINAL = 1 << 32;
    }
}

/// A fault of the second-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestPageFault {
    /// The guest physical address.
    pub(crate) gpa: Gpa,
    /// What else the processor says.
    pub(crate) flags: FaultFlags,
}

/// A page fault of a processor that walks shadow pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinearFault {
    /// The linear address.
    pub(crate) gva: Gva,
    /// What the processor says of the access and the cause. The cause is the shadow pages', not the guest's.
    pub(crate) error: PfError,
}

/// A MOV to or from a control register, CLTS or LMSW, which exits before it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrAccess {
    /// Which register.
    pub(crate) number: u8,
    /// What is done with it.
    pub(crate) kind: CrKind,
}

/// What is done with a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrKind {
    /// MOV from it.
    Read,
    /// MOV to it, or another instruction that writes it where the processor does not tell them apart.
    Write,
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw,
}

/// An instruction of the virtualization extensions themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VirtInsn {
    /// VMCALL or VMMCALL.
    Hypercall,
    /// Of SVM.
    Svm(SvmInsn),
    /// Of VMX.
    Vmx(VmxInsn),
}

/// The instructions of SVM, VMMCALL aside. APM, "SVM Instructions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the instructions'")]
pub(crate) enum SvmInsn {
    Vmrun,
    Vmload,
    Vmsave,
    Stgi,
    Clgi,
    Skinit,
    Invlpga,
}

/// The instructions of VMX, VMCALL aside. SDM, "VMX Instructions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the instructions'")]
pub(crate) enum VmxInsn {
    Vmclear,
    Vmlaunch,
    Vmptrld,
    Vmptrst,
    Vmread,
    Vmresume,
    Vmwrite,
    Vmxoff,
    Vmxon,
    Invept,
    Invvpid,
    Vmfunc,
}

impl VmExit {
    /// Returns whether it is a machine check, which is the host's: its handler runs before anything else touches
    /// memory, for a second one before that shuts the processor down.
    #[inline]
    pub(crate) fn is_machine_check(&self) -> bool {
        matches!(self, VmExit::Exception(ExceptionVector::MC, _))
    }
}

/// Why the guest left guest mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VmExit {
    /// IN, OUT, INS or OUTS.
    Pio(PioAccess),
    /// The second-level table did not allow an access.
    GuestPageFault(GuestPageFault),
    /// The shadow pages did not allow an access.
    PageFault(LinearFault),
    /// RDMSR or WRMSR; the index is in ECX.
    Msr(MsrAccess),
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// XSETBV.
    Xsetbv,
    /// WBINVD, WBNOINVD or INVD.
    CacheFlush,
    /// MONITOR, MWAIT, MONITORX or MWAITX.
    Mwait,
    /// An instruction that the guest was told it does not have: #UD.
    Undefined,
    /// An instruction that faults for this guest: #GP.
    Forbidden,
    /// An access to a control register that is watched.
    Cr(CrAccess),
    /// INVLPG of a linear address, where the processor told it.
    Invlpg(Option<Gva>),
    /// Access to a debug register while the guest's are not loaded.
    DebugRegister,
    /// An exception of the guest that is watched.
    Exception(ExceptionVector, u32),
    /// The guest can now take an interrupt.
    InterruptWindow,
    /// The guest's NMI handler is returning.
    NmiReturn,
    /// A host interrupt or NMI is pending.
    HostInterrupt,
    /// The backend has done what was to be done: enter again.
    #[cfg_attr(test, allow(dead_code, reason = "made by a backend's impure part"))]
    Resolved,
    /// The processor cannot run the guest in its mode, or not this instruction: carry out the next one
    /// in software. An event that was to be delivered comes back as one that was interrupted.
    #[cfg_attr(test, allow(dead_code, reason = "made by a backend's impure part"))]
    Emulate,
    /// Triple fault.
    TripleFault,
    /// A task switch through a task gate or a far transfer.
    TaskSwitch,
    /// An instruction of the virtualization extensions.
    VirtInsn(VirtInsn),
    /// The processor refused to enter.
    EntryFailed(RawExit),
    /// Something nobody asked for.
    Unknown(RawExit),
}

impl VmExit {
    /// Returns whether the run loop reads memory beside the vCPU's own to handle it: tables and slots for a fault,
    /// whatever the emulator comes to, devices. Then data of the host's may be in the caches when the guest goes on.
    ///
    /// What the [inner loop](super::fast_path) answers reads the vCPU's own, the chips and the table of ioeventfds.
    #[inline(always)]
    pub(crate) fn reads_host_data(&self) -> bool {
        matches!(
            self,
            VmExit::Pio(_)
                | VmExit::GuestPageFault(_)
                | VmExit::PageFault(_)
                | VmExit::Cr(_)
                | VmExit::Invlpg(_)
                | VmExit::Emulate
                | VmExit::Unknown(_)
        )
    }

    /// Returns whether an instruction of the guest caused it, before which the processor would have taken an
    /// interrupt of the host: [`super::progress`] goes by that. Not complete; what is left out is seldom.
    #[inline]
    pub(crate) fn is_of_insn(&self) -> bool {
        matches!(
            self,
            VmExit::Pio(_)
                | VmExit::GuestPageFault(_)
                | VmExit::PageFault(_)
                | VmExit::Cr(_)
                | VmExit::Invlpg(_)
                | VmExit::Msr(_)
                | VmExit::Cpuid
                | VmExit::VirtInsn(_)
                | VmExit::CacheFlush
                | VmExit::DebugRegister
        )
    }
}
