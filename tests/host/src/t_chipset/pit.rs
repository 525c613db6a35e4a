// SPDX-License-Identifier: GPL-2.0

//! The interval timer, by the datasheet's wave forms and by what Linux does with it.

use super::ops::{any_stream, run, Subject};
use crate::abi::vm::PitChannelState;
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::pit::{Pit, PitClock, SavedPitChannel, FIRST_PORT, PORTS};
use crate::chipset::saved::HasState;
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::PioDevice;
use core::ops::RangeInclusive;
use proptest::prelude::*;

/// The time of a tick, counted from a start that is not the clock's.
fn at(tick: u64) -> Ns {
    Ns(PitClock::ns(1_000_000 + tick))
}

fn out(pit: &mut Pit, port: u16, value: u8, tick: u64) {
    pit.write(port - FIRST_PORT, AccessWidth::B1, u32::from(value), at(tick));
}

fn inb(pit: &mut Pit, port: u16, tick: u64) -> u8 {
    u8::try_from(pit.read(port - FIRST_PORT, AccessWidth::B1, at(tick))).unwrap()
}

fn word(pit: &mut Pit, port: u16, tick: u64) -> u16 {
    u16::from_le_bytes([inb(pit, port, tick), inb(pit, port, tick)])
}

/// Programs a channel with control word and count at tick 0.
fn pit_with(control: u8, count: u16) -> Pit {
    let mut pit = Pit::new();
    let port = 0x40 + u16::from(control >> 6);
    out(&mut pit, 0x43, control, 0);
    for byte in count.to_le_bytes() {
        out(&mut pit, port, byte, 0);
    }
    pit
}

/// The levels of a channel's output at ticks 0 to `n`, as a picture.
fn wave(pit: &mut Pit, channel: usize, n: u64) -> String {
    (0..n).map(|t| if pit.output(channel, at(t)).is_high() { '-' } else { '_' }).collect()
}

fn pulses(pit: &mut Pit, tick: u64) -> u32 {
    pit.tick(at(tick));
    let mut n = 0;
    while pit.take_pulse() {
        n += 1;
        pit.ack();
    }
    n
}

#[test]
fn mode_0_rises_at_terminal_count_and_stays() {
    assert_eq!(wave(&mut pit_with(0x30, 4), 0, 10), "____------");
}

#[test]
fn mode_2_is_low_for_the_last_tick_of_each_period() {
    assert_eq!(wave(&mut pit_with(0x34, 4), 0, 12), "---_---_---_");
}

#[test]
fn mode_3_is_square_and_an_odd_count_is_longer_high() {
    assert_eq!(wave(&mut pit_with(0x36, 4), 0, 12), "--__--__--__");
    assert_eq!(wave(&mut pit_with(0x36, 5), 0, 15), "---__---__---__");
}

#[test]
fn mode_4_strobes_once() {
    assert_eq!(wave(&mut pit_with(0x38, 4), 0, 10), "----_-----");
}

#[test]
fn mode_1_waits_for_the_gate_and_can_be_triggered_again() {
    let mut pit = pit_with(0xb2, 4);
    assert_eq!(wave(&mut pit, 2, 3), "---");

    out(&mut pit, 0x61, 1, 10);

    let low = |pit: &mut Pit, ticks: RangeInclusive<u64>| {
        ticks.map(|t| pit.output(2, at(t)).is_high()).collect::<Vec<_>>()
    };
    assert_eq!(low(&mut pit, 10..=15), [false, false, false, false, true, true]);
    out(&mut pit, 0x61, 0, 16);
    out(&mut pit, 0x61, 1, 20);
    assert_eq!(low(&mut pit, 20..=21), [false, false]);
    out(&mut pit, 0x61, 0, 22);
    out(&mut pit, 0x61, 1, 23);
    assert_eq!(
        low(&mut pit, 23..=27),
        [false, false, false, false, true],
        "four ticks from the second trigger"
    );
}

