// SPDX-License-Identifier: GPL-2.0

//! Dirty logs, without who writes: see t_run/dirty for those.

use super::slots::{none, request, with, Changed};
use crate::arch::addr::{Gfn, Gpa, PAGE_SIZE};
use crate::mmu::dirty::{DirtyBitmap, LoggedPage, TakenWord};
use crate::mmu::slots::{GfnRange, MemSlots, SlotFlags, SlotRequest};
use proptest::prelude::*;
use std::collections::BTreeSet;

const LOG: u32 = SlotFlags::LOG_DIRTY.bits();

fn marked(log: &DirtyBitmap) -> BTreeSet<u64> {
    (0..log.len())
        .flat_map(|i| (0..64).filter(move |b| log.word(i) >> b & 1 != 0).map(move |b| i as u64 * 64 + b))
        .collect()
}

#[test]
fn a_log_begins_empty_or_with_its_pages_and_no_more() {
    for pages in [1, 63, 64, 65, 128, 1000] {
        assert!(marked(&DirtyBitmap::new(pages, false).unwrap()).is_empty());
        assert_eq!(marked(&DirtyBitmap::new(pages, true).unwrap()), (0..pages).collect());
    }
}

#[test]
fn marks_beyond_the_end_are_lost() {
    let log = DirtyBitmap::new(64, false).unwrap();

    log.mark(64);
    log.mark(u64::MAX);
    assert_eq!((log.len(), log.word(0), log.word(1), log.take(1, u64::MAX)), (1, 0, 0, 0));
    assert!(!log.is_marked(64));
}

#[test]
fn bytes_are_marked_by_the_pages_that_they_lie_in() {
    let cases = [
        ((0, 1), 3..4),
        ((4095, 1), 3..4),
        ((4095, 2), 3..5),
        ((8, 8192), 3..6),
        ((0, 8192), 3..5),
        ((5, 0), 3..4),
    ];
    for ((offset, len), pages) in cases {
        let log = DirtyBitmap::new(100, false).unwrap();
        log.mark(4);
        let mut new = BTreeSet::from([4]);
        LoggedPage { slot: 0, log: &log, page: 3 }.mark_bytes(offset, len, |page| assert!(new.insert(page)));
        assert_eq!(marked(&log), new);
        assert_eq!(new, pages.chain([4]).collect(), "{len} bytes from {offset}");
    }
}

proptest! {
    #[test]
    fn what_is_taken_was_marked_and_what_is_left_was_not_asked_for(
        pages in prop::collection::vec(0..200u64, 0..60), mask: u64, index in 0..5usize,
    ) {
        let log = DirtyBitmap::new(200, false).unwrap();
        pages.iter().for_each(|page| {
            log.mark(*page);
        });
        let before = marked(&log);

        let taken = log.take(index, mask);

        let of_word = |page: &u64| *page / 64 == index as u64 && mask >> (page % 64) & 1 != 0;
        let expected: BTreeSet<u64> = before.iter().copied().filter(of_word).collect();
        let told = (0..64).filter(|b| taken >> b & 1 != 0).map(|b| index as u64 * 64 + b).collect();
        prop_assert_eq!(&expected, &told);
        prop_assert_eq!(marked(&log), &before - &expected);
    }

    #[test]
    fn the_frames_of_a_word_are_those_of_its_marks(first in 0..1u64 << 40, mask: u64) {
        let taken = TakenWord { first: Gfn(first), mask };
        let GfnRange { start, end } = taken.frames();
        for bit in 0..64 {
            let gfn = Gfn(first + bit);
            prop_assert_eq!(taken.has(gfn), mask >> bit & 1 != 0);
            prop_assert!(!taken.has(gfn) || (start..end).contains(&gfn));
        }
        prop_assert!(!taken.has(Gfn(first + 64)) && !taken.has(Gfn(first.wrapping_sub(1))));
        prop_assert_eq!(taken.frames().is_empty(), mask == 0);
    }
}

/// Makes a change with what follows for the logs.
fn change(slots: &MemSlots, r: &SlotRequest, all: bool) -> MemSlots {
    let (mut next, change) = slots.with(r).unwrap();
    next.keep_logs(&change, all).unwrap();
    next
}

#[test]
fn a_slot_has_a_log_for_as_long_as_it_logs() {
    let logging = SlotRequest { flags: LOG, ..request(3, 16, 16) };
    let slots = change(&change(&none(), &request(1, 64, 1), false), &logging, false);
    let (slot, log) = slots.log_of(3).unwrap();
    log.mark(5);
    assert_eq!((slot.base, slots.has_logs(), slots.counts()), (Gfn(16), true, (2, 1)));
    assert!(slots.log_of(1).is_none() && slots.log_of(7).is_none());
    assert!(slots.logged_page(&slot, Gfn(21)).is_some_and(|page| page.log.is_marked(page.page)));

    let other = change(&slots, &SlotRequest { flags: LOG, ..request(2, 100, 1) }, false);
    assert_eq!(marked(&other.log_of(3).unwrap().1), BTreeSet::from([5]), "it stays beside others");
    let moved = change(&other, &SlotRequest { gpa: Gpa(200 * PAGE_SIZE), ..logging }, false);
    assert_eq!(marked(&moved.log_of(3).unwrap().1), BTreeSet::from([5]), "and where it moves");
    let silent = change(&moved, &SlotRequest { flags: 0, gpa: Gpa(200 * PAGE_SIZE), ..logging }, false);
    assert!(silent.log_of(3).is_none() && silent.log_of(2).is_some());
    let full = change(&silent, &SlotRequest { gpa: Gpa(200 * PAGE_SIZE), ..logging }, true);
    assert_eq!(marked(&full.log_of(3).unwrap().1), (0..16).collect());
    let deleted = change(&full, &SlotRequest { size_bytes: 0, ..logging }, false);
    assert!(deleted.log_of(3).is_none() && deleted.has_logs());
    assert!(with(&deleted, &SlotRequest { size_bytes: 0, ..request(2, 0, 0) }).log_of(9).is_none());
}
