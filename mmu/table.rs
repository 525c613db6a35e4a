// SPDX-License-Identifier: GPL-2.0

//! A second-level page table: guest physical to host physical, in any [`TableFormat`].
//!
//! Rules that keep the processor safe while it walks the table:
//!
//! - A new subtree is built completely, then linked by one 8-byte store. So is a split: the
//!   entries below say what the large page said, until the store after which they are used.
//! - A table page that was unlinked may still be walked from a paging-structure cache. It is put on
//!   the list in [`FlushNeeded`], with all tables below it as they are, and the list's owner frees them after the
//!   flush. The list runs through a word beside each page, so unlinking a table takes the same little time whatever
//!   is below it, needs no memory and cannot fail.
//! - Taking more than was asked for is allowed, since the guest only faults again: a large page
//!   that lies partly in a range is unmapped or write-protected as a whole.
//!
//! Work grows with what is mapped, not with the size of a range: absent subtrees are skipped. Calls
//! that walk ranges take a budget, so the lock can be dropped in between. Recursion goes by level,
//! five deep at most.
//!
//! The MMU lock of the VM guards a table; nothing here sleeps. What was unlinked and flushed belongs to whoever holds
//! the list, and is freed without the lock.

use super::dirty::TakenWord;
use super::format::{
    entry_pages, index, LeafEntry, MapRights, PageSize, TableEntry, TableFormat, ENTRIES, INDEX_BITS,
};
use super::slots::GfnRange;
use crate::arch::addr::{Gfn, Gpa, Hpa, Pfn};
use crate::arch::rule::rule;

/// The most table pages that one [`PageTable::map`] allocates.
pub(crate) const MAX_TABLES_PER_MAP: usize = 4;

/// The first host frame number that does not fit into an entry.
const END_PFN: u64 = 1 << 40;

/// Where table pages come from and how they are accessed.
///
/// A page is named by its host physical address and has [`ENTRIES`] entries.
pub(crate) trait TableMem {
    /// Reads an entry.
    fn read(&self, table: Hpa, index: usize) -> u64;

    /// Writes an entry by one 8-byte store, ordered after all earlier ones.
    fn write(&mut self, table: Hpa, index: usize, entry: u64);

    /// Takes a zeroed page from a cache that was filled beforehand; never sleeps.
    fn alloc(&mut self) -> Option<Hpa>;

    /// Gives a page back, to which no processor has a path any more.
    fn free(&mut self, table: Hpa);

    /// Notes a word beside a page, out of the processor's sight.
    fn set_note(&mut self, table: Hpa, note: u64);

    /// Takes the note that was made last, which must have been.
    fn take_note(&mut self, table: Hpa) -> u64;
}

/// Why a page could not be mapped. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapError {
    /// The cache of table pages is empty: fill it and try again.
    NoMemory,
    /// The guest or the host address lacks the alignment of the page size.
    Misaligned,
    /// The guest address lies beyond the table's reach, the host address beyond the format's, or
    /// the page is larger than the format allows.
    OutOfRange,
}

/// What to do after a change: flush the TLBs if [`FlushNeeded::is_needed`], then call
/// [`FlushNeeded::release`], always.
#[must_use = "stale translations stay in use, and table pages leak"]
#[derive(Debug, Default)]
pub(crate) struct FlushNeeded {
    needed: bool,
    /// Unlinked tables, each the root of those below it: the first and the last of the list.
    list: Option<(UnlinkedTable, Hpa)>,
}

/// A table that was unlinked. As a note beside the one before it: the address, and the level in the bits below.
#[derive(Clone, Copy, Debug)]
struct UnlinkedTable {
    table: Hpa,
    level: u32,
}

impl UnlinkedTable {
    /// The note beside the last of a list.
    const NONE: u64 = 0;
    /// Levels are 1 to 5.
    const LEVEL: u64 = 7;

    fn note(self) -> u64 {
        self.table.0 | u64::from(self.level)
    }

    fn from_note(note: u64) -> Option<UnlinkedTable> {
        let (table, level) = (Hpa(note & !Self::LEVEL), (note & Self::LEVEL) as u32);
        (note != Self::NONE).then_some(UnlinkedTable { table, level })
    }
}

impl FlushNeeded {
    /// Returns whether a processor may hold a translation that is no longer in the table.
    pub(crate) fn is_needed(&self) -> bool {
        self.needed
    }

