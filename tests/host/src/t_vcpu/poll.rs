// SPDX-License-Identifier: GPL-2.0

//! How long a halted vCPU polls.

use crate::vcpu::poll::{HaltPolling, PollEnd};
use proptest::prelude::*;

/// One kHz for a million ticks in a second: a tick is a microsecond.
const KHZ: u32 = 1000;

/// How many ticks the next poll lasts.
fn next(polling: &mut HaltPolling) -> u64 {
    let polls = polling.begin(1_000_000);
    let ticks = (0..).find(|t| polling.is_over(1_000_000 + t)).unwrap();
    assert_eq!(polls, ticks != 0);
    ticks
}

/// Polls in vain and sleeps for `ticks`.
fn sleep(polling: &mut HaltPolling, ticks: u64, waker: PollEnd) -> u64 {
    polling.begin(5);
    polling.slept(5 + ticks, waker);
    next(polling)
}

#[test]
fn short_sleeps_make_it_grow_up_to_the_limit() {
    let mut p = HaltPolling::new(50_000, KHZ);
    assert_eq!(next(&mut p), 0, "nothing is known yet");
    assert_eq!(sleep(&mut p, 15, PollEnd::Other), 10);
    assert_eq!(sleep(&mut p, 15, PollEnd::Other), 20);
    assert_eq!(sleep(&mut p, 30, PollEnd::Other), 40);
    assert_eq!(sleep(&mut p, 50, PollEnd::Other), 50);
    assert_eq!(sleep(&mut p, 50, PollEnd::Other), 50);
}

#[test]
fn a_long_sleep_ends_it() {
    let mut p = HaltPolling::new(50_000, KHZ);
    sleep(&mut p, 15, PollEnd::Other);
    assert_eq!(sleep(&mut p, 51, PollEnd::Other), 0);
    sleep(&mut p, 15, PollEnd::Other);
    assert_eq!(sleep(&mut p, 51, PollEnd::Timer), 0);
}

#[test]
fn the_own_timer_makes_it_fade_out() {
    let mut p = HaltPolling::new(50_000, KHZ);
    assert_eq!(sleep(&mut p, 20, PollEnd::Timer), 0, "and never begins it");
    for _ in 0..4 {
        sleep(&mut p, 20, PollEnd::Other);
    }
    let times: Vec<u64> = (0..4).map(|_| sleep(&mut p, 20, PollEnd::Timer)).collect();
    assert_eq!(times, [25, 12, 0, 0]);
}

#[test]
fn a_poll_ends_where_the_tsc_goes_back() {
    let mut p = HaltPolling::new(50_000, KHZ);
    sleep(&mut p, 15, PollEnd::Other);
    p.begin(1000);
    assert!(!p.is_over(1009));
    assert!(p.is_over(1010));
    assert!(p.is_over(999));
}

proptest! {
    #[test]
    fn it_never_polls_longer_than_the_limit(
        limit in 0..1000u32,
        khz in 0..10_000u32,
        sleeps in prop::collection::vec((0..u64::MAX, prop::bool::ANY), 0..20),
    ) {
        let mut p = HaltPolling::new(limit, khz);
        for (ticks, own) in sleeps {
            p.begin(0);
            p.slept(ticks, if own { PollEnd::Timer } else { PollEnd::Other });
            p.begin(7);
            prop_assert!(p.is_over(7 + u64::from(limit) * u64::from(khz) / 1_000_000));
        }
    }
}
