// SPDX-License-Identifier: GPL-2.0

//! Near branches: JMP, Jcc, LOOP, JCXZ, CALL, RET.
//!
//! SDM, the instruction reference of each.

use super::alu;
use super::context::{InsnCx, NextStep, RCX};
use super::machine::{EmulatedStep, InsnMachine};

impl<M: InsnMachine> InsnCx<'_, M> {
    fn relative(&self) -> EmulatedStep<NextStep> {
        self.branch_to(self.m.rip().wrapping_add(u64::from(self.insn.len)).wrapping_add(self.insn.imm))
    }

    /// E9 and EB.
    pub(super) fn jmp(&mut self) -> EmulatedStep<NextStep> {
        self.relative()
    }

    /// 70 to 7F and 0F 80 to 8F.
    pub(super) fn jcc(&mut self) -> EmulatedStep<NextStep> {
        if alu::condition(self.insn.opcode, self.m.rflags()) {
            self.relative()
        } else {
            Ok(NextStep::Advance)
        }
    }

    /// E0 to E3.
    pub(super) fn loop_or_jcxz(&mut self) -> EmulatedStep<NextStep> {
        let size = self.insn.addr_size;
        let count = self.reg(RCX, size);
        if self.insn.opcode == 0xe3 {
            return if count == 0 { self.relative() } else { Ok(NextStep::Advance) };
        }
        let left = count.wrapping_sub(1);
        let zero = self.m.rflags() & alu::ZF != 0;
        let goes_on = match self.insn.opcode {
            0xe0 => !zero,
            0xe1 => zero,
            _ => true,
        };
        let next = if goes_on && left != 0 { self.relative()? } else { NextStep::Advance };
        // Not before the target is known to be good: a fault must leave the count.
        self.set_reg(RCX, size, left);
        Ok(next)
    }

    /// E8.
    pub(super) fn call(&mut self) -> EmulatedStep<NextStep> {
        // The target is checked before the return address is pushed: the fault is the CALL's.
        let next = self.relative()?;
        self.push(self.insn.op_size, self.next_rip())?;
        Ok(next)
    }

    /// FF /2 and FF /4.
    pub(super) fn branch_rm(&mut self) -> EmulatedStep<NextStep> {
        let target = self.load_rm(self.insn.op_size)?;
        let next = self.branch_to(target)?;
        if self.insn.ext == 2 {
            self.push(self.insn.op_size, self.next_rip())?;
        }
        Ok(next)
    }

    /// C2 and C3.
    pub(super) fn ret(&mut self) -> EmulatedStep<NextStep> {
        let (target, rsp) = self.peek(self.insn.op_size)?;
        let next = self.branch_to(target)?;
        self.set_rsp(rsp.wrapping_add(self.insn.imm));
        Ok(next)
    }
}
