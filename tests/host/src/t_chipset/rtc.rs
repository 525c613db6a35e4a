// SPDX-License-Identifier: GPL-2.0

//! The real-time clock, by the datasheet and by the sequences of Linux's rtc-cmos driver.

use super::ops::{any_stream, run, Subject};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::rtc::{Rtc, RtcSetup, PORTS};
use crate::chipset::saved::HasState;
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::PioDevice;
use core::ops::RangeInclusive;
use proptest::prelude::*;

const S: u64 = 1_000_000_000;
/// The guest's machine starts at this time of the host.
const START: Ns = Ns(5 * S);
/// 2024-02-28 23:59:58 UTC, a Wednesday.
const UNIX: u64 = 1_709_164_798;

/// A clock that shows `unix` seconds at START.
fn rtc_at(unix: u64) -> Rtc {
    Rtc::new(&RtcSetup { wall_offset_ns: (unix * S) as i64 - START.0 as i64, ..RtcSetup::default() }, START)
}

fn get(rtc: &mut Rtc, reg: u8, now: Ns) -> u8 {
    rtc.write(0, AccessWidth::B1, u32::from(reg), now);
    u8::try_from(rtc.read(1, AccessWidth::B1, now)).unwrap()
}

fn put(rtc: &mut Rtc, reg: u8, value: u8, now: Ns) {
    rtc.write(0, AccessWidth::B1, u32::from(reg), now);
    rtc.write(1, AccessWidth::B1, u32::from(value), now);
}

fn after(seconds: u64) -> Ns {
    START.after(seconds * S)
}

/// Century, year, month, day, weekday, hour, minute, second.
fn all(rtc: &mut Rtc, now: Ns) -> [u8; 8] {
    [0x32, 9, 8, 7, 6, 4, 2, 0].map(|reg| get(rtc, reg, now))
}

/// The writes of Linux's `mc146818_set_time()`.
fn linux_sets(rtc: &mut Rtc, [century, year, month, day, hour, minute, second]: [u8; 7], now: Ns) {
    let b = get(rtc, 0x0b, now);
    put(rtc, 0x0b, b | 0x80, now);
    let a = get(rtc, 0x0a, now);
    put(rtc, 0x0a, a & 0x7f | 0x70, now);
    for (reg, value) in
        [(9, year), (8, month), (7, day), (4, hour), (2, minute), (0, second), (0x32, century)]
    {
        put(rtc, reg, value, now);
    }
    put(rtc, 0x0b, b, now);
    put(rtc, 0x0a, a, now);
}

#[test]
fn the_time_is_the_hosts_and_knows_leap_years() {
    let rtc = &mut rtc_at(UNIX);

    assert_eq!(all(rtc, START), [0x20, 0x24, 0x02, 0x28, 0x04, 0x23, 0x59, 0x58]);
    assert_eq!(all(rtc, after(2)), [0x20, 0x24, 0x02, 0x29, 0x05, 0x00, 0x00, 0x00]);
    assert_eq!(all(rtc, after(2 + 86_400)), [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00]);
}

#[test]
fn the_offset_from_utc_moves_the_clock() {
    let config = RtcSetup {
        wall_offset_ns: (UNIX * S) as i64 - START.0 as i64,
        utc_offset_seconds: -3600,
        ..RtcSetup::default()
    };

    assert_eq!(get(&mut Rtc::new(&config, START), 4, START), 0x22);
}

#[test]
fn binary_and_twelve_hours_change_how_time_reads() {
    let rtc = &mut rtc_at(UNIX);
    put(rtc, 0x0b, 0x06, START);
    assert_eq!(all(rtc, START), [20, 24, 2, 28, 4, 23, 59, 58]);
    put(rtc, 0x0b, 0x04, START);
    assert_eq!(get(rtc, 4, START), 0x80 | 11);
    assert_eq!(get(rtc, 4, after(2)), 12, "midnight is twelve");
    put(rtc, 0x0b, 0x00, START);
    assert_eq!(get(rtc, 4, START), 0x80 | 0x11);
}

