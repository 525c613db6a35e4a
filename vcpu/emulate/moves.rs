// SPDX-License-Identifier: GPL-2.0

//! MOV in its many forms, XCHG, LEA and NOP.
//!
//! SDM, the instruction reference of each. MOV to a segment register is not handled here.

use super::alu::sign_extend;
use super::context::{width_len, InsnCx, NextStep, RAX, UD};
use super::decode::RepPrefix;
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use crate::arch::addr::AccessWidth;
use crate::arch::segment::SegReg;

impl<M: InsnMachine> InsnCx<'_, M> {
    pub(super) fn nop(&mut self) -> EmulatedStep<NextStep> {
        Ok(NextStep::Advance)
    }

    /// 88 to 8B.
    pub(super) fn mov(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        if self.insn.opcode & 2 == 0 {
            let value = self.reg_operand(w);
            self.store_rm(w, value)?;
        } else {
            let value = self.load_rm(w)?;
            self.set_reg(self.insn.reg, w, value);
        }
        Ok(NextStep::Advance)
    }

    /// 8C.
    pub(super) fn mov_from_segment(&mut self) -> EmulatedStep<NextStep> {
        let reg = segment_register(self.insn.ext).ok_or(UD)?;
        let selector = u64::from(self.m.segment(reg).selector);
        // Memory gets 16 bits whatever the operand size; a register is filled with zeros up to that.
        let w = if self.insn.mem.is_some() { AccessWidth::B2 } else { self.insn.op_size };
        self.store_rm(w, selector)?;
        Ok(NextStep::Advance)
    }

    /// 8D.
    pub(super) fn lea(&mut self) -> EmulatedStep<NextStep> {
        let mem = self.insn.mem.ok_or(UD)?;
        let offset = self.offset(mem);
        self.set_reg(self.insn.reg, self.insn.op_size, offset);
        Ok(NextStep::Advance)
    }

    /// A0 to A3.
    pub(super) fn mov_offset(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        if self.insn.opcode & 2 == 0 {
            let value = self.load_rm(w)?;
            self.set_reg(RAX, w, value);
        } else {
            let value = self.reg(RAX, w);
            self.store_rm(w, value)?;
        }
        Ok(NextStep::Advance)
    }

    /// B0 to BF.
    pub(super) fn mov_immediate_short(&mut self) -> EmulatedStep<NextStep> {
        let w = if self.insn.opcode & 8 == 0 { AccessWidth::B1 } else { self.insn.op_size };
        self.set_reg(self.insn.rm, w, self.insn.imm);
        Ok(NextStep::Advance)
    }

    /// C6 /0 and C7 /0.
    pub(super) fn mov_immediate(&mut self) -> EmulatedStep<NextStep> {
        if self.insn.ext != 0 {
            // XABORT, XBEGIN.
            return Err(if self.insn.ext == 7 { StopReason::Unhandled } else { UD });
        }
        self.store_rm(self.size_by_low_bit(), self.insn.imm)?;
        Ok(NextStep::Advance)
    }

    /// 63 in 64-bit mode: MOVSXD.
    pub(super) fn movsxd(&mut self) -> EmulatedStep<NextStep> {
        let to = self.insn.op_size;
        let from = if to == AccessWidth::B8 { AccessWidth::B4 } else { to };
        let value = self.load_rm(from)?;
        self.set_reg(self.insn.reg, to, sign_extend(from, value));
        Ok(NextStep::Advance)
    }

    /// 0F B6, B7, BE, BF: MOVZX and MOVSX.
    pub(super) fn mov_extend(&mut self) -> EmulatedStep<NextStep> {
        let from = if self.insn.opcode & 1 == 0 { AccessWidth::B1 } else { AccessWidth::B2 };
        let loaded = self.load_rm(from)?;
        let value = if self.insn.opcode & 8 == 0 { loaded } else { sign_extend(from, loaded) };
        self.set_reg(self.insn.reg, self.insn.op_size, value);
        Ok(NextStep::Advance)
    }

    /// 0F 38 F0 and F1: MOVBE; CRC32 with prefix F2.
    pub(super) fn movbe(&mut self) -> EmulatedStep<NextStep> {
        if self.insn.prefixes.rep == Some(RepPrefix::Ne) {
            return Err(StopReason::Unhandled);
        }
        let w = self.insn.op_size;
        if self.insn.opcode & 1 == 0 {
            let at = self.memory(width_len(w), MemAccess::Read)?;
            let value = swap(w, self.load_at(at, w, MemAccess::Read)?);
            self.set_reg(self.insn.reg, w, value);
        } else {
            let at = self.memory(width_len(w), MemAccess::Write)?;
            let value = swap(w, self.reg_operand(w));
            self.store_at(at, w, value)?;
        }
        Ok(NextStep::Advance)
    }

    /// 0F C3: MOVNTI.
    pub(super) fn movnti(&mut self) -> EmulatedStep<NextStep> {
        let w = if self.insn.op_size == AccessWidth::B8 { AccessWidth::B8 } else { AccessWidth::B4 };
        let at = self.memory(width_len(w), MemAccess::Write)?;
        let value = self.reg_operand(w);
        self.store_at(at, w, value)?;
        Ok(NextStep::Advance)
    }

    /// 86 and 87: always locked.
    pub(super) fn xchg(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        let at = self.rm(width_len(w), MemAccess::Write)?;
        let mine = self.reg_operand(w);
        let theirs = self.replace(at, w, true, |old| (mine, old))?;
        self.set_reg(self.insn.reg, w, theirs);
        Ok(NextStep::Advance)
    }

    /// 90 to 97: NOP and XCHG with the accumulator.
    pub(super) fn xchg_accumulator(&mut self) -> EmulatedStep<NextStep> {
        let (n, w) = (self.insn.rm, self.insn.op_size);
        // With itself it is NOP, which keeps the upper half that a move of 32 bits would clear.
        if n != RAX {
            let (a, b) = (self.reg(RAX, w), self.reg(n, w));
            self.set_reg(RAX, w, b);
            self.set_reg(n, w, a);
        }
        Ok(NextStep::Advance)
    }
}

/// Returns the segment register of a number from 0 to 5.
pub(super) fn segment_register(n: u8) -> Option<SegReg> {
    Some(match n {
        0 => SegReg::Es,
        1 => SegReg::Cs,
        2 => SegReg::Ss,
        3 => SegReg::Ds,
        4 => SegReg::Fs,
        5 => SegReg::Gs,
        _ => return None,
    })
}

/// Reverses the bytes of a value of width `w`.
pub(super) fn swap(w: AccessWidth, value: u64) -> u64 {
    match w {
        AccessWidth::B1 => value,
        AccessWidth::B2 => value.swap_bytes() >> 48,
        AccessWidth::B4 => value.swap_bytes() >> 32,
        AccessWidth::B8 => value.swap_bytes(),
    }
}
