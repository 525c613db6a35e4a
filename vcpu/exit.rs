// SPDX-License-Identifier: GPL-2.0

//! Why a guest left guest mode, in words that do not depend on the vendor.

use crate::arch::addr::{Gpa, Width};
use crate::arch::exception::Vector;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PioAccess {
    /// The port.
    pub(crate) port: u16,
    /// The width; never [`Width::B8`].
    pub(crate) width: Width,
    /// IN.
    pub(crate) is_in: bool,
    /// INS or OUTS, with or without REP: for the emulator.
    pub(crate) is_string: bool,
}

/// RDMSR or WRMSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// A fault of the second-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestPageFault {
    /// The guest physical address.
    pub(crate) gpa: Gpa,
    /// The access was a write.
    pub(crate) write: bool,
    /// The access was an instruction fetch.
    pub(crate) fetch: bool,
    /// A translation was there; a right was missing.
    pub(crate) present: bool,
    /// The address is that of the access itself, not of a page table entry on the way to it.
    pub(crate) is_final: bool,
    /// A bit was set in the table that the processor reserves: a bug of ours.
    pub(crate) reserved: bool,
}

/// An instruction of the virtualization extensions themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VirtInsn {
    /// VMCALL or VMMCALL.
    Hypercall,
    /// Any other.
    Other,
}

/// Why the guest left guest mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// IN, OUT, INS or OUTS.
    Pio(PioAccess),
    /// The second-level table did not allow an access.
    GuestPageFault(GuestPageFault),
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
    /// An instruction that the guest was told it does not have: #UD.
    Undefined,
    /// An instruction that faults for this guest: #GP.
    Forbidden,
    /// Access to a debug register while the guest's are not loaded.
    DebugRegister,
    /// An exception of the guest that is watched.
    Exception(Vector, u32),
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
