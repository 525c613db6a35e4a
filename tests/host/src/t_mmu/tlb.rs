// SPDX-License-Identifier: GPL-2.0

//! Generations and the race between a page fault and an invalidation.

use crate::arch::addr::Gfn;
use crate::mmu::slots::GfnRange;
use crate::mmu::tlb::{Invalidations, SeenGeneration, TlbGeneration};

fn range(start: u64, end: u64) -> GfnRange {
    GfnRange { start: Gfn(start), end: Gfn(end) }
}

#[test]
fn a_new_vcpu_flushes_once() {
    let generation = TlbGeneration::new();
    let mut seen = SeenGeneration::default();

    assert!(generation.must_flush(&mut seen));
    assert!(!generation.must_flush(&mut seen));
}

#[test]
fn every_vcpu_flushes_after_a_bump() {
    let generation = TlbGeneration::new();
    let mut seen = [SeenGeneration::default(); 2];
    seen.iter_mut().for_each(|s| assert!(generation.must_flush(s)));

    generation.bump();

    assert!(!generation.is_seen(seen[0]));
    assert!(seen.iter_mut().all(|s| generation.must_flush(s)));
    assert!(generation.is_seen(seen[0]));
}

#[test]
fn a_quiet_fault_may_map() {
    let inv = Invalidations::new();

    assert!(inv.allows(inv.snapshot(), range(0, 1)));
}

#[test]
fn a_fault_in_a_range_being_taken_away_must_wait() {
    let mut inv = Invalidations::new();
    inv.begin(range(8, 16));

    let snapshot = inv.snapshot();

    assert!(!inv.allows(snapshot, range(15, 16)));
    assert!(!inv.allows(snapshot, range(0, 512)));
    assert!(inv.allows(snapshot, range(16, 17)));
}

#[test]
fn a_fault_older_than_an_invalidation_must_look_again() {
    let mut inv = Invalidations::new();
    let before = inv.snapshot();
    inv.begin(range(8, 16));
    inv.end();

    assert!(!inv.allows(before, range(8, 9)));
    assert!(inv.allows(inv.snapshot(), range(8, 9)));
}

#[test]
fn overlapping_invalidations_all_count_until_the_last_has_ended() {
    let mut inv = Invalidations::new();
    inv.begin(range(8, 16));
    inv.begin(range(100, 101));
    inv.begin(range(0, 0));
    inv.end();
    inv.end();

    let snapshot = inv.snapshot();
    assert!(!inv.allows(snapshot, range(8, 9)));
    assert!(!inv.allows(snapshot, range(100, 101)));

    inv.end();
    assert!(inv.allows(inv.snapshot(), range(8, 9)));
}

#[test]
fn a_smaller_invalidation_does_not_hide_a_larger_one() {
    let mut inv = Invalidations::new();
    inv.begin(range(8, 16));
    inv.begin(range(9, 10));

    assert!(!inv.allows(inv.snapshot(), range(15, 16)));
}
