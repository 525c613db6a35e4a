// SPDX-License-Identifier: GPL-2.0

//! Taking ranges of guest memory out of shadow pages: for the host, for dirty logs, for memory slots that go.
//!
//! A short range is looked up frame by frame; for a long one all pages are gone through. So the cost is that of what is
//! mapped, or that of the range where that is less. Both go on in steps with the lock dropped in between; the caller sees
//! to it that nothing of the range is mapped meanwhile ([`RamChanges`](crate::mmu::tlb::RamChanges)).

use super::entry::{self, EntryTarget};
use super::handle::PageHandle;
use super::index::page_key;
use super::tree::first_of;
use super::{ShadowMmu, ShadowWork};
use crate::arch::addr::Gfn;
use crate::mmu::dirty::TakenWord;
use crate::mmu::format::{PageSize, ENTRIES};
use crate::mmu::slots::GfnRange;
use crate::mmu::table::TableMem;

/// Up to so many frames a range is looked up frame by frame.
const SHORT: u64 = 4 * ENTRIES as u64;

/// What is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeLoss {
    /// The frames: the host takes its pages away.
    Pages,
    /// The frames, and what follows from tables there: the memory is no more, or another.
    Memory,
    /// The right to write.
    Writes,
}

/// Ranges that are taken one after the other, piece by piece.
#[derive(Debug)]
pub(crate) struct ShadowRanges<I> {
    ranges: I,
    loss: RangeLoss,
    /// What is left of the last range that was taken.
    left: GfnRange,
    /// For a short one: how many pages may still follow a table at its first frame, once they were counted.
    tables: Option<u32>,
    /// For a long one: the place of the next page to look at.
    place: u32,
    is_done: bool,
}

/// What came of a look at a frame.
struct FrameStep {
    /// Something was taken.
    any: bool,
    /// There is nothing more to take.
    is_done: bool,
    /// About how many entries were looked at.
    cost: u64,
}

impl<I: Iterator<Item = GfnRange>> ShadowRanges<I> {
    /// Begins with the first of `ranges`.
    pub(crate) fn new(ranges: I, loss: RangeLoss) -> ShadowRanges<I> {
        let left = GfnRange { start: Gfn(0), end: Gfn(0) };
        ShadowRanges { ranges, loss, left, tables: None, place: 0, is_done: false }
    }

    /// Returns whether all ranges are taken.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Goes on where the last call ended, and looks at about `budget` entries, at least at those of one page or those that
    /// lead to one frame. Where anything was taken, or a processor may still use what was dropped before, the flush is asked for.
    pub(crate) fn go_on<M: TableMem>(
        &mut self,
        mmu: &mut ShadowMmu,
        work: &mut ShadowWork<'_, M>,
        budget: usize,
    ) {
        let mut budget = budget as u64;
        let mut any = mmu.is_stale;
        while budget > 0 && !self.is_done {
            let cost = if self.left.is_empty() {
                match self.ranges.next() {
                    Some(range) => (self.left, self.place) = (range, 0),
                    None => self.is_done = true,
                }
                1
            } else if self.left.end.0.wrapping_sub(self.left.start.0) <= SHORT {
                let step = mmu.take_frame(work, self.left.start, self.loss, &mut self.tables);
                any |= step.any;
                self.left.start = Gfn(self.left.start.0.wrapping_add(u64::from(step.is_done)));
                step.cost
            } else if let Some(page) = mmu.page_at(self.place) {
                any |= mmu.take_of_page(work, page, self.left, self.loss);
                self.place = self.place.wrapping_add(1);
                ENTRIES as u64
            } else {
                if self.place as usize >= mmu.places() {
                    self.left = GfnRange { start: Gfn(0), end: Gfn(0) };
                }
                self.place = self.place.wrapping_add(1);
                1
            };
            budget = budget.saturating_sub(cost);
        }
        if any {
            work.flush_after();
        }
    }
}

impl ShadowMmu {
    /// Takes away the right to write of the pages whose marks were taken.
    pub(crate) fn write_protect_taken<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        taken: TakenWord,
    ) {
        let GfnRange { start, end } = taken.frames();
        let mut any = self.is_stale;
        for gfn in (start.0..end.0).map(Gfn).filter(|gfn| taken.has(*gfn)) {
            any |= self.protect_frame(work.mem, gfn);
        }
        if any {
            work.flush_after();
        }
    }

    fn page_at(&self, place: u32) -> Option<PageHandle> {
        self.arena.handle(place)
    }

    fn places(&self) -> usize {
        self.arena.capacity()
    }

    /// Takes one frame, or goes on with it: all that maps it, and the oldest page that follows a table there, of which
    /// `tables` are left. A guest can have both many times.
    fn take_frame<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        gfn: Gfn,
        loss: RangeLoss,
        tables: &mut Option<u32>,
    ) -> FrameStep {
        let leaves = |size: PageSize| self.leaves.of(page_key(first_of(gfn, size), size.level())).len();
        let cost = 4u64
            .saturating_add(leaves(PageSize::Size4K).into())
            .saturating_add(leaves(PageSize::Size2M).into());
        if loss == RangeLoss::Writes {
            return FrameStep { any: self.protect_frame(work.mem, gfn), is_done: true, cost };
        }
        let any = self.unmap_leaves(work.mem, gfn, PageSize::Size4K)
            | self.unmap_leaves(work.mem, first_of(gfn, PageSize::Size2M), PageSize::Size2M);
        if loss == RangeLoss::Memory {
            // Those that are made from now on have nothing in them, for nothing is mapped meanwhile.
            let left = tables.get_or_insert(self.frames.of(gfn.0).len());
            let oldest = if *left > 0 { self.oldest_table(gfn) } else { None };
            if let Some(page) = oldest {
                *left = left.saturating_sub(1);
                self.zap(work, page);
                return FrameStep { any: true, is_done: false, cost: cost.saturating_add(ENTRIES as u64) };
            }
            *tables = None;
        }
        FrameStep { any, is_done: true, cost }
    }

    /// Takes of one page what lies in a range. Returns whether there was anything.
    fn take_of_page<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        handle: PageHandle,
        range: GfnRange,
        loss: RangeLoss,
    ) -> bool {
        let Some(page) = self.arena.get(handle) else { return false };
        if loss == RangeLoss::Memory && page.has_table() && range.contains(page.gfn) {
            self.zap(work, handle);
            return true;
        }
        let (table, level) = (page.table, page.role.level());
        let frames = PageSize::of_level(level).map_or(0, PageSize::pages);
        let mut any = false;
        for index in 0..ENTRIES {
            let EntryTarget::Page(gfn) = self.arena.target(handle, index) else { continue };
            let page = GfnRange { start: gfn, end: Gfn(gfn.0.wrapping_add(frames)) };
            if !page.overlaps(range) {
                continue;
            }
            let leaf = work.mem.read(table, index);
            if loss != RangeLoss::Writes || level > 1 {
                self.drop_entry(work.mem, handle.entry(index));
            } else if entry::is_writable(leaf) {
                work.mem.write(table, index, entry::without_write(leaf));
            } else {
                continue;
            }
            any = true;
        }
        any
    }
}
