// SPDX-License-Identifier: GPL-2.0

//! Single bits and conditions: BT and its kin, BSF, BSR, counts, BSWAP, SETcc, CMOVcc.
//!
//! SDM, the instruction reference of each. The counts (TZCNT, LZCNT, POPCNT) are taken to exist.

use super::alu::{self, AluResult};
use super::context::{width_len, InsnCx, NextStep, OperandPlace};
use super::decode::RepPrefix;
use super::machine::{EmulatedStep, InsnMachine, MemAccess};
use super::moves::swap;
use crate::arch::addr::AccessWidth;

impl<M: InsnMachine> InsnCx<'_, M> {
    /// 0F A3, AB, B3, BB and 0F BA /4 to /7: BT, BTS, BTR, BTC.
    pub(super) fn bit_test(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let by_register = self.insn.opcode != 0xba;
        let kind = if by_register { (self.insn.opcode >> 3) & 3 } else { self.insn.ext & 3 };
        let index = if by_register { self.reg_operand(w) } else { self.insn.imm };
        let access = if kind == 0 { MemAccess::Read } else { MemAccess::Write };
        let at = self.bit_place(w, index, by_register, access)?;
        let bit = 1u64.wrapping_shl((index & 63) as u32 & alu::bits(w).wrapping_sub(1));
        let was_set = match (kind, at) {
            (0, OperandPlace::Reg(n)) => self.reg(n, w) & bit != 0,
            (0, OperandPlace::Mem(gva)) => self.load_at(gva, w, access)? & bit != 0,
            _ => self.replace(at, w, self.insn.prefixes.lock, |old| {
                let new = match kind {
                    1 => old | bit,
                    2 => old & !bit,
                    _ => old ^ bit,
                };
                (new, old & bit != 0)
            })?,
        };
        self.set_flags(AluResult { value: 0, flags: alu::flag(alu::CF, was_set), mask: alu::CF });
        Ok(NextStep::Advance)
    }

    /// Returns the place of the word that holds bit `index`: a register's index is signed and may
    /// reach any word of memory around the operand, an immediate stays within it.
    fn bit_place(
        &self,
        w: AccessWidth,
        index: u64,
        by_register: bool,
        access: MemAccess,
    ) -> EmulatedStep<OperandPlace> {
        let Some(mem) = self.insn.mem.filter(|_| by_register) else {
            return self.rm(width_len(w), access);
        };
        let index = i64::from_ne_bytes(alu::sign_extend(w, index).to_ne_bytes());
        let word_log2 = match w {
            AccessWidth::B1 => 3,
            AccessWidth::B2 => 4,
            AccessWidth::B4 => 5,
            AccessWidth::B8 => 6,
        };
        let words = u64::from_ne_bytes(index.wrapping_shr(word_log2).to_ne_bytes());
        let offset = self.offset(mem).wrapping_add(words.wrapping_mul(width_len(w)));
        self.linear(mem.seg, offset & self.insn.addr_size.mask(), width_len(w), access).map(OperandPlace::Mem)
    }

    /// 0F BC and BD: BSF, BSR; TZCNT and LZCNT with prefix F3.
    pub(super) fn bit_scan(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let value = self.load_rm(w)?;
        let reverse = self.insn.opcode & 1 != 0;
        let above = 64u32.wrapping_sub(alu::bits(w));
        let zeros = if reverse {
            value.leading_zeros().wrapping_sub(above)
        } else {
            value.trailing_zeros().min(alu::bits(w))
        };
        if self.insn.prefixes.rep == Some(RepPrefix::E) {
            self.set_reg(self.insn.reg, w, u64::from(zeros));
            let flags = alu::flag(alu::CF, value == 0) | alu::flag(alu::ZF, zeros == 0);
            self.set_flags(AluResult { value: 0, flags, mask: alu::CF | alu::ZF });
            return Ok(NextStep::Advance);
        }
        // For 0 the SDM leaves the register undefined; AMD's processors keep it.
        if value != 0 {
            let top = alu::bits(w).wrapping_sub(1);
            let found = if reverse { top.wrapping_sub(zeros) } else { zeros };
            self.set_reg(self.insn.reg, w, u64::from(found));
        }
        self.set_flags(AluResult { value: 0, flags: alu::flag(alu::ZF, value == 0), mask: alu::ZF });
        Ok(NextStep::Advance)
    }

    /// F3 0F B8: POPCNT.
    pub(super) fn popcnt(&mut self) -> EmulatedStep<NextStep> {
        if self.insn.prefixes.rep != Some(RepPrefix::E) {
            return Err(super::context::UD);
        }
        let w = self.insn.op_size;
        let value = self.load_rm(w)?;
        self.set_reg(self.insn.reg, w, u64::from(value.count_ones()));
        self.set_flags(AluResult { value: 0, flags: alu::flag(alu::ZF, value == 0), mask: alu::STATUS });
        Ok(NextStep::Advance)
    }

    /// 0F C8 to CF; of 16 bits the manuals say nothing, processors give 0.
    pub(super) fn bswap(&mut self) -> EmulatedStep<NextStep> {
        let (n, w) = (self.insn.rm, self.insn.op_size);
        let value = if w == AccessWidth::B2 { 0 } else { swap(w, self.reg(n, w)) };
        self.set_reg(n, w, value);
        Ok(NextStep::Advance)
    }

    /// 0F 90 to 9F.
    pub(super) fn setcc(&mut self) -> EmulatedStep<NextStep> {
        let holds = alu::condition(self.insn.opcode, self.m.rflags());
        self.store_rm(AccessWidth::B1, u64::from(holds))?;
        Ok(NextStep::Advance)
    }

    /// 0F 40 to 4F: the source is read in any case, and 32 bits clear the upper half in any case.
    pub(super) fn cmovcc(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        let value = self.load_rm(w)?;
        let holds = alu::condition(self.insn.opcode, self.m.rflags());
        let value = if holds { value } else { self.reg_operand(w) };
        self.set_reg(self.insn.reg, w, value);
        Ok(NextStep::Advance)
    }
}
