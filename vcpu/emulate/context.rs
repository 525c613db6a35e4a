// SPDX-License-Identifier: GPL-2.0

//! An instruction under execution: registers by width, memory by segment.
//!
//! SDM, "Operand Addressing", "Limit Checking", "Type Checking" and "Canonical Addressing".
//!
//! Not modelled: alignment checks (#AC), the FPU and vector registers, LMSLE's segment limits in
//! 64-bit mode.

use super::alu::{self, AluResult};
use super::decode::{CodeMode, DecodedInsn, MemRef};
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::{Cr0, Cr4, Rflags};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::SegReg;

/// How often a LOCKed operation is tried against other processors before the guest is run again.
const LOCK_TRIES: u32 = 64;

pub(super) const RAX: u8 = 0;
pub(super) const RCX: u8 = 1;
pub(super) const RDX: u8 = 2;
pub(super) const RBX: u8 = 3;
pub(super) const RSP: u8 = 4;
pub(super) const RBP: u8 = 5;
pub(super) const RSI: u8 = 6;
pub(super) const RDI: u8 = 7;

pub(super) const GP0: StopReason = StopReason::Fault(CpuException::GP0);
pub(super) const UD: StopReason = StopReason::Fault(CpuException::UD);
pub(super) const DE: StopReason = StopReason::Fault(CpuException::plain(ExceptionVector::DE));

/// Where RIP goes after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NextStep {
    /// To the instruction behind.
    Advance,
    /// Nowhere: a string instruction has more to do.
    Again,
    /// To a target already checked.
    Goto(u64),
}

/// An operand: a register or memory whose segment has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OperandPlace {
    Reg(u8),
    Mem(Gva),
}

/// Returns the linear address of `len` bytes at `seg:offset`, checked for `access`.
///
/// # Errors
/// #SS(0) for the stack segment, else #GP(0): not canonical, above the limit, or of the wrong type.
pub(super) fn linear<M: InsnMachine>(
    m: &M,
    mode: CodeMode,
    seg: SegReg,
    offset: u64,
    len: u64,
    access: MemAccess,
) -> EmulatedStep<Gva> {
    let vector = if seg == SegReg::Ss { ExceptionVector::SS } else { ExceptionVector::GP };
    let refused = Err(StopReason::Fault(CpuException::with_error(vector, 0)));
    let last = offset.wrapping_add(len.wrapping_sub(1));
    if mode == CodeMode::Bits64 {
        let base = if matches!(seg, SegReg::Fs | SegReg::Gs) { m.segment(seg).base } else { 0 };
        let (first, last) = (base.wrapping_add(offset), base.wrapping_add(last));
        if !is_canonical(m, first) || !is_canonical(m, last) {
            return refused;
        }
        return Ok(Gva(first));
    }
    let s = m.segment(seg);
    // Real and virtual-8086 mode check limits, not types.
    if is_protected(m) {
        let attr = s.attr;
        let allowed = match access {
            MemAccess::Write => !attr.is_code() && attr.is_readable_or_writable(),
            MemAccess::Read => !attr.is_code() || attr.is_readable_or_writable(),
            MemAccess::Fetch => true,
        };
        if attr.is_unusable() || !allowed {
            return refused;
        }
    }
    let limit = u64::from(s.limit);
    let inside = if s.attr.is_expand_down() && is_protected(m) {
        let top = if s.attr.is_big() { 0xffff_ffff } else { 0xffff };
        offset > limit && last <= top
    } else {
        last <= limit
    };
    // An operand that wraps around is outside even where its last byte is not.
    if !inside || last < offset {
        return refused;
    }
    Ok(Gva(s.base.wrapping_add(offset) & 0xffff_ffff))
}

/// Returns whether segments are those of protected mode: not real, not virtual-8086.
pub(super) fn is_protected<M: InsnMachine>(m: &M) -> bool {
    Cr0::from_bits_truncate(m.cr(0)).contains(Cr0::PE) && m.rflags() & Rflags::VM.bits() == 0
}

/// Returns whether an address is canonical under the paging that CR4 chooses.
pub(super) fn is_canonical<M: InsnMachine>(m: &M, address: u64) -> bool {
    let unused = if Cr4::from_bits_truncate(m.cr(4)).contains(Cr4::LA57) { 7 } else { 16 };
    let top = i64::from_ne_bytes(address.to_ne_bytes());
    top.wrapping_shl(unused).wrapping_shr(unused) == top
}

/// The machine, the instruction and its mode.
pub(super) struct InsnCx<'m, M> {
    pub(super) m: &'m mut M,
    pub(super) insn: DecodedInsn,
    pub(super) mode: CodeMode,
}

