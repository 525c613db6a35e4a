// SPDX-License-Identifier: GPL-2.0

//! The local APIC's timer.

use super::*;
use crate::chipset::lapic::save::IdFormat;
use crate::chipset::lapic::timer::MIN_PERIOD_NS;
use crate::chipset::lapic::BusPeriod;

const ONE_SHOT: u32 = 0xec;
const PERIODIC: u32 = 0x2_00ec;
const TSC_DEADLINE: u32 = 0x4_00ec;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0xb;
const DIVIDE_BY_16: u32 = 3;

fn timer(lvt: u32, divide: u32) -> Lapic {
    let mut apic = xapic_after_linux_init();
    set(&mut apic, reg::LVT_TIMER, lvt);
    set(&mut apic, reg::TIMER_DIVIDE, divide);
    apic
}

fn start(apic: &mut Lapic, count: u32, ns: u64) {
    assert_eq!(apic.write(reg::TIMER_INITIAL, count, &at(ns)), LapicEffect::TimerChanged);
}

fn current(apic: &mut Lapic, ns: u64) -> u32 {
    apic.read(reg::TIMER_CURRENT, Ns(ns))
}

#[test]
fn one_shot_counts_down_fires_once_and_stops() {
    let mut apic = timer(ONE_SHOT, DIVIDE_BY_16);
    start(&mut apic, 1000, 500);

    assert_eq!(apic.deadline(), Some(Ns(500 + 16_000)));
    assert_eq!(current(&mut apic, 500), 1000);
    assert_eq!(current(&mut apic, 500 + 16 * 400), 600);
    assert!(!apic.tick(Ns(16_499)));
    assert_eq!(apic.pending(), None);

    assert!(apic.tick(Ns(16_500)));
    assert_eq!(deliver(&mut apic), Some(0xec));
    assert_eq!((apic.deadline(), current(&mut apic, 20_000)), (None, 0));
    assert!(!apic.tick(Ns(1_000_000)));
}

#[test]
fn every_divisor_divides() {
    for (code, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut apic = timer(ONE_SHOT, code);
        start(&mut apic, 1000, 0);
        assert_eq!(apic.deadline(), Some(Ns(1000 * divisor)), "code {code}");
    }
}

/// Linux calibrates so: it lets the timer run masked and compares the count with another clock.
#[test]
fn a_masked_timer_counts_without_asking_for_a_call() {
    let mut apic = timer(ONE_SHOT | MASKED, DIVIDE_BY_16);
    start(&mut apic, 0xffff_ffff, 0);

    assert_eq!(apic.deadline(), None);
    assert_eq!(current(&mut apic, 100_000_000), 0xffff_ffff - 6_250_000);
}

#[test]
fn an_expiry_while_masked_is_lost() {
    let mut apic = timer(ONE_SHOT | MASKED, DIVIDE_BY_1);
    start(&mut apic, 1000, 0);

    assert_eq!(apic.write(reg::LVT_TIMER, ONE_SHOT, &at(2000)), LapicEffect::TimerChanged);

    assert_eq!((apic.deadline(), apic.pending()), (None, None));
}

#[test]
fn unmasking_a_running_timer_brings_its_deadline_back() {
    let mut apic = timer(ONE_SHOT | MASKED, DIVIDE_BY_1);
    start(&mut apic, 1000, 0);

    let _ = apic.write(reg::LVT_TIMER, ONE_SHOT, &at(400));

    assert_eq!(apic.deadline(), Some(Ns(1000)));
}

#[test]
fn periodic_reloads_from_its_deadline_without_drift() {
    let mut apic = timer(PERIODIC, DIVIDE_BY_1);
    start(&mut apic, 1_000_000, 0);

    for n in 1..10u64 {
        assert_eq!(apic.deadline(), Some(Ns(n * 1_000_000)));
        assert!(apic.tick(Ns(n * 1_000_000 + 321)));
        assert_eq!(deliver(&mut apic), Some(0xec));
        apic.eoi();
    }
}

#[test]
fn missed_periods_give_one_interrupt() {
    let mut apic = timer(PERIODIC, DIVIDE_BY_1);
    start(&mut apic, 1_000_000, 0);

    assert_eq!(current(&mut apic, 5_250_000), 750_000);
    assert!(apic.tick(Ns(5_250_000)));
    assert!(!apic.tick(Ns(5_250_000)));

    assert_eq!(apic.deadline(), Some(Ns(6_000_000)));
}

#[test]
fn a_tiny_period_is_stretched() {
    let mut apic = timer(PERIODIC, DIVIDE_BY_1);

    start(&mut apic, 1, 0);

    assert_eq!(apic.deadline(), Some(Ns(MIN_PERIOD_NS)));
    assert_eq!(current(&mut apic, 10), 1);
}

#[test]
fn writing_zero_stops() {
    let mut apic = timer(PERIODIC, DIVIDE_BY_1);
    start(&mut apic, 1_000_000, 0);

    start(&mut apic, 0, 10);

    assert_eq!((apic.deadline(), current(&mut apic, 10)), (None, 0));
}