    /// Takes over what `other` asks for, so that one flush serves both.
    pub(crate) fn join(&mut self, mem: &mut impl TableMem, other: FlushNeeded) {
        self.needed |= other.needed;
        self.list = match (self.list, other.list) {
            (Some((first, last)), Some((other_first, other_last))) => {
                // Their last leads to our first, which saves walking a list to its end.
                mem.set_note(other_last, first.note());
                Some((other_first, last))
            }
            (mine, theirs) => mine.or(theirs),
        };
    }

    /// Frees the unlinked tables, of `format`; no processor may hold a translation from before. Takes as long as
    /// there are table pages, and needs no lock. Returns how many there were.
    pub(crate) fn release(self, mem: &mut impl TableMem, format: &impl TableFormat) -> usize {
        self.release_by(mem, |mem, UnlinkedTable { table, level }| free_tables(mem, format, table, level))
    }

    /// As [`FlushNeeded::release`], of tables of which each is on the list.
    pub(crate) fn release_each(self, mem: &mut impl TableMem) -> usize {
        self.release_by(mem, |mem, UnlinkedTable { table, .. }| {
            mem.free(table);
            1
        })
    }

    fn release_by<M: TableMem>(self, mem: &mut M, free: impl Fn(&mut M, UnlinkedTable) -> usize) -> usize {
        let mut count = 0usize;
        let mut next = self.list.map(|(first, _)| first);
        while let Some(unlinked) = next {
            // Read before its page is freed.
            next = UnlinkedTable::from_note(mem.take_note(unlinked.table));
            count = count.wrapping_add(free(mem, unlinked));
        }
        count
    }

    /// Says that a processor may hold a translation that is no longer in the table.
    pub(super) fn need(&mut self) {
        self.needed = true;
    }

    /// Puts an unlinked table on the list, with all tables below it; of level 1, alone.
    pub(super) fn retire(&mut self, mem: &mut impl TableMem, table: Hpa, level: u32) {
        mem.set_note(table, self.list.map_or(UnlinkedTable::NONE, |(first, _)| first.note()));
        let last = self.list.map_or(table, |(_, last)| last);
        self.list = Some((UnlinkedTable { table, level }, last));
        self.needed = true;
    }
}

/// Frees a table of `level` and all tables below it. Returns how many there were.
fn free_tables(mem: &mut impl TableMem, format: &impl TableFormat, table: Hpa, level: u32) -> usize {
    let mut count = 1usize;
    if level > 1 {
        for i in 0..ENTRIES {
            if let TableEntry::Link(child) = format.decode(mem.read(table, i), level) {
                count = count.wrapping_add(free_tables(mem, format, child, level.wrapping_sub(1)));
            }
        }
    }
    mem.free(table);
    count
}

/// What [`PageTable::map`] did.
#[must_use = "holds the flush that is needed"]
#[derive(Debug)]
pub(crate) struct MapResult {
    /// What to do now.
    pub(crate) flush: FlushNeeded,
    /// Whether the table changed; if not, another vCPU had mapped the page already.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) changed: bool,
}

/// A mapping, as found by [`PageTable::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageMapping {
    /// The host frame of the 4 KiB page asked for, within the page that maps it.
    pub(crate) pfn: Pfn,
    /// The size of the page that maps it.
    pub(crate) size: PageSize,
    /// What the guest may do.
    pub(crate) rights: MapRights,
}

/// A second-level page table.
///
/// # Invariants
/// Every table page is reachable from `root` by exactly one path.
#[derive(Debug)]
pub(crate) struct PageTable<F> {
    format: F,
    root: Hpa,
}

/// Where a leaf was found: the first frame of it that was looked for, and its size.
#[derive(Clone, Copy)]
struct LeafPlace {
    gfn: Gfn,
    size: PageSize,
}

/// Where a descent towards a page ended.
struct TablePlace {
    table: Hpa,
    level: u32,
    entry: TableEntry,
}

impl<F: TableFormat> PageTable<F> {
    /// Makes an empty table.
    ///
    /// # Errors
    /// [`MapError::NoMemory`].
    pub(crate) fn new(mem: &mut impl TableMem, format: F) -> Result<PageTable<F>, MapError> {
        let root = mem.alloc().ok_or(MapError::NoMemory)?;
        Ok(PageTable { format, root })
    }

    /// Returns the address of the root table, which stays the same.
    pub(crate) fn root(&self) -> Hpa {
        self.root
    }

    /// Returns the format.
    pub(crate) fn format(&self) -> &F {
        &self.format
    }

