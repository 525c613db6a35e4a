// SPDX-License-Identifier: GPL-2.0

//! Second-level tables against a model of plain leaves, with every table page accounted for and
//! every missing flush noticed.

use super::format::{EPT, NPT};
use crate::arch::addr::{Gfn, Gpa, Hpa, Pfn};
use crate::mmu::format::{
    index, small_code, GuestTouch, MapRights, Npt, PageSize, TableEntry, TableFormat, TableLevels, ENTRIES,
};
use crate::mmu::slots::GfnRange;
use crate::mmu::table::{
    FlushNeeded, MapError, PageMapping, PageTable, RangeUnmapping, TableMem, MAX_TABLES_PER_MAP,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use PageSize::{Size1G, Size2M, Size4K};

const RW: MapRights = MapRights::WRITE;
const RO: MapRights = MapRights::empty();
const GIB: u64 = 1 << 18;

/// Table pages that notice any use of a page that is not allocated.
#[derive(Default)]
pub(crate) struct Pool {
    live: BTreeMap<u64, Box<[u64; ENTRIES]>>,
    made: u64,
    notes: BTreeMap<u64, u64>,
    /// How many pages can still be had.
    left: Option<usize>,
    reads: std::cell::Cell<usize>,
    /// How many entries were written.
    pub(crate) writes: usize,
    /// What the processor would find at some frames, looked up after each store.
    watch: Option<(Hpa, Vec<u64>)>,
    seen: Vec<Vec<Option<(u64, MapRights)>>>,
}

impl TableMem for Pool {
    fn read(&self, table: Hpa, index: usize) -> u64 {
        self.reads.set(self.reads.get() + 1);
        self.live[&table.0][index]
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        self.writes += 1;
        self.live.get_mut(&table.0).unwrap()[index] = entry;
        if let Some((root, frames)) = &self.watch {
            let seen = frames.iter().map(|&f| self.processor_finds(&NPT, *root, f)).collect();
            self.seen.push(seen);
        }
    }

    fn alloc(&mut self) -> Option<Hpa> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1)?;
        }
        self.made += 1;
        let hpa = self.made << 12;
        self.live.insert(hpa, Box::new([0; ENTRIES]));
        Some(Hpa(hpa))
    }

    fn free(&mut self, table: Hpa) {
        assert!(self.live.remove(&table.0).is_some(), "double free");
    }

    fn set_note(&mut self, table: Hpa, note: u64) {
        assert!(self.live.contains_key(&table.0), "a note beside a page that is gone");
        self.notes.insert(table.0, note);
    }

    fn take_note(&mut self, table: Hpa) -> u64 {
        self.notes.remove(&table.0).expect("a note that was made")
    }
}

impl Pool {
    /// Returns how many pages are allocated.
    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// Lets so many more pages be had.
    pub(crate) fn limit(&mut self, left: Option<usize>) {
        self.left = left;
    }

    pub(crate) fn processor_finds(
        &self,
        f: &impl TableFormat,
        root: Hpa,
        gfn: u64,
    ) -> Option<(u64, MapRights)> {
        let (mut table, mut level) = (root, f.levels().root());
        loop {
            match f.decode(self.live[&table.0][index(Gfn(gfn), level)], level) {
                TableEntry::Absent => return None,
                TableEntry::Link(child) => (table, level) = (child, level - 1),
                TableEntry::Leaf(l) => {
                    let mask = (1u64 << (9 * (level - 1))) - 1;
                    return Some((l.pfn.0 + (gfn & mask), l.rights));
                }
            }
        }
    }

    fn reachable(&self, f: &impl TableFormat, table: Hpa, level: u32, into: &mut BTreeSet<u64>) {
        assert!(into.insert(table.0), "two paths to a table");
        for &entry in self.live[&table.0].iter() {
            if let TableEntry::Link(child) = f.decode(entry, level) {
                self.reachable(f, child, level - 1, into);
            }
        }
    }

