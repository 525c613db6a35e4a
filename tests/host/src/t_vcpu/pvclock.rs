// SPDX-License-Identifier: GPL-2.0

//! The paravirtual clock as a guest reads it.

use crate::machine::pvclock::*;
use proptest::prelude::*;
use zerocopy::FromBytes;

/// The guest's side, from the description of the structure.
fn guest_ns(info: &TimeInfo, tsc: u64) -> u64 {
    let delta = u128::from(tsc - info.tsc_timestamp);
    let shifted = if info.tsc_shift < 0 { delta >> -info.tsc_shift } else { delta << info.tsc_shift };
    info.system_time + ((shifted * u128::from(info.tsc_to_system_mul)) >> 32) as u64
}

/// Guest memory, and what it held after each write.
fn published(version: u32, info: &TimeInfo) -> (Vec<u32>, TimeInfo) {
    let mut memory = [0u8; 32];
    let mut versions = Vec::new();
    info.publish(version, |offset, bytes| {
        memory[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        versions.push(u32::from_le_bytes(memory[..4].try_into().unwrap()));
        Ok::<(), ()>(())
    })
    .unwrap();
    (versions, TimeInfo::read_from_bytes(&memory).unwrap())
}

#[test]
fn a_tsc_of_zero_khz_has_no_scale() {
    assert_eq!(TscScale::from_khz(0), None);
}

#[test]
fn known_frequencies_give_known_factors() {
    assert_eq!(TscScale::from_khz(1_000_000), Some(TscScale { mul: 1 << 31, shift: 1 }));
    assert_eq!(TscScale::from_khz(2_000_000), Some(TscScale { mul: 1 << 31, shift: 0 }));
    assert_eq!(TscScale::from_khz(4_000_000), Some(TscScale { mul: 1 << 31, shift: -1 }));
}

#[test]
fn the_body_is_written_between_an_odd_and_an_even_version() {
    let info = TimeInfo::new(100, 200, TscScale::from_khz(3_000_000).unwrap(), TSC_STABLE);

    let (versions, memory) = published(6, &info);

    assert_eq!(versions, [7, 7, 8]);
    assert_eq!(memory, TimeInfo { version: 8, ..info });
}

#[test]
fn an_odd_version_left_behind_is_passed_over() {
    let info = TimeInfo::new(1, 2, TscScale::from_khz(1).unwrap(), 0);

    assert_eq!(published(7, &info).0, [9, 9, 10]);
    assert_eq!(published(u32::MAX, &info).0, [1, 1, 2]);
}

#[test]
fn a_failed_write_ends_the_update() {
    let info = TimeInfo::new(1, 2, TscScale::from_khz(1).unwrap(), 0);
    let mut calls = 0;

    let result = info.publish(0, |offset, _| {
        calls += 1;
        if offset == 4 {
            Err("no memory there")
        } else {
            Ok(())
        }
    });

    assert_eq!((result, calls), (Err("no memory there"), 2));
}

#[test]
fn the_wall_clock_splits_into_seconds_and_nanoseconds() {
    let wall = WallClock::new(1_700_000_000_123_456_789);

    assert_eq!((wall.sec, wall.nsec), (1_700_000_000, 123_456_789));
}

proptest! {
    /// The factor has 31 good bits at any frequency.
    #[test]
    fn an_hour_is_an_hour_within_a_part_in_a_thousand_million(khz in 1u32..=u32::MAX) {
        let scale = TscScale::from_khz(khz).unwrap();
        let ticks = u64::from(khz) * 3_600_000;

        let ns = scale.ns(ticks);

        let error = ns.abs_diff(3_600_000_000_000);
        prop_assert!(error <= 3_600 + 1_000_000_000 / u64::from(khz).max(1000), "{error} ns");
        prop_assert!(scale.mul >> 31 == 1);
    }

    /// Our arithmetic is the guest's.
    #[test]
    fn host_and_guest_compute_the_same(khz in 1_000u32..10_000_000, tsc in 0u64..1 << 50, ticks in 0u64..1 << 50) {
        let scale = TscScale::from_khz(khz).unwrap();
        let info = TimeInfo::new(tsc, 5, scale, 0);

        prop_assert_eq!(guest_ns(&info, tsc + ticks), 5u64.wrapping_add(scale.ns(ticks)));
    }

    /// Within one structure, time never goes back.
    #[test]
    fn time_is_monotonic(khz in 1_000u32..10_000_000, a in 0u64..1 << 52, step in 0u64..1 << 40) {
        let scale = TscScale::from_khz(khz).unwrap();

        prop_assert!(scale.ns(a + step) >= scale.ns(a));
    }
}