    /// Maps the page of `size` at `gpa` to the one at `pfn`, whatever was there: smaller pages are
    /// replaced, a larger page is split around it. A larger page that says the same is kept.
    ///
    /// # Errors
    /// As [`MapError`]; nothing has changed then.
    pub(crate) fn map(
        &mut self,
        mem: &mut impl TableMem,
        gpa: Gpa,
        pfn: Pfn,
        size: PageSize,
        rights: MapRights,
    ) -> Result<MapResult, MapError> {
        let gfn = gpa.gfn();
        self.check_place(gfn, pfn, size)?;
        let leaf = self.format.leaf(pfn, size, rights);
        let at = self.descend(mem, gfn, size.level());
        if at.level == size.level() {
            return Ok(self.place(mem, &at, gfn, leaf));
        }
        let larger = match at.entry {
            TableEntry::Leaf(larger) => Some(larger),
            TableEntry::Absent | TableEntry::Link(_) => None,
        };
        // Another vCPU may have mapped the larger page in the meantime; to split it for nothing costs entries of TLBs.
        let said = larger.map(|l| (frame_in(&l, gfn, at.level), l.rights));
        if said == Some((pfn, rights)) {
            return Ok(MapResult { flush: FlushNeeded::default(), changed: false });
        }
        self.graft(mem, &at, gfn, size, leaf, larger)?;
        // A TLB that has the larger page as one translation would go on to use it for this part.
        Ok(MapResult { flush: FlushNeeded { needed: larger.is_some(), list: None }, changed: true })
    }