    pub(crate) fn assert_accounted<F: TableFormat>(&self, table: &PageTable<F>) {
        let mut found = BTreeSet::new();
        self.reachable(table.format(), table.root(), table.format().levels().root(), &mut found);
        assert!(found.iter().eq(self.live.keys()), "a table page leaked");
        assert_eq!(table.check(self), Ok(self.live.len()), "one path to each");
        assert!(self.notes.is_empty(), "a table on no list has a note");
    }
}

fn empty() -> (Pool, PageTable<Npt>) {
    let mut pool = Pool::default();
    let table = PageTable::new(&mut pool, NPT).unwrap();
    (pool, table)
}

/// Maps and frees what that unlinked. Returns whether a flush was needed.
fn map(
    pool: &mut Pool,
    t: &mut PageTable<Npt>,
    gfn: u64,
    pfn: u64,
    size: PageSize,
    rights: MapRights,
) -> bool {
    let flush = t.map(pool, Gfn(gfn).gpa(), Pfn(pfn), size, rights).unwrap().flush;
    let needed = flush.is_needed();
    flush.release(pool, &NPT);
    needed
}

fn range(start: u64, end: u64) -> GfnRange {
    GfnRange { start: Gfn(start), end: Gfn(end) }
}

#[test]
fn a_mapped_page_is_found_and_its_neighbours_are_not() {
    let (mut pool, mut t) = empty();

    let flushed = map(&mut pool, &mut t, 5, 77, Size4K, RW);

    assert!(!flushed);
    assert_eq!(t.lookup(&pool, Gpa(0x5fff)), Some(PageMapping { pfn: Pfn(77), size: Size4K, rights: RW }));
    assert_eq!(t.lookup(&pool, Gpa(0x6000)), None);
    assert!(t.is_mapped(&pool, Gpa(0x5000), RW));
    assert!(!t.is_mapped(&pool, Gpa(0x5000), MapRights::all()));
}

#[test]
fn mapping_the_same_again_changes_nothing() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 512, 1024, Size2M, RW);

    let same = t.map(&mut pool, Gfn(512).gpa(), Pfn(1024), Size2M, RW).unwrap();
    let inside = t.map(&mut pool, Gfn(515).gpa(), Pfn(1027), Size4K, RW).unwrap();

    assert!(!same.changed && !same.flush.is_needed());
    assert!(!inside.changed && !inside.flush.is_needed());
    assert_eq!(t.lookup(&pool, Gfn(515).gpa()).unwrap().size, Size2M);
}

#[test]
fn more_rights_need_no_flush_and_fewer_do() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 5, 77, Size4K, RO);

    assert!(!map(&mut pool, &mut t, 5, 77, Size4K, RW));
    assert!(map(&mut pool, &mut t, 5, 77, Size4K, RO));
    assert!(map(&mut pool, &mut t, 5, 78, Size4K, RO));
}

#[test]
fn a_small_page_inside_a_large_one_leaves_the_rest_mapped() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 0, GIB, Size1G, RW);

    let flushed = map(&mut pool, &mut t, 513, 7, Size4K, RO);

    assert!(flushed);
    let at = |gfn| t.lookup(&pool, Gfn(gfn).gpa()).unwrap();
    assert_eq!(at(513), PageMapping { pfn: Pfn(7), size: Size4K, rights: RO });
    assert_eq!(at(512), PageMapping { pfn: Pfn(GIB + 512), size: Size4K, rights: RW });
    assert_eq!(at(1024), PageMapping { pfn: Pfn(GIB + 1024), size: Size2M, rights: RW });
    assert_eq!(at(GIB - 1), PageMapping { pfn: Pfn(2 * GIB - 1), size: Size2M, rights: RW });
}

/// As the space maps a fault where code must be small: in host pages of 2 MiB, frame by frame the same.
fn touch(pool: &mut Pool, t: &mut PageTable<Npt>, gfn: u64, touch: GuestTouch) {
    let (size, rights) = small_code(touch, Size2M, MapRights::all(), || t.has_table(pool, Gfn(gfn)));
    let first = gfn & !(size.pages() - 1);
    let done = t.map(pool, Gfn(first).gpa(), Pfn(0x10_0000 + first), size, rights).unwrap();
    done.flush.release(pool, t.format());
}