#[test]
fn changing_the_divisor_keeps_the_count() {
    let mut apic = timer(ONE_SHOT, DIVIDE_BY_1);
    start(&mut apic, 1000, 0);

    let _ = apic.write(reg::TIMER_DIVIDE, DIVIDE_BY_16, &at(400));

    assert_eq!(current(&mut apic, 400), 600);
    assert_eq!(apic.deadline(), Some(Ns(400 + 600 * 16)));
}

#[test]
fn tsc_deadline_fires_when_the_counter_gets_there_and_reads_zero_then() {
    let mut apic = timer(TSC_DEADLINE, DIVIDE_BY_1);

    assert_eq!(apic.set_tsc_deadline(10_000, &at(1000)), LapicEffect::TimerChanged);

    assert_eq!(apic.tsc_deadline(Ns(1000)), 10_000);
    assert_eq!(apic.deadline(), Some(Ns(5001)), "never before the counter is there");
    assert!(!apic.tick(Ns(5000)));
    assert!(apic.tick(Ns(5001)));
    assert_eq!((apic.tsc_deadline(Ns(5001)), apic.deadline(), apic.pending()), (0, None, Some(0xec)));
}

#[test]
fn a_tsc_deadline_in_the_past_fires_at_once_and_zero_disarms() {
    let mut apic = timer(TSC_DEADLINE, DIVIDE_BY_1);

    let _ = apic.set_tsc_deadline(1, &at(1000));
    assert_eq!((deliver(&mut apic), apic.deadline()), (Some(0xec), None));
    apic.eoi();

    let _ = apic.set_tsc_deadline(9999, &at(1000));
    let _ = apic.set_tsc_deadline(0, &at(1000));
    assert_eq!((apic.deadline(), apic.pending()), (None, None));
}

#[test]
fn tsc_deadline_and_counts_belong_to_their_own_mode() {
    let mut apic = timer(ONE_SHOT, DIVIDE_BY_1);
    let _ = apic.set_tsc_deadline(10_000, &at(0));
    assert_eq!((apic.tsc_deadline(Ns(0)), apic.deadline()), (0, None));

    start(&mut apic, 1000, 0);
    let _ = apic.write(reg::LVT_TIMER, TSC_DEADLINE, &at(0));
    assert_eq!(apic.deadline(), None, "the change of mode disarms");
    start(&mut apic, 1000, 0);
    assert_eq!((apic.deadline(), current(&mut apic, 0)), (None, 0));
}

#[test]
fn a_tsc_deadline_follows_when_the_counter_is_set() {
    let mut apic = timer(TSC_DEADLINE, DIVIDE_BY_1);
    let _ = apic.set_tsc_deadline(10_000, &at(0));

    apic.tsc_changed(&TimerClock { tsc: 8000, ..at(100) });

    assert_eq!(apic.deadline(), Some(Ns(100 + 1000 + 1)));
}

#[test]
fn the_farthest_deadlines_do_not_overflow() {
    let mut apic = timer(TSC_DEADLINE, DIVIDE_BY_1);
    let _ = apic.set_tsc_deadline(u64::MAX, &TimerClock { tsc: 0, ..at(u64::MAX - 5) });
    assert_eq!(apic.deadline(), Some(Ns(u64::MAX)));

    let mut apic = timer(PERIODIC, 10);
    start(&mut apic, u32::MAX, u64::MAX - 5);
    assert!(apic.tick(Ns(u64::MAX)));
}

#[test]
fn the_timer_runs_on_across_save_and_restore() {
    let mut apic = timer(PERIODIC, DIVIDE_BY_16);
    start(&mut apic, 100_000, 0);
    let page = apic.regs(IdFormat::Xapic, Ns(16_000));

    let mut other = Lapic::new(0, true);
    assert!(other.set_regs(&page, IdFormat::Xapic, Ns(7_000_000)).is_ok());

    assert_eq!(other.deadline(), Some(Ns(7_000_000 + 99_000 * 16)));
    assert!(other.tick(Ns(7_000_000 + 99_000 * 16)));
    assert_eq!(other.deadline(), Some(Ns(7_000_000 + 199_000 * 16)));
}

#[test]
fn another_input_clock_stretches_the_counts() {
    assert_eq!(BusPeriod::new(0), None);
    assert_eq!(
        BusPeriod::new(u64::MAX / (128 * u64::from(u32::MAX)) + 1),
        None,
        "the longest count would not fit"
    );
    let mut apic = xapic_after_linux_init().with_bus_period(BusPeriod::new(40).unwrap());
    for _ in 0..2 {
        set(&mut apic, reg::SVR, 0x1ff);
        set(&mut apic, reg::LVT_TIMER, ONE_SHOT);
        set(&mut apic, reg::TIMER_DIVIDE, DIVIDE_BY_16);

        start(&mut apic, 1000, 500);

        assert_eq!(apic.deadline(), Some(Ns(500 + 640_000)));
        assert_eq!(current(&mut apic, 500 + 640 * 400), 600);
        assert_eq!(current(&mut apic, 499 + 640 * 400), 601, "rounded up");
        // A reset leaves the clock as it is.
        apic.reset(true);
    }
}