#[test]
fn linux_sets_the_time() {
    let rtc = &mut rtc_at(UNIX);

    linux_sets(rtc, [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59], after(100));

    assert_eq!(all(rtc, after(100))[..4], [0x19, 0x99, 0x12, 0x31]);
    let half = Ns(after(100).0 + S / 2);
    assert_eq!(get(rtc, 0, Ns(half.0 - 1)), 0x59);
    assert_eq!(
        all(rtc, half),
        [0x20, 0x00, 0x01, 0x01, 0x07, 0, 0, 0],
        "half a second after the divider starts"
    );
}

#[test]
fn the_clock_stands_still_while_it_is_set() {
    let rtc = &mut rtc_at(UNIX);
    put(rtc, 0x0b, 0x82, START);

    assert_eq!(get(rtc, 0, after(30)), 0x58);

    put(rtc, 0x0b, 0x02, after(30));
    assert_eq!(get(rtc, 0, after(31)), 0x59);
}

#[test]
fn update_in_progress_warns_before_the_second_changes() {
    let rtc = &mut rtc_at(UNIX);

    assert_eq!(get(rtc, 0x0a, START) & 0x80, 0);
    assert_eq!(get(rtc, 0x0a, Ns(START.0 + S - 245_000)) & 0x80, 0);
    assert_eq!(get(rtc, 0x0a, Ns(START.0 + S - 244_000)) & 0x80, 0x80);
    assert_eq!(get(rtc, 0x0a, after(1)) & 0x80, 0);
}

#[test]
fn the_update_interrupt_comes_each_second_and_goes_with_register_c() {
    let rtc = &mut rtc_at(UNIX);
    put(rtc, 0x0b, 0x12, START);
    assert_eq!(rtc.deadline(), Some(after(1)));

    rtc.tick(after(1));

    assert_eq!(rtc.irq(), High);
    assert_eq!(rtc.deadline(), None);
    assert_eq!(get(rtc, 0x0c, after(1)) & 0xb0, 0x90);
    assert_eq!(rtc.irq(), Low);
    assert_eq!(get(rtc, 0x0c, after(1)), 0);
    assert_eq!(rtc.deadline(), Some(after(2)));
}

#[test]
fn flags_rise_without_being_enabled() {
    let rtc = &mut rtc_at(UNIX);

    assert_eq!(get(rtc, 0x0c, after(3)) & 0x90, 0x10);
    assert_eq!(rtc.irq(), Low);
}

#[test]
fn an_alarm_rings_at_its_time_and_wakes_nobody_before() {
    let rtc = &mut rtc_at(UNIX);
    for (reg, value) in [(5, 0x00), (3, 0x05), (1, 0x30), (0x0b, 0x22)] {
        put(rtc, reg, value, START);
    }
    let ring = after(2 + 5 * 60 + 30);
    assert_eq!(rtc.deadline(), Some(ring));
    rtc.tick(Ns(ring.0 - 1));
    assert_eq!(rtc.irq(), Low);

    rtc.tick(ring);

    assert_eq!(rtc.irq(), High);
    assert_eq!(get(rtc, 0x0c, ring) & 0xa0, 0xa0);
    assert_eq!(rtc.deadline(), Some(after(2 + 5 * 60 + 30 + 86_400)), "tomorrow again");
}

#[test]
fn alarm_bytes_that_match_anything_ring_more_often() {
    let rtc = &mut rtc_at(UNIX);
    for (reg, value) in [(5, 0xff), (3, 0xff), (1, 0x00), (0x0b, 0x22)] {
        put(rtc, reg, value, START);
    }
    assert_eq!(rtc.deadline(), Some(after(2)));

    put(rtc, 1, 0xff, START);
    assert_eq!(rtc.deadline(), Some(after(1)));
}

#[test]
fn an_alarm_that_no_clock_shows_never_rings() {
    let rtc = &mut rtc_at(UNIX);
    for (reg, value) in [(5, 0x30), (3, 0x00), (1, 0x00), (0x0b, 0x22)] {
        put(rtc, reg, value, START);
    }

    assert_eq!(rtc.deadline(), None);
}

#[test]
fn the_periodic_interrupt_has_the_rate_of_register_a() {
    let rtc = &mut rtc_at(UNIX);
    put(rtc, 0x0a, 0x26, START);
    put(rtc, 0x0b, 0x42, START);
    let mut now = START;
    let mut n = 0;
    while let Some(at) = rtc.deadline().filter(|at| *at <= after(1)) {
        assert!(at > now);
        now = at;
        rtc.tick(now);
        assert_eq!(get(rtc, 0x0c, now) & 0xc0, 0xc0);
        n += 1;
    }
    assert_eq!(n, 1024);
}