#[test]
fn small_code_leaves_data_large_and_stays_executable() {
    let (mut pool, mut t) = empty();

    touch(&mut pool, &mut t, 0x205, GuestTouch::Write);
    assert_eq!(
        t.lookup(&pool, Gfn(0x205).gpa()).unwrap(),
        PageMapping { pfn: Pfn(0x10_0205), size: Size2M, rights: RW }
    );
    touch(&mut pool, &mut t, 0x206, GuestTouch::Fetch);
    touch(&mut pool, &mut t, 0x207, GuestTouch::Write);
    touch(&mut pool, &mut t, 0x206, GuestTouch::Write);
    touch(&mut pool, &mut t, 0x401, GuestTouch::Read);

    let at = |gfn: u64| t.lookup(&pool, Gfn(gfn).gpa()).map(|m| (m.pfn.0, m.size, m.rights));
    assert_eq!(at(0x206), Some((0x10_0206, Size4K, MapRights::all())));
    assert_eq!(at(0x205), Some((0x10_0205, Size4K, RW)), "the rest stays for data");
    assert_eq!(at(0x401), Some((0x10_0401, Size2M, RW)), "others stay large");
}

#[test]
fn unlinked_tables_live_until_the_flush_is_done() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 0, 1, Size4K, RW);
    map(&mut pool, &mut t, 512, 1, Size4K, RW);
    let before = pool.live.len();

    let flush = t.map(&mut pool, Gpa(0), Pfn(0), Size1G, RW).unwrap().flush;

    assert!(flush.is_needed());
    assert_eq!(pool.live.len(), before);
    assert_eq!(flush.release(&mut pool, &NPT), 3);
    assert_eq!(pool.live.len(), 2);
}

#[test]
fn joined_flushes_free_the_tables_of_both() {
    for (a, b) in [(0, GIB), (GIB, 0), (0, 5 * GIB), (5 * GIB, 0)] {
        let (mut pool, mut t) = empty();
        for gfn in [0, 1, 512, GIB, GIB + 512] {
            map(&mut pool, &mut t, gfn, 1, Size4K, RW);
        }

        let mut flush = t.unmap_range(&mut pool, range(a, a + GIB));
        let other = t.unmap_range(&mut pool, range(b, b + GIB));
        flush.join(&mut pool, other);

        assert!(flush.is_needed());
        flush.release(&mut pool, &NPT);
        pool.assert_accounted(&t);
    }
}

#[test]
fn bad_requests_are_refused() {
    let (mut pool, mut t) = empty();
    let mut refusal =
        |gfn, pfn, size| t.map(&mut pool, Gfn(gfn).gpa(), Pfn(pfn), size, RW).map(|_| ()).unwrap_err();

    assert_eq!(refusal(1, 512, Size2M), MapError::Misaligned);
    assert_eq!(refusal(512, 1, Size2M), MapError::Misaligned);
    assert_eq!(refusal(512, GIB, Size1G), MapError::Misaligned);
    assert_eq!(refusal(1 << 36, 0, Size4K), MapError::OutOfRange);
    assert_eq!(refusal(0, 1 << 40, Size4K), MapError::OutOfRange);
}

#[test]
fn a_format_without_1_gib_pages_refuses_them() {
    let mut pool = Pool::default();
    let mut t = PageTable::new(&mut pool, Npt { gib_pages: false, ..NPT }).unwrap();

    let result = t.map(&mut pool, Gpa(0), Pfn(0), Size1G, RW).map(|_| ());

    assert_eq!(result, Err(MapError::OutOfRange));
}

#[test]
fn an_address_beyond_the_table_is_not_mapped_and_not_aliased() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 0, 1, Size4K, RW);

    assert_eq!(t.lookup(&pool, Gpa(1 << 48)), None);
    assert!(!t.unmap_range(&mut pool, range(1 << 36, 1 << 40)).is_needed());
    assert!(t.lookup(&pool, Gpa(0)).is_some());
}