impl<M: InsnMachine> InsnCx<'_, M> {
    /// Returns the operand size of an opcode whose low bit chooses 8 bits or the full size.
    pub(super) fn size_by_low_bit(&self) -> AccessWidth {
        if self.insn.opcode & 1 == 0 {
            AccessWidth::B1
        } else {
            self.insn.op_size
        }
    }

    /// Returns the low `w` of register `n` as instructions name it (AH and friends without REX).
    pub(super) fn reg(&self, n: u8, w: AccessWidth) -> u64 {
        match self.high_byte(n, w) {
            Some(low) => (self.m.gpr(low) >> 8) & 0xff,
            None => self.m.gpr(n) & w.mask(),
        }
    }

    /// Sets the low `w` of register `n`; 32 bits clear the upper half, less keeps the rest.
    pub(super) fn set_reg(&mut self, n: u8, w: AccessWidth, value: u64) {
        if let Some(low) = self.high_byte(n, w) {
            let kept = self.m.gpr(low) & !0xff00;
            self.m.set_gpr(low, kept | ((value & 0xff) << 8));
            return;
        }
        let kept = match w {
            AccessWidth::B1 | AccessWidth::B2 => self.m.gpr(n) & !w.mask(),
            AccessWidth::B4 | AccessWidth::B8 => 0,
        };
        self.m.set_gpr(n, kept | (value & w.mask()));
    }

    fn high_byte(&self, n: u8, w: AccessWidth) -> Option<u8> {
        (w == AccessWidth::B1 && self.insn.prefixes.rex == 0 && (4..8).contains(&n)).then_some(n & 3)
    }

    /// Returns the register operand that ModRM's reg field names.
    pub(super) fn reg_operand(&self, w: AccessWidth) -> u64 {
        self.reg(self.insn.reg, w)
    }

    /// Returns CF.
    pub(super) fn carry(&self) -> bool {
        self.m.rflags() & alu::CF != 0
    }

    /// Sets those flags that an operation changes.
    pub(super) fn set_flags(&mut self, out: AluResult) {
        let kept = self.m.rflags() & !out.mask;
        self.m.set_rflags(kept | (out.flags & out.mask));
    }

    /// Returns the offset of a memory operand within its segment.
    pub(super) fn offset(&self, mem: MemRef) -> u64 {
        let mut at = mem.disp;
        if let Some(base) = mem.base {
            at = at.wrapping_add(self.m.gpr(base));
        }
        if let Some(index) = mem.index {
            at = at.wrapping_add(self.m.gpr(index).wrapping_shl(u32::from(mem.scale)));
        }
        if mem.rip_relative {
            at = at.wrapping_add(self.next_rip());
        }
        at & self.insn.addr_size.mask()
    }

    /// Returns the place of the r/m operand, `len` bytes long.
    ///
    /// # Errors
    /// See [`linear`].
    pub(super) fn rm(&self, len: u64, access: MemAccess) -> EmulatedStep<OperandPlace> {
        match self.insn.mem {
            None => Ok(OperandPlace::Reg(self.insn.rm)),
            Some(mem) => self.linear(mem.seg, self.offset(mem), len, access).map(OperandPlace::Mem),
        }
    }

    /// Returns the place of an r/m operand that must be memory.
    ///
    /// # Errors
    /// #UD for a register; see [`linear`].
    pub(super) fn memory(&self, len: u64, access: MemAccess) -> EmulatedStep<Gva> {
        let mem = self.insn.mem.ok_or(UD)?;
        self.linear(mem.seg, self.offset(mem), len, access)
    }

    pub(super) fn linear(&self, seg: SegReg, offset: u64, len: u64, access: MemAccess) -> EmulatedStep<Gva> {
        linear(self.m, self.mode, seg, offset, len, access)
    }

    /// Makes accesses that are the processor's own, and not the instruction's.
    pub(super) fn as_processor<T>(
        &mut self,
        access: impl FnOnce(&mut Self) -> EmulatedStep<T>,
    ) -> EmulatedStep<T> {
        self.m.act_as_processor(true);
        let done = access(self);
        self.m.act_as_processor(false);
        done
    }

    /// Reads a value of width `w`.
    pub(super) fn load_at(&mut self, gva: Gva, w: AccessWidth, access: MemAccess) -> EmulatedStep<u64> {
        let mut le = [0u8; 8];
        if let Some(buf) = le.get_mut(..w.bytes()) {
            self.m.read(gva, buf, access)?;
        }
        Ok(u64::from_le_bytes(le))
    }

    /// Writes a value of width `w`.
    pub(super) fn store_at(&mut self, gva: Gva, w: AccessWidth, value: u64) -> EmulatedStep<()> {
        match value.to_le_bytes().get(..w.bytes()) {
            Some(buf) => self.m.write(gva, buf),
            None => Ok(()),
        }
    }

    /// Reads the r/m operand.
    pub(super) fn load_rm(&mut self, w: AccessWidth) -> EmulatedStep<u64> {
        match self.rm(width_len(w), MemAccess::Read)? {
            OperandPlace::Reg(n) => Ok(self.reg(n, w)),
            OperandPlace::Mem(gva) => self.load_at(gva, w, MemAccess::Read),
        }
    }

    /// Writes the r/m operand.
    pub(super) fn store_rm(&mut self, w: AccessWidth, value: u64) -> EmulatedStep<()> {
        match self.rm(width_len(w), MemAccess::Write)? {
            OperandPlace::Reg(n) => {
                self.set_reg(n, w, value);
                Ok(())
            }
            OperandPlace::Mem(gva) => self.store_at(gva, w, value),
        }
    }

    /// Replaces the value at `at` by what `op` makes of it, atomically where `locked`; `op` gives
    /// the new value and a by-product, which is returned. Nothing but `at` has changed then.
    ///
    /// # Errors
    /// Those of the memory access; [`StopReason::Retry`] when other processors always came first.
    pub(super) fn replace<R>(
        &mut self,
        at: OperandPlace,
        w: AccessWidth,
        locked: bool,
        op: impl Fn(u64) -> (u64, R),
    ) -> EmulatedStep<R> {
        let gva = match at {
            OperandPlace::Mem(gva) => gva,
            OperandPlace::Reg(n) => {
                let (new, by) = op(self.reg(n, w));
                self.set_reg(n, w, new);
                return Ok(by);
            }
        };
        // Read as for a write, so that memory which may not be written faults before anything is done.
        let mut old = self.load_at(gva, w, MemAccess::Write)?;
        if !locked {
            let (new, by) = op(old);
            self.store_at(gva, w, new)?;
            return Ok(by);
        }
        for _ in 0..LOCK_TRIES {
            let (new, by) = op(old);
            let found = self.m.cmpxchg(gva, w, old, new & w.mask())?;
            if found == old {
                return Ok(by);
            }
            old = found;
        }
        Err(StopReason::Retry)
    }

    /// Applies an arithmetic operation to the r/m operand and sets the flags.
    pub(super) fn modify_rm(&mut self, w: AccessWidth, op: impl Fn(u64) -> AluResult) -> EmulatedStep<()> {
        let at = self.rm(width_len(w), MemAccess::Write)?;
        let out = self.replace(at, w, self.insn.prefixes.lock, |old| {
            let out = op(old);
            (out.value, out)
        })?;
        self.set_flags(out);
        Ok(())
    }

    /// Returns the mask of RIP in this mode.
    pub(super) fn rip_mask(&self) -> u64 {
        if self.mode == CodeMode::Bits64 {
            u64::MAX
        } else {
            0xffff_ffff
        }
    }

    /// Returns RIP of the instruction behind.
    pub(super) fn next_rip(&self) -> u64 {
        self.m.rip().wrapping_add(u64::from(self.insn.len)) & self.rip_mask()
    }

    /// Checks a branch target and makes it the next RIP.
    ///
    /// # Errors
    /// #GP(0) where it is not canonical or above the limit of CS.
    pub(super) fn branch_to(&self, target: u64) -> EmulatedStep<NextStep> {
        if self.mode == CodeMode::Bits64 {
            return if is_canonical(self.m, target) { Ok(NextStep::Goto(target)) } else { Err(GP0) };
        }
        let target = target & self.insn.op_size.mask();
        if target > u64::from(self.m.segment(SegReg::Cs).limit) {
            return Err(GP0);
        }
        Ok(NextStep::Goto(target))
    }

    /// Fails with #GP(0) unless the CPL is 0.
    pub(super) fn need_cpl0(&self) -> EmulatedStep<()> {
        if self.m.cpl() != 0 {
            return Err(GP0);
        }
        Ok(())
    }
}

/// Returns the bytes of a width.
pub(super) fn width_len(w: AccessWidth) -> u64 {
    match w {
        AccessWidth::B1 => 1,
        AccessWidth::B2 => 2,
        AccessWidth::B4 => 4,
        AccessWidth::B8 => 8,
    }
}
