// SPDX-License-Identifier: GPL-2.0

//! What the host takes: its pages, memory slots, marks of dirty logs, and memory for tables.

use super::layout::{GuestMode, MODES, URW};
use super::machine::{access, Found, Machine, FRAMES};
use crate::arch::addr::Gfn;
use crate::mmu::shadow::RangeLoss;
use crate::mmu::slots::GfnRange;
use crate::mmu::walk::AccessKind::{Read, Write};
use GuestMode::Long4;

const ALL: GfnRange = GfnRange { start: Gfn(0), end: Gfn(1 << 40) };

#[test]
fn a_page_that_is_taken_is_used_no_more_by_any_processor() {
    for mode in MODES {
        let mut m = mode.machine(64, &[0, 1]);
        for round in [(0, FRAMES), (16, 18), (600, 601), (0, FRAMES)] {
            for n in 0..3 {
                for gva in mode.addresses() {
                    m.access(n, gva, access(Read, false));
                }
            }
            // Access looks whether what is found is what is there now.
            m.unmap(round.0, round.1);
            m.check();
        }
        m.end();
    }
}

#[test]
fn a_table_lives_until_no_processor_can_walk_it() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    let before = m.pool.live();

    m.take_only(ALL, RangeLoss::Memory);
    assert_eq!(m.pool.live(), before, "a processor is in guest mode");
    m.finish();
    let pages = m.check();
    assert_eq!(m.pool.live(), pages);
    assert!(pages < before);
    m.end();
}

#[test]
fn a_translation_that_the_guest_dropped_is_flushed_before_its_page_goes() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    m.access(0, 0x1000, access(Read, true));
    // By the processor without paging; the other one keeps what it has cached.
    m.store(1, 0x5000, 0, 8);
    m.store(1, 0x4000, 0, 8);
    assert_eq!(m.access(0, 0, access(Read, true)), Found::Page(16), "it has not flushed");

    let waits = m.waits;
    m.unmap(16, 17);
    assert!(m.waits > waits);
    assert!(matches!(m.access(0, 0, access(Read, true)), Found::Fault(_)));
    m.end();
}

#[test]
fn a_long_range_costs_what_is_mapped() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    let pages = m.check();

    let steps = m.take_only(GfnRange { start: Gfn(1 << 30), end: Gfn(1 << 40) }, RangeLoss::Pages);
    assert!(steps <= 64 + 2 * pages, "{steps} steps for {pages} pages");
    m.finish();
    m.end();
}

/// A guest that has each of four frames at 1,024 addresses, and its second table at eight, with other rights each.
fn crowded() -> Machine {
    let mut m = Long4.machine(64, &[0]);
    for i in 0..8u64 {
        for entry in 0..512 {
            m.memory.put((100 + i) << 12 | entry << 3, (16 + i / 2) << 12 | URW, 8);
        }
        m.memory.put(0x4000 + 8 * (100 + i), (100 + i) << 12 | URW, 8);
        // Present, writable or not, the user's or not, to be executed or not.
        let rights = 0x21 | (i & 3) << 1 | (i >> 2) << 63;
        m.memory.put(0x4000 + 8 * (200 + i), 100 << 12 | rights, 8);
    }
    for table in (100..108).chain(200..208) {
        for entry in 0..512 {
            m.access(0, table << 21 | entry << 12, access(Read, false));
        }
    }
    m
}

#[test]
fn a_step_is_short_however_many_addresses_a_frame_is_at() {
    for loss in [RangeLoss::Pages, RangeLoss::Memory, RangeLoss::Writes] {
        let mut m = crowded();
        let before = m.pool.writes;

        let steps = m.take_only(GfnRange { start: Gfn(16), end: Gfn(120) }, loss);

        let written = m.pool.writes - before;
        assert!(m.longest_step <= 64 + 1024, "{} in one of {steps} steps for {loss:?}", m.longest_step);
        assert!(written >= 2048, "{written} for {loss:?}");
        m.finish();
        m.end();
    }
}

#[test]
fn a_processor_that_loads_its_root_again_and_again_keeps_no_memory_from_going() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    let (root, mut loads) = (GfnRange { start: Gfn(1), end: Gfn(2) }, 0);

    m.take_beside(root, RangeLoss::Memory, |m| {
        loads += 1;
        assert!(loads < 10);
        m.exit(0);
        m.enter(0);
    });

    m.finish();
    m.end();
}

#[test]
fn a_log_misses_no_write() {
    for mode in MODES {
        let mut m = mode.machine(64, &[0]);
        m.access(0, 0x10000, access(Write, false));
        m.start_log();

        // Access looks whether a write that is made is marked.
        for _ in 0..3 {
            assert_eq!(m.store(1, 16 << 12, 1, 8), Found::Page(16));
            assert!(m.is_marked(16) && !m.is_marked(20));
            m.take_dirty(0);
            assert!(!m.is_marked(16));
        }
        m.end();
    }
}

#[test]
fn software_and_the_log_agree_about_tables() {
    let mut m = Long4.machine(64, &[0]);
    m.access(0, 0, access(Read, true));
    m.start_log();

    assert_eq!(m.store(0, Long4.window(4, 5), 5 << 12 | URW, 8), Found::Emulated(4));
    assert!(m.is_marked(4));
    assert_eq!(m.store(0, Long4.window(5, 5), 16 << 12 | URW, 8), Found::Page(5));
    assert!(m.is_marked(5));
    m.end();
}

#[test]
fn the_budget_is_held_and_what_was_not_used_for_longest_goes() {
    let mut m = Long4.machine(32, &[0]);
    for i in 0..200u64 {
        m.memory.put((100 + i) << 12, 16 << 12 | URW, 8);
        m.memory.put(0x4000 + 8 * (100 + i), (100 + i) << 12 | URW, 8);
    }
    for round in 0..3 {
        for i in 0..200u64 {
            assert_eq!(m.access(0, (100 + i) << 21, access(Read, true)), Found::Page(16));
            // In use all the time.
            assert_eq!(m.access(0, 0, access(Read, true)), Found::Page(16), "{round}");
        }
        assert!(m.check() <= 32);
    }
    let walks = m.walks;
    m.exit(0);
    m.access(0, (299) << 21, access(Read, true));
    assert_eq!(m.walks, walks, "the last one is still there");
    m.end();
}

#[test]
fn a_fault_that_runs_out_of_pages_goes_on_when_there_are_some() {
    for left in 0..5 {
        for mode in MODES {
            let mut m = mode.machine(64, &[0]);
            m.pool.limit(Some(left));

            let gva = if mode == GuestMode::Off { 16 << 12 } else { 0 };
            assert_eq!(m.access(0, gva, access(Write, true)), Found::Page(16));
            m.end();
        }
    }
}

#[test]
fn a_table_that_the_host_has_swapped_out_is_waited_for() {
    for mode in MODES {
        let mut m = mode.machine(64, &[0]);
        m.memory.absent.set(Some(5));

        let gva = if mode == GuestMode::Off { 16 << 12 } else { 0 };
        assert_eq!(m.access(0, gva, access(Read, true)), Found::Page(16));
        m.end();
    }
}