#[test]
fn unmapping_everything_leaves_only_the_root() {
    let mut pool = Pool::default();
    let mut t = PageTable::new(&mut pool, Npt { levels: TableLevels::Five, ..NPT }).unwrap();
    for gfn in [0, 513, GIB, 1 << 27, 1 << 36, (1 << 40) - 1] {
        t.map(&mut pool, Gfn(gfn).gpa(), Pfn(gfn), Size4K, RW).unwrap().flush.release(&mut pool, &NPT);
    }

    t.unmap_range(&mut pool, GfnRange::ALL).release(&mut pool, &NPT);

    assert_eq!(pool.live.len(), 1);
    pool.assert_accounted(&t);
}

#[test]
fn unmapping_an_empty_giant_range_costs_almost_nothing() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 3 << 27, 1, Size4K, RW);
    pool.reads.set(0);

    t.unmap_range(&mut pool, range(1, (3 << 27) - 1)).release(&mut pool, &NPT);

    assert!(pool.reads.get() < 1100, "{} reads", pool.reads.get());
}

#[test]
fn a_budget_bounds_each_step_and_the_steps_add_up() {
    let (mut pool, mut t) = empty();
    for i in 0..4000 {
        map(&mut pool, &mut t, 7 + i * 3, i, Size4K, RW);
    }
    let mut left = range(8, 100_000);
    let mut steps = 0;

    while !left.is_empty() {
        pool.reads.set(0);
        let flush = t.unmap_some(&mut pool, &mut left, &mut 64);
        assert!(pool.reads.get() <= 64 + ENTRIES, "{} reads", pool.reads.get());
        flush.release(&mut pool, &NPT);
        steps += 1;
    }

    assert!(steps > 4);
    assert!(t.lookup(&pool, Gfn(7).gpa()).is_some());
    assert_eq!(pool.processor_finds(&NPT, t.root(), 10), None);
    assert_eq!(pool.processor_finds(&NPT, t.root(), 7 + 3999 * 3), None);
    pool.assert_accounted(&t);
}

/// 2 GiB of small pages have 1024 tables of their own.
#[test]
fn taking_tables_out_costs_the_same_whatever_is_below_them() {
    for r in [range(4 * GIB, 6 * GIB), range(0, 1 << 27), GfnRange::ALL] {
        let (mut pool, mut t) = empty();
        for gfn in (4 * GIB..6 * GIB).step_by(ENTRIES) {
            map(&mut pool, &mut t, gfn, gfn, Size4K, RW);
        }
        pool.reads.set(0);

        let flush = t.unmap_range(&mut pool, r);

        assert!(pool.reads.get() < 2 * ENTRIES, "{} reads", pool.reads.get());
        assert!(flush.release(&mut pool, &NPT) >= 1024);
        pool.assert_accounted(&t);
    }
}

/// Unmaps ranges in sections of `budget` entries; returns how many entries were read.
fn unmap_in_sections(pool: &mut Pool, t: &mut PageTable<Npt>, ranges: &[GfnRange], budget: usize) -> usize {
    let mut unmapping = RangeUnmapping::new(ranges.iter().copied());
    let (mut flush, mut reads) = (FlushNeeded::default(), 0);
    while !unmapping.is_done() {
        pool.reads.set(0);
        let more = unmapping.go_on(t, pool, budget);
        assert!(pool.reads.get() <= budget + ENTRIES + 16, "{} reads in a section", pool.reads.get());
        reads += pool.reads.get();
        flush.join(pool, more);
    }
    flush.release(pool, &NPT);
    reads
}

#[test]
fn unmapping_many_ranges_reads_entries_by_their_number_in_bounded_sections() {
    let reads = [500, 1000, 2000].map(|n| {
        let (mut pool, mut t) = empty();
        let ranges: Vec<_> = (0..n).map(|i| range(7 + i * 3, 8 + i * 3)).collect();
        ranges.iter().for_each(|r| assert!(!map(&mut pool, &mut t, r.start.0, 1, Size4K, RW)));

        let reads = unmap_in_sections(&mut pool, &mut t, &ranges, 100);

        let root = t.root();
        assert!(ranges.iter().all(|r| pool.processor_finds(&NPT, root, r.start.0).is_none()));
        pool.assert_accounted(&t);
        reads
    });

    assert!(reads[1] <= 2 * reads[0] + 100 && reads[2] <= 2 * reads[1] + 100, "{reads:?}");
}