#[test]
fn setting_the_clock_turns_the_update_interrupt_off() {
    let rtc = &mut rtc_at(UNIX);

    put(rtc, 0x0b, 0x92, START);

    assert_eq!(get(rtc, 0x0b, START), 0x82);
    assert_eq!(rtc.deadline(), None);
}

#[test]
fn the_memory_sizes_and_their_checksum_are_there() {
    let config = RtcSetup { ram_below_4g: 3 << 30, ram_above_4g: 5 << 30, ..RtcSetup::default() };
    let rtc = &mut Rtc::new(&config, START);
    let mut word = |low: u8| u16::from_le_bytes([get(rtc, low, START), get(rtc, low + 1, START)]);

    assert_eq!(word(0x15), 640);
    assert_eq!(word(0x17), 0xffff);
    assert_eq!(word(0x30), 0xffff);
    assert_eq!(u64::from(word(0x34)) << 16, (3 << 30) - (16 << 20));
    assert_eq!(u64::from(word(0x5b)) << 16 | u64::from(word(0x5d) & 0xff) << 32, 5 << 30);
    let sum: u16 = (0x10..=0x2d).map(|reg| u16::from(get(rtc, reg, START))).sum();
    assert_eq!([get(rtc, 0x2e, START), get(rtc, 0x2f, START)], sum.to_be_bytes());
    assert_eq!(get(rtc, 0x0d, START), 0x80, "the battery is good");
    assert_eq!(get(rtc, 0x0f, START), 0, "no shutdown code");
}

#[test]
fn a_small_machine_has_small_sizes() {
    let config = RtcSetup { ram_below_4g: 8 << 20, ..RtcSetup::default() };
    let rtc = &mut Rtc::new(&config, START);

    assert_eq!(u16::from_le_bytes([get(rtc, 0x17, START), get(rtc, 0x18, START)]), 7 * 1024);
    assert_eq!(get(rtc, 0x34, START), 0);
}

#[test]
fn the_index_port_masks_nmis_and_cannot_be_read() {
    let rtc = &mut rtc_at(UNIX);

    rtc.write(0, AccessWidth::B1, 0x8d, START);

    assert!(rtc.is_nmi_masked());
    assert_eq!(rtc.read(1, AccessWidth::B1, START), 0x80);
    assert_eq!(rtc.read(0, AccessWidth::B1, START), 0xff);
}

#[test]
fn reset_turns_interrupts_off_and_keeps_time_and_memory() {
    let rtc = &mut rtc_at(UNIX);
    put(rtc, 0x40, 0xa5, START);
    put(rtc, 0x0b, 0x72, START);
    rtc.tick(after(86_400));
    assert_eq!(rtc.irq(), High);

    rtc.reset(after(86_400));

    assert_eq!(rtc.irq(), Low);
    assert_eq!(rtc.deadline(), None);
    assert_eq!(get(rtc, 0x40, after(86_400)), 0xa5);
    assert_eq!(get(rtc, 7, after(86_400)), 0x29);
}

impl Subject for Rtc {
    fn ports() -> Vec<RangeInclusive<u16>> {
        PORTS.to_vec()
    }
    fn fresh() -> Rtc {
        rtc_at(UNIX)
    }
    fn tick(&mut self, now: Ns) {
        Rtc::tick(self, now);
    }
    fn deadline(&self) -> Option<Ns> {
        Rtc::deadline(self)
    }
    fn outside(&mut self, what: u8, value: u8, now: Ns) -> u64 {
        match what {
            0..=3 => self.reset(now),
            // Random indices rarely name a clock register.
            _ => self.write(0, AccessWidth::B1, u32::from(value % 14), now),
        }
        0
    }
    fn check(&self) {
        assert_eq!(Rtc::check(self), Ok(()));
        let state = self.save();
        let (b, c) = (state.ram[0x0b], state.ram[0x0c]);
        assert_eq!(self.irq().is_high(), b & c & 0x70 != 0);
        assert_eq!(c & 0x8f, 0);
        assert_eq!(state.ram[0x0a] & 0x80, 0, "UIP is not kept");
        if b & 0x80 != 0 {
            assert_eq!(b & 0x10, 0, "SET clears UIE");
        }
    }
}

