// SPDX-License-Identifier: GPL-2.0

//! The two-operand arithmetic rows, INC, DEC, NOT, NEG, TEST.
//!
//! SDM, the instruction reference of each.

use super::alu::{self, Alu};
use super::context::{Cx, Next, RAX, UD};
use super::machine::{Machine, Step, Stop};
use crate::arch::addr::Width;

impl<M: Machine> Cx<'_, M> {
    /// 00 to 3D without the odd columns: the eight operations on r/m and register, or accumulator
    /// and immediate.
    pub(super) fn alu_row(&mut self) -> Step<Next> {
        let op = Alu::from_bits(self.insn.opcode >> 3);
        let w = self.size_by_low_bit();
        let carry = self.carry();
        match self.insn.opcode & 6 {
            0 => return self.alu_to_rm(op, w, self.reg_operand(w)),
            2 => {
                let (a, b) = (self.reg_operand(w), self.load_rm(w)?);
                self.alu_to_reg(op, self.insn.reg, w, a, b, carry);
            }
            _ => {
                let a = self.reg(RAX, w);
                self.alu_to_reg(op, RAX, w, a, self.insn.imm, carry);
            }
        }
        Ok(Next::Advance)
    }

    /// 80 to 83.
    pub(super) fn alu_immediate(&mut self) -> Step<Next> {
        self.alu_to_rm(Alu::from_bits(self.insn.ext), self.size_by_low_bit(), self.insn.imm)
    }

    fn alu_to_rm(&mut self, op: Alu, w: Width, b: u64) -> Step<Next> {
        let carry = self.carry();
        if op == Alu::Cmp {
            let a = self.load_rm(w)?;
            self.set_flags(op.apply(w, a, b, carry));
        } else {
            self.modify_rm(w, |a| op.apply(w, a, b, carry))?;
        }
        Ok(Next::Advance)
    }

    fn alu_to_reg(&mut self, op: Alu, n: u8, w: Width, a: u64, b: u64, carry: bool) {
        let out = op.apply(w, a, b, carry);
        if op != Alu::Cmp {
            self.set_reg(n, w, out.value);
        }
        self.set_flags(out);
    }

    /// 84, 85, A8, A9.
    pub(super) fn test(&mut self) -> Step<Next> {
        let w = self.size_by_low_bit();
        let (a, b) = if self.insn.opcode & 0x20 == 0 {
            (self.load_rm(w)?, self.reg_operand(w))
        } else {
            (self.reg(RAX, w), self.insn.imm)
        };
        self.set_flags(alu::test(w, a, b));
        Ok(Next::Advance)
    }

    /// 40 to 4F outside 64-bit mode.
    pub(super) fn inc_dec_short(&mut self) -> Step<Next> {
        let (n, w) = (self.insn.rm, self.insn.op_size);
        let a = self.reg(n, w);
        let out = if self.insn.opcode & 8 == 0 { alu::inc(w, a) } else { alu::dec(w, a) };
        self.set_reg(n, w, out.value);
        self.set_flags(out);
        Ok(Next::Advance)
    }

    /// F6 and F7.
    pub(super) fn group3(&mut self) -> Step<Next> {
        let w = self.size_by_low_bit();
        match self.insn.ext {
            0 | 1 => {
                let a = self.load_rm(w)?;
                self.set_flags(alu::test(w, a, self.insn.imm));
            }
            2 => self.modify_rm(w, |a| alu::not(w, a))?,
            3 => self.modify_rm(w, |a| alu::neg(w, a))?,
            _ => return Err(Stop::Unhandled),
        }
        Ok(Next::Advance)
    }

    /// FE and FF.
    pub(super) fn group5(&mut self) -> Step<Next> {
        let w = self.size_by_low_bit();
        match (self.insn.opcode, self.insn.ext) {
            (_, 0) => self.modify_rm(w, |a| alu::inc(w, a))?,
            (_, 1) => self.modify_rm(w, |a| alu::dec(w, a))?,
            (0xfe, _) | (_, 7) => return Err(UD),
            _ => return Err(Stop::Unhandled),
        }
        Ok(Next::Advance)
    }
}