#[test]
fn mode_5_strobes_after_the_gate() {
    let mut pit = pit_with(0xba, 3);

    out(&mut pit, 0x61, 1, 10);

    let picture: String = (10..16).map(|t| if pit.output(2, at(t)).is_high() { '-' } else { '_' }).collect();
    assert_eq!(picture, "---_--");
}

#[test]
fn the_gate_holds_a_count_of_mode_0() {
    let mut pit = pit_with(0xb0, 10);
    out(&mut pit, 0x61, 1, 0);
    out(&mut pit, 0x61, 0, 4);
    assert_eq!(word(&mut pit, 0x42, 100), 6);

    out(&mut pit, 0x61, 1, 100);

    assert_eq!(word(&mut pit, 0x42, 103), 3);
    assert_eq!(pit.output(2, at(105)), Low);
    assert_eq!(pit.output(2, at(106)), High);
}

#[test]
fn the_gate_restarts_a_rate() {
    let mut pit = pit_with(0xb4, 10);
    out(&mut pit, 0x61, 1, 0);
    out(&mut pit, 0x61, 0, 9);
    assert_eq!(pit.output(2, at(9)), High, "a low gate sets the output");

    out(&mut pit, 0x61, 1, 50);

    assert_eq!(word(&mut pit, 0x42, 50), 10);
}

#[test]
fn a_counter_that_passed_its_end_wraps() {
    let mut pit = pit_with(0x30, 4);

    assert_eq!(word(&mut pit, 0x40, 4), 0);
    assert_eq!(word(&mut pit, 0x40, 5), 0xffff);
}

#[test]
fn a_count_of_zero_is_the_largest() {
    let mut pit = pit_with(0x34, 0);

    assert_eq!(pulses(&mut pit, 65_535), 0);
    assert_eq!(pulses(&mut pit, 65_536), 1);
}

#[test]
fn a_count_in_mode_3_runs_down_by_two_in_each_half() {
    let mut pit = pit_with(0x36, 6);
    let read: Vec<u16> = (0..7).map(|t| word(&mut pit, 0x40, t)).collect();
    assert_eq!(read, [6, 4, 2, 6, 4, 2, 6]);

    let mut pit = pit_with(0x36, 5);
    let read: Vec<u16> = (0..6).map(|t| word(&mut pit, 0x40, t)).collect();
    assert_eq!(read, [4, 2, 0, 4, 2, 4]);
}

#[test]
fn bcd_counts_in_decimal() {
    let mut pit = pit_with(0x31, 0x1000);

    assert_eq!(word(&mut pit, 0x40, 1), 0x0999);
    assert_eq!(word(&mut pit, 0x40, 1000), 0x0000);
    assert_eq!(word(&mut pit, 0x40, 1001), 0x9999);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut pit = pit_with(0x34, 1000);
    out(&mut pit, 0x43, 0x00, 100);
    out(&mut pit, 0x43, 0x00, 200);

    assert_eq!(word(&mut pit, 0x40, 300), 900, "the second latch was ignored");
    assert_eq!(word(&mut pit, 0x40, 300), 700);
}

#[test]
fn single_byte_access_reads_and_writes_its_byte() {
    let mut pit = Pit::new();
    out(&mut pit, 0x43, 0x10, 0);
    out(&mut pit, 0x40, 0x20, 0);
    assert_eq!(inb(&mut pit, 0x40, 1), 0x1f);

    out(&mut pit, 0x43, 0x20, 10);
    out(&mut pit, 0x40, 0x20, 10);
    assert_eq!(inb(&mut pit, 0x40, 11), 0x1f, "of 0x1fff");
}

#[test]
fn read_back_latches_status_before_count() {
    let mut pit = pit_with(0x34, 1000);
    out(&mut pit, 0x43, 0xc2, 10);

    assert_eq!(inb(&mut pit, 0x40, 500), 0x80 | 0x34);
    assert_eq!(word(&mut pit, 0x40, 500), 990);
}

