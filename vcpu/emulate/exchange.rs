// SPDX-License-Identifier: GPL-2.0

//! CMPXCHG, CMPXCHG8B, CMPXCHG16B, XADD.
//!
//! SDM, the instruction reference of each. Comparing exchanges of memory are always made atomically,
//! LOCK or not.

use super::alu::{self, AluResult};
use super::context::{width_len, InsnCx, NextStep, OperandPlace, GP0, RAX, RBX, RCX, RDX};
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use crate::arch::addr::{AccessWidth, Gva};

impl<M: InsnMachine> InsnCx<'_, M> {
    /// 0F B0 and B1.
    pub(super) fn cmpxchg(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        let (expected, new) = (self.reg(RAX, w), self.reg_operand(w));
        let at = self.rm(width_len(w), MemAccess::Write)?;
        let found = match at {
            OperandPlace::Reg(n) => self.reg(n, w),
            OperandPlace::Mem(gva) => self.exchange_if_equal(gva, w, expected, new)?,
        };
        self.set_flags(alu::sub(w, expected, found, false));
        if found != expected {
            self.set_reg(RAX, w, found);
        } else if let OperandPlace::Reg(n) = at {
            self.set_reg(n, w, new);
        }
        Ok(NextStep::Advance)
    }

    /// Exchanges memory atomically if it holds `expected`; returns what it held. Memory is read first,
    /// since a device has no comparison of its own.
    fn exchange_if_equal(&mut self, at: Gva, w: AccessWidth, expected: u64, new: u64) -> EmulatedStep<u64> {
        let found = self.load_at(at, w, MemAccess::Write)?;
        if found != expected {
            return Ok(found);
        }
        Ok(self.m.cmpxchg(at, w, expected, new)? & w.mask())
    }

    /// 0F C7 /1.
    pub(super) fn cmpxchg_double(&mut self) -> EmulatedStep<NextStep> {
        if self.insn.ext != 1 {
            return Err(StopReason::Unhandled);
        }
        let equal = if self.insn.op_size == AccessWidth::B8 {
            let at = self.memory(16, MemAccess::Write)?;
            self.cmpxchg16b(at)?
        } else {
            let at = self.memory(8, MemAccess::Write)?;
            self.cmpxchg8b(at)?
        };
        self.set_flags(AluResult { value: 0, flags: alu::flag(alu::ZF, equal), mask: alu::ZF });
        Ok(NextStep::Advance)
    }

    fn cmpxchg8b(&mut self, at: Gva) -> EmulatedStep<bool> {
        let pair = |high: u64, low: u64| (high << 32) | low;
        let expected = pair(self.reg(RDX, AccessWidth::B4), self.reg(RAX, AccessWidth::B4));
        let new = pair(self.reg(RCX, AccessWidth::B4), self.reg(RBX, AccessWidth::B4));
        let found = self.exchange_if_equal(at, AccessWidth::B8, expected, new)?;
        if found != expected {
            self.set_reg(RAX, AccessWidth::B4, found);
            self.set_reg(RDX, AccessWidth::B4, found >> 32);
        }
        Ok(found == expected)
    }

    fn cmpxchg16b(&mut self, at: Gva) -> EmulatedStep<bool> {
        if at.0 & 15 != 0 {
            return Err(GP0);
        }
        let pair = |high: u64, low: u64| (u128::from(high) << 64) | u128::from(low);
        let expected = pair(self.m.gpr(RDX), self.m.gpr(RAX));
        let new = pair(self.m.gpr(RCX), self.m.gpr(RBX));
        let found = self.m.cmpxchg16(at, expected, new)?;
        if found != expected {
            self.m.set_gpr(RAX, (found & u128::from(u64::MAX)) as u64);
            self.m.set_gpr(RDX, (found >> 64) as u64);
        }
        Ok(found == expected)
    }

    /// 0F C0 and C1. With one register as both operands the sum stays.
    pub(super) fn xadd(&mut self) -> EmulatedStep<NextStep> {
        let w = self.size_by_low_bit();
        let add = self.reg_operand(w);
        match self.rm(width_len(w), MemAccess::Write)? {
            OperandPlace::Reg(n) => {
                let old = self.reg(n, w);
                let out = alu::add(w, old, add, false);
                self.set_reg(self.insn.reg, w, old);
                self.set_reg(n, w, out.value);
                self.set_flags(out);
            }
            at => {
                let (old, out) = self.replace(at, w, self.insn.prefixes.lock, |old| {
                    let out = alu::add(w, old, add, false);
                    (out.value, (old, out))
                })?;
                self.set_reg(self.insn.reg, w, old);
                self.set_flags(out);
            }
        }
        Ok(NextStep::Advance)
    }
}
