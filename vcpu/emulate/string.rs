// SPDX-License-Identifier: GPL-2.0

//! String instructions and port I/O: MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS, IN, OUT.
//!
//! SDM, "String Operations", "REP/REPE/REPZ/REPNE/REPNZ". A repeated instruction updates RCX, RSI and
//! RDI after every element, so it can be left at any of them; it is left after [`BATCH`] elements at
//! the latest, and [`InsnMachine::commit`] is told of each. Before a source that may have side effects is
//! read, the destination is probed, once a page.

use super::alu;
use super::context::{width_len, InsnCx, NextStep, RAX, RCX, RDI, RDX, RSI};
use super::decode::RepPrefix;
use super::machine::{EmulatedStep, InsnMachine, MemAccess};
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::Rflags;
use crate::arch::segment::SegReg;

/// The most elements that one call carries out, with interrupts off.
pub(super) const BATCH: u32 = 128;

/// What an element does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StringKind {
    Ins,
    Outs,
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
}

impl StringKind {
    fn of(opcode: u8) -> StringKind {
        match opcode & 0xfe {
            0x6c => StringKind::Ins,
            0x6e => StringKind::Outs,
            0xa4 => StringKind::Movs,
            0xa6 => StringKind::Cmps,
            0xaa => StringKind::Stos,
            0xac => StringKind::Lods,
            _ => StringKind::Scas,
        }
    }

    fn uses_source(self) -> bool {
        matches!(self, StringKind::Outs | StringKind::Movs | StringKind::Cmps | StringKind::Lods)
    }

    fn uses_destination(self) -> bool {
        matches!(
            self,
            StringKind::Ins | StringKind::Movs | StringKind::Cmps | StringKind::Stos | StringKind::Scas
        )
    }

    fn compares(self) -> bool {
        matches!(self, StringKind::Cmps | StringKind::Scas)
    }
}

