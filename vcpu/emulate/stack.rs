// SPDX-License-Identifier: GPL-2.0

//! PUSH and POP in all forms, PUSHF, POPF, PUSHA, POPA, ENTER without nesting, LEAVE.
//!
//! SDM, "Procedure Stack". RSP moves only once the memory has been accessed.

use super::context::{width_len, InsnCx, NextStep, GP0, RBP, RSP, UD};
use super::decode::CodeMode;
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use super::moves::segment_register;
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::Rflags;
use crate::arch::segment::SegReg;

impl<M: InsnMachine> InsnCx<'_, M> {
    /// Returns the width of the stack pointer.
    pub(super) fn stack_size(&self) -> AccessWidth {
        if self.mode == CodeMode::Bits64 {
            AccessWidth::B8
        } else if self.m.segment(SegReg::Ss).attr.is_big() {
            AccessWidth::B4
        } else {
            AccessWidth::B2
        }
    }

    fn stack_offset(&self, by: u64) -> u64 {
        self.m.gpr(RSP).wrapping_add(by) & self.stack_size().mask()
    }

    /// Returns where a push of `w` goes, and RSP after it.
    fn push_slot(&self, w: AccessWidth) -> EmulatedStep<(Gva, u64)> {
        let to = self.stack_offset(width_len(w).wrapping_neg());
        Ok((self.linear(SegReg::Ss, to, width_len(w), MemAccess::Write)?, to))
    }

    pub(super) fn set_rsp(&mut self, value: u64) {
        self.set_reg(RSP, self.stack_size(), value);
    }

    /// Pushes a value.
    pub(super) fn push(&mut self, w: AccessWidth, value: u64) -> EmulatedStep<()> {
        let (at, rsp) = self.push_slot(w)?;
        self.store_at(at, w, value)?;
        self.set_rsp(rsp);
        Ok(())
    }

    /// Returns the value on top of the stack, and RSP after taking it.
    pub(super) fn peek(&mut self, w: AccessWidth) -> EmulatedStep<(u64, u64)> {
        let at = self.linear(SegReg::Ss, self.stack_offset(0), width_len(w), MemAccess::Read)?;
        Ok((self.load_at(at, w, MemAccess::Read)?, self.stack_offset(width_len(w))))
    }

    /// Pushes several values, the first one first: all of them or none.
    pub(super) fn push_all(&mut self, w: AccessWidth, values: &[u64]) -> EmulatedStep<()> {
        let mut to = self.m.gpr(RSP);
        for _ in values {
            to = to.wrapping_sub(width_len(w)) & self.stack_size().mask();
            let at = self.linear(SegReg::Ss, to, width_len(w), MemAccess::Write)?;
            self.m.probe(at, w.bytes(), MemAccess::Write)?;
        }
        values.iter().try_for_each(|value| self.push(w, *value))
    }

    /// Returns the first `count` values of operand size from the top of the stack, which stay there.
    pub(super) fn peek_all(&mut self, count: usize) -> EmulatedStep<[u64; 3]> {
        let (w, mut values) = (self.insn.op_size, [0u64; 3]);
        for (n, value) in (0u64..).zip(values.iter_mut().take(count)) {
            let offset = self.stack_offset(n.wrapping_mul(width_len(w)));
            let at = self.linear(SegReg::Ss, offset, width_len(w), MemAccess::Read)?;
            *value = self.load_at(at, w, MemAccess::Read)?;
        }
        Ok(values)
    }

    /// Takes `count` values of operand size and `more` bytes off the stack.
    pub(super) fn drop_words(&mut self, count: u64, more: u64) {
        let by = width_len(self.insn.op_size).wrapping_mul(count).wrapping_add(more);
        self.set_rsp(self.m.gpr(RSP).wrapping_add(by));
    }

    /// 50 to 57.
    pub(super) fn push_reg(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        self.push(w, self.reg(self.insn.rm, w))?;
        Ok(NextStep::Advance)
    }

    /// 58 to 5F.
    pub(super) fn pop_reg(&mut self) -> EmulatedStep<NextStep> {
        let (value, rsp) = self.peek(self.insn.op_size)?;
        // RSP first, for POP RSP ends with what was popped.
        self.set_rsp(rsp);
        self.set_reg(self.insn.rm, self.insn.op_size, value);
        Ok(NextStep::Advance)
    }

    /// 68 and 6A.
    pub(super) fn push_immediate(&mut self) -> EmulatedStep<NextStep> {
        self.push(self.insn.op_size, self.insn.imm)?;
        Ok(NextStep::Advance)
    }

    /// FF /6.
    pub(super) fn push_rm(&mut self) -> EmulatedStep<()> {
        let w = self.insn.op_size;
        let (at, rsp) = self.push_slot(w)?;
        // Before the operand is read: it may be a device's, which is not to be read twice.
        self.m.probe(at, w.bytes(), MemAccess::Write)?;
        let value = self.load_rm(w)?;
        self.store_at(at, w, value)?;
        self.set_rsp(rsp);
        Ok(())
    }

    /// 8F /0. An address based on RSP counts from RSP after the pop.
    pub(super) fn pop_rm(&mut self) -> EmulatedStep<NextStep> {
        if self.insn.ext != 0 {
            return Err(UD);
        }
        let w = self.insn.op_size;
        let Some(mem) = self.insn.mem else {
            let (value, rsp) = self.peek(w)?;
            self.set_rsp(rsp);
            self.set_reg(self.insn.rm, w, value);
            return Ok(NextStep::Advance);
        };
        let (value, rsp) = self.peek(w)?;
        let later = if mem.base == Some(RSP) { width_len(w) } else { 0 };
        let offset = self.offset(mem).wrapping_add(later) & self.insn.addr_size.mask();
        let at = self.linear(mem.seg, offset, width_len(w), MemAccess::Write)?;
        self.store_at(at, w, value)?;
        self.set_rsp(rsp);
        Ok(NextStep::Advance)
    }

    /// 06, 0E, 16, 1E, 0F A0, 0F A8.
    pub(super) fn push_segment(&mut self) -> EmulatedStep<NextStep> {
        let reg = self.segment_of_opcode()?;
        let selector = u64::from(self.m.segment(reg).selector);
        self.push(self.insn.op_size, selector)?;
        Ok(NextStep::Advance)
    }

    /// 07, 17, 1F, 0F A1, 0F A9.
    pub(super) fn pop_segment(&mut self) -> EmulatedStep<NextStep> {
        let reg = self.segment_of_opcode()?;
        let (value, rsp) = self.peek(self.insn.op_size)?;
        // A selector that cannot be loaded faults with RSP as it was.
        self.load_segment(reg, value)?;
        self.set_rsp(rsp);
        Ok(NextStep::Advance)
    }

    fn segment_of_opcode(&self) -> EmulatedStep<SegReg> {
        segment_register((self.insn.opcode >> 3) & 7).ok_or(UD)
    }

    /// 8E.
    pub(super) fn mov_to_segment(&mut self) -> EmulatedStep<NextStep> {
        let reg = segment_register(self.insn.ext).filter(|reg| *reg != SegReg::Cs).ok_or(UD)?;
        let value = self.load_rm(AccessWidth::B2)?;
        self.load_segment(reg, value)?;
        Ok(NextStep::Advance)
    }

    /// 9C.
    pub(super) fn pushf(&mut self) -> EmulatedStep<NextStep> {
        self.check_vm86_iopl()?;
        // SDM, "PUSHF/PUSHFD/PUSHFQ": both are cleared in the image.
        let hidden = Rflags::RF.union(Rflags::VM).bits();
        self.push(self.insn.op_size, self.m.rflags() & !hidden)?;
        Ok(NextStep::Advance)
    }

    /// 9D.
    pub(super) fn popf(&mut self) -> EmulatedStep<NextStep> {
        self.check_vm86_iopl()?;
        let (value, rsp) = self.peek(self.insn.op_size)?;
        let old = self.m.rflags();
        // Neither VM nor VIF and VIP, which POPF leaves alone at every privilege level.
        let mut taken = Rflags::from_bits_truncate(super::alu::STATUS)
            | Rflags::TF
            | Rflags::DF
            | Rflags::NT
            | Rflags::AC
            | Rflags::ID;
        let cpl = u64::from(self.m.cpl());
        if cpl <= (old & Rflags::IOPL.bits()) >> 12 {
            taken |= Rflags::IF;
        }
        if cpl == 0 {
            taken |= Rflags::IOPL;
        }
        let mask = taken.bits() & self.insn.op_size.mask();
        self.m.set_rflags((old & !mask) | (value & mask));
        self.set_rsp(rsp);
        Ok(NextStep::Advance)
    }

    /// Virtual-8086 mode without VME: #GP unless IOPL is 3.
    fn check_vm86_iopl(&self) -> EmulatedStep<()> {
        let rflags = Rflags::from_bits_truncate(self.m.rflags());
        if rflags.contains(Rflags::VM) && !rflags.contains(Rflags::IOPL) {
            return Err(GP0);
        }
        Ok(())
    }

    /// 60.
    pub(super) fn pusha(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let start = self.m.gpr(RSP);
        for n in 0..8u8 {
            let at = self.pusha_slot(n.wrapping_add(1), MemAccess::Write)?;
            self.m.probe(at, w.bytes(), MemAccess::Write)?;
        }
        for n in 0..8u8 {
            let at = self.pusha_slot(n.wrapping_add(1), MemAccess::Write)?;
            let value = if n == RSP { start } else { self.reg(n, w) };
            self.store_at(at, w, value)?;
        }
        let size = width_len(w).wrapping_mul(8);
        self.set_rsp(start.wrapping_sub(size));
        Ok(NextStep::Advance)
    }

    /// Returns the address `slots` below the top of the stack.
    fn pusha_slot(&self, slots: u8, access: MemAccess) -> EmulatedStep<Gva> {
        let len = width_len(self.insn.op_size);
        let down = len.wrapping_mul(u64::from(slots)).wrapping_neg();
        self.linear(SegReg::Ss, self.stack_offset(down), len, access)
    }

    /// 61.
    pub(super) fn popa(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let mut values = [0u64; 8];
        for (n, value) in (0u64..).zip(values.iter_mut()) {
            let offset = self.stack_offset(n.wrapping_mul(width_len(w)));
            let at = self.linear(SegReg::Ss, offset, width_len(w), MemAccess::Read)?;
            *value = self.load_at(at, w, MemAccess::Read)?;
        }
        let rsp = self.stack_offset(width_len(w).wrapping_mul(8));
        for (slot, value) in (0u8..8).zip(values) {
            let n = 7u8.wrapping_sub(slot);
            // SDM, "POPA/POPAD": the image of RSP is skipped.
            if n != RSP {
                self.set_reg(n, w, value);
            }
        }
        self.set_rsp(rsp);
        Ok(NextStep::Advance)
    }

    /// C8 with level 0.
    pub(super) fn enter(&mut self) -> EmulatedStep<NextStep> {
        if self.insn.imm2 & 31 != 0 {
            return Err(StopReason::Unhandled);
        }
        let w = self.insn.op_size;
        let (at, frame) = self.push_slot(w)?;
        let value = self.reg(RBP, w);
        self.store_at(at, w, value)?;
        self.set_reg(RBP, w, frame);
        self.set_rsp(frame.wrapping_sub(self.insn.imm));
        Ok(NextStep::Advance)
    }

    /// C9.
    pub(super) fn leave(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let frame = self.m.gpr(RBP) & self.stack_size().mask();
        let at = self.linear(SegReg::Ss, frame, width_len(w), MemAccess::Read)?;
        let value = self.load_at(at, w, MemAccess::Read)?;
        self.set_rsp(frame.wrapping_add(width_len(w)));
        self.set_reg(RBP, w, value);
        Ok(NextStep::Advance)
    }
}
