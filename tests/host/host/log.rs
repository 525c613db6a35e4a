// SPDX-License-Identifier: GPL-2.0

//! The kernel's log.

use super::world::{locked, world};

/// Lines in an interval, and how long it is.
const BURST: u32 = 10;
const INTERVAL_NS: u64 = 5_000_000_000;

/// When an interval began, and the lines in it.
#[derive(Default)]
pub(crate) struct LogRate(Option<u64>, u32);

/// Returns whether a line may be written now.
pub(crate) fn may_write() -> bool {
    let (world, now) = (world(), world().now());
    let LogRate(began, lines) = &mut *locked(&world.log_rate);
    if began.is_none_or(|b| now.saturating_sub(b) > INTERVAL_NS) {
        (*began, *lines) = (Some(now), 0);
    }
    *lines += 1;
    *lines <= BURST
}
