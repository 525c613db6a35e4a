// SPDX-License-Identifier: GPL-2.0

//! What the emulator needs of a machine.
//!
//! The vCPU implements [`InsnMachine`] over guest state, page tables and the device bus; a test
//! implements it over a few arrays.

use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{DescTableReg, SegReg, SegmentState};

/// Why an instruction could not be carried out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The architecture answers with this exception.
    Fault(CpuException),
    /// Something must be done outside the run window first (a page faulted in, a user exit); the
    /// machine knows what. Nothing of the instruction has become visible, but for finished elements of
    /// a repeated string instruction; run it again afterwards.
    Retry,
    /// There is no memory where the processor wants some for itself, at this address: see [`InsnMachine::act_as_processor`].
    NoMemory(Gpa),
    /// The emulator does not know this instruction.
    Unhandled,
}

/// The result of a step of emulation.
pub(crate) type EmulatedStep<T> = Result<T, StopReason>;

/// Why a linear address is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemAccess {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// A register that holds the place of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableReg {
    /// GDTR.
    Gdt,
    /// IDTR.
    Idt,
}

/// The processor and memory under an emulated instruction.
pub(crate) trait InsnMachine {
    /// All that an instruction may change of the processor but memory.
    type Registers;
    /// Returns the registers, to put them back where something cannot be done after all.
    fn registers(&self) -> Self::Registers;
    /// Puts registers back that [`InsnMachine::registers`] returned.
    fn put_back(&mut self, registers: Self::Registers);
    /// Returns general register `n` (0 = RAX, 1 = RCX, 2 = RDX, 3 = RBX, 4 = RSP … 15 = R15), all 64 bits.
    fn gpr(&self, n: u8) -> u64;
    /// Sets general register `n`, all 64 bits.
    fn set_gpr(&mut self, n: u8, value: u64);
    /// Returns RIP of the instruction under emulation.
    fn rip(&self) -> u64;
    /// Sets RIP.
    fn set_rip(&mut self, rip: u64);
    /// Returns RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, rflags: u64);
    /// Returns a segment register.
    fn segment(&self, reg: SegReg) -> SegmentState;
    /// Loads a segment register with a descriptor already checked.
    fn set_segment(&mut self, reg: SegReg, seg: SegmentState);
    /// Returns GDTR or IDTR.
    fn table(&self, which: TableReg) -> DescTableReg;
    /// Sets GDTR or IDTR.
    fn set_table(&mut self, which: TableReg, table: DescTableReg);
    /// Returns LDTR.
    fn ldt(&self) -> SegmentState;
    /// Loads LDTR with a descriptor already checked.
    fn set_ldt(&mut self, ldt: SegmentState);
    /// Returns TR.
    fn task(&self) -> SegmentState;
    /// Loads TR with a descriptor already checked.
    fn set_task(&mut self, task: SegmentState);
    /// Returns CR0, CR2, CR3, CR4 or CR8 (`n`).
    fn cr(&self, n: u8) -> u64;
    /// Writes CR0, CR2, CR3, CR4 or CR8, with all the checks of MOV to CR but that of the CPL.
    ///
    /// # Errors
    /// [`StopReason::Fault`] with #GP where the value is not allowed.
    fn set_cr(&mut self, n: u8, value: u64) -> EmulatedStep<()>;
    /// Returns EFER.
    fn efer(&self) -> u64;
    /// Returns the current privilege level.
    fn cpl(&self) -> u8;

    /// Reads `buf.len()` (1 to 16) bytes at a linear address; goes to memory or to a device, and may
    /// cross a page. With [`MemAccess::Write`] it is the read of a read-modify-write: a page that may
    /// not be written faults now, as a write.
    ///
    /// # Errors
    /// A #PF of the guest's own page tables, or [`StopReason::Retry`].
    fn read(&mut self, gva: Gva, buf: &mut [u8], access: MemAccess) -> EmulatedStep<()>;
    /// Writes `buf.len()` (1 to 16) bytes at a linear address.
    ///
    /// # Errors
    /// As [`InsnMachine::read`]. Either all bytes are written or none.
    fn write(&mut self, gva: Gva, buf: &[u8]) -> EmulatedStep<()>;
    /// Replaces the value at `gva` atomically with `new` if it equals `old`; gives what it found.
    /// To a device it is a plain write.
    ///
    /// # Errors
    /// As [`InsnMachine::read`].
    fn cmpxchg(&mut self, gva: Gva, width: AccessWidth, old: u64, new: u64) -> EmulatedStep<u64>;

    /// Finds out whether `len` (1 to 16) bytes at a linear address can be accessed, without touching
    /// a device: asked before a side effect that could not be undone (INS takes a byte off a port,
    /// then writes memory).
    ///
    /// # Errors
    /// As the access itself would; after `Ok` the access does not stop on memory in this run window.
    fn probe(&mut self, gva: Gva, len: usize, access: MemAccess) -> EmulatedStep<()>;
    /// Says whose the accesses from here on are: the processor's own, to a descriptor, a gate or an event's frame, or
    /// the instruction's. Its own have the rights of level 0, and go to memory alone: a processor that
    /// meets a device there is not asked to finish what it does, so they stop with [`StopReason::NoMemory`].
    fn act_as_processor(&mut self, _on: bool) {}
    /// Switches those breakpoints off that are the old task's alone: the local ones of DR7. SDM, "Debug Control
    /// Register (DR7)".
    fn leave_task_breakpoints(&mut self) {}
    /// Returns the exception that a TSS with the trap flag raises, with its cause in DR6. SDM, "Task-Switch Exception
    /// Condition".
    fn task_trap(&mut self) -> CpuException {
        CpuException::plain(ExceptionVector::DB)
    }
    /// Says that everything asked for so far has taken effect and will not be asked for again, though
    /// the instruction goes on: an element of a repeated string instruction is done. A machine that
    /// keeps answers of user space for the next try drops them here, or the next element would find
    /// the answer to this one.
    fn commit(&mut self);
    /// Drops the translation of a linear address (INVLPG). Second-level paging need not act: a
    /// guest's own translations live in the processor, tagged.
    fn invlpg(&mut self, _gva: Gva) {}
    /// [`InsnMachine::cmpxchg`] for the 16 bytes of CMPXCHG16B.
    ///
    /// # Errors
    /// As [`InsnMachine::read`]; [`StopReason::Unhandled`] where the machine has no such operation.
    fn cmpxchg16(&mut self, _gva: Gva, _old: u128, _new: u128) -> EmulatedStep<u128> {
        Err(StopReason::Unhandled)
    }

    /// Reads an I/O port, after the permission checks.
    ///
    /// # Errors
    /// #GP from the checks, or [`StopReason::Retry`].
    fn port_in(&mut self, port: u16, width: AccessWidth) -> EmulatedStep<u32>;
    /// As [`InsnMachine::port_in`], for an instruction that goes on to read that port `left` times in all, if nothing comes
    /// in between.
    ///
    /// # Errors
    /// As [`InsnMachine::port_in`].
    fn port_in_string(&mut self, port: u16, width: AccessWidth, _left: u64) -> EmulatedStep<u32> {
        self.port_in(port, width)
    }
    /// Writes an I/O port, after the permission checks.
    ///
    /// # Errors
    /// As [`InsnMachine::port_in`].
    fn port_out(&mut self, port: u16, width: AccessWidth, value: u32) -> EmulatedStep<()>;
}
