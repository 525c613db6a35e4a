// SPDX-License-Identifier: GPL-2.0

//! Going to the handler of an interrupt or exception, and coming back: what a processor that cannot run
//! a guest in real or unpaged mode leaves to software.
//!
//! SDM, "Interrupt and Exception Handling" and "Real-Address Mode Operation"; INT n and IRET in the
//! instruction reference.
//!
//! | mode | table | pushed |
//! |---|---|---|
//! | real | far pointers of 4 bytes | FLAGS, CS, IP |
//! | protected | gates of 8 bytes | (E)FLAGS, CS, (E)IP and the error code, as wide as the gate |
//!
//! Handlers run at the level of what they interrupt, which is 0, or in a task of their own. Returns to another level,
//! virtual-8086 mode, other gates above level 0 and IA-32e mode are not handled.

use super::context::{is_protected, InsnCx, NextStep, GP0};
use super::descriptor::refused;
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason, TableReg};
use super::task::{TaskLink, TaskSwitch};
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::Rflags;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{SegReg, SegmentState};

/// Error code: the event was none of the program's.
const EXT: u32 = 1;
/// Error code: the rest names an entry of the IDT.
const IDT: u32 = 2;

/// Why the processor goes to a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterruptCause {
    /// INT n, INT3 or INTO: the gate's privilege level counts, and faults on the way are the program's.
    Instruction,
    /// An interrupt or NMI.
    Interrupt,
    /// An exception, with its error code if it has one.
    Exception(Option<u32>),
}

/// What a gate leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GateKind {
    /// A handler that starts with interrupts off.
    Interrupt,
    /// A handler that starts with IF as it was.
    Trap,
    /// Another task.
    Task,
}

/// An entry of the IDT. SDM, "IDT Descriptors".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct IdtGate {
    kind: GateKind,
    /// Of what is pushed.
    width: AccessWidth,
    dpl: u8,
    is_present: bool,
    selector: u16,
    offset: u64,
}

impl IdtGate {
    /// Takes an entry apart; `None` for what is no gate of the IDT.
    fn unpack(raw: u64) -> Option<IdtGate> {
        let (kind, width) = match raw >> 40 & 0x1f {
            0x5 => (GateKind::Task, AccessWidth::B2),
            0x6 => (GateKind::Interrupt, AccessWidth::B2),
            0x7 => (GateKind::Trap, AccessWidth::B2),
            0xe => (GateKind::Interrupt, AccessWidth::B4),
            0xf => (GateKind::Trap, AccessWidth::B4),
            _ => return None,
        };
        Some(IdtGate {
            kind,
            width,
            dpl: (raw >> 45 & 3) as u8,
            is_present: raw & 1 << 47 != 0,
            selector: (raw >> 16 & 0xffff) as u16,
            offset: (raw & 0xffff | raw >> 32 & 0xffff_0000) & width.mask(),
        })
    }
}

/// Says of a fault that it is none of the program's.
fn external(stop: StopReason) -> StopReason {
    match stop {
        StopReason::Fault(CpuException { vector, error: Some(error), cr2 })
            if vector != ExceptionVector::PF =>
        {
            StopReason::Fault(CpuException { vector, error: Some(error | EXT), cr2 })
        }
        other => other,
    }
}

