// SPDX-License-Identifier: GPL-2.0

//! Pages that the guest may not write, or not without a note of it: read-only slots and dirty logs.
//!
//! In a slot that logs, a page is mapped for writing only while its mark is set ([`crate::mmu::dirty`]), and pages are
//! small. Both the mark of a fault and the taking of marks are under the table's lock. So a write is seen by whoever
//! takes the mark after it; those of processors that still have the right in their TLBs come before the flush, and user
//! space learns of the mark after it.

use super::{FlushNeeded, GuestTable, GuestTables, SecondLevel, WantedPage, SECTION};
use crate::mmu::dirty::{DirtyBitmap, TakenWord, WORD_PAGES};
use crate::mmu::format::{GuestTouch, MapRights, PageSize, TableFormat};
use crate::mmu::shadow::RangeLoss;
use crate::mmu::slots::{GfnRange, MemSlot};

impl<F: TableFormat + Copy + Send + Sync + Unpin> SecondLevel<F> {
    /// Returns how a page is mapped of a slot that is read-only or logs what is written; `size` is the largest that it
    /// can have. Notes a write. The caller holds the table's lock.
    #[cold]
    #[inline(never)]
    pub(super) fn restricted(&self, wanted: &WantedPage, size: PageSize) -> (PageSize, MapRights) {
        let WantedPage { gfn, slot, access, .. } = wanted;
        let size = if slot.logs_dirty() { PageSize::Size4K } else { size };
        let writes = *access == GuestTouch::Write;
        let is_writable = slot.is_writable() && self.ram.mark_mapped(slot, *gfn, writes);
        (size, if is_writable { MapRights::all() } else { MapRights::EXEC })
    }

    /// A slot has begun to log what is written, or has stopped: `new` is in place, and nothing looks at `old` any
    /// more. Sleeps.
    pub(super) fn follow_logging(&self, old: &MemSlot, new: &MemSlot) {
        match (old.logs_dirty(), new.logs_dirty()) {
            // What is mapped for writing was mapped before, and is not marked.
            (false, true) if !self.ram.log_starts_marked() => self.write_protect(new.range()),
            // So that large pages come back.
            (true, false) => self.take(core::iter::once(new.range()), RangeLoss::Pages),
            _ => {}
        }
    }

    /// Takes away the right to write. Sleeps.
    fn write_protect(&self, range: GfnRange) {
        if self.is_shadow() {
            return self.take_shadows(core::iter::once(range), RangeLoss::Writes);
        }
        let (mut left, mut is_needed) = (range, false);
        while !left.is_empty() {
            let mut t = self.tables.lock();
            let GuestTables { table, pages, .. } = &mut *t;
            let GuestTable::Direct(table) = table else { return };
            // Says at most that a flush is needed, for no table is unlinked.
            is_needed |= table.write_protect_some(pages, &mut left, SECTION).is_needed();
        }
        if is_needed {
            self.flush_protected();
        }
    }

    /// Takes the marks in `wanted` of the word `index` of a slot's log, and with them the right to write. Returns the
    /// marks that there were. Where there were any, the caller does [`SecondLevel::flush_protected`] before user space
    /// looks at the pages.
    pub(crate) fn take_dirty(&self, slot: &MemSlot, log: &DirtyBitmap, index: usize, wanted: u64) -> u64 {
        // Without the lock: a mark that comes now is for the next call.
        let marked = log.word(index) & wanted;
        if marked == 0 {
            return 0;
        }
        if !self.is_shadow() {
            return self.take_marks(slot, log, index, wanted);
        }
        // One frame at a time, for a guest's tables may lead to each from many places.
        let bits = (0..u64::BITS).map(|bit| 1u64.wrapping_shl(bit)).filter(|bit| marked & bit != 0);
        bits.fold(0, |taken, bit| taken | self.take_marks(slot, log, index, bit))
    }

    fn take_marks(&self, slot: &MemSlot, log: &DirtyBitmap, index: usize, wanted: u64) -> u64 {
        let mut t = self.tables.lock();
        let mask = log.take(index, wanted);
        let first = slot.base.0.wrapping_add((index as u64).wrapping_mul(WORD_PAGES));
        let taken = TakenWord { first: crate::arch::addr::Gfn(first), mask };
        let GuestTables { table, pages, .. } = &mut *t;
        match table {
            GuestTable::Direct(table) => {
                // The flush is asked for once for all words. Nobody else relies on that of a right alone: who unmaps the
                // page asks for one himself.
                let _ = table.write_protect_taken(pages, taken).is_needed();
            }
            GuestTable::Shadow(_) => {
                t.with_shadow(&self.flushes, |mmu, work| mmu.write_protect_taken(work, taken));
            }
            GuestTable::Gone => {}
        }
        mask
    }

    /// Makes every CPU forget rights that were taken away. Sleeps.
    pub(crate) fn flush_protected(&self) {
        let generation = {
            let _t = self.tables.lock();
            self.flushes.request();
            self.flushes.requested()
        };
        self.finish(generation, FlushNeeded::default());
    }
}
