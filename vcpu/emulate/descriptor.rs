// SPDX-License-Identifier: GPL-2.0

//! Descriptors in the guest's memory: found by their selector, and changed there.
//!
//! SDM, "Segment Descriptors", "Segment Descriptor Tables".

use super::context::InsnCx;
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason, TableReg};
use crate::arch::addr::{AccessWidth, Gva};
use crate::arch::cr::Efer;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{descriptor_base, SegAttr, SegmentState};

/// The selector's bit for the LDT.
pub(super) const TI: u16 = 4;
/// Accessed, of code and data.
const ACCESSED: u32 = 1;

/// A descriptor with the address it was read from.
pub(super) struct FoundDesc {
    pub(super) segment: SegmentState,
    at: Gva,
}

/// A fault that names a selector.
pub(super) fn refused(vector: ExceptionVector, selector: u16) -> StopReason {
    StopReason::Fault(CpuException::with_error(vector, u32::from(selector & !3)))
}

/// Takes a descriptor of eight bytes apart. SDM, "Segment Descriptors".
fn unpack(selector: u16, raw: u64) -> SegmentState {
    let attr = (raw >> 40 & 0xf0ff) as u32;
    let limit = ((raw & 0xffff) | (raw >> 32 & 0xf_0000)) as u32;
    let limit = if attr & 1 << 15 != 0 { limit << 12 | 0xfff } else { limit };
    SegmentState { selector, attr: SegAttr(attr), limit, base: descriptor_base(raw) }
}

impl<M: InsnMachine> InsnCx<'_, M> {
    /// Returns whether this is IA-32e mode, whose descriptors are other ones.
    pub(super) fn is_long(&self) -> bool {
        self.m.efer() & Efer::LMA.bits() != 0
    }

    /// Reads the descriptor that a selector names.
    ///
    /// # Errors
    /// #GP with the selector where its table ends before.
    pub(super) fn descriptor(&mut self, selector: u16) -> EmulatedStep<FoundDesc> {
        let table = if selector & TI == 0 {
            let gdt = self.m.table(TableReg::Gdt);
            SegmentState { limit: u32::from(gdt.limit), base: gdt.base, ..SegmentState::default() }
        } else {
            self.m.ldt()
        };
        let offset = u32::from(selector & !7);
        if offset | 7 > table.limit {
            return Err(refused(ExceptionVector::GP, selector));
        }
        let at = Gva(table.base.wrapping_add(u64::from(offset)) & 0xffff_ffff);
        let raw = self.as_processor(|cx| cx.load_at(at, AccessWidth::B8, MemAccess::Read))?;
        Ok(FoundDesc { segment: unpack(selector, raw), at })
    }

    /// Sets and clears bits in the type of a descriptor in memory.
    pub(super) fn change_descriptor(
        &mut self,
        found: &mut FoundDesc,
        set: u32,
        clear: u32,
    ) -> EmulatedStep<()> {
        let new = found.segment.attr.0 & !clear | set;
        if found.segment.attr.0 == new {
            return Ok(());
        }
        found.segment.attr.0 = new;
        let rights = u64::from(found.segment.attr.0 & 0xff);
        let at = found.at.wrapping_add(5);
        self.as_processor(|cx| cx.store_at(at, AccessWidth::B1, rights))
    }

    /// Takes code or data that fits otherwise, and notes in memory that it has been loaded.
    ///
    /// # Errors
    /// `absent` with the selector where it is not present; those of the memory.
    pub(super) fn take_segment(
        &mut self,
        mut found: FoundDesc,
        absent: ExceptionVector,
    ) -> EmulatedStep<SegmentState> {
        if !found.segment.attr.is_present() {
            return Err(refused(absent, found.segment.selector));
        }
        self.change_descriptor(&mut found, ACCESSED, 0)?;
        Ok(found.segment)
    }
}

/// Returns whether data or code may be read by who has it in a segment register.
pub(super) fn is_readable(attr: SegAttr) -> bool {
    attr.kind() & 16 != 0 && (!attr.is_code() || attr.is_readable_or_writable())
}

/// Returns whether a stack of level `cpl` may be what `selector` names.
pub(super) fn is_stack(attr: SegAttr, selector: u16, cpl: u8) -> bool {
    attr.kind() & 0x1a == 0x12 && attr.dpl() == cpl && (selector & 3) as u8 == cpl
}
