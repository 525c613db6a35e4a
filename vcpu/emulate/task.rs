// SPDX-License-Identifier: GPL-2.0

//! Switches between the tasks of 16-bit and 32-bit protected mode.
//!
//! SDM, "Task Management". No processor switches tasks in guest mode: software does, with what the far branch, the IRET
//! or the event names, and as the processor would:
//!
//! ```text
//! descriptor ─> image in the new TSS ─> registers into the old TSS, back link, busy bits ─> the new task's registers
//!   checks, in the old task ───────────────────────────────────────────────────┘     └─ checks, in the new task
//! ```
//!
//! Memory that is not there undoes all that changed the registers, and the switch is tried again as a whole.

use super::context::{width_len, InsnCx, NextStep, GP0};
use super::descriptor::{is_readable, is_stack, refused, FoundDesc, TI};
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::{Cr0, Rflags};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{SegAttr, SegReg, SegmentState};

/// The type of a task gate, with the S bit.
const TASK_GATE: u8 = 5;
/// The bit of a TSS's type that says that its task is busy.
const BUSY: u32 = 2;
/// The attributes of segments in virtual-8086 mode: data, present, DPL 3, accessed.
const VM86_SEGMENT: SegAttr = SegAttr(0xf3);

/// How a task comes to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskLink {
    /// JMP: the old task is left.
    Jump,
    /// CALL, or an event: the new task comes back by IRET.
    Call,
    /// IRET with NT set.
    Return,
}

/// A switch to be made.
pub(super) struct TaskSwitch {
    /// The selector of the new TSS.
    pub(super) selector: u16,
    pub(super) link: TaskLink,
    /// RIP where the old task goes on.
    pub(super) back: u64,
    /// RFLAGS that the old task goes on with.
    pub(super) flags: u64,
    /// The error code of the event, for the new task's stack.
    pub(super) error: Option<u32>,
}

/// Where the fields of a TSS are. SDM, "32-Bit Task-State Segment (TSS)", "16-Bit Task-State Segment (TSS)".
#[derive(Clone, Copy)]
struct TssLayout {
    /// Of all fields but the link, the selectors of a TSS of 32 bits, and the trap flag.
    width: AccessWidth,
    cr3: Option<u64>,
    rip: u64,
    /// Behind it the general registers, the segment registers, and the LDT's selector.
    flags: u64,
    /// How many of the segment registers there are, in the order of their numbers.
    segments: usize,
    trap: Option<u64>,
    /// The least limit.
    limit: u32,
}

const TSS16: TssLayout = TssLayout {
    width: AccessWidth::B2,
    cr3: None,
    rip: 0x0e,
    flags: 0x10,
    segments: 4,
    trap: None,
    limit: 0x2b,
};
const TSS32: TssLayout = TssLayout {
    width: AccessWidth::B4,
    cr3: Some(0x1c),
    rip: 0x20,
    flags: 0x24,
    segments: 6,
    trap: Some(0x64),
    limit: 0x67,
};

impl TssLayout {
    fn of(tss: SegAttr) -> TssLayout {
        if tss.kind() & 8 == 0 {
            TSS16
        } else {
            TSS32
        }
    }
}

/// What a TSS says of its task.
#[derive(Default)]
struct TaskImage {
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    gprs: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    has_trap: bool,
}

/// A fault of a selector that a TSS holds: it is the TSS that is bad.
fn of_tss(stop: StopReason) -> StopReason {
    match stop {
        StopReason::Fault(e) if e.vector == ExceptionVector::GP => {
            StopReason::Fault(CpuException { vector: ExceptionVector::TS, ..e })
        }
        other => other,
    }
}

fn bad_tss(selector: u16) -> StopReason {
    refused(ExceptionVector::TS, selector)
}

/// The linear address of a field.
fn field(base: u64, offset: u64) -> Gva {
    Gva(base.wrapping_add(offset) & 0xffff_ffff)
}