#[test]
fn write_protecting_a_part_of_a_large_page_protects_all_of_it() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 512, 512, Size2M, MapRights::all());

    let flush = t.write_protect_range(&mut pool, range(600, 601));
    let again = t.write_protect_range(&mut pool, range(600, 601));

    assert!(flush.is_needed() && !again.is_needed());
    assert_eq!(t.lookup(&pool, Gfn(512).gpa()).unwrap().rights, MapRights::EXEC);
}

#[test]
fn an_aged_page_is_old_until_it_is_used_or_mapped_again() {
    let (mut pool, mut t) = empty();
    map(&mut pool, &mut t, 5, 77, Size4K, RW);

    assert!(t.is_young(&mut pool, range(0, 10)));
    assert!(t.age_range(&mut pool, range(0, 10)));
    assert!(!t.age_range(&mut pool, range(0, 10)));
    map(&mut pool, &mut t, 5, 77, Size4K, RW);
    assert!(t.is_young(&mut pool, range(5, 6)));
    assert!(!t.is_young(&mut pool, range(6, 10)));
}

#[test]
fn teardown_frees_every_page() {
    let (mut pool, mut t) = empty();
    for gfn in [0, 513, GIB, 1 << 27, 5 << 27] {
        map(&mut pool, &mut t, gfn, gfn, Size4K, RW);
    }

    t.teardown(&mut pool);

    assert!(pool.live.is_empty());
}

/// After every single store the processor finds what was there or what is asked for, also while
/// a page of 1 GiB is split twice and while small pages are replaced by a large one.
#[test]
fn the_processor_never_sees_a_half_built_table() {
    let probes = vec![0, 1, 511, 512, 513, 1023, 1024, GIB - 1, GIB, GIB + 1];
    for (gfn, pfn, size) in [(513, 7, Size4K), (512, 512, Size2M), (GIB, 0, Size1G), (GIB + 1, 9, Size4K)] {
        let (mut pool, mut t) = empty();
        map(&mut pool, &mut t, 0, GIB, Size1G, RW);
        map(&mut pool, &mut t, GIB, 3, Size4K, RW);
        let old: Vec<_> = probes.iter().map(|&p| pool.processor_finds(&NPT, t.root(), p)).collect();
        pool.watch = Some((t.root(), probes.clone()));

        let mapped = t.map(&mut pool, Gfn(gfn).gpa(), Pfn(pfn), size, RO).unwrap();

        pool.watch = None;
        let new: Vec<_> = probes.iter().map(|&p| pool.processor_finds(&NPT, t.root(), p)).collect();
        assert_ne!(old, new);
        for (i, seen) in pool.seen.iter().enumerate() {
            assert!(*seen == old || *seen == new, "after store {i} of {gfn}");
        }
        mapped.flush.release(&mut pool, &NPT);
    }
}

