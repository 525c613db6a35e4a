// SPDX-License-Identifier: GPL-2.0

//! Segment registers from descriptors, far branches, and descriptor tables: what a processor that
//! cannot run a guest in real or unpaged mode leaves to software.
//!
//! SDM, "Segment Descriptors", "Real-Address Mode", and the instruction reference of each. Protected
//! mode has plain code, data, LDT and TSS descriptors at CPL 0 here; call gates and changes of privilege are
//! not handled, and neither is IA-32e mode. For interrupts see [`super::interrupt`], for tasks [`super::task`].

use super::context::{is_protected, width_len, InsnCx, NextStep, GP0, UD};
use super::descriptor::{is_readable, is_stack, refused, TI};
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason, TableReg};
use super::task::{TaskLink, TaskSwitch};
use crate::arch::addr::AccessWidth;
use crate::arch::exception::ExceptionVector;
use crate::arch::segment::{DescTableReg, SegReg, SegmentState};

impl<M: InsnMachine> InsnCx<'_, M> {
    /// Loads a segment register other than CS.
    ///
    /// # Errors
    /// As the processor's; [`StopReason::Unhandled`] in IA-32e mode and above CPL 0.
    pub(super) fn load_segment(&mut self, reg: SegReg, selector: u64) -> EmulatedStep<()> {
        let selector = (selector & 0xffff) as u16;
        if !is_protected(self.m) {
            let loaded = self.m.segment(reg).at_paragraph(selector);
            self.m.set_segment(reg, loaded);
            return Ok(());
        }
        if self.is_long() || self.m.cpl() != 0 {
            return Err(StopReason::Unhandled);
        }
        if selector & !3 == 0 {
            if reg == SegReg::Ss {
                return Err(GP0);
            }
            self.m.set_segment(reg, SegmentState::null(selector));
            return Ok(());
        }
        let found = self.descriptor(selector)?;
        let attr = found.segment.attr;
        let (fits, absent) = if reg == SegReg::Ss {
            (is_stack(attr, selector, 0), ExceptionVector::SS)
        } else {
            (is_readable(attr), ExceptionVector::NP)
        };
        if !fits {
            return Err(refused(ExceptionVector::GP, selector));
        }
        // Memory first, where this may fault; then the register.
        let loaded = self.take_segment(found, absent)?;
        self.m.set_segment(reg, loaded);
        Ok(())
    }

    /// Finds the code segment and the offset of a far branch's target.
    fn far_target(&mut self, selector: u16, offset: u64) -> EmulatedStep<(SegmentState, u64)> {
        let offset = offset & self.insn.op_size.mask();
        let segment = if !is_protected(self.m) {
            self.m.segment(SegReg::Cs).at_paragraph(selector)
        } else {
            if self.is_long() || self.m.cpl() != 0 {
                return Err(StopReason::Unhandled);
            }
            if selector & !3 == 0 {
                return Err(GP0);
            }
            let found = self.descriptor(selector)?;
            let attr = found.segment.attr;
            if attr.kind() & 16 == 0 {
                return Err(StopReason::Unhandled);
            }
            if !attr.is_code() || attr.dpl() != 0 || selector & 3 != 0 {
                return Err(refused(ExceptionVector::GP, selector));
            }
            self.take_segment(found, ExceptionVector::NP)?
        };
        if offset > u64::from(segment.limit) {
            return Err(GP0);
        }
        Ok((segment, offset))
    }

    /// As [`InsnCx::far_target`], for RET and IRET.
    ///
    /// # Errors
    /// [`StopReason::Unhandled`] for a return to another level.
    pub(super) fn return_target(&mut self, selector: u16, offset: u64) -> EmulatedStep<(SegmentState, u64)> {
        if is_protected(self.m) && selector & !3 != 0 && selector & 3 != 0 {
            return Err(StopReason::Unhandled);
        }
        self.far_target(selector, offset)
    }

    /// EA, and FF /5: far JMP. 9A, and FF /3: far CALL.
    pub(super) fn far_branch(&mut self, selector: u16, offset: u64, is_call: bool) -> EmulatedStep<NextStep> {
        if is_protected(self.m) && !self.is_long() {
            if let Some(selector) = self.task_behind(selector)? {
                let link = if is_call { TaskLink::Call } else { TaskLink::Jump };
                return self.leave_task(selector, link);
            }
        }
        let (segment, target) = self.far_target(selector, offset)?;
        // Before CS changes: a push that faults must find the caller's.
        if is_call {
            let w = self.insn.op_size;
            let (back, old) = (self.next_rip(), u64::from(self.m.segment(SegReg::Cs).selector));
            self.push_all(w, &[old, back])?;
        }
        self.m.set_segment(SegReg::Cs, segment);
        Ok(NextStep::Goto(target))
    }

    /// Goes to another task, from the instruction behind on when this one goes on.
    pub(super) fn leave_task(&mut self, selector: u16, link: TaskLink) -> EmulatedStep<NextStep> {
        let (back, flags) = (self.next_rip(), self.m.rflags());
        self.switch_task(&TaskSwitch { selector, link, back, flags, error: None })
    }

    /// 9A and EA.
    pub(super) fn far_immediate(&mut self) -> EmulatedStep<NextStep> {
        let (selector, offset) = (self.insn.imm2, self.insn.imm);
        self.far_branch(selector, offset, self.insn.opcode == 0x9a)
    }

    /// FF /3 and FF /5.
    pub(super) fn far_memory(&mut self) -> EmulatedStep<NextStep> {
        if self.is_long() {
            return Err(StopReason::Unhandled);
        }
        let w = self.insn.op_size;
        let at = self.memory(width_len(w).wrapping_add(2), MemAccess::Read)?;
        let offset = self.load_at(at, w, MemAccess::Read)?;
        let selector = self.load_at(at.wrapping_add(width_len(w)), AccessWidth::B2, MemAccess::Read)?;
        self.far_branch((selector & 0xffff) as u16, offset, self.insn.ext == 3)
    }

    /// CA and CB: far RET.
    pub(super) fn far_return(&mut self) -> EmulatedStep<NextStep> {
        if self.is_long() {
            return Err(StopReason::Unhandled);
        }
        let [offset, selector, _] = self.peek_all(2)?;
        let (segment, target) = self.return_target((selector & 0xffff) as u16, offset)?;
        self.m.set_segment(SegReg::Cs, segment);
        self.drop_words(2, self.insn.imm);
        Ok(NextStep::Goto(target))
    }

    /// 0F 01 /0 to /3: SGDT, SIDT, LGDT, LIDT.
    pub(super) fn descriptor_table(&mut self) -> EmulatedStep<NextStep> {
        if self.is_long() {
            return Err(StopReason::Unhandled);
        }
        let which = if self.insn.ext & 1 == 0 { TableReg::Gdt } else { TableReg::Idt };
        let is_load = self.insn.ext & 2 != 0;
        let at = self.memory(6, if is_load { MemAccess::Read } else { MemAccess::Write })?;
        if is_load {
            self.need_cpl0()?;
            let limit = (self.load_at(at, AccessWidth::B2, MemAccess::Read)? & 0xffff) as u16;
            let base = self.load_at(at.wrapping_add(2), AccessWidth::B4, MemAccess::Read)?;
            // With 16-bit operands the base has 24 bits.
            let mask = if self.insn.op_size == AccessWidth::B2 { 0xff_ffff } else { 0xffff_ffff };
            self.m.set_table(which, DescTableReg { base: base & mask, limit });
        } else {
            let table = self.m.table(which);
            let mut image = [0u8; 6];
            let bytes = u64::from(table.limit) | table.base << 16;
            for (to, from) in image.iter_mut().zip(bytes.to_le_bytes()) {
                *to = from;
            }
            self.m.write(at, &image)?;
        }
        Ok(NextStep::Advance)
    }

    /// 0F 00 /2 and /3: LLDT and LTR.
    pub(super) fn load_system(&mut self) -> EmulatedStep<NextStep> {
        if !is_protected(self.m) {
            return Err(UD);
        }
        self.need_cpl0()?;
        if self.is_long() || !matches!(self.insn.ext, 2 | 3) {
            return Err(StopReason::Unhandled);
        }
        let is_task = self.insn.ext == 3;
        let selector = (self.load_rm(AccessWidth::B2)? & 0xffff) as u16;
        if selector & !3 == 0 && !is_task {
            self.m.set_ldt(SegmentState::null(selector));
            return Ok(NextStep::Advance);
        }
        if selector & TI != 0 || selector & !3 == 0 {
            return Err(refused(ExceptionVector::GP, selector));
        }
        let mut found = self.descriptor(selector)?;
        // An available TSS of 16 or 32 bits, or an LDT.
        let fits = matches!((is_task, found.segment.attr.kind()), (true, 1 | 9) | (false, 2));
        if !fits {
            return Err(refused(ExceptionVector::GP, selector));
        }
        if !found.segment.attr.is_present() {
            return Err(refused(ExceptionVector::NP, selector));
        }
        if is_task {
            // The busy bit, in memory too: LTR refuses a TSS that has it.
            self.change_descriptor(&mut found, 2, 0)?;
            self.m.set_task(found.segment);
        } else {
            self.m.set_ldt(found.segment);
        }
        Ok(NextStep::Advance)
    }
}