impl<M: InsnMachine> InsnCx<'_, M> {
    /// Returns the TSS that a far JMP or CALL leads to, itself or by a task gate; `None` for a branch within the task.
    ///
    /// # Errors
    /// #GP or #NP with the selector, where it may not be used.
    pub(super) fn task_behind(&mut self, selector: u16) -> EmulatedStep<Option<u16>> {
        if selector & !3 == 0 {
            return Ok(None);
        }
        let found = self.descriptor(selector)?;
        let attr = found.segment.attr;
        let is_gate = attr.kind() == TASK_GATE;
        if !is_gate && !is_tss(attr) {
            return Ok(None);
        }
        if attr.dpl() < self.m.cpl().max((selector & 3) as u8) {
            return Err(refused(ExceptionVector::GP, selector));
        }
        if !is_gate {
            return Ok(Some(selector));
        }
        if !attr.is_present() {
            return Err(refused(ExceptionVector::NP, selector));
        }
        // Where other descriptors have the low half of the base.
        Ok(Some((found.segment.base & 0xffff) as u16))
    }

    /// Returns the selector that the TSS of this task links back to.
    ///
    /// # Errors
    /// Those of its memory.
    pub(super) fn task_link(&mut self) -> EmulatedStep<u16> {
        let tss = self.m.task();
        self.load_field(tss.base, 0, AccessWidth::B2).map(|link| (link & 0xffff) as u16)
    }

    /// Switches to another task, whose registers are there when this returns.
    ///
    /// # Errors
    /// As the processor's. Of those that the new task has, all its registers are there that could be loaded.
    pub(super) fn switch_task(&mut self, to: &TaskSwitch) -> EmulatedStep<NextStep> {
        let mut new = self.tss_descriptor(to.selector, to.link)?;
        let old = self.m.task();
        let layout = TssLayout::of(new.segment.attr);
        let image = self.load_image(new.segment.base, layout)?;
        self.store_image(old.base, TssLayout::of(old.attr), to)?;
        if to.link == TaskLink::Call {
            let link = u64::from(old.selector);
            self.as_processor(|cx| cx.store_at(field(new.segment.base, 0), AccessWidth::B2, link))?;
        } else {
            let mut left = self.descriptor(old.selector).map_err(of_tss)?;
            self.change_descriptor(&mut left, 0, BUSY)?;
        }
        // The last: for a try that comes after this one the new task must not be busy.
        let was_busy = new.segment.attr.0 & BUSY;
        self.change_descriptor(&mut new, BUSY, 0)?;
        let registers = self.m.registers();
        match self.enter_task(&image, layout, new.segment, to) {
            done @ (Ok(()) | Err(StopReason::Fault(_))) => {
                self.m.leave_task_breakpoints();
                done.map(|()| NextStep::Goto(image.rip))
            }
            Err(stop) => {
                self.m.put_back(registers);
                if was_busy == 0 {
                    // Written a moment ago, and so it can be now.
                    self.change_descriptor(&mut new, 0, BUSY)?;
                }
                Err(stop)
            }
        }
    }

    /// Finds a TSS and checks that its task may be entered. SDM, "Task Switching".
    fn tss_descriptor(&mut self, selector: u16, link: TaskLink) -> EmulatedStep<FoundDesc> {
        let is_return = link == TaskLink::Return;
        let bad = if is_return { bad_tss(selector) } else { refused(ExceptionVector::GP, selector) };
        if selector & TI != 0 || selector & !3 == 0 {
            return Err(bad);
        }
        let found = self.descriptor(selector).map_err(|stop| if is_return { of_tss(stop) } else { stop })?;
        let attr = found.segment.attr;
        if !is_tss(attr) || (attr.0 & BUSY != 0) != is_return {
            return Err(bad);
        }
        if !attr.is_present() {
            return Err(refused(ExceptionVector::NP, selector));
        }
        if found.segment.limit < TssLayout::of(attr).limit {
            return Err(bad_tss(selector));
        }
        Ok(found)
    }

    fn load_field(&mut self, base: u64, offset: u64, w: AccessWidth) -> EmulatedStep<u64> {
        self.as_processor(|cx| cx.load_at(field(base, offset), w, MemAccess::Read))
    }

    /// Reads a field, and goes on to the next one.
    fn next_field(&mut self, at: &mut Gva, layout: TssLayout) -> EmulatedStep<u64> {
        let from = *at;
        *at = field(from.0, width_len(layout.width));
        self.load_field(from.0, 0, layout.width)
    }

    fn load_image(&mut self, base: u64, layout: TssLayout) -> EmulatedStep<TaskImage> {
        let mut image = TaskImage::default();
        if let Some(offset) = layout.cr3 {
            image.cr3 = Some(self.load_field(base, offset, layout.width)?);
        }
        image.rip = self.load_field(base, layout.rip, layout.width)?;
        let mut at = field(base, layout.flags);
        image.flags = self.next_field(&mut at, layout)?;
        for value in image.gprs.iter_mut() {
            // A TSS of 16 bits has the lower halves; the upper ones are then all ones.
            *value = self.next_field(&mut at, layout)? | !layout.width.mask() & 0xffff_ffff;
        }
        for selector in image.selectors.iter_mut().take(layout.segments) {
            *selector = (self.next_field(&mut at, layout)? & 0xffff) as u16;
        }
        image.ldt = (self.next_field(&mut at, layout)? & 0xffff) as u16;
        if let Some(offset) = layout.trap {
            image.has_trap = self.load_field(base, offset, AccessWidth::B1)? & 1 != 0;
        }
        Ok(image)
    }

    /// Writes a field, and goes on to the next one.
    fn put_field(&mut self, at: &mut Gva, layout: TssLayout, value: u64) -> EmulatedStep<()> {
        let to = *at;
        *at = field(to.0, width_len(layout.width));
        self.as_processor(|cx| cx.store_at(to, layout.width, value))
    }

    /// Writes what the old task goes on with: all that its TSS has but CR3, the LDT and the stacks.
    fn store_image(&mut self, base: u64, layout: TssLayout, left: &TaskSwitch) -> EmulatedStep<()> {
        let mut at = field(base, layout.rip);
        self.put_field(&mut at, layout, left.back)?;
        let nested = if left.link == TaskLink::Return { Rflags::NT.bits() } else { 0 };
        self.put_field(&mut at, layout, left.flags & !nested)?;
        for n in 0..8 {
            let value = self.m.gpr(n);
            self.put_field(&mut at, layout, value)?;
        }
        for reg in SegReg::ALL.into_iter().take(layout.segments) {
            let selector = self.m.segment(reg).selector;
            self.put_field(&mut at, layout, u64::from(selector))?;
        }
        Ok(())
    }

    /// Loads the registers of the new task.
    ///
    /// # Errors
    /// The faults are the new task's.
    fn enter_task(
        &mut self,
        image: &TaskImage,
        layout: TssLayout,
        tss: SegmentState,
        switch: &TaskSwitch,
    ) -> EmulatedStep<()> {
        self.m.set_task(tss);
        self.m.set_rip(image.rip);
        let nested = if switch.link == TaskLink::Call { Rflags::NT.bits() } else { 0 };
        let flags = Rflags::from_bits_truncate(image.flags).bits() | nested | Rflags::ONE.bits();
        self.m.set_rflags(flags);
        for (n, value) in (0..8).zip(image.gprs) {
            self.m.set_gpr(n, value);
        }
        let cr0 = self.m.cr(0);
        if let Some(cr3) = image.cr3.filter(|_| cr0 & Cr0::PG.bits() != 0) {
            self.m.set_cr(3, cr3)?;
        }
        self.m.set_cr(0, cr0 | Cr0::TS.bits())?;
        self.load_task_ldt(image.ldt)?;
        if flags & Rflags::VM.bits() != 0 {
            self.load_vm86_segments(image);
        } else {
            self.load_task_segments(image)?;
        }
        if image.rip > u64::from(self.m.segment(SegReg::Cs).limit) {
            return Err(GP0);
        }
        if let Some(error) = switch.error {
            self.as_processor(|cx| cx.push_all(layout.width, &[u64::from(error)]))?;
        }
        if image.has_trap {
            return Err(StopReason::Fault(self.m.task_trap()));
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> EmulatedStep<()> {
        if selector & !3 == 0 {
            self.m.set_ldt(SegmentState::null(selector));
            return Ok(());
        }
        if selector & TI != 0 {
            return Err(bad_tss(selector));
        }
        let found = self.descriptor(selector).map_err(of_tss)?;
        if found.segment.attr.kind() != 2 || !found.segment.attr.is_present() {
            return Err(bad_tss(selector));
        }
        self.m.set_ldt(found.segment);
        Ok(())
    }

    /// SDM, "Virtual-8086 Mode".
    fn load_vm86_segments(&mut self, image: &TaskImage) {
        for (reg, selector) in SegReg::ALL.into_iter().zip(image.selectors) {
            let base = u64::from(selector) << 4;
            self.m.set_segment(reg, SegmentState { selector, attr: VM86_SEGMENT, limit: 0xffff, base });
        }
    }

    /// Loads the segment registers of a task that is not in virtual-8086 mode. CS and SS come together, for the
    /// processor cannot run with those of two levels.
    fn load_task_segments(&mut self, image: &TaskImage) -> EmulatedStep<()> {
        let [es, cs, ss, ds, fs, gs] = image.selectors;
        let cpl = (cs & 3) as u8;
        let code = self.task_segment(cs, |attr| code_fits(attr, cpl), ExceptionVector::NP)?;
        let stack = self.task_segment(ss, |attr| is_stack(attr, ss, cpl), ExceptionVector::SS)?;
        self.m.set_segment(SegReg::Cs, code);
        self.m.set_segment(SegReg::Ss, stack);
        for (reg, selector) in [(SegReg::Ds, ds), (SegReg::Es, es), (SegReg::Fs, fs), (SegReg::Gs, gs)] {
            let loaded = if selector & !3 == 0 {
                SegmentState::null(selector)
            } else {
                self.task_segment(selector, |attr| data_fits(attr, selector, cpl), ExceptionVector::NP)?
            };
            self.m.set_segment(reg, loaded);
        }
        Ok(())
    }

    /// Finds a segment of the new task; `absent`: the exception of one that is not present.
    fn task_segment(
        &mut self,
        selector: u16,
        fits: impl Fn(SegAttr) -> bool,
        absent: ExceptionVector,
    ) -> EmulatedStep<SegmentState> {
        if selector & !3 == 0 {
            return Err(bad_tss(selector));
        }
        let found = self.descriptor(selector).map_err(of_tss)?;
        if !fits(found.segment.attr) {
            return Err(bad_tss(selector));
        }
        self.take_segment(found, absent)
    }
}

/// Returns whether a descriptor is that of a TSS, busy or not.
fn is_tss(attr: SegAttr) -> bool {
    matches!(attr.kind(), 1 | 3 | 9 | 11)
}

/// Returns whether code is conforming: it runs at the level of who comes to it.
fn is_conforming(attr: SegAttr) -> bool {
    attr.is_code() && attr.0 & 4 != 0
}

fn code_fits(attr: SegAttr, cpl: u8) -> bool {
    attr.is_code() && if is_conforming(attr) { attr.dpl() <= cpl } else { attr.dpl() == cpl }
}

fn data_fits(attr: SegAttr, selector: u16, cpl: u8) -> bool {
    is_readable(attr) && (is_conforming(attr) || attr.dpl() >= cpl.max((selector & 3) as u8))
}
