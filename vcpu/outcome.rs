// SPDX-License-Identifier: GPL-2.0

//! What a handler decided, and what user space is told.

use super::exit::RawExit;
use super::hyperv::HvExit;
use super::vapic::TprReport;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::machine::power::PlatformEvent;

/// A reason to return to user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserExit {
    /// A port that nobody in the kernel answers.
    Io {
        /// The port.
        port: u16,
        /// The width.
        width: AccessWidth,
        /// IN.
        is_in: bool,
        /// The value written.
        data: u32,
    },
    /// REP INS or OUTS of such a port: the elements are in the vCPU's [`super::io::PendingIo::string`].
    IoString {
        /// The port.
        port: u16,
        /// The width of an element.
        width: AccessWidth,
        /// How many.
        count: u32,
        /// INS.
        is_in: bool,
    },
    /// An address that is neither memory nor a device in the kernel.
    Mmio {
        /// Where.
        gpa: Gpa,
        /// The bytes written.
        data: [u8; 8],
        /// How many.
        len: u8,
        /// Write.
        is_write: bool,
    },
    /// An access to an MSR that was refused: user space carries it out or has it fault.
    Msr {
        /// The MSR.
        index: u32,
        /// The value written.
        data: u64,
        /// WRMSR.
        is_write: bool,
        /// Why, `MSR_EXIT_*`.
        reason: u32,
    },
    /// What a guest asks of Hyper-V.
    HyperV(HvExit),
    /// HLT without an interrupt controller in the kernel.
    Hlt,
    /// Triple fault.
    Shutdown,
    /// The guest asked for power-off or reset.
    SystemEvent(PlatformEvent),
    /// The task priority register was accessed, as user space wants to know. The instruction is done.
    TprAccess(TprReport),
    /// The guest can take an interrupt, as was asked.
    InterruptWindow,
    /// The vCPU's ring of dirty pages is to be harvested.
    DirtyRingFull,
    /// A debugger outside the guest is told of an exception.
    Debug {
        /// #DB or #BP.
        vector: ExceptionVector,
        /// The linear address of the instruction at RIP.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7 as it is in force.
        dr7: u64,
    },
    /// A level-triggered interrupt has ended for which an I/O APIC in user space waits: its vector.
    IoapicEoi(u8),
    /// An event cannot be delivered: on the way to its handler there is no memory.
    Undeliverable {
        /// The exit that ended the delivery, or the last one before it began.
        raw: RawExit,
        /// What was accessed, if that is known.
        gpa: Option<Gpa>,
    },
    /// The vCPU cannot go on.
    Bug(VmBug),
}

impl UserExit {
    /// Returns whether the vCPU has come to its end, unless user space makes it another one.
    #[inline]
    pub(crate) fn is_end(self) -> bool {
        matches!(self, UserExit::Bug(_) | UserExit::Shutdown | UserExit::Undeliverable { .. })
    }
}

/// Why a vCPU cannot go on. The host lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VmBug {
    /// The processor refused to enter.
    EntryFailed(RawExit),
    /// The processor did not take the guest's extended state, which is initial now.
    ExtendedState,
    /// An exit that nobody asked for.
    UnknownExit(RawExit),
    /// An instruction that the emulator does not know.
    Emulation {
        /// Where.
        rip: u64,
        /// Its bytes, as far as they could be read.
        bytes: [u8; 15],
        /// How many were read.
        len: u8,
        /// The exit that led to it.
        raw: RawExit,
    },
    /// An event whose way to its handler the emulator does not know: through a task gate, to another
    /// privilege level, from virtual-8086 mode.
    Delivery {
        /// Where the guest is.
        rip: u64,
        /// The event's entry of the IDT.
        vector: u8,
    },
}

impl VmBug {
    /// Says for the kernel's log what it is: most of it a guest or its VMM can bring about.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            VmBug::EntryFailed(_) => "the processor does not enter a guest in this state",
            VmBug::ExtendedState => "the processor does not take the guest's extended state",
            VmBug::UnknownExit(_) => "a bug of the module, which does not know this exit",
            VmBug::Emulation { .. } => "an instruction that cannot be carried out in software",
            VmBug::Delivery { .. } => "an event that cannot be delivered in software",
        }
    }
}

/// What a vCPU must wait for outside its window, where it may sleep: from the second-level table and the emulator to
/// the run loop, which has [`SecondLevel::unblock`](super::second_level::SecondLevel::unblock) do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockedBy {
    /// A page of guest memory that is to be made resident and mapped.
    MapIn {
        /// Where.
        gpa: Gpa,
        /// For writing.
        write: bool,
    },
    /// A page of guest memory that is to be made resident.
    FaultIn {
        /// Where.
        gpa: Gpa,
        /// For writing.
        write: bool,
    },
    /// The pool of table pages, which is to be filled.
    NeedPages,
    /// Other CPUs, which are to forget a mapping.
    NeedFlush,
}

/// What a handler decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitOutcome {
    /// Enter the guest where it stands.
    Resume,
    /// The instruction is done: go past it.
    SkipAndResume,
    /// The instruction raises this.
    Inject(CpuException),
    /// The instruction is done; wait for an event.
    Halt,
    /// Wait for an event: RIP is behind the instruction already.
    Halted,
    /// Do what sleeps, then enter the guest where it stands.
    Blocked(BlockedBy),
    /// Let the host take its interrupt.
    HostInterrupt,
    /// Return to user space; the instruction is finished on the next KVM_RUN where it needs that. Made by
    /// [`VcpuCore::leave_for_user`](super::core::VcpuCore::leave_for_user).
    ToUser,
    /// Go past the instruction, then return to user space. Made by
    /// [`VcpuCore::skip_to_user`](super::core::VcpuCore::skip_to_user).
    SkipToUser,
}

/// Why an access to an MSR does not end with the next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrStop {
    /// It is refused: #GP, or user space carries it out.
    Refused,
    /// This page of guest memory is to be made resident first, for writing. Nothing has been done.
    Missing(Gpa),
    /// It is done, and user space hears of it: the vCPU has what.
    Told,
}

impl From<CpuException> for MsrStop {
    fn from(_: CpuException) -> MsrStop {
        MsrStop::Refused
    }
}

/// How the guest goes on after an exit that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FastExit {
    /// At once.
    Again,
    /// After another look at what it should be given.
    Prepare,
    /// In user space: the vCPU has what it is told, and stands behind the instruction.
    ToUser,
    /// Not answered: nothing has been done yet.
    Not,
}
