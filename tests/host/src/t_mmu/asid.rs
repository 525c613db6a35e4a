// SPDX-License-Identifier: GPL-2.0

//! Identifiers: no two vCPUs share one on a processor without a flush in between.

use crate::mmu::asid::{AsidPool, AsidTag};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[test]
fn the_first_assignment_asks_for_a_flush() {
    let mut tag = AsidTag::default();

    let got = AsidPool::new(0, 1, 3).assign(&mut tag);

    assert!(got.flush_all && got.is_new);
    assert_eq!(got.asid, 1);
}

#[test]
fn a_vcpu_that_stays_keeps_its_identifier() {
    let mut pool = AsidPool::new(0, 1, 3);
    let mut tag = AsidTag::default();
    let first = pool.assign(&mut tag);

    let second = pool.assign(&mut tag);

    assert_eq!(second.asid, first.asid);
    assert!(!second.is_new && !second.flush_all);
}

#[test]
fn a_vcpu_that_moves_gets_a_new_identifier() {
    let mut pools = [AsidPool::new(0, 1, 3), AsidPool::new(1, 1, 3)];
    let mut tag = AsidTag::default();
    pools[0].assign(&mut tag);
    pools[1].assign(&mut AsidTag::default());

    let moved = pools[1].assign(&mut tag);
    let back = pools[0].assign(&mut tag);

    assert!(moved.is_new && back.is_new);
    assert_eq!(back.asid, 2);
}

#[test]
fn an_exhausted_pool_flushes_and_starts_again() {
    let mut pool = AsidPool::new(0, 1, 2);
    let mut tags = [AsidTag::default(); 3];

    let flushes: Vec<bool> = tags.iter_mut().map(|t| pool.assign(t).flush_all).collect();

    assert_eq!(flushes, [true, false, true]);
    assert!(pool.assign(&mut tags[0]).is_new);
}

#[test]
fn invalidating_makes_every_tag_stale() {
    let mut pool = AsidPool::new(0, 1, 9);
    let mut tag = AsidTag::default();
    pool.assign(&mut tag);

    pool.invalidate_all();

    assert!(pool.assign(&mut tag).flush_all);
}

#[test]
fn the_largest_identifier_can_be_given_out() {
    let mut pool = AsidPool::new(0, u32::MAX, u32::MAX);

    assert_eq!(pool.assign(&mut AsidTag::default()).asid, u32::MAX);
    assert!(pool.assign(&mut AsidTag::default()).flush_all);
}

proptest! {
    /// A TLB that remembers who filled it never serves a vCPU from another one's entries, nor from
    /// its own of before it asked to be flushed.
    #[test]
    fn no_vcpu_ever_uses_what_another_left(
        last in 1u32..6,
        ops in vec((0usize..2, 0usize..8, 0u8..12), 1..200),
    ) {
        let mut pools = [AsidPool::new(0, 1, last), AsidPool::new(1, 1, last)];
        let mut tlbs = [BTreeMap::new(), BTreeMap::new()];
        let mut vcpus = [(AsidTag::default(), 0u32); 8];
        for (cpu, vcpu, what) in ops {
            let (tag, epoch) = &mut vcpus[vcpu];
            match what {
                0 => { tag.forget(); *epoch += 1; }
                1 => {
                    // Somebody else used all identifiers.
                    pools[cpu].invalidate_all();
                    (1..=last).for_each(|asid| { tlbs[cpu].insert(asid, (usize::MAX, 0)); });
                }
                _ => {
                    let got = pools[cpu].assign(tag);
                    prop_assert!((1..=last).contains(&got.asid));
                    if got.flush_all {
                        tlbs[cpu].clear();
                    }
                    prop_assert!(!(got.is_new && tlbs[cpu].contains_key(&got.asid)));
                    let owner = *tlbs[cpu].entry(got.asid).or_insert((vcpu, *epoch));
                    prop_assert_eq!(owner, (vcpu, *epoch));
                }
            }
        }
    }
}