    /// Looks whether the invariants hold, all over the table. Returns how many table pages are reachable, each counted once
    /// for each path to it.
    ///
    /// # Errors
    /// The name of one that does not.
    #[allow(dead_code, reason = "too much for each change; used by the tests")]
    pub(crate) fn check(&self, mem: &impl TableMem) -> Result<usize, &'static str> {
        self.check_tables(mem, self.root, self.format.levels().root())
    }

    fn check_tables(&self, mem: &impl TableMem, table: Hpa, level: u32) -> Result<usize, &'static str> {
        let mut count = 1usize;
        for i in 0..ENTRIES {
            match self.format.decode(mem.read(table, i), level) {
                TableEntry::Absent => {}
                TableEntry::Link(child) => {
                    rule(level > 1, "the lowest tables have no links")?;
                    count = count.wrapping_add(self.check_tables(mem, child, level.wrapping_sub(1))?);
                }
                TableEntry::Leaf(leaf) => {
                    let largest = self.format.max_page_size().level();
                    rule(level <= largest, "pages are of sizes that there are")?;
                    let is_aligned = leaf.pfn.0 & entry_pages(level).wrapping_sub(1) == 0;
                    rule(is_aligned && leaf.pfn.0 < END_PFN, "a page begins where its size lets it")?;
                }
            }
        }
        Ok(count)
    }

    fn check_place(&self, gfn: Gfn, pfn: Pfn, size: PageSize) -> Result<(), MapError> {
        if (gfn.0 | pfn.0) & size.pages().wrapping_sub(1) != 0 {
            return Err(MapError::Misaligned);
        }
        if gfn.0 >= self.end_gfn() || pfn.0 >= END_PFN || size > self.format.max_page_size() {
            return Err(MapError::OutOfRange);
        }
        Ok(())
    }

    /// Returns the first frame number beyond the table's reach.
    fn end_gfn(&self) -> u64 {
        entry_pages(self.format.levels().root().wrapping_add(1))
    }

    /// Follows the links towards `gfn` down to a table of level `to` at the lowest.
    fn descend(&self, mem: &impl TableMem, gfn: Gfn, to: u32) -> TablePlace {
        let mut table = self.root;
        let mut level = self.format.levels().root();
        loop {
            let entry = self.format.decode(mem.read(table, index(gfn, level)), level);
            match entry {
                TableEntry::Link(child) if level > to => {
                    table = child;
                    level = level.wrapping_sub(1);
                }
                _ => return TablePlace { table, level, entry },
            }
        }
    }

    /// Writes a leaf into an existing table and says what that takes away.
    fn place(&self, mem: &mut impl TableMem, at: &TablePlace, gfn: Gfn, leaf: u64) -> MapResult {
        let mut flush = FlushNeeded::default();
        let new = self.format.decode(leaf, at.level);
        if let (TableEntry::Leaf(old), TableEntry::Leaf(new)) = (at.entry, new) {
            // One that was aged is written again, with its mark: the guest is about to use it.
            if old.pfn == new.pfn && old.rights == new.rights && old.accessed {
                return MapResult { flush, changed: false };
            }
            // More rights for the same page need no flush: a stale translation only faults again.
            flush.needed = old.pfn != new.pfn || !new.rights.contains(old.rights);
        }
        mem.write(at.table, index(gfn, at.level), leaf);
        if let TableEntry::Link(child) = at.entry {
            flush.retire(mem, child, at.level.wrapping_sub(1));
        }
        MapResult { flush, changed: true }
    }

    /// Builds the tables between a place and a page of `size`, from below, and links them last.
    /// Where the place held a larger page, they map the rest of it as before.
    fn graft(
        &self,
        mem: &mut impl TableMem,
        at: &TablePlace,
        gfn: Gfn,
        size: PageSize,
        leaf: u64,
        larger: Option<LeafEntry>,
    ) -> Result<(), MapError> {
        let mut fresh = [Hpa(0); MAX_TABLES_PER_MAP];
        let mut tables = fresh.iter_mut();
        let mut entry = leaf;
        for level in size.level()..at.level {
            let (Some(table), Some(slot)) = (mem.alloc(), tables.next()) else {
                // None of them is linked yet, so no processor has seen them.
                fresh.into_iter().filter(|t| t.0 != 0).for_each(|t| mem.free(t));
                return Err(MapError::NoMemory);
            };
            *slot = table;
            if let Some(larger) = larger {
                self.fill(mem, table, level, gfn, at.level, &larger);
            }
            mem.write(table, index(gfn, level), entry);
            entry = self.format.link(table);
        }
        mem.write(at.table, index(gfn, at.level), entry);
        Ok(())
    }

    /// Fills a new table of `level` on the path to `gfn` with the parts of a larger page, which is
    /// mapped in a table of `larger_level`.
    fn fill(
        &self,
        mem: &mut impl TableMem,
        table: Hpa,
        level: u32,
        gfn: Gfn,
        larger_level: u32,
        larger: &LeafEntry,
    ) {
        let Some(size) = PageSize::of_level(level) else { return };
        let region = entry_pages(level.wrapping_add(1)).wrapping_sub(1);
        let mut pfn = frame_in(larger, Gfn(gfn.0 & !region), larger_level);
        for i in 0..ENTRIES {
            mem.write(table, i, self.format.leaf(pfn, size, larger.rights));
            pfn = Pfn(pfn.0.wrapping_add(size.pages()));
        }
    }

    /// Returns whether there is a table of 4 KiB pages where `gfn` lies.
    pub(crate) fn has_table(&self, mem: &impl TableMem, gfn: Gfn) -> bool {
        gfn.0 < self.end_gfn() && self.descend(mem, gfn, 1).level == 1
    }

    /// Returns how `gpa` is mapped.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn lookup(&self, mem: &impl TableMem, gpa: Gpa) -> Option<PageMapping> {
        let gfn = gpa.gfn();
        if gfn.0 >= self.end_gfn() {
            return None;
        }
        let at = self.descend(mem, gfn, 1);
        let TableEntry::Leaf(leaf) = at.entry else { return None };
        let size = PageSize::of_level(at.level)?;
        Some(PageMapping { pfn: frame_in(&leaf, gfn, at.level), size, rights: leaf.rights })
    }

    /// Returns whether `gpa` is mapped with at least these rights.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn is_mapped(&self, mem: &impl TableMem, gpa: Gpa, rights: MapRights) -> bool {
        self.lookup(mem, gpa).is_some_and(|m| m.rights.contains(rights))
    }

    /// Unmaps a range; see [`PageTable::unmap_some`], without a budget.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn unmap_range(&mut self, mem: &mut impl TableMem, range: GfnRange) -> FlushNeeded {
        let (mut left, mut budget) = (range, usize::MAX);
        self.unmap_some(mem, &mut left, &mut budget)
    }

    /// Unmaps from the start of `left` on, reads about `budget` entries at most (at least one
    /// step is made), and moves the start of `left` on. Done when `left` is empty. Tables that lie in the range as
    /// a whole are unlinked. Takes what it read off the budget.
    pub(crate) fn unmap_some(
        &mut self,
        mem: &mut impl TableMem,
        left: &mut GfnRange,
        budget: &mut usize,
    ) -> FlushNeeded {
        let mut flush = FlushNeeded::default();
        // The way down and a step at its end at least, or the caller's loop would not get on.
        *budget = (*budget).max(2 * MAX_TABLES_PER_MAP);
        left.end = left.end.min(Gfn(self.end_gfn()));
        self.unmap_in(mem, self.root, self.format.levels().root(), left, budget, &mut flush);
        flush
    }

    fn unmap_in(
        &self,
        mem: &mut impl TableMem,
        table: Hpa,
        level: u32,
        left: &mut GfnRange,
        budget: &mut usize,
        flush: &mut FlushNeeded,
    ) {
        let table_end = end_of(left.start, level.wrapping_add(1));
        while !left.is_empty() && left.start < table_end {
            let Some(rest) = budget.checked_sub(1) else { return };
            *budget = rest;
            let i = index(left.start, level);
            let next = end_of(left.start, level).min(left.end);
            let whole = next.0.wrapping_sub(left.start.0) == entry_pages(level);
            match self.format.decode(mem.read(table, i), level) {
                TableEntry::Absent => {}
                TableEntry::Leaf(_) => {
                    mem.write(table, i, 0);
                    flush.needed = true;
                }
                // One write, however much lies below; freeing that comes after the flush and without the lock.
                TableEntry::Link(child) if whole => {
                    mem.write(table, i, 0);
                    flush.retire(mem, child, level.wrapping_sub(1));
                }
                TableEntry::Link(child) => {
                    let child_level = level.wrapping_sub(1);
                    self.unmap_in(mem, child, child_level, left, budget, flush);
                    // The budget ran out below.
                    if left.start < next {
                        return;
                    }
                    // Such a table has no parent that was unlinked with it; there are few of them.
                    if child_level >= 3 && self.is_empty(mem, child, child_level, budget) {
                        mem.write(table, i, 0);
                        flush.retire(mem, child, child_level);
                    }
                }
            }
            left.start = next;
        }
    }

    /// Takes away the right to write in a range; see [`PageTable::write_protect_some`].
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn write_protect_range(&mut self, mem: &mut impl TableMem, range: GfnRange) -> FlushNeeded {
        let mut left = range;
        self.write_protect_some(mem, &mut left, usize::MAX)
    }

    /// Takes away the right to write from the start of `left` on, with a budget as in
    /// [`PageTable::unmap_some`].
    pub(crate) fn write_protect_some(
        &mut self,
        mem: &mut impl TableMem,
        left: &mut GfnRange,
        budget: usize,
    ) -> FlushNeeded {
        let mut needed = false;
        self.update_some(mem, left, budget, &mut |format, entry, leaf, _| {
            if !leaf.rights.contains(MapRights::WRITE) {
                return entry;
            }
            needed = true;
            format.without_write(entry)
        });
        FlushNeeded { needed, list: None }
    }

    /// Takes away the right to write of the pages whose marks were taken. Reads as many entries as a word has bits,
    /// and those on two ways down. A large page that may be written, as where all pages of a log began marked, goes
    /// as a whole.
    pub(crate) fn write_protect_taken(&mut self, mem: &mut impl TableMem, taken: TakenWord) -> FlushNeeded {
        let (mut needed, mut left) = (false, taken.frames());
        self.update_some(mem, &mut left, usize::MAX, &mut |format, entry, leaf, at| {
            let is_taken = at.size != PageSize::Size4K || taken.has(at.gfn);
            if !is_taken || !leaf.rights.contains(MapRights::WRITE) {
                return entry;
            }
            needed = true;
            format.without_write(entry)
        });
        FlushNeeded { needed, list: None }
    }

    /// Clears the accessed marks in a range and returns whether there were any, for the host's page
    /// reclaim. No flush: a translation that stays in a TLB only makes the page look older.
    #[allow(dead_code, reason = "for page aging; used by the tests")]
    pub(crate) fn age_range(&mut self, mem: &mut impl TableMem, range: GfnRange) -> bool {
        let mut left = range;
        let mut young = false;
        self.update_some(mem, &mut left, usize::MAX, &mut |format, entry, leaf, _| {
            young |= leaf.accessed;
            format.without_accessed(entry)
        });
        young
    }

    /// Returns whether a page in a range was accessed since it was mapped or last aged.
    #[allow(dead_code, reason = "for page aging; used by the tests")]
    pub(crate) fn is_young(&mut self, mem: &mut impl TableMem, range: GfnRange) -> bool {
        let mut left = range;
        let mut young = false;
        self.update_some(mem, &mut left, usize::MAX, &mut |_, entry, leaf, _| {
            young |= leaf.accessed;
            entry
        });
        young
    }

    /// Replaces each leaf entry in a range by what `update` makes of it.
    fn update_some(
        &self,
        mem: &mut impl TableMem,
        left: &mut GfnRange,
        budget: usize,
        update: &mut impl FnMut(&F, u64, &LeafEntry, LeafPlace) -> u64,
    ) {
        let mut budget = budget.max(2 * MAX_TABLES_PER_MAP);
        left.end = left.end.min(Gfn(self.end_gfn()));
        self.update_in(mem, self.root, self.format.levels().root(), left, &mut budget, update);
    }

    fn update_in(
        &self,
        mem: &mut impl TableMem,
        table: Hpa,
        level: u32,
        left: &mut GfnRange,
        budget: &mut usize,
        update: &mut impl FnMut(&F, u64, &LeafEntry, LeafPlace) -> u64,
    ) {
        let table_end = end_of(left.start, level.wrapping_add(1));
        while !left.is_empty() && left.start < table_end {
            let Some(rest) = budget.checked_sub(1) else { return };
            *budget = rest;
            let i = index(left.start, level);
            let next = end_of(left.start, level).min(left.end);
            let entry = mem.read(table, i);
            match self.format.decode(entry, level) {
                TableEntry::Absent => {}
                TableEntry::Leaf(leaf) => {
                    let size = PageSize::of_level(level).unwrap_or(PageSize::Size1G);
                    let new = update(&self.format, entry, &leaf, LeafPlace { gfn: left.start, size });
                    if new != entry {
                        mem.write(table, i, new);
                    }
                }
                TableEntry::Link(child) => {
                    self.update_in(mem, child, level.wrapping_sub(1), left, budget, update);
                    if left.start < next {
                        return;
                    }
                }
            }
            left.start = next;
        }
    }

    /// Frees the whole table; no processor may be using it.
    pub(crate) fn teardown(self, mem: &mut impl TableMem) {
        free_tables(mem, &self.format, self.root, self.format.levels().root());
    }

    /// Returns whether nothing is in a table. Takes what it read off the budget, whether that was enough or not.
    fn is_empty(&self, mem: &impl TableMem, table: Hpa, level: u32, budget: &mut usize) -> bool {
        (0..ENTRIES).all(|i| {
            *budget = budget.saturating_sub(1);
            self.format.decode(mem.read(table, i), level) == TableEntry::Absent
        })
    }
}