#[test]
fn status_shows_a_count_that_is_not_loaded_yet() {
    let mut pit = Pit::new();
    out(&mut pit, 0x43, 0x34, 0);
    out(&mut pit, 0x43, 0xe2, 0);
    assert_eq!(inb(&mut pit, 0x40, 0), 0xc0 | 0x34);

    out(&mut pit, 0x40, 100, 0);
    out(&mut pit, 0x40, 0, 0);

    out(&mut pit, 0x43, 0xe2, 1);
    assert_eq!(inb(&mut pit, 0x40, 1), 0x80 | 0x34);
}

#[test]
fn a_new_count_of_a_rate_waits_for_the_end_of_the_period() {
    let mut pit = pit_with(0x34, 100);
    for byte in [10, 0] {
        out(&mut pit, 0x40, byte, 150);
    }

    out(&mut pit, 0x43, 0xe2, 199);
    assert_eq!(inb(&mut pit, 0x40, 199), 0x40 | 0x34, "null count, and the last tick's low output");
    assert_eq!(pulses(&mut pit, 199), 1);
    assert_eq!(pulses(&mut pit, 200), 1);
    out(&mut pit, 0x43, 0xe2, 200);
    assert_eq!(inb(&mut pit, 0x40, 200), 0x80 | 0x34);
    assert_eq!(pulses(&mut pit, 209), 0);
    assert_eq!(pulses(&mut pit, 230), 3);
}

#[test]
fn linux_periodic_tick_gives_one_pulse_a_period() {
    // 250 Hz as the clockevent sets it: mode 2, 4773 ticks.
    let mut pit = pit_with(0x34, 4773);

    assert_eq!(pit.deadline(), Some(at(4773)));
    assert_eq!(pulses(&mut pit, 4772), 0);
    assert_eq!(pulses(&mut pit, 4773), 1);
    assert_eq!(pit.deadline(), Some(at(2 * 4773)));
    assert_eq!(pulses(&mut pit, 10 * 4773), 9, "all that were missed");
}

#[test]
fn linux_shutdown_of_the_timer_makes_at_most_one_pulse() {
    // pit_shutdown() writes mode 0 and a count of 0.
    let mut pit = pit_with(0x30, 0);

    assert_eq!(pulses(&mut pit, 1 << 30), 1);
    assert_eq!(pit.deadline(), None);
}

#[test]
fn linux_one_shot_fires_once_for_each_count() {
    let mut pit = pit_with(0x38, 1000);
    assert_eq!(pulses(&mut pit, 5000), 1);

    for byte in [100, 0] {
        out(&mut pit, 0x40, byte, 6000);
    }

    assert_eq!(pit.deadline(), Some(at(6101)));
    assert_eq!(pulses(&mut pit, 6100), 0);
    assert_eq!(pulses(&mut pit, 6101), 1);
}

#[test]
fn linux_calibrates_the_tsc_with_channel_2() {
    // pit_calibrate_tsc(): gate on, speaker off, mode 0, then wait for bit 5 of port 0x61.
    let mut pit = Pit::new();
    let old = inb(&mut pit, 0x61, 0);
    out(&mut pit, 0x61, old & !2 | 1, 0);
    out(&mut pit, 0x43, 0xb0, 0);
    out(&mut pit, 0x42, 0x9b, 0);
    out(&mut pit, 0x42, 0x2e, 0);

    assert_eq!(inb(&mut pit, 0x61, 0x2e9a) & 0x21, 0x01);
    assert_eq!(inb(&mut pit, 0x61, 0x2e9b) & 0x21, 0x21);
}

#[test]
fn linux_quick_calibration_sees_the_high_byte_run_down() {
    let mut pit = Pit::new();
    out(&mut pit, 0x61, 1, 0);
    for (port, value) in [(0x43, 0xb0), (0x42, 0xff), (0x42, 0xff)] {
        out(&mut pit, port, value, 0);
    }

    assert_eq!(word(&mut pit, 0x42, 1) >> 8, 0xff);
    assert_eq!(word(&mut pit, 0x42, 256) >> 8, 0xfe);
    assert_eq!(word(&mut pit, 0x42, 512) >> 8, 0xfd);
}

