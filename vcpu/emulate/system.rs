// SPDX-License-Identifier: GPL-2.0

//! MOV to and from CR, CLTS, LMSW, SMSW, INVLPG, and the flag instructions.
//!
//! SDM, the instruction reference of each. CLI, STI and HLT belong to the run loop.

use super::alu::{self, sign_extend, AluResult};
use super::context::{InsnCx, NextStep, OperandPlace, GP0, RAX, RBX, RDX, UD};
use super::decode::CodeMode;
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::{Cr0, Cr4, Rflags};
use crate::arch::segment::SegReg;

impl<M: InsnMachine> InsnCx<'_, M> {
    /// 0F 20 and 22.
    pub(super) fn mov_cr(&mut self) -> EmulatedStep<NextStep> {
        let cr = if self.insn.alternate_cr8() { 8 } else { self.insn.reg };
        let w = self.insn.op_size;
        if !matches!(cr, 0 | 2 | 3 | 4 | 8) {
            return Err(UD);
        }
        self.need_cpl0()?;
        if self.insn.opcode == 0x20 {
            let value = self.m.cr(cr);
            self.set_reg(self.insn.rm, w, value);
        } else {
            let value = self.reg(self.insn.rm, w);
            self.m.set_cr(cr, value)?;
        }
        Ok(NextStep::Advance)
    }

    /// 0F 06.
    pub(super) fn clts(&mut self) -> EmulatedStep<NextStep> {
        self.need_cpl0()?;
        let cr0 = self.m.cr(0);
        self.m.set_cr(0, cr0 & !Cr0::TS.bits())?;
        Ok(NextStep::Advance)
    }

    /// 0F 01 /4, /6 and /7: SMSW, LMSW, INVLPG.
    pub(super) fn group7(&mut self) -> EmulatedStep<NextStep> {
        match (self.insn.ext, self.insn.mem) {
            (4, _) => self.smsw(),
            (6, _) => self.lmsw(),
            (7, Some(mem)) => {
                self.need_cpl0()?;
                let based = self.mode != CodeMode::Bits64 || matches!(mem.seg, SegReg::Fs | SegReg::Gs);
                let base = if based { self.m.segment(mem.seg).base } else { 0 };
                let gva = Gva(base.wrapping_add(self.offset(mem)) & self.rip_mask());
                self.m.invlpg(gva);
                Ok(NextStep::Advance)
            }
            _ => Err(StopReason::Unhandled),
        }
    }

    fn smsw(&mut self) -> EmulatedStep<NextStep> {
        let umip = Cr4::from_bits_truncate(self.m.cr(4)).contains(Cr4::UMIP);
        if umip && self.m.cpl() != 0 {
            return Err(GP0);
        }
        let value = self.m.cr(0);
        match self.rm(2, MemAccess::Write)? {
            OperandPlace::Reg(n) => self.set_reg(n, self.insn.op_size, value),
            OperandPlace::Mem(gva) => self.store_at(gva, AccessWidth::B2, value)?,
        }
        Ok(NextStep::Advance)
    }

    /// PE can be set but not cleared; MP, EM and TS as given.
    fn lmsw(&mut self) -> EmulatedStep<NextStep> {
        self.need_cpl0()?;
        let word = self.load_rm(AccessWidth::B2)?;
        let old = self.m.cr(0);
        let plain = Cr0::MP.union(Cr0::EM).union(Cr0::TS).bits();
        let new = (old & !plain) | (word & plain) | (word & Cr0::PE.bits());
        self.m.set_cr(0, new)?;
        Ok(NextStep::Advance)
    }

    /// F5, F8, F9, FC, FD: CMC, CLC, STC, CLD, STD.
    pub(super) fn flag_bit(&mut self) -> EmulatedStep<NextStep> {
        let rflags = self.m.rflags();
        self.m.set_rflags(match self.insn.opcode {
            0xf5 => rflags ^ alu::CF,
            0xf8 => rflags & !alu::CF,
            0xf9 => rflags | alu::CF,
            0xfc => rflags & !Rflags::DF.bits(),
            _ => rflags | Rflags::DF.bits(),
        });
        Ok(NextStep::Advance)
    }

    /// 9E and 9F: SAHF and LAHF.
    pub(super) fn flags_ah(&mut self) -> EmulatedStep<NextStep> {
        const BYTE: u64 = alu::STATUS & !alu::OF;
        let rax = self.m.gpr(RAX);
        if self.insn.opcode == 0x9e {
            self.set_flags(AluResult { value: 0, flags: rax >> 8, mask: BYTE });
        } else {
            let ah = (self.m.rflags() & BYTE) | Rflags::ONE.bits();
            self.m.set_gpr(RAX, (rax & !0xff00) | (ah << 8));
        }
        Ok(NextStep::Advance)
    }

    /// 98 and 99: sign extension of the accumulator into itself or into RDX.
    pub(super) fn convert(&mut self) -> EmulatedStep<NextStep> {
        let w = self.insn.op_size;
        if self.insn.opcode == 0x98 {
            let from = match w {
                AccessWidth::B8 => AccessWidth::B4,
                AccessWidth::B4 => AccessWidth::B2,
                _ => AccessWidth::B1,
            };
            let value = self.m.gpr(RAX);
            self.set_reg(RAX, w, sign_extend(from, value));
        } else {
            let negative = alu::is_negative(w, self.m.gpr(RAX));
            self.set_reg(RDX, w, if negative { u64::MAX } else { 0 });
        }
        Ok(NextStep::Advance)
    }

    /// D7: XLAT.
    pub(super) fn xlat(&mut self) -> EmulatedStep<NextStep> {
        let seg = self.insn.prefixes.seg.unwrap_or(SegReg::Ds);
        let index = self.m.gpr(RAX) & 0xff;
        let offset = self.m.gpr(RBX).wrapping_add(index) & self.insn.addr_size.mask();
        let at = self.linear(seg, offset, 1, MemAccess::Read)?;
        let value = self.load_at(at, AccessWidth::B1, MemAccess::Read)?;
        let rax = self.m.gpr(RAX) & !0xff;
        self.m.set_gpr(RAX, rax | value);
        Ok(NextStep::Advance)
    }
}
