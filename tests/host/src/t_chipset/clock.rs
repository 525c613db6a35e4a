// SPDX-License-Identifier: GPL-2.0

//! Conversion between nanoseconds and ticks.

use crate::chipset::time::TickClock;
use proptest::prelude::*;

type Pit = TickClock<1_193_182>;
type Pm = TickClock<3_579_545>;
type Rtc = TickClock<32_768>;

#[test]
fn a_second_is_as_many_ticks_as_the_name_says() {
    assert_eq!(Pit::ticks(1_000_000_000), 1_193_182);
    assert_eq!(Pm::ns(3_579_545), 1_000_000_000);
    assert_eq!(Rtc::ticks(999_999_999), 32_767);
}

#[test]
fn the_end_of_time_saturates() {
    assert_eq!(Rtc::ns(u64::MAX), u64::MAX);
    assert_eq!(Rtc::ticks(u64::MAX), 604_462_909_807_314);
}

proptest! {
    /// The time of a tick is the first nanosecond at which it is done.
    #[test]
    fn the_time_of_a_tick_is_exact(tick in 1u64..1 << 44) {
        prop_assert_eq!(Pit::ticks(Pit::ns(tick)), tick);
        prop_assert_eq!(Pit::ticks(Pit::ns(tick) - 1), tick - 1);
        prop_assert_eq!(Pm::ticks(Pm::ns(tick)), tick);
        prop_assert_eq!(Pm::ticks(Pm::ns(tick) - 1), tick - 1);
    }

    /// The product that 64 bits cannot hold gives the same ticks.
    #[test]
    fn ticks_equal_the_wide_product(ns in any::<u64>()) {
        prop_assert_eq!(u128::from(Pm::ticks(ns)), u128::from(ns) * 3_579_545 / 1_000_000_000);
    }
}