#[test]
fn reinjection_hands_out_the_next_pulse_after_the_acknowledge() {
    let mut pit = pit_with(0x34, 1000);
    pit.tick(at(3000));
    assert_eq!(pit.pending(), 3);

    assert!(pit.take_pulse());
    assert!(!pit.take_pulse(), "the first was not acknowledged");
    assert!(pit.deadline().unwrap() > at(5000), "nothing can be handed out, so the next periods wake nobody");
    pit.ack();
    assert!(pit.take_pulse());
    pit.ack();
    assert!(pit.take_pulse());
    pit.ack();
    assert!(!pit.take_pulse());
}

#[test]
fn an_acknowledge_that_never_comes_is_given_up_after_a_while() {
    let mut pit = pit_with(0x34, 1000);
    pit.tick(at(1000));
    assert!(pit.take_pulse());
    let give_up = pit.deadline().unwrap();
    assert_eq!(give_up, at(1000 + 11_932));
    pit.tick(Ns(give_up.0 - 1));
    assert!(!pit.take_pulse());

    pit.tick(give_up);

    assert!(pit.take_pulse());
}

#[test]
fn a_one_shot_behind_a_missing_acknowledge_is_not_forgotten() {
    let mut pit = pit_with(0x38, 1000);
    pit.tick(at(1001));
    assert!(pit.take_pulse());
    for byte in [100, 0] {
        out(&mut pit, 0x40, byte, 2000);
    }
    pit.tick(at(2101));
    assert!(!pit.take_pulse());

    let give_up = pit.deadline().unwrap();
    pit.tick(give_up);

    assert!(pit.take_pulse());
    assert_eq!(pit.pending(), 0);
}

#[test]
fn without_reinjection_missed_pulses_are_one() {
    let mut pit = pit_with(0x34, 1000);
    pit.set_reinject(false);
    pit.tick(at(3000));

    assert!(pit.take_pulse());
    assert!(!pit.take_pulse());
    pit.tick(at(4000));
    assert!(pit.take_pulse(), "no acknowledge is waited for");
}

#[test]
fn unmasking_forgets_what_was_missed() {
    let mut pit = pit_with(0x34, 1000);
    pit.tick(at(100_000));

    pit.forget_missed();

    assert_eq!(pit.pending(), 0);
    assert!(!pit.take_pulse());
}

#[test]
fn a_tiny_period_does_not_flood_the_host() {
    let mut pit = pit_with(0x34, 2);
    pit.set_reinject(false);
    let mut wakeups = 0;
    while let Some(deadline) = pit.deadline().filter(|d| *d <= at(1_193_182)) {
        pit.tick(deadline);
        assert!(pit.take_pulse());
        wakeups += 1;
    }
    assert!((1000..=5000).contains(&wakeups), "{wakeups} in a second");
}

#[test]
fn no_tick_is_lost_in_a_day_of_deadlines() {
    let mut pit = pit_with(0x34, 0);
    let mut n = 0u64;
    while let Some(deadline) = pit.deadline().filter(|d| *d <= at(1_193_182 * 3600)) {
        pit.tick(deadline);
        assert!(pit.take_pulse(), "a deadline is never early");
        pit.ack();
        n += 1;
    }
    assert_eq!(n, 1_193_182 * 3600 / 65_536);
}

#[test]
fn the_refresh_bit_toggles() {
    let mut pit = Pit::new();
    let seen: Vec<u8> = (0..100).map(|n| inb(&mut pit, 0x61, n) & 0x10).collect();

    assert!(seen.contains(&0) && seen.contains(&0x10));
}

#[test]
fn the_control_word_cannot_be_read_and_words_are_not_decoded() {
    let mut pit = pit_with(0x34, 1000);

    assert_eq!(inb(&mut pit, 0x43, 5), 0xff);
    assert_eq!(pit.read(0, AccessWidth::B2, at(5)), 0xffff);
}

