// SPDX-License-Identifier: GPL-2.0

//! Writes to the guest's tables, and its flushes.

use super::layout::{GuestMode, MODES, URW};
use super::machine::{access, Found, Machine};
use crate::arch::addr::Gva;
use crate::arch::exception::{CpuException, PfError};
use crate::mmu::walk::AccessKind::{Read, Write};
use GuestMode::{Long4, Off};

fn edit(m: &mut Machine, mode: GuestMode, table: u64, index: u64, entry: u64) -> Found {
    m.store(0, mode.window(table, index), entry, mode.entry_bytes())
}

#[test]
fn a_table_of_pages_is_written_without_exits_and_counts_from_the_flush_on() {
    for mode in MODES.into_iter().filter(|m| *m != Off) {
        let mut m = mode.machine(64, &[0]);
        assert_eq!(m.access(0, 0, access(Read, true)), Found::Page(16));
        assert_eq!(edit(&mut m, mode, 5, 0, 18 << 12 | URW), Found::Page(5), "{mode:?}");
        let walks = m.walks;

        for gfn in [18, 19, 18] {
            assert_eq!(edit(&mut m, mode, 5, 0, gfn << 12 | URW), Found::Page(5), "{mode:?}");
            m.invlpg(0, 0);
            assert_eq!(m.access(0, 0, access(Read, true)), Found::Page(gfn), "{mode:?}");
        }
        assert_eq!(m.walks, walks + 3, "{mode:?}: one for each read");
        m.check();
        m.end();
    }
}

#[test]
fn a_load_of_cr3_flushes_all() {
    let mut m = Long4.machine(64, &[0]);
    for index in [0, 1] {
        m.access(0, index << 12, access(Read, true));
    }
    for index in [0, 1] {
        edit(&mut m, Long4, 5, index, 20 << 12 | URW);
    }
    m.load(0, |_| {});

    for index in [0, 1] {
        assert_eq!(m.access(0, index << 12, access(Read, true)), Found::Page(20));
    }
    m.end();
}

#[test]
fn a_page_that_the_guest_ages_is_marked_again() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Write, true));
    edit(&mut m, Long4, 5, 0, 16 << 12 | 7);
    m.invlpg(0, 0);

    m.access(0, 0, access(Read, true));
    assert_eq!(m.memory.get(0x5000, 8), 16 << 12 | 0x27);
    m.access(0, 0, access(Write, true));
    assert_eq!(m.memory.get(0x5000, 8), 16 << 12 | 0x67);
    m.end();
}

#[test]
fn a_table_of_tables_is_written_in_software_and_counts_at_once() {
    for mode in [GuestMode::Pae, Long4] {
        let mut m = mode.machine(64, &[0]);
        m.access(0, 0, access(Read, true));
        let absent = CpuException::page_fault(Gva(10 << 20), PfError::USER);
        assert_eq!(m.access(0, 10 << 20, access(Read, true)), Found::Fault(absent));

        assert_eq!(edit(&mut m, mode, 4, 5, 5 << 12 | URW), Found::Emulated(4));
        // What was absent needs no flush.
        assert_eq!(m.access(0, 10 << 20, access(Read, true)), Found::Page(16));
        m.end();
    }
}

/// A table changes while it is out of sync, and is then linked at a place where nothing was: nothing old may come with it.
#[test]
fn what_is_behind_a_new_link_needs_no_flush() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    edit(&mut m, Long4, 5, 0, 21 << 12 | URW);
    edit(&mut m, Long4, 4, 5, 5 << 12 | URW);

    assert_eq!(m.access(0, 10 << 20, access(Read, true)), Found::Page(21));
    m.end();
}

#[test]
fn a_table_that_has_not_changed_for_long_is_protected_again() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    edit(&mut m, Long4, 5, 0, 18 << 12 | URW);
    let walks = m.walks;
    for _ in 0..10 {
        m.load(0, |_| {});
    }
    m.check();

    assert_eq!(edit(&mut m, Long4, 5, 0, 19 << 12 | URW), Found::Page(5));
    assert!(m.walks > walks, "it could not be written");
    m.invlpg(0, 0);
    assert_eq!(m.access(0, 0, access(Read, true)), Found::Page(19));
    m.end();
}

#[test]
fn what_is_written_again_and_again_is_no_table_any_more() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 512 << 30, access(Read, true));
    // Frame 8 is a table of tables; nothing uses it but this.
    let mut by_software = 0;
    for index in 8..40 {
        match edit(&mut m, Long4, 8, index, 0) {
            Found::Emulated(8) => by_software += 1,
            found => assert_eq!(found, Found::Page(8)),
        }
    }
    assert!((1..8).contains(&by_software), "{by_software} writes in software");
    assert_eq!(m.access(0, 512 << 30, access(Read, true)), Found::Page(16));
    m.end();
}

#[test]
fn more_tables_out_of_sync_than_there_may_be_make_room() {
    let mut m = Long4.machine(200, &[0]);
    // Tables of pages at frames 100 to 180, each in use, each then written.
    for i in 0..80u64 {
        m.memory.put((100 + i) << 12, 16 << 12 | URW, 8);
        m.memory.put(0x4000 + 8 * (100 + i), (100 + i) << 12 | URW, 8);
        m.memory.put(0x6000 + 8 * (100 + i), (100 + i) << 12 | URW, 8);
    }
    for i in 0..80u64 {
        assert_eq!(m.access(0, (100 + i) << 21, access(Read, true)), Found::Page(16));
        assert_eq!(edit(&mut m, Long4, 100 + i, 0, 17 << 12 | URW), Found::Page(100 + i));
    }
    m.check();
    m.load(0, |_| {});
    for i in 0..80u64 {
        assert_eq!(m.access(0, (100 + i) << 21, access(Read, true)), Found::Page(17));
    }
    m.end();
}

#[test]
fn a_table_that_maps_itself_can_be_written_through_itself() {
    let mut m = Long4.machine(64, &[0]);
    edit(&mut m, Long4, 5, 4, 5 << 12 | URW);

    assert_eq!(m.store(0, 0x4000, 22 << 12 | URW, 8), Found::Page(5));
    m.invlpg(0, 0);
    assert_eq!(m.access(0, 0, access(Write, true)), Found::Page(22));
    m.check();
    m.end();
}

#[test]
fn a_table_that_is_used_at_two_levels_is_written_in_software() {
    let mut m = Long4.machine(64, &[0]);
    // The directory, as its own lowest table: a window to the tables of pages.
    edit(&mut m, Long4, 4, 7, 4 << 12 | URW);
    assert_eq!(m.access(0, 14 << 20, access(Read, true)), Found::Page(5));

    assert_eq!(m.store(0, (14 << 20) + 0x7000 + 8 * 9, 5 << 12 | URW, 8), Found::Emulated(4));
    assert_eq!(m.access(0, 18 << 20, access(Read, true)), Found::Page(16));
    m.end();
}

#[test]
fn processors_see_each_others_edits_where_they_flush() {
    let mut m = Long4.machine(64, &[0, 1]);
    for n in [0, 1] {
        assert_eq!(m.access(n, 0, access(Read, true)), Found::Page(16));
    }
    edit(&mut m, Long4, 5, 0, 23 << 12 | URW);
    m.invlpg(0, 0);
    assert_eq!(m.access(0, 0, access(Write, true)), Found::Page(23));
    // This one has not flushed, and may have either.
    assert!(matches!(m.access(1, 0, access(Read, true)), Found::Page(16 | 23)));
    m.invlpg(1, 0);
    assert_eq!(m.access(1, 0, access(Read, true)), Found::Page(23));
    m.end();
}
