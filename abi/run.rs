// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_run`: the page that the module and user space share while a vCPU runs.
//!
//! User space may change the page at any time, so nothing here is ever a reference into it. The module
//! copies single fields at the offsets given here, each once, and builds an exit as a whole [`RunExit`]
//! before it writes it out.
//!
//! | page of the mapping | holds |
//! |---|---|
//! | 0 | `struct kvm_run` |
//! | 1 | data of a port access |
//! | 2 | ring of coalesced writes |

use super::vcpu::{self, VcpuEvents};
use core::mem::size_of;
use zerocopy::{Immutable, IntoBytes};

/// Bytes of `struct kvm_run`.
pub(crate) const SIZE: usize = 2352;
/// Page of the mapping that holds the data of a port access.
pub(crate) const PIO_PAGE: usize = 1;
/// Page of the mapping that holds the coalesced ring.
pub(crate) const COALESCED_PAGE: usize = 2;
/// Bytes of the mapping of a vCPU: the answer to KVM_GET_VCPU_MMAP_SIZE.
pub(crate) const MMAP_SIZE: usize = 3 * 4096;
/// What [`Io::data_offset`] is for data at the start of the port page.
pub(crate) const PIO_DATA_OFFSET: u64 = 4096;

/// Offsets of the fields of `struct kvm_run`.
pub(crate) mod offset {
    /// `u8`, in: exit as soon as an interrupt can be injected.
    pub(crate) const REQUEST_INTERRUPT_WINDOW: usize = 0;
    /// `u8`, in: complete a pending access, then return EINTR at once.
    pub(crate) const IMMEDIATE_EXIT: usize = 1;
    /// `u32`, out: [`super::ExitReason`].
    pub(crate) const EXIT_REASON: usize = 8;
    /// `u8`, out: an interrupt could be injected now.
    pub(crate) const READY_FOR_INTERRUPT_INJECTION: usize = 12;
    /// `u8`, out: RFLAGS.IF.
    pub(crate) const IF_FLAG: usize = 13;
    /// `u16`, out: `RUN_*`.
    pub(crate) const FLAGS: usize = 14;
    /// `u64`, in and out: CR8.
    pub(crate) const CR8: usize = 16;
    /// `u64`, in and out: MSR APIC_BASE.
    pub(crate) const APIC_BASE: usize = 24;
    /// The exit's own data, 256 bytes.
    pub(crate) const EXIT: usize = 32;
    /// `u64`, in: register groups to be written to [`SYNC_REGS`] at every exit.
    pub(crate) const VALID_REGS: usize = 288;
    /// `u64`, in: register groups that user space changed.
    pub(crate) const DIRTY_REGS: usize = 296;
    /// [`super::SyncRegs`], in and out.
    pub(crate) const SYNC_REGS: usize = 304;

    /// `u8` in an MMIO exit: where user space puts what it read, 8 bytes.
    pub(crate) const MMIO_DATA: usize = EXIT + 8;
    /// `u8` in an MSR exit: 0, or user space wants #GP.
    pub(crate) const MSR_ERROR: usize = EXIT;
    /// `u64` in an MSR exit: where user space puts what it read.
    pub(crate) const MSR_DATA: usize = EXIT + 16;
    /// `u64` in an exit for a hypercall of Hyper-V's: where user space puts the answer.
    pub(crate) const HYPERV_RESULT: usize = EXIT + 16;
    /// `u64` in an exit of Hyper-V's debugger: where user space puts what has come of it.
    pub(crate) const HYPERV_STATUS: usize = EXIT + 24;
    /// `u64` in a hypercall exit: where user space puts the result.
    pub(crate) const HYPERCALL_RET: usize = EXIT + 56;
}

/// [`offset::FLAGS`]: the vCPU is in system management mode.
pub(crate) const RUN_SMM: u16 = 1 << 0;
/// [`offset::FLAGS`]: a bus lock was seen.
pub(crate) const RUN_BUS_LOCK: u16 = 1 << 1;
/// [`offset::FLAGS`]: the vCPU was running a nested guest.
pub(crate) const RUN_GUEST_MODE: u16 = 1 << 2;

/// Register group of [`SyncRegs`]: general registers.
pub(crate) const SYNC_REGS: u64 = 1 << 0;
/// Register group of [`SyncRegs`]: special registers.
pub(crate) const SYNC_SREGS: u64 = 1 << 1;
/// Register group of [`SyncRegs`]: events.
pub(crate) const SYNC_EVENTS: u64 = 1 << 2;