impl<M: InsnMachine> InsnCx<'_, M> {
    /// CC, CD and CE: INT3, INT n and INTO.
    pub(super) fn int(&mut self) -> EmulatedStep<NextStep> {
        let overflow = self.m.rflags() & Rflags::OF.bits() != 0;
        let vector = match self.insn.opcode {
            0xcc => 3,
            0xce if !overflow => return Ok(NextStep::Advance),
            0xce => 4,
            _ => (self.insn.imm & 0xff) as u8,
        };
        let back = self.next_rip();
        self.interrupt(vector, back, InterruptCause::Instruction)
    }

    /// Goes to the handler of `vector`, which will come back to `back`.
    ///
    /// # Errors
    /// As the processor's; [`StopReason::Unhandled`] for what the module's description names.
    pub(super) fn interrupt(
        &mut self,
        vector: u8,
        back: u64,
        cause: InterruptCause,
    ) -> EmulatedStep<NextStep> {
        let is_vm86 = self.m.rflags() & Rflags::VM.bits() != 0;
        if !is_vm86 && !is_protected(self.m) {
            return self.by_pointer(vector, back);
        }
        if self.is_long() {
            return Err(StopReason::Unhandled);
        }
        let done = self.by_gate(vector, back, cause);
        if cause == InterruptCause::Instruction {
            done
        } else {
            done.map_err(external)
        }
    }

    /// Reads `w` bytes of the IDT; `None` where it has no entry there.
    fn idt_entry(&mut self, offset: u16, w: AccessWidth) -> EmulatedStep<Option<u64>> {
        let idt = self.m.table(TableReg::Idt);
        let last = offset.wrapping_add(w.bytes() as u16).wrapping_sub(1);
        if last > idt.limit {
            return Ok(None);
        }
        let at = Gva(idt.base.wrapping_add(u64::from(offset)) & 0xffff_ffff);
        self.as_processor(|cx| cx.load_at(at, w, MemAccess::Read)).map(Some)
    }

    fn push_frame(&mut self, w: AccessWidth, values: &[u64]) -> EmulatedStep<()> {
        self.as_processor(|cx| cx.push_all(w, values))
    }

    fn by_pointer(&mut self, vector: u8, back: u64) -> EmulatedStep<NextStep> {
        let entry = self.idt_entry(u16::from(vector) << 2, AccessWidth::B4)?.ok_or(GP0)?;
        let old = self.m.segment(SegReg::Cs);
        let flags = self.m.rflags();
        self.push_frame(AccessWidth::B2, &[flags, u64::from(old.selector), back])?;
        self.m.set_segment(SegReg::Cs, old.at_paragraph((entry >> 16) as u16));
        let cleared = Rflags::IF.union(Rflags::TF).union(Rflags::AC).union(Rflags::RF);
        self.m.set_rflags(flags & !cleared.bits());
        Ok(NextStep::Goto(entry & 0xffff))
    }

    fn by_gate(&mut self, vector: u8, back: u64, cause: InterruptCause) -> EmulatedStep<NextStep> {
        let gate = self.gate(vector, cause)?;
        // RF goes into the flags that are saved: a breakpoint at the instruction must not hit once more after IRET.
        // SDM, "Instruction-Breakpoint Exception Condition".
        let resume = match cause {
            InterruptCause::Exception(_) if ExceptionVector(vector).is_fault() => Rflags::RF.bits(),
            _ => 0,
        };
        let flags = self.m.rflags();
        let error = match cause {
            InterruptCause::Exception(error) => error,
            InterruptCause::Instruction | InterruptCause::Interrupt => None,
        };
        if gate.kind == GateKind::Task {
            let (selector, flags) = (gate.selector, flags | resume);
            return self.switch_task(&TaskSwitch { selector, link: TaskLink::Call, back, flags, error });
        }
        if flags & Rflags::VM.bits() != 0 || self.m.cpl() != 0 {
            return Err(StopReason::Unhandled);
        }
        let handler = self.handler(gate.selector)?;
        if gate.offset > u64::from(handler.limit) {
            return Err(GP0);
        }
        let old = u64::from(self.m.segment(SegReg::Cs).selector);
        let frame = [flags | resume, old, back];
        match error {
            Some(error) => {
                let [flags, cs, ip] = frame;
                self.push_frame(gate.width, &[flags, cs, ip, u64::from(error)])?;
            }
            None => self.push_frame(gate.width, &frame)?,
        }
        // The frame came first: its faults must find the interrupted code's CS.
        self.m.set_segment(SegReg::Cs, handler);
        let mut cleared = Rflags::TF.union(Rflags::NT).union(Rflags::RF).union(Rflags::VM);
        if gate.kind == GateKind::Interrupt {
            cleared |= Rflags::IF;
        }
        self.m.set_rflags(flags & !cleared.bits());
        Ok(NextStep::Goto(gate.offset))
    }

    /// Finds the gate of `vector` and checks that it may be gone through.
    fn gate(&mut self, vector: u8, cause: InterruptCause) -> EmulatedStep<IdtGate> {
        let entry = u16::from(vector) << 3;
        let refused = |vector| StopReason::Fault(CpuException::with_error(vector, u32::from(entry) | IDT));
        let raw = self.idt_entry(entry, AccessWidth::B8)?.ok_or(refused(ExceptionVector::GP))?;
        let gate = IdtGate::unpack(raw).ok_or(refused(ExceptionVector::GP))?;
        // Before the present bit, as the SDM has it: "INT n/INTO/INT3/INT1".
        if cause == InterruptCause::Instruction && gate.dpl < self.m.cpl() {
            return Err(refused(ExceptionVector::GP));
        }
        if !gate.is_present {
            return Err(refused(ExceptionVector::NP));
        }
        Ok(gate)
    }

    /// Finds the code segment of a handler.
    fn handler(&mut self, selector: u16) -> EmulatedStep<SegmentState> {
        // A gate's RPL does not count.
        let selector = selector & !3;
        if selector == 0 {
            return Err(GP0);
        }
        let found = self.descriptor(selector)?;
        let attr = found.segment.attr;
        if !attr.is_code() || attr.dpl() != 0 {
            return Err(refused(ExceptionVector::GP, selector));
        }
        self.take_segment(found, ExceptionVector::NP)
    }

    /// CF: IRET.
    pub(super) fn iret(&mut self) -> EmulatedStep<NextStep> {
        let (old, is_protected) = (Rflags::from_bits_truncate(self.m.rflags()), is_protected(self.m));
        if old.contains(Rflags::VM) || (is_protected && self.is_long()) {
            return Err(StopReason::Unhandled);
        }
        if is_protected && old.contains(Rflags::NT) {
            let selector = self.task_link()?;
            return self.leave_task(selector, TaskLink::Return);
        }
        let [offset, selector, flags] = self.peek_all(3)?;
        let new = Rflags::from_bits_truncate(flags & self.insn.op_size.mask());
        if is_protected && new.contains(Rflags::VM) {
            return Err(StopReason::Unhandled);
        }
        let (segment, target) = self.return_target((selector & 0xffff) as u16, offset)?;
        let mut kept = Rflags::VM.bits() | !self.insn.op_size.mask();
        // SDM, "IRET/IRETD/IRETQ": real mode keeps them together with VM.
        if !is_protected {
            kept |= Rflags::VIF.union(Rflags::VIP).bits();
        }
        let rflags = (old.bits() & kept) | (new.bits() & !kept) | Rflags::ONE.bits();
        self.m.set_rflags(rflags);
        self.m.set_segment(SegReg::Cs, segment);
        self.drop_words(3, 0);
        Ok(NextStep::Goto(target))
    }
}
