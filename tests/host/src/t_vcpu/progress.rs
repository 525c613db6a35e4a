// SPDX-License-Identifier: GPL-2.0

//! How long a window stays open while the guest does not get on.

use crate::vcpu::progress::{WindowProgress, LONGEST, TURNS};
use proptest::prelude::*;

/// One GHz: a tick is a nanosecond.
const KHZ: u32 = 1_000_000;
const LIMIT: u64 = 200_000;

#[test]
fn a_row_of_turns_ends_by_their_number() {
    let mut p = WindowProgress::new(KHZ);
    let ended = (1..).find(|_| p.is_over(7)).unwrap();
    assert_eq!(ended, TURNS);
}

#[test]
fn a_row_of_turns_ends_by_the_time() {
    let mut p = WindowProgress::new(KHZ);
    assert!(!p.is_over(1_000));
    assert!(!p.is_over(1_000 + LIMIT - 1));
    assert!(p.is_over(1_000 + LIMIT));
}

#[test]
fn an_instruction_begins_a_new_row() {
    let mut p = WindowProgress::new(KHZ);
    for turn in 0..u64::from(TURNS) * 3 {
        assert!(!p.is_over(turn * LIMIT));
        p.made();
    }
}

#[test]
fn answers_end_by_the_time_since_the_first_one() {
    let mut p = WindowProgress::new(KHZ);
    assert!(!p.answered(5_000));
    assert!(!p.answered(5_000 + LIMIT * LONGEST - 1));
    assert!(p.answered(5_000 + LIMIT * LONGEST));
}

#[test]
fn an_answer_is_progress() {
    let mut p = WindowProgress::new(KHZ);
    for turn in 0..u64::from(TURNS) * 3 {
        assert!(!p.is_over(turn * LIMIT));
        assert!(!p.answered(1));
    }
}

proptest! {
    /// Whatever the times, no row is longer than its bound.
    #[test]
    fn no_row_is_longer_than_the_bound(khz: u32, tscs in prop::collection::vec(any::<u64>(), 64)) {
        let mut p = WindowProgress::new(khz);
        prop_assert!(tscs.iter().any(|tsc| p.is_over(*tsc)));
    }
}
