// SPDX-License-Identifier: GPL-2.0

//! ACPI power management.

use super::ops::{any_stream, run, Subject};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::pm::{PlatformRequest, Pm, PmClock, TimerWidth, FIRST_PORT, PORTS};
use crate::chipset::saved::HasState;
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::PioDevice;
use core::ops::RangeInclusive;
use proptest::prelude::*;

const STS: u16 = 0;
const EN: u16 = 2;
const CNT: u16 = 4;
const TMR: u16 = 8;
const RST: u16 = 0xcf9 - FIRST_PORT;
const PWRBTN: u32 = 1 << 8;

fn pm() -> Pm {
    Pm::new(TimerWidth::Bits24, Ns(500))
}

#[test]
fn the_timer_counts_from_creation_and_wraps_at_24_bits() {
    let mut pm = pm();
    let at = |ticks| Ns(500 + PmClock::ns(ticks));

    assert_eq!(pm.read(TMR, AccessWidth::B4, Ns(500)), 0);
    assert_eq!(pm.read(TMR, AccessWidth::B4, at(3_579_545)), 3_579_545);
    assert_eq!(pm.read(TMR, AccessWidth::B4, at((1 << 24) + 5)), 5);
}

#[test]
fn the_wide_timer_wraps_at_32_bits() {
    let mut pm = Pm::new(TimerWidth::Bits32, Ns::ZERO);

    assert_eq!(pm.read(TMR, AccessWidth::B4, Ns(PmClock::ns((1 << 32) - 1))), u32::MAX);
    assert_eq!(pm.read(TMR, AccessWidth::B4, Ns(PmClock::ns(1 << 32))), 0);
}

#[test]
fn the_power_button_raises_the_sci_until_its_status_is_cleared() {
    let mut pm = pm();
    pm.write(EN, AccessWidth::B2, PWRBTN, Ns(600));
    assert_eq!(pm.irq(), Low);

    pm.press_power_button();

    assert_eq!(pm.irq(), High);
    assert_eq!(pm.read(STS, AccessWidth::B2, Ns(600)), PWRBTN);
    pm.write(STS, AccessWidth::B2, PWRBTN, Ns(600));
    assert_eq!(pm.irq(), Low);
}

#[test]
fn writing_zeroes_clears_no_status() {
    let mut pm = pm();
    pm.press_power_button();

    pm.write(STS, AccessWidth::B2, 0, Ns(600));

    assert_eq!(pm.read(STS, AccessWidth::B4, Ns(600)), PWRBTN);
}

#[test]
fn the_timers_top_bit_sets_its_status_each_time_it_changes() {
    let mut pm = pm();
    pm.write(EN, AccessWidth::B2, 1, Ns(500));
    let half = pm.deadline().unwrap();
    assert_eq!(half, Ns(500 + PmClock::ns(1 << 23)));
    pm.tick(Ns(half.0 - 1));
    assert_eq!(pm.irq(), Low);

    pm.tick(half);

    assert_eq!(pm.irq(), High);
    assert_eq!(pm.deadline(), None);
    pm.write(STS, AccessWidth::B2, 1, half);
    assert_eq!(pm.irq(), Low);
    assert_eq!(pm.deadline(), Some(Ns(500 + PmClock::ns(1 << 24))));
}

#[test]
fn s5_powers_off_and_other_states_do_not() {
    let mut pm = pm();
    pm.write(CNT, AccessWidth::B2, 1 << 13 | 3 << 10, Ns(600));
    assert_eq!(pm.take_request(), None);
    pm.write(CNT, AccessWidth::B2, 5 << 10, Ns(600));
    assert_eq!(pm.take_request(), None, "no SLP_EN");

    pm.write(CNT, AccessWidth::B2, 1 << 13 | 5 << 10, Ns(600));

    assert_eq!(pm.take_request(), Some(PlatformRequest::PowerOff));
    assert_eq!(pm.take_request(), None);
    assert_eq!(pm.read(CNT, AccessWidth::B2, Ns(600)), 5 << 10 | 1, "SCI_EN reads one, SLP_EN zero");
}

#[test]
fn the_reset_register_resets_on_the_rising_bit() {
    for value in [0x06, 0x0e] {
        let mut pm = pm();

        pm.write(RST, AccessWidth::B1, value, Ns(600));

        assert_eq!(pm.take_request(), Some(PlatformRequest::Reset));
        assert_eq!(pm.read(RST, AccessWidth::B1, Ns(600)), value);
    }
    let mut pm = pm();
    pm.write(RST, AccessWidth::B1, 0x02, Ns(600));
    assert_eq!(pm.take_request(), None);
    pm.write(RST, AccessWidth::B1, 0x06, Ns(600));
    assert_eq!(pm.take_request(), Some(PlatformRequest::Reset), "Linux selects the kind first");
    pm.write(RST, AccessWidth::B1, 0x06, Ns(600));
    assert_eq!(pm.take_request(), None, "the bit did not rise");
}

#[test]
fn accesses_that_straddle_are_not_decoded() {
    let mut pm = pm();

    assert_eq!(pm.read(1, AccessWidth::B2, Ns(600)), 0xffff);
    assert_eq!(pm.read(12, AccessWidth::B1, Ns(600)), 0xff);
    assert_eq!(pm.read(0, AccessWidth::B8, Ns(600)), u32::MAX);
}

#[test]
fn reset_forgets_enables_and_starts_the_timer_again() {
    let mut pm = pm();
    pm.write(EN, AccessWidth::B2, 0xffff, Ns(600));
    pm.press_power_button();

    pm.reset(Ns(9_000));

    assert_eq!(pm, Pm::new(TimerWidth::Bits24, Ns(9_000)));
}

impl Subject for Pm {
    fn ports() -> Vec<RangeInclusive<u16>> {
        PORTS.to_vec()
    }
    fn fresh() -> Pm {
        Pm::new(TimerWidth::Bits24, Ns::ZERO)
    }
    fn tick(&mut self, now: Ns) {
        Pm::tick(self, now);
    }
    fn deadline(&self) -> Option<Ns> {
        Pm::deadline(self)
    }
    fn outside(&mut self, what: u8, _value: u8, now: Ns) -> u64 {
        match what & 7 {
            0 => self.press_power_button(),
            1 => self.reset(now),
            _ => return u64::from(self.take_request().is_some()),
        }
        0
    }
    fn check(&self) {
        let state = self.save();
        assert_eq!(self.irq().is_high(), state.status & state.enable != 0);
        assert_eq!(state.control & (1 << 13), 0, "SLP_EN is not kept");
    }
}

proptest! {
    #[test]
    fn any_stream_keeps_the_rules_of_the_block(bytes in any_stream()) {
        run::<Pm>(&bytes);
    }

    /// The timer never runs backwards but for its wrap.
    #[test]
    fn the_timer_is_monotonic(steps in proptest::collection::vec(0u64..1 << 30, 1..50)) {
        let mut pm = Pm::new(TimerWidth::Bits32, Ns::ZERO);
        let (mut now, mut last, mut total) = (Ns::ZERO, 0u32, 0u64);
        for step in steps {
            now = now.after(step);
            let value = pm.read(TMR, AccessWidth::B4, now);
            total += u64::from(value.wrapping_sub(last));
            last = value;
        }
        prop_assert_eq!(total, PmClock::ticks(now.0));
    }
}
