// SPDX-License-Identifier: GPL-2.0

//! The two-operand arithmetic rows, INC, DEC, NOT, NEG, TEST, shifts, MUL, DIV and their signed kin.
//!
//! SDM, the instruction reference of each.

use super::alu::{self, AluOp, AluResult};
use super::context::{InsnCx, NextStep, DE, RAX, RCX, RDX, UD};
use super::machine::{EmulatedStep, InsnMachine};
use super::muldiv::{self, DoubleWidth};
use super::shift::{self, ShiftOp};
use crate::arch::addr::AccessWidth;

impl<M: InsnMachine> InsnCx<'_, M> {
    /// 00 to 3D without the odd columns: the eight operations on r/m and register, or accumulator
    /// and immediate.
    pub(super) fn alu_row(&mut self) -> EmulatedStep<NextStep> {
        let op = AluOp::from_bits(self.insn.opcode >> 3);
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
        Ok(NextStep::Advance)
    }

    /// 80 to 83.
    pub(super) fn alu_immediate(&mut self) -> EmulatedStep<NextStep> {
        self.alu_to_rm(AluOp::from_bits(self.insn.ext), self.size_by_low_bit(), self.insn.imm)
    }

    fn alu_to_rm(&mut self, op: AluOp, w: AccessWidth, b: u64) -> EmulatedStep<NextStep> {
        let carry = self.carry();
        if op == AluOp::Cmp {
            // As a read: memory that may not be written can be compared.
            let a = self.load_rm(w)?;
            self.set_flags(op.apply(w, a, b, carry));
        } else {
            self.modify_rm(w, |a| op.apply(w, a, b, carry))?;
        }
        Ok(NextStep::Advance)
    }

    fn alu_to_reg(&mut self, op: AluOp, n: u8, w: AccessWidth, a: u64, b: u64, carry: bool) {
        let out = op.apply(w, a, b, carry);
        if op != AluOp::Cmp {
            self.set_reg(n, w, out.value);
        }
        self.set_flags(out);
    }

    /// 84, 85, A8, A9.
    pub(super) fn test(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        let (a, b) = if self.insn.opcode & 0x20 == 0 {
            (self.load_rm(w)?, self.reg_operand(w))
        } else {
            (self.reg(RAX, w), self.insn.imm)
        };
        self.set_flags(alu::test(w, a, b));
        Ok(NextStep::Advance)
    }

    /// 40 to 4F outside 64-bit mode.
    pub(super) fn inc_dec_short(&mut self) -> EmulatedStep<NextStep> {
        let (n, w) = (self.insn.rm, self.insn.op_size);
        let a = self.reg(n, w);
        let out = if self.insn.opcode & 8 == 0 { alu::inc(w, a) } else { alu::dec(w, a) };
        self.set_reg(n, w, out.value);
        self.set_flags(out);
        Ok(NextStep::Advance)
    }

    /// F6 and F7.
    pub(super) fn group3(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        match self.insn.ext {
            0 | 1 => {
                let a = self.load_rm(w)?;
                self.set_flags(alu::test(w, a, self.insn.imm));
            }
            2 => self.modify_rm(w, |a| alu::not(w, a))?,
            3 => self.modify_rm(w, |a| alu::neg(w, a))?,
            4 | 5 => self.multiply(w)?,
            _ => self.divide(w)?,
        }
        Ok(NextStep::Advance)
    }

    /// FE and FF.
    pub(super) fn group5(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        match (self.insn.opcode, self.insn.ext) {
            (_, 0) => self.modify_rm(w, |a| alu::inc(w, a))?,
            (_, 1) => self.modify_rm(w, |a| alu::dec(w, a))?,
            (0xfe, _) | (_, 7) => return Err(UD),
            (_, 2 | 4) => return self.branch_rm(),
            (_, 6) => self.push_rm()?,
            _ => return self.far_memory(),
        }
        Ok(NextStep::Advance)
    }

    /// C0, C1, D0 to D3.
    pub(super) fn shift(&mut self) -> EmulatedStep<NextStep> {
        let op = ShiftOp::from_bits(self.insn.ext);
        let w = self.size_by_low_bit();
        let carry = self.carry();
        let count = match self.insn.opcode {
            0xc0 | 0xc1 => self.insn.imm,
            0xd0 | 0xd1 => 1,
            _ => self.m.gpr(RCX),
        };
        self.modify_rm(w, |a| op.apply(w, a, count, carry))?;
        Ok(NextStep::Advance)
    }

    /// 0F A4, A5, AC, AD: SHLD and SHRD.
    pub(super) fn shift_double(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let from = self.reg_operand(w);
        let count = if self.insn.opcode & 1 == 0 { self.insn.imm } else { self.m.gpr(RCX) };
        if self.insn.opcode & 8 == 0 {
            self.modify_rm(w, |a| shift::shld(w, a, from, count))?;
        } else {
            self.modify_rm(w, |a| shift::shrd(w, a, from, count))?;
        }
        Ok(NextStep::Advance)
    }

    /// F6 and F7 /4 and /5: RDX:RAX, or AX, becomes the product.
    fn multiply(&mut self, w: AccessWidth) -> EmulatedStep<()> {
        let (a, b) = (self.reg(RAX, w), self.load_rm(w)?);
        let (product, overflow) =
            if self.insn.ext == 4 { muldiv::mul(w, a, b) } else { muldiv::imul(w, a, b) };
        self.set_pair(w, product.high, product.low);
        self.set_flags(overflow_flags(overflow));
        Ok(())
    }

    /// F6 and F7 /6 and /7: RAX becomes the quotient, RDX the remainder; of 8 bits AL and AH.
    fn divide(&mut self, w: AccessWidth) -> EmulatedStep<()> {
        let divisor = self.load_rm(w)?;
        let rax = self.m.gpr(RAX);
        let high = if w == AccessWidth::B1 { rax >> 8 } else { self.m.gpr(RDX) };
        let dividend = DoubleWidth { high: high & w.mask(), low: rax & w.mask() };
        let result = if self.insn.ext == 6 {
            muldiv::div(w, dividend, divisor)
        } else {
            muldiv::idiv(w, dividend, divisor)
        };
        let (quotient, remainder) = result.ok_or(DE)?;
        self.set_pair(w, remainder, quotient);
        Ok(())
    }

    /// Sets RDX:RAX of width `w`, or AH:AL.
    fn set_pair(&mut self, w: AccessWidth, high: u64, low: u64) {
        if w == AccessWidth::B1 {
            self.set_reg(RAX, AccessWidth::B2, (high << 8) | (low & 0xff));
        } else {
            self.set_reg(RAX, w, low);
            self.set_reg(RDX, w, high);
        }
    }

    /// 69 and 6B.
    pub(super) fn imul_immediate(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let a = self.load_rm(w)?;
        self.imul_to_reg(w, a, self.insn.imm)
    }

    /// 0F AF.
    pub(super) fn imul_reg(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let b = self.load_rm(w)?;
        self.imul_to_reg(w, self.reg_operand(w), b)
    }

    fn imul_to_reg(&mut self, w: AccessWidth, a: u64, b: u64) -> EmulatedStep<NextStep> {
        let (product, overflow) = muldiv::imul(w, a, b);
        self.set_reg(self.insn.reg, w, product.low);
        self.set_flags(overflow_flags(overflow));
        Ok(NextStep::Advance)
    }
}

fn overflow_flags(overflow: bool) -> AluResult {
    AluResult { value: 0, flags: alu::flag(alu::CF | alu::OF, overflow), mask: alu::CF | alu::OF }
}
