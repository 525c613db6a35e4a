// SPDX-License-Identifier: GPL-2.0

//! Exact conversion between nanoseconds and the ticks of a device's clock.
//!
//! The two directions agree: `ticks(ns(t)) == t` for every tick that the clock reaches. So a deadline made from a tick
//! is never early, and a timer that fires at its deadline finds its tick done. A fixed-point factor has no such
//! property over days. Seconds and the rest are converted apart, so that no product leaves 64 bits.

/// Nanoseconds in a second.
pub(crate) const NS_PER_SEC: u64 = 1_000_000_000;

/// A clock of `HZ` ticks in a second; `HZ` is 1 to 1,000,000,000.
pub(crate) struct TickClock<const HZ: u64>;

impl<const HZ: u64> TickClock<HZ> {
    /// Returns the number of whole ticks in `ns` nanoseconds.
    pub(crate) fn ticks(ns: u64) -> u64 {
        let secs = ns / NS_PER_SEC;
        let rest = ns % NS_PER_SEC;
        secs.wrapping_mul(HZ).wrapping_add(rest.wrapping_mul(HZ) / NS_PER_SEC)
    }

    /// Returns the first nanosecond at which `ticks` ticks are done, or the end of time.
    pub(crate) fn ns(ticks: u64) -> u64 {
        let secs = ticks / HZ;
        let rest = ticks % HZ;
        let rest_ns = rest.wrapping_mul(NS_PER_SEC).div_ceil(HZ);
        secs.saturating_mul(NS_PER_SEC).saturating_add(rest_ns)
    }
}