/// Why KVM_RUN returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ExitReason {
    /// The processor gave a reason that the module does not know: [`Hardware`].
    Unknown = 0,
    /// An exception that the module does not handle.
    Exception = 1,
    /// A port access: [`Io`].
    Io = 2,
    /// A hypercall: [`Hypercall`].
    Hypercall = 3,
    /// A debug event: [`Debug`].
    Debug = 4,
    /// HLT, without a local APIC in the module.
    Hlt = 5,
    /// A memory access outside RAM: [`Mmio`].
    Mmio = 6,
    /// An interrupt can be injected.
    IrqWindowOpen = 7,
    /// Triple fault.
    Shutdown = 8,
    /// The processor refused to enter the guest: [`FailEntry`].
    FailEntry = 9,
    /// A signal is pending.
    Intr = 10,
    /// CR8 was lowered, without a local APIC in the module.
    SetTpr = 11,
    /// The task priority register was accessed: [`TprAccess`].
    TprAccess = 12,
    /// The module cannot go on: [`Internal`].
    InternalError = 17,
    /// Power-off, reset or crash: [`SystemEvent`].
    SystemEvent = 24,
    /// End of a level interrupt, for an I/O APIC in user space: [`Eoi`].
    IoapicEoi = 26,
    /// What a guest asks of Hyper-V: [`HypervSynic`], [`HypervCall`], [`HypervDebugger`].
    Hyperv = 27,
    /// RDMSR left to user space: [`Msr`].
    X86Rdmsr = 29,
    /// WRMSR left to user space: [`Msr`].
    X86Wrmsr = 30,
    /// The ring of dirty pages is full.
    DirtyRingFull = 31,
    /// A bus lock was seen.
    X86BusLock = 33,
    /// The guest stayed without an interrupt window for too long.
    Notify = 37,
    /// A fault that user space must resolve: [`MemoryFault`].
    MemoryFault = 39,
}

/// [`Io::direction`]: IN.
pub(crate) const IO_IN: u8 = 0;
/// [`Io::direction`]: OUT.
pub(crate) const IO_OUT: u8 = 1;

/// [`Internal::suberror`]: an instruction could not be emulated.
pub(crate) const INTERNAL_ERROR_EMULATION: u32 = 1;
/// The first word of that: the instruction follows, its length and 15 bytes.
pub(crate) const EMULATION_FLAG_INSTRUCTION_BYTES: u64 = 1 << 0;
/// [`Internal::suberror`]: exceptions that cannot come together did.
pub(crate) const INTERNAL_ERROR_SIMUL_EX: u32 = 2;
/// [`Internal::suberror`]: an exit in the midst of delivering an event that cannot be delivered again.
pub(crate) const INTERNAL_ERROR_DELIVERY_EV: u32 = 3;
/// [`Internal::suberror`]: an exit reason that nothing handles.
pub(crate) const INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;

/// [`SystemEvent::kind`]: the guest powered off.
pub(crate) const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
/// [`SystemEvent::kind`]: the guest asked for a reset.
pub(crate) const SYSTEM_EVENT_RESET: u32 = 2;
/// [`SystemEvent::kind`]: the guest crashed.
pub(crate) const SYSTEM_EVENT_CRASH: u32 = 3;

/// [`Msr::reason`]: the access is invalid.
pub(crate) const MSR_EXIT_INVAL: u32 = 1 << 0;
/// [`Msr::reason`]: the MSR is unknown.
pub(crate) const MSR_EXIT_UNKNOWN: u32 = 1 << 1;
/// [`Msr::reason`]: the filter refused it.
pub(crate) const MSR_EXIT_FILTER: u32 = 1 << 2;

/// [`HypervSynic::kind`]: a register of the synthetic interrupt controller was written.
pub(crate) const HYPERV_SYNIC: u32 = 1;
/// [`HypervCall::kind`]: a hypercall.
pub(crate) const HYPERV_CALL: u32 = 2;
/// [`HypervDebugger::kind`]: a register of the debugger was written.
pub(crate) const HYPERV_DEBUGGER: u32 = 3;