impl<M: InsnMachine> InsnCx<'_, M> {
    /// A4 to A7, AA to AF, 6C to 6F.
    pub(super) fn string(&mut self) -> EmulatedStep<NextStep> {
        let kind = StringKind::of(self.insn.opcode);
        let mut w = self.size_by_low_bit();
        if matches!(kind, StringKind::Ins | StringKind::Outs) {
            w = port_width(w);
        }
        let mut probed = None;
        let Some(rep) = self.insn.prefixes.rep else {
            self.element(kind, w, &mut probed, 1)?;
            return Ok(NextStep::Advance);
        };
        // A single step traps after each element. SDM, "Single-Step Exception Condition".
        let batch = if self.m.rflags() & Rflags::TF.bits() == 0 { BATCH } else { 1 };
        for _ in 0..batch {
            let count = self.reg(RCX, self.insn.addr_size);
            if count == 0 {
                return Ok(NextStep::Advance);
            }
            // No more at once than a turn takes: what is given for them is used up when it ends.
            self.element(kind, w, &mut probed, count.min(batch.into()))?;
            self.set_reg(RCX, self.insn.addr_size, count.wrapping_sub(1));
            self.m.commit();
            let zero = self.m.rflags() & alu::ZF != 0;
            if count == 1 || (kind.compares() && zero != (rep == RepPrefix::E)) {
                return Ok(NextStep::Advance);
            }
        }
        Ok(NextStep::Again)
    }

    /// Carries out one element of the `left` that follow each other, and moves the index registers. `probed` is the page
    /// of the destination already known to be writable.
    fn element(
        &mut self,
        kind: StringKind,
        w: AccessWidth,
        probed: &mut Option<Gva>,
        left: u64,
    ) -> EmulatedStep<()> {
        match kind {
            StringKind::Ins => {
                let to = self.writable_destination(w, probed)?;
                // Those for whose memory was looked.
                let is_down = self.m.rflags() & Rflags::DF.bits() != 0;
                let room = if is_down { 1 } else { to.left_in_page() >> width_len(w).trailing_zeros() };
                let value = self.m.port_in_string(self.dx(), w, left.min(room))?;
                self.store_at(to, w, u64::from(value))?;
            }
            StringKind::Outs => {
                let value = self.load_source(w)?;
                self.m.port_out(self.dx(), w, low_u32(value))?;
            }
            StringKind::Movs => {
                let to = self.writable_destination(w, probed)?;
                let value = self.load_source(w)?;
                self.store_at(to, w, value)?;
            }
            StringKind::Cmps => {
                let a = self.load_source(w)?;
                let b = self.load_destination(w)?;
                self.set_flags(alu::sub(w, a, b, false));
            }
            StringKind::Stos => {
                let to = self.destination(w, MemAccess::Write)?;
                let value = self.reg(RAX, w);
                self.store_at(to, w, value)?;
            }
            StringKind::Lods => {
                let value = self.load_source(w)?;
                self.set_reg(RAX, w, value);
            }
            StringKind::Scas => {
                let b = self.load_destination(w)?;
                let a = self.reg(RAX, w);
                self.set_flags(alu::sub(w, a, b, false));
            }
        }
        if kind.uses_source() {
            self.step_index(RSI, w);
        }
        if kind.uses_destination() {
            self.step_index(RDI, w);
        }
        Ok(())
    }

    fn load_source(&mut self, w: AccessWidth) -> EmulatedStep<u64> {
        let seg = self.insn.prefixes.seg.unwrap_or(SegReg::Ds);
        let offset = self.reg(RSI, self.insn.addr_size);
        let from = self.linear(seg, offset, width_len(w), MemAccess::Read)?;
        self.load_at(from, w, MemAccess::Read)
    }

    fn load_destination(&mut self, w: AccessWidth) -> EmulatedStep<u64> {
        let from = self.destination(w, MemAccess::Read)?;
        self.load_at(from, w, MemAccess::Read)
    }

    /// Returns the address of ES:RDI; no prefix changes its segment.
    fn destination(&self, w: AccessWidth, access: MemAccess) -> EmulatedStep<Gva> {
        self.linear(SegReg::Es, self.reg(RDI, self.insn.addr_size), width_len(w), access)
    }

    /// As [`InsnCx::destination`], with the memory known to be there.
    fn writable_destination(&mut self, w: AccessWidth, probed: &mut Option<Gva>) -> EmulatedStep<Gva> {
        let to = self.destination(w, MemAccess::Write)?;
        // One page is remembered, so an element that lies in two is always probed.
        let within = to.left_in_page() >= width_len(w);
        if !within || *probed != Some(to.page_base()) {
            self.m.probe(to, w.bytes(), MemAccess::Write)?;
            *probed = within.then_some(to.page_base());
        }
        Ok(to)
    }

    /// Moves an index register one element on, or back with DF set.
    fn step_index(&mut self, n: u8, w: AccessWidth) {
        let size = self.insn.addr_size;
        let at = self.reg(n, size);
        let down = self.m.rflags() & Rflags::DF.bits() != 0;
        let next = if down { at.wrapping_sub(width_len(w)) } else { at.wrapping_add(width_len(w)) };
        self.set_reg(n, size, next);
    }

    fn dx(&self) -> u16 {
        (self.m.gpr(RDX) & 0xffff) as u16
    }

    /// E4 to E7 and EC to EF: IN and OUT.
    pub(super) fn port(&mut self) -> EmulatedStep<NextStep> {
        let w = port_width(self.size_by_low_bit());
        let port = if self.insn.opcode & 8 == 0 { (self.insn.imm & 0xff) as u16 } else { self.dx() };
        if self.insn.opcode & 2 == 0 {
            let value = self.m.port_in(port, w)?;
            self.set_reg(RAX, w, u64::from(value));
        } else {
            let value = self.reg(RAX, w);
            self.m.port_out(port, w, low_u32(value))?;
        }
        Ok(NextStep::Advance)
    }
}

/// Ports are at most 32 bits wide, REX.W or not.
fn port_width(w: AccessWidth) -> AccessWidth {
    if w == AccessWidth::B8 {
        AccessWidth::B4
    } else {
        w
    }
}

fn low_u32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}
