// SPDX-License-Identifier: GPL-2.0

//! Streams of operations on a device, from bytes, with what must hold after each.
//!
//! The bytes come from proptest here and may come from a fuzzer: every byte string is a stream. A second device,
//! which takes over the saved state before each operation, must answer as the first one does and end in the same state.

use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::saved::HasState;
use crate::chipset::PioDevice;
use core::fmt::Debug;
use core::ops::RangeInclusive;
use proptest::prelude::*;

/// One thing that happens to a device.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Read {
        offset: u16,
        width: AccessWidth,
    },
    Write {
        offset: u16,
        width: AccessWidth,
        value: u32,
    },
    /// Time passes, and the timer's deadline is served.
    Wait {
        ns: u64,
    },
    /// Something from outside, by the device's own meaning.
    Outside {
        what: u8,
        value: u8,
    },
}

/// A device under a stream of operations.
pub(crate) trait Subject: PioDevice + HasState<State: Clone + PartialEq + Debug> {
    fn ports() -> Vec<RangeInclusive<u16>>;
    fn fresh() -> Self;
    fn tick(&mut self, now: Ns);
    fn deadline(&self) -> Option<Ns>;
    /// Does something from outside; returns all that can be observed of it.
    fn outside(&mut self, what: u8, value: u8, now: Ns) -> u64;
    /// Asserts what must always hold.
    fn check(&self);
}

/// Builds a stream. Most accesses hit a decoded port with a byte; some do neither.
pub(super) fn stream(bytes: &[u8], ports: &[RangeInclusive<u16>]) -> Vec<Op> {
    let all: Vec<u16> = ports.iter().cloned().flatten().collect();
    let first = *all.iter().min().unwrap();
    bytes
        .chunks_exact(4)
        .map(|c| {
            let mut offset = all[usize::from(c[1]) % all.len()] - first;
            if c[0] & 0x70 == 0x70 {
                offset = offset.wrapping_add(u16::from(c[3]));
            }
            let width = match c[0] >> 4 & 7 {
                5 => AccessWidth::B2,
                6 => AccessWidth::B4,
                7 => AccessWidth::B8,
                _ => AccessWidth::B1,
            };
            let value = u32::from(c[2]) | u32::from(c[3]) << 8 | u32::from(c[1]) << 16;
            match c[0] & 0x0f {
                0..=4 => Op::Read { offset, width },
                5..=10 => Op::Write { offset, width, value },
                11 => Op::Wait { ns: u64::from(c[2]).pow(4) },
                12 => Op::Wait { ns: u64::from(value) * 97 },
                _ => Op::Outside { what: c[1], value: c[2] },
            }
        })
        .collect()
}

fn apply<S: Subject>(device: &mut S, op: Op, now: &mut Ns) -> u64 {
    match op {
        Op::Read { offset, width } => {
            let value = device.read(offset, width, *now);
            assert_eq!(u64::from(value) & !width.mask(), 0, "bits above the width");
            u64::from(value)
        }
        Op::Write { offset, width, value } => {
            device.write(offset, width, value, *now);
            0
        }
        Op::Wait { ns } => {
            *now = now.after(ns);
            device.tick(*now);
            0
        }
        Op::Outside { what, value } => device.outside(what, value, *now),
    }
}

/// Runs a stream on a fresh device.
pub(crate) fn run<S: Subject>(bytes: &[u8]) {
    let mut device = S::fresh();
    let mut twin = S::fresh();
    let mut now = Ns(1_000_000_007);
    for op in stream(bytes, &S::ports()) {
        let saved = device.save();
        twin.restore(&saved).unwrap();
        assert_eq!(twin.save(), saved, "restore of a saved state");

        let mut twin_now = now;
        let seen = apply(&mut device, op, &mut now);
        let twin_seen = apply(&mut twin, op, &mut twin_now);
        assert_eq!(seen, twin_seen, "answer after restore to {op:?}");
        assert_eq!(twin.save(), device.save(), "state after restore and {op:?}");
        assert_eq!(twin.deadline(), device.deadline(), "deadline after restore and {op:?}");

        device.check();
        twin.tick(now);
        twin.check();
        assert!(twin.deadline().is_none_or(|at| at > now), "a deadline served is not due again: {op:?}");
    }
}

/// Any stream of up to 200 operations.
pub(super) fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..800)
}