abi_struct! {
    /// Data of [`ExitReason::Unknown`].
    struct Hardware = 8 {
        /// The processor's exit reason.
        hardware_exit_reason: u64,
    }

    /// Data of [`ExitReason::FailEntry`].
    struct FailEntry = 16 {
        /// The processor's reason.
        hardware_entry_failure_reason: u64,
        /// The host CPU.
        cpu: u32,
        /// Unused.
        pad: u32,
    }

    /// Data of [`ExitReason::Exception`].
    struct ExceptionExit = 8 {
        /// The vector.
        exception: u32,
        /// The error code.
        error_code: u32,
    }

    /// Data of [`ExitReason::Io`].
    struct Io = 16 {
        /// [`IO_IN`] or [`IO_OUT`].
        direction: u8,
        /// Bytes of one access: 1, 2 or 4.
        size: u8,
        /// The port.
        port: u16,
        /// How many accesses; above 1 for string instructions.
        count: u32,
        /// Where the data is, from the start of the mapping.
        data_offset: u64,
    }

    /// Data of [`ExitReason::Debug`].
    struct Debug = 32 {
        /// The vector: 1 or 3.
        exception: u32,
        /// Unused.
        pad: u32,
        /// The address of the instruction, CS base added.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    }

    /// Data of [`ExitReason::Mmio`].
    struct Mmio = 24 {
        /// Guest physical address.
        phys_addr: u64,
        /// What is written, or where user space puts what it read.
        data: [u8; 8],
        /// Bytes, 1 to 8.
        len: u32,
        /// 1 for a write.
        is_write: u8,
        /// Unused.
        pad: [u8; 3],
    }

    /// Data of [`ExitReason::Hypercall`].
    struct Hypercall = 72 {
        /// The hypercall's number.
        nr: u64,
        /// Its arguments.
        args: [u64; 6],
        /// User space: its result.
        ret: u64,
        /// Bit 0: made in 64-bit mode.
        flags: u64,
    }

    /// Data of [`ExitReason::TprAccess`].
    struct TprAccess = 16 {
        /// The address of the instruction.
        rip: u64,
        /// 1 for a write.
        is_write: u32,
        /// Unused.
        pad: u32,
    }

    /// Data of [`ExitReason::InternalError`].
    struct Internal = 136 {
        /// `INTERNAL_ERROR_*`.
        suberror: u32,
        /// How many of `data` are valid.
        ndata: u32,
        /// Whatever helps to find out.
        data: [u64; 16],
    }

    /// Data of [`ExitReason::SystemEvent`].
    struct SystemEvent = 136 {
        /// `SYSTEM_EVENT_*`.
        kind: u32,
        /// How many of `data` are valid.
        ndata: u32,
        /// More about it.
        data: [u64; 16],
    }

    /// Data of [`ExitReason::IoapicEoi`].
    struct Eoi = 1 {
        /// The vector that ended.
        vector: u8,
    }

    /// Data of [`ExitReason::Hyperv`] for the synthetic interrupt controller.
    struct HypervSynic = 40 {
        /// [`HYPERV_SYNIC`].
        kind: u32,
        /// Unused.
        pad: u32,
        /// The MSR that was written.
        msr: u32,
        /// Unused.
        pad2: u32,
        /// SCONTROL.
        control: u64,
        /// SIEFP.
        evt_page: u64,
        /// SIMP.
        msg_page: u64,
    }

    /// Data of [`ExitReason::Hyperv`] for a hypercall.
    struct HypervCall = 40 {
        /// [`HYPERV_CALL`].
        kind: u32,
        /// Unused.
        pad: u32,
        /// Its first word.
        input: u64,
        /// User space: its answer.
        result: u64,
        /// Where input and output lie.
        params: [u64; 2],
    }

    /// Data of [`ExitReason::Hyperv`] for the debugger.
    struct HypervDebugger = 56 {
        /// [`HYPERV_DEBUGGER`].
        kind: u32,
        /// Unused.
        pad: u32,
        /// The MSR that was written.
        msr: u32,
        /// Unused.
        pad2: u32,
        /// What is to be done.
        control: u64,
        /// User space, for that: what has come of it.
        status: u64,
        /// Where what is sent lies.
        send_page: u64,
        /// Where what is received goes.
        recv_page: u64,
        /// Where it is told that there is something to receive.
        pending_page: u64,
    }

    /// Data of [`ExitReason::X86Rdmsr`] and [`ExitReason::X86Wrmsr`].
    struct Msr = 24 {
        /// User space: 1 to inject #GP.
        error: u8,
        /// Unused.
        pad: [u8; 7],
        /// `MSR_EXIT_*`.
        reason: u32,
        /// The MSR.
        index: u32,
        /// What is written, or where user space puts what it read.
        data: u64,
    }

    /// Data of [`ExitReason::MemoryFault`].
    struct MemoryFault = 24 {
        /// What is asked for.
        flags: u64,
        /// Where the range starts in the guest.
        gpa: u64,
        /// Its bytes.
        size: u64,
    }

    /// The registers at [`offset::SYNC_REGS`].
    struct SyncRegs = 520 {
        /// General registers.
        regs: vcpu::Regs,
        /// Special registers.
        sregs: vcpu::Sregs,
        /// Events.
        events: VcpuEvents,
    }
}

/// An exit to user space as it is written into the page: the reason, and the bytes of the union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunExit {
    /// For [`offset::EXIT_REASON`].
    pub(crate) reason: ExitReason,
    len: usize,
    data: [u8; EXIT_DATA_MAX],
}

