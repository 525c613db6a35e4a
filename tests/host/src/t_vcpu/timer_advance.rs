// SPDX-License-Identifier: GPL-2.0

//! How early a vCPU's timer fires.

use crate::arch::time::Ns;
use crate::vcpu::timer_advance::TimerAdvance;
use proptest::prelude::*;

/// Two ticks in a nanosecond.
const KHZ: u32 = 2_000_000;
/// 8 microseconds.
const MAX: u64 = 16_000;

/// The timer fires when it is set to for a deadline at `due`, and the entry comes `delay` ticks after that.
/// Returns by how much the guest is late.
fn fire(lead: &mut TimerAdvance, due: u64, delay: u64) -> u64 {
    let fired = lead.before(Ns(due / 2)).0 * 2;
    assert!(lead.meet(due, fired));
    let entry = fired + delay;
    lead.take_due(entry).map_or(entry, |until| until.max(entry)) - due
}

#[test]
fn it_comes_to_what_the_way_to_the_guest_takes() {
    let mut lead = TimerAdvance::new(KHZ);
    let late: Vec<u64> = (0..60).map(|_| fire(&mut lead, 1 << 40, 9_000)).collect();
    assert_eq!(late[0], 9_000, "nothing is known yet");
    assert!(late.is_sorted_by(|a, b| a >= b));
    assert!(late[50] <= 8, "{late:?}");
}

#[test]
fn it_falls_where_the_way_gets_shorter() {
    let mut lead = TimerAdvance::new(KHZ);
    for _ in 0..60 {
        fire(&mut lead, 1 << 40, 9_000);
    }
    for _ in 0..60 {
        assert_eq!(fire(&mut lead, 1 << 40, 2_000), 0, "the entry waits");
    }
    let before = lead.before(Ns(1 << 40)).0;
    assert!((1 << 40) - before <= 1_010);
}

#[test]
fn what_takes_longer_than_the_longest_lead_teaches_nothing() {
    let mut lead = TimerAdvance::new(KHZ);
    assert_eq!(fire(&mut lead, 1 << 40, MAX + 1), MAX + 1);
    assert_eq!(lead.before(Ns(1000)), Ns(1000));
}

#[test]
fn a_deadline_far_ahead_is_not_met() {
    let mut lead = TimerAdvance::new(KHZ);
    assert!(lead.meet(100_000, 100_000 - MAX));
    assert!(!lead.meet(100_000, 100_000 - MAX - 1), "the timer of an earlier deadline");
    assert_eq!(lead.take_due(99_999), None);
}

#[test]
fn no_entry_waits_by_another_processors_counter() {
    let mut lead = TimerAdvance::new(KHZ);
    assert!(lead.meet(100_000, 99_000));
    assert_eq!(lead.take_due(100_000 - MAX - 1), None);
}

#[test]
fn an_interrupt_is_waited_for_once() {
    let mut lead = TimerAdvance::new(KHZ);
    assert!(lead.meet(100_000, 99_000));
    assert_eq!(lead.take_due(99_500), Some(100_000));
    assert_eq!(lead.take_due(99_600), None);
}

proptest! {
    #[test]
    fn no_entry_waits_longer_than_the_longest_lead(
        khz in 0..10_000_000u32,
        steps in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..20),
    ) {
        let mut lead = TimerAdvance::new(khz);
        for (due, fired, entry) in steps {
            lead.meet(due, fired);
            if let Some(until) = lead.take_due(entry) {
                prop_assert!(until.wrapping_sub(entry) <= 8 * u64::from(khz) / 1000);
            }
            prop_assert!(Ns(u64::MAX - lead.before(Ns(u64::MAX)).0) <= Ns(8_000));
        }
    }
}