#[test]
fn a_failed_allocation_at_any_point_changes_nothing() {
    for before in [None, Some((Size1G, 0)), Some((Size2M, 512)), Some((Size4K, 512))] {
        for budget in 0..MAX_TABLES_PER_MAP {
            let (mut pool, mut t) = empty();
            if let Some((size, gfn)) = before {
                map(&mut pool, &mut t, gfn, 2 * GIB, size, RW);
            }
            let old = pool.processor_finds(&NPT, t.root(), 512);
            let live: Vec<u64> = pool.live.keys().copied().collect();
            pool.left = Some(budget);

            let result = t.map(&mut pool, Gfn(513).gpa(), Pfn(7), Size4K, RO).map(|m| m.flush.is_needed());

            match result {
                Err(e) => {
                    assert_eq!(e, MapError::NoMemory);
                    assert!(pool.live.keys().eq(live.iter()));
                    assert_eq!(
                        t.lookup(&pool, Gfn(513).gpa()).is_some(),
                        old.is_some() && before.unwrap().0 != Size4K
                    );
                }
                Ok(_) => assert_eq!(t.lookup(&pool, Gfn(513).gpa()).unwrap().pfn, Pfn(7)),
            }
            assert_eq!(pool.processor_finds(&NPT, t.root(), 512), old);
            pool.assert_accounted(&t);
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Map { gfn: u64, pfn: u64, size: PageSize, rights: MapRights, memory: Option<usize> },
    Unmap(GfnRange),
    UnmapBySteps(GfnRange),
    Protect(GfnRange),
    Age(GfnRange),
}

/// Frames near the boundaries of tables of all levels.
fn any_gfn() -> impl Strategy<Value = u64> {
    let d = prop_oneof![0u64..3, 510u64..512];
    (0u64..2, 0u64..3, prop_oneof![0u64..3, 510u64..512], d)
        .prop_map(|(a, b, c, d)| (a << 27) + (b << 18) + (c << 9) + d)
}

fn any_range() -> impl Strategy<Value = GfnRange> {
    prop_oneof![
        (any_gfn(), any_gfn()).prop_map(|(a, b)| range(a.min(b), a.max(b) + 1)),
        (any_gfn(), 0u64..3).prop_map(|(a, n)| range(a, a + n)),
        (any_gfn(), 0u64..3).prop_map(|(a, n)| range(a & !511, (a & !511) + n * 512)),
        (any_gfn(), 0u64..3).prop_map(|(a, n)| range(a & !(GIB - 1), (a & !(GIB - 1)) + n * GIB)),
        Just(GfnRange::ALL),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let size = prop_oneof![3 => Just(Size4K), 2 => Just(Size2M), 1 => Just(Size1G)];
    let memory = prop_oneof![4 => Just(None), 1 => (0usize..4).prop_map(Some)];
    // Often the identity, so that different sizes say the same.
    let pfn = prop_oneof![3 => Just(None), 1 => any_gfn().prop_map(Some)];
    let map = (any_gfn(), pfn, size, 0u8..4, memory).prop_map(|(gfn, pfn, size, bits, memory)| {
        let mask = !(size.pages() - 1);
        let pfn = pfn.unwrap_or(gfn) & mask;
        Op::Map { gfn: gfn & mask, pfn, size, rights: MapRights::from_bits_truncate(bits), memory }
    });
    prop_oneof![
        8 => map,
        2 => any_range().prop_map(Op::Unmap),
        2 => any_range().prop_map(Op::UnmapBySteps),
        2 => any_range().prop_map(Op::Protect),
        1 => any_range().prop_map(Op::Age),
    ]
}

/// Leaves by their first frame: size, host frame, rights.
#[derive(Clone, Default)]
struct Model(BTreeMap<u64, (PageSize, u64, MapRights)>);

impl Model {
    fn lookup(&self, gfn: u64) -> Option<PageMapping> {
        let (base, &(size, pfn, rights)) = self.0.range(..=gfn).next_back()?;
        let offset = gfn - base;
        (offset < size.pages()).then_some(PageMapping { pfn: Pfn(pfn + offset), size, rights })
    }

    fn hit_by(&self, r: GfnRange) -> Vec<u64> {
        let hit =
            |(b, l): &(&u64, &(PageSize, u64, MapRights))| **b < r.end.0 && r.start.0 < **b + l.0.pages();
        self.0.iter().filter(|e| !r.is_empty() && hit(e)).map(|(b, _)| *b).collect()
    }

    fn unmap(&mut self, r: GfnRange) {
        self.hit_by(r).iter().for_each(|b| {
            self.0.remove(b);
        });
    }

    fn protect(&mut self, r: GfnRange) {
        self.hit_by(r).iter().for_each(|b| self.0.get_mut(b).unwrap().2.remove(RW));
    }

    fn map(&mut self, gfn: u64, pfn: u64, size: PageSize, rights: MapRights) {
        while let Some(old) = self.lookup(gfn).filter(|m| m.size > size) {
            if (old.pfn.0, old.rights) == (pfn, rights) {
                return;
            }
            let part = PageSize::of_level(old.size.level() - 1).unwrap();
            let base = gfn & !(old.size.pages() - 1);
            let (_, first, rights) = self.0[&base];
            for i in (0..old.size.pages()).step_by(part.pages() as usize) {
                self.0.insert(base + i, (part, first + i, rights));
            }
        }
        self.unmap(range(gfn, gfn + size.pages()));
        self.0.insert(gfn, (size, pfn, rights));
    }
}

fn probes() -> Vec<u64> {
    let mut all = Vec::new();
    for high in [0, GIB, 2 * GIB, 1 << 27, (1 << 27) + GIB, (1 << 27) + 2 * GIB] {
        for mid in [0, 1, 2, 3, 200, 510, 511] {
            all.extend([0, 1, 2, 3, 200, 510, 511].map(|low| high + (mid << 9) + low));
        }
    }
    all
}

/// Does one operation on the table. Returns the flush, and whether it failed for lack of memory.
fn apply<F: TableFormat>(pool: &mut Pool, t: &mut PageTable<F>, op: &Op) -> (FlushNeeded, bool) {
    match *op {
        Op::Map { gfn, pfn, size, rights, memory } => {
            pool.left = memory;
            let result = t.map(pool, Gfn(gfn).gpa(), Pfn(pfn), size, rights);
            pool.left = None;
            match result {
                Ok(mapped) => (mapped.flush, false),
                Err(e) => {
                    assert_eq!(e, MapError::NoMemory);
                    (FlushNeeded::default(), true)
                }
            }
        }
        Op::Unmap(r) => (t.unmap_range(pool, r), false),
        Op::UnmapBySteps(mut r) => {
            let mut flush = FlushNeeded::default();
            while !r.is_empty() {
                let step = t.unmap_some(pool, &mut r, &mut 10);
                flush.join(pool, step);
            }
            (flush, false)
        }
        Op::Protect(r) => (t.write_protect_range(pool, r), false),
        Op::Age(r) => {
            t.age_range(pool, r);
            (FlushNeeded::default(), false)
        }
    }
}

fn apply_to_model(model: &mut Model, op: &Op) {
    match *op {
        Op::Map { gfn, pfn, size, rights, .. } => model.map(gfn, pfn, size, rights),
        Op::Unmap(r) | Op::UnmapBySteps(r) => model.unmap(r),
        Op::Protect(r) => model.protect(r),
        Op::Age(_) => {}
    }
}

pub(crate) fn run_against_model<F: TableFormat>(format: F, ops: &[Op]) {
    let mut pool = Pool::default();
    let mut t = PageTable::new(&mut pool, format).unwrap();
    let mut model = Model::default();
    let probes = probes();
    for op in ops {
        let old = model.clone();

        let (flush, failed) = apply(&mut pool, &mut t, op);
        if !failed {
            apply_to_model(&mut model, op);
        }

        for &gfn in &probes {
            let now = t.lookup(&pool, Gfn(gfn).gpa());
            assert_eq!(now, model.lookup(gfn), "frame {gfn:#x} after {op:?}");
            if let Some(stale) = old.lookup(gfn).filter(|_| !flush.is_needed()) {
                let now = now.expect("a stale translation without a flush");
                assert!(now.pfn == stale.pfn && now.rights.contains(stale.rights), "stale without a flush");
            }
        }
        flush.release(&mut pool, t.format());
        pool.assert_accounted(&t);
    }
    t.teardown(&mut pool);
    assert!(pool.live.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any sequence leaves what the model has, says when to flush, and loses no table page.
    #[test]
    fn npt_agrees_with_the_model(ops in vec(any_op(), 1..40)) {
        run_against_model(NPT, &ops);
    }

    #[test]
    fn five_level_npt_agrees_with_the_model(ops in vec(any_op(), 1..40)) {
        run_against_model(Npt { levels: TableLevels::Five, ..NPT }, &ops);
    }

    #[test]
    fn ept_agrees_with_the_model(ops in vec(any_op(), 1..40)) {
        run_against_model(EPT, &ops);
    }
}