/// What finding a range costs, in entries read.
const RANGE_COST: usize = 8;

/// Ranges that are being unmapped one after the other, piece by piece.
#[derive(Debug)]
pub(crate) struct RangeUnmapping<I> {
    ranges: I,
    /// What is left of the last range that was taken.
    left: GfnRange,
    is_done: bool,
}

impl<I: Iterator<Item = GfnRange>> RangeUnmapping<I> {
    /// Begins with the first of `ranges`.
    pub(crate) fn new(ranges: I) -> RangeUnmapping<I> {
        RangeUnmapping { ranges, left: GfnRange { start: Gfn(0), end: Gfn(0) }, is_done: false }
    }

    /// Returns whether all ranges are unmapped.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Goes on where the last call ended, with a budget as in [`PageTable::unmap_some`].
    pub(crate) fn go_on<F: TableFormat>(
        &mut self,
        table: &mut PageTable<F>,
        mem: &mut impl TableMem,
        budget: usize,
    ) -> FlushNeeded {
        let mut flush = FlushNeeded::default();
        let mut budget = budget;
        while budget > 0 && !self.is_done {
            if !self.left.is_empty() {
                let more = table.unmap_some(mem, &mut self.left, &mut budget);
                flush.join(mem, more);
                continue;
            }
            match self.ranges.next() {
                Some(range) => self.left = range,
                None => self.is_done = true,
            }
            budget = budget.saturating_sub(RANGE_COST);
        }
        flush
    }
}

/// Returns the first frame after the entry of a table of `level`, 1 to 6, that covers `gfn`.
fn end_of(gfn: Gfn, level: u32) -> Gfn {
    let pages = entry_pages(level);
    Gfn((gfn.0 & !pages.wrapping_sub(1)).wrapping_add(pages))
}

/// Returns the host frame of `gfn` within a leaf of a table of `level`.
fn frame_in(leaf: &LeafEntry, gfn: Gfn, level: u32) -> Pfn {
    let mask = entry_pages(level).wrapping_sub(1);
    Pfn(leaf.pfn.0.wrapping_add(gfn.0 & mask))
}

const _: () = assert!(ENTRIES == 1 << INDEX_BITS);