/// The most bytes that the data of one exit takes.
const EXIT_DATA_MAX: usize = size_of::<Internal>();

impl RunExit {
    /// An exit that carries no data.
    pub(crate) const fn plain(reason: ExitReason) -> RunExit {
        RunExit { reason, len: 0, data: [0; EXIT_DATA_MAX] }
    }

    /// An exit with the struct that belongs to `reason`.
    pub(crate) fn with<T: IntoBytes + Immutable>(reason: ExitReason, data: &T) -> RunExit {
        let mut exit = RunExit::plain(reason);
        for (to, from) in exit.data.iter_mut().zip(data.as_bytes()) {
            *to = *from;
            exit.len = exit.len.wrapping_add(1);
        }
        exit
    }

    /// An exit for `count` accesses of `size` bytes to a port; the data is in the port page.
    pub(crate) fn io(direction: u8, size: u8, port: u16, count: u32) -> RunExit {
        RunExit::with(ExitReason::Io, &Io { direction, size, port, count, data_offset: PIO_DATA_OFFSET })
    }

    /// An exit for a read of `len` bytes at `gpa`.
    pub(crate) fn mmio_read(gpa: u64, len: u32) -> RunExit {
        let access = Mmio { phys_addr: gpa, data: [0; 8], len, is_write: 0, pad: [0; 3] };
        RunExit::with(ExitReason::Mmio, &access)
    }

    /// An exit for a write of the low `len` bytes of `value` at `gpa`.
    pub(crate) fn mmio_write(gpa: u64, len: u32, value: u64) -> RunExit {
        let access = Mmio { phys_addr: gpa, data: value.to_le_bytes(), len, is_write: 1, pad: [0; 3] };
        RunExit::with(ExitReason::Mmio, &access)
    }

    /// An exit for an access of the instruction at `rip` to the task priority register.
    pub(crate) fn tpr_access(rip: u64, is_write: bool) -> RunExit {
        RunExit::with(ExitReason::TprAccess, &TprAccess { rip, is_write: u32::from(is_write), pad: 0 })
    }

    /// An exit to a debugger for exception `exception` at the linear address `pc`.
    pub(crate) fn debug(exception: u32, pc: u64, dr6: u64, dr7: u64) -> RunExit {
        RunExit::with(ExitReason::Debug, &Debug { exception, pad: 0, pc, dr6, dr7 })
    }

    /// An exit for power-off, reset or crash, `SYSTEM_EVENT_*`.
    pub(crate) fn system_event(kind: u32) -> RunExit {
        RunExit::with(ExitReason::SystemEvent, &SystemEvent { kind, ndata: 0, data: [0; 16] })
    }

    /// An exit because the module cannot go on; words past the sixteenth are lost.
    pub(crate) fn internal_error(suberror: u32, words: &[u64]) -> RunExit {
        let mut data = [0; 16];
        let mut ndata = 0u32;
        for (to, from) in data.iter_mut().zip(words) {
            *to = *from;
            ndata = ndata.wrapping_add(1);
        }
        RunExit::with(ExitReason::InternalError, &Internal { suberror, ndata, data })
    }

    /// An exit because the processor refused to enter the guest.
    pub(crate) fn fail_entry(reason: u64, cpu: u32) -> RunExit {
        let data = FailEntry { hardware_entry_failure_reason: reason, cpu, pad: 0 };
        RunExit::with(ExitReason::FailEntry, &data)
    }

    /// Returns the bytes to be written at [`offset::EXIT`].
    pub(crate) fn data(&self) -> &[u8] {
        self.data.get(..self.len).unwrap_or(&[])
    }
}