fn is_leap(year: u64) -> bool {
    year % 4 == 0 && year % 100 != 0 || year % 400 == 0
}

#[test]
fn every_century_can_be_set() {
    for (century, year) in [(0x00, 0x00), (0x00, 0x01), (0x16, 0x78), (0x23, 0x50), (0x99, 0x99)] {
        let rtc = &mut rtc_at(UNIX);
        put(rtc, 0x0b, 0x12, START);

        linux_sets(rtc, [century, year, 0x01, 0x02, 0x03, 0x04, 0x05], START);

        assert_eq!(all(rtc, START)[..4], [century, year, 0x01, 0x02]);
        assert_eq!(rtc.deadline(), Some(Ns(START.0 + S / 2)), "and the clock goes on");
    }
}

proptest! {
    #[test]
    fn any_stream_keeps_the_rules_of_the_clock(bytes in any_stream()) {
        run::<Rtc>(&bytes);
    }

    /// The date is that of counting days one by one.
    #[test]
    fn the_date_is_right(unix in 0u64..6_000_000_000) {
        let rtc = &mut rtc_at(unix);
        put(rtc, 0x0b, 0x06, START);
        let [century, year, month, day, weekday, ..] = all(rtc, START).map(u64::from);
        let year = century * 100 + year;
        let mut days: u64 = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum();
        let months = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        days += months[..(month - 1) as usize].iter().sum::<u64>() + day - 1;
        prop_assert_eq!(days, unix / 86_400);
        prop_assert_eq!(weekday, (days + 4) % 7 + 1);
    }

    /// What is set is what is read, in every format.
    #[test]
    fn a_time_that_is_set_reads_back(unix in 0u64..6_000_000_000, b in 0u8..4) {
        let rtc = &mut rtc_at(unix);
        put(rtc, 0x0b, b << 1, START);
        let shown = all(rtc, START);
        let other = &mut rtc_at(0);
        put(other, 0x0b, 0x80 | b << 1, START);
        for (reg, value) in [0x32, 9, 8, 7, 6, 4, 2, 0].into_iter().zip(shown) {
            put(other, reg, value, START);
        }
        put(other, 0x0b, b << 1, START);
        prop_assert_eq!(all(other, START), shown);
    }

    /// The alarm's deadline is the first second that a search second by second finds.
    #[test]
    fn the_alarm_is_the_first_match(
        unix in 0u64..4_000_000_000,
        h in prop_oneof![0u8..24, Just(0xff)], m in prop_oneof![0u8..60, Just(0xff)], s in prop_oneof![0u8..60, Just(0xff)],
    ) {
        let rtc = &mut rtc_at(unix);
        put(rtc, 0x0b, 0x06, START);
        for (reg, value) in [(5, h), (3, m), (1, s)] {
            put(rtc, reg, value, START);
        }
        put(rtc, 0x0b, 0x26, START);
        let hit = |t: u64| {
            let any = |field: u8, value: u64| field == 0xff || u64::from(field) == value;
            any(h, t / 3600 % 24) && any(m, t / 60 % 60) && any(s, t % 60)
        };
        let wait = (1..=86_400).find(|w| hit(unix + w)).unwrap();
        prop_assert_eq!(rtc.deadline(), Some(after(wait)));
    }
}

#[test]
fn what_the_guest_set_its_clock_to_can_be_given_to_another_clock() {
    let wall = 1_700_000_000 * S as i64 - START.0 as i64 + 700_000_000;
    let config = RtcSetup { wall_offset_ns: wall, utc_offset_seconds: -3600, ..RtcSetup::default() };
    let rtc = Rtc::new(&config, START);

    assert_eq!(rtc.utc_offset_seconds(wall), -3600);
    assert_eq!(rtc.utc_offset_seconds(wall + 400_000_000), -3600, "to the nearest second");
    assert_eq!(rtc.utc_offset_seconds(wall + 600_000_000), -3601);
    assert_eq!(rtc.utc_offset_seconds(wall - 600_000_000), -3599);
    assert_eq!(rtc.utc_offset_seconds(wall - 5 * S as i64), -3595);
}