#[test]
fn reset_stops_all_and_keeps_the_policy() {
    let mut pit = pit_with(0x34, 1000);
    pit.set_reinject(false);

    pit.reset();

    assert_eq!(pit.deadline(), None);
    assert_eq!(pulses(&mut pit, 1 << 20), 0);
    assert!(!pit.reinjects());
}

#[test]
fn a_periodic_channel_goes_through_kvms_structure() {
    let mut pit = pit_with(0x34, 4773);
    out(&mut pit, 0x43, 0, 100);
    inb(&mut pit, 0x40, 100);
    let state = pit.save();

    let kvm = state.channels[0].to_kvm(at(200));
    let back = SavedPitChannel::from_kvm(&kvm, at(200));

    assert_eq!((kvm.count, kvm.mode, kvm.rw_mode, kvm.gate), (4773, 2, 3, 1));
    assert_eq!((kvm.count_latched, kvm.latched_count), (4, 4673), "its low byte was read");
    assert_eq!(kvm.count_load_time, at(0).0 as i64);
    assert_eq!(back, state.channels[0]);
}

#[test]
fn a_channel_without_a_control_word_goes_through_kvms_structure() {
    let state = Pit::new().save();

    let kvm = state.channels.map(|c| c.to_kvm(at(200)));

    assert_eq!(
        kvm.map(|c| (c.count, c.mode, c.gate)),
        [(0x1_0000, 0xff, 1), (0x1_0000, 0xff, 1), (0x1_0000, 0xff, 0)]
    );
    assert_eq!(kvm.map(|c| SavedPitChannel::from_kvm(&c, at(200))), state.channels);
}

#[test]
fn counters_set_from_outside_make_no_pulses_of_the_past() {
    let mut pit = Pit::new();
    let raw =
        PitChannelState { count: 0, mode: 2, rw_mode: 3, gate: 1, ..pit.save().channels[0].to_kvm(at(0)) };
    let [_, one, two] = pit.save().channels;

    // The time of loading, 0, is long ago.
    pit.set_channels([SavedPitChannel::from_kvm(&raw, at(10_000_000)), one, two], None, at(10_000_000));

    assert_eq!(pulses(&mut pit, 10_000_000), 0);
    assert_eq!(pulses(&mut pit, 10_000_000 + 0x1_0000), 1, "0 stands for 65536");
}

#[test]
fn a_held_channel_goes_through_kvms_structure() {
    let mut pit = pit_with(0xb0, 100);
    out(&mut pit, 0x61, 1, 0);
    out(&mut pit, 0x61, 0, 40);
    let mut state = pit.save();

    state.channels[2] = SavedPitChannel::from_kvm(&state.channels[2].to_kvm(at(500)), at(500));
    pit.set_state(&state);

    assert_eq!(word(&mut pit, 0x42, 600), 60);
}

impl Subject for Pit {
    fn ports() -> Vec<RangeInclusive<u16>> {
        PORTS.to_vec()
    }
    fn fresh() -> Pit {
        Pit::new()
    }
    fn tick(&mut self, now: Ns) {
        Pit::tick(self, now);
    }
    fn deadline(&self) -> Option<Ns> {
        Pit::deadline(self)
    }
    fn outside(&mut self, what: u8, value: u8, now: Ns) -> u64 {
        match what & 7 {
            0 | 1 => return u64::from(self.take_pulse()),
            2 | 3 => self.ack(),
            4 => self.set_reinject(value & 1 != 0),
            5 => self.forget_missed(),
            6 => return u64::from(self.output(usize::from(value & 3), now).is_high()),
            _ => self.reset(),
        }
        0
    }
    fn check(&self) {
        assert_eq!(Pit::check(self), Ok(()));
        let state = self.save();
        for channel in state.channels {
            assert!((1..=0x1_0000).contains(&channel.count), "{channel:?}");
            assert!(channel.written <= 0x1_0000);
            assert!((1..=3).contains(&channel.rw_mode) && channel.mode < 6);
        }
        assert!(state.channels[0].gate & state.channels[1].gate != 0, "tied high");
    }
}

proptest! {
    #[test]
    fn any_stream_keeps_the_rules_of_the_chip(bytes in any_stream()) {
        run::<Pit>(&bytes);
    }

    /// However often one looks, a periodic channel makes one pulse a period.
    #[test]
    fn pulses_do_not_depend_on_when_one_looks(
        count in 1u16..2000,
        mode in prop_oneof![Just(0x34u8), Just(0x36)],
        steps in proptest::collection::vec(0u64..3000, 1..60),
    ) {
        let mut pit = pit_with(mode, count);
        let (mut tick, mut seen) = (0, 0);
        for step in steps {
            tick += step;
            seen += u64::from(pulses(&mut pit, tick));
        }
        prop_assert_eq!(seen, tick / u64::from(count));
    }

    /// A timer that is read and written quietly where it can be shows the same, and pulses the same, as one
    /// that is not.
    #[test]
    fn quiet_accesses_change_nothing_that_shows(
        steps in proptest::collection::vec((0u64..2000, 0u8..8, any::<u8>()), 1..120),
    ) {
        let (mut plain, mut quiet) = (pit_with(0x34, 700), pit_with(0x34, 700));
        let mut tick = 0;
        for (gone, what, value) in steps {
            tick += gone;
            let now = at(tick);
            let port = [0x40, 0x41, 0x42, 0x61, 0x43, 0x61, 0x42, 0x40][usize::from(what)];
            let offset = port - FIRST_PORT;
            if what < 4 {
                let expected = inb(&mut plain, port, tick);
                let got = quiet.read_quietly(offset, || now).unwrap_or_else(|| inb(&mut quiet, port, tick));
                prop_assert_eq!(got, expected, "port {:#x} at {}", port, tick);
            } else {
                // Reading back and programming are left out one time in two, for latching to be common.
                let value = if what == 4 && value & 1 != 0 { value & 0xcf } else { value };
                out(&mut plain, port, value, tick);
                if !quiet.write_quietly(offset, value, || now) {
                    out(&mut quiet, port, value, tick);
                }
            }
            if value & 3 == 0 {
                prop_assert_eq!(pulses(&mut quiet, tick), pulses(&mut plain, tick), "at {}", tick);
                prop_assert_eq!(quiet.deadline(), plain.deadline());
            }
        }
        prop_assert_eq!(pulses(&mut quiet, tick), pulses(&mut plain, tick));
    }

    /// A quiet access leaves the next deadline and the pulses that are due where they were.
    #[test]
    fn quiet_accesses_leave_the_schedule(gone in 0u64..3000, port in prop_oneof![0x40u16..0x43, Just(0x61)],
                                         value: u8) {
        let mut pit = pit_with(0x36, 1000);
        let before = pit.deadline();
        pit.read_quietly(port - FIRST_PORT, || at(gone));
        pit.write_quietly(port - FIRST_PORT, value, || at(gone));
        pit.write_quietly(3, value, || at(gone));
        prop_assert_eq!(pit.deadline(), before);
        prop_assert_eq!(pit.pending(), 0);
    }

    /// A state from outside, whatever it says, harms nothing.
    #[test]
    fn any_state_can_be_restored(count in any::<u32>(), written in any::<u32>(), mode in any::<u8>(),
                                 since in any::<u64>(), rw in any::<u8>(), bytes in any_stream()) {
        let mut pit = Pit::new();
        let mut state = pit.save();
        for channel in &mut state.channels {
            channel.count = count;
            channel.written = written;
            channel.mode = mode;
            channel.rw_mode = rw;
            (channel.phase, channel.ticks) = (1, since);
        }
        pit.set_state(&state);
        Subject::check(&pit);
        for c in bytes.chunks_exact(2) {
            pit.write(u16::from(c[0] & 3), AccessWidth::B1, u32::from(c[1]), Ns(u64::from(c[0]) << 20));
            pit.read(u16::from(c[1] & 3), AccessWidth::B1, Ns(u64::from(c[1]) << 30));
            pit.tick(Ns(u64::MAX));
        }
    }
}
