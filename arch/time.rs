// SPDX-License-Identifier: GPL-2.0

//! Time as the devices see it: nanoseconds of the host's monotonic clock.
//!
//! Devices hold no clock. Whoever calls one says what time it is, and the device answers when it
//! next wants to be called.

/// A point in time, in nanoseconds of the host's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ns(pub(crate) u64);

impl Ns {
    /// The start of the clock.
    pub(crate) const ZERO: Ns = Ns(0);

    /// Returns the time `ns` nanoseconds later, or the end of time where that overflows.
    pub(crate) fn after(self, ns: u64) -> Ns {
        Ns(self.0.saturating_add(ns))
    }

    /// Returns the nanoseconds from `earlier` to this time, 0 where `earlier` is later.
    pub(crate) fn since(self, earlier: Ns) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Returns the earlier of two deadlines, either of which may be absent.
pub(crate) fn earliest(a: Option<Ns>, b: Option<Ns>) -> Option<Ns> {
    match (a, b) {
        (Some(x), Some(y)) => Some(x.min(y)),
        (x, None) => x,
        (None, y) => y,
    }
}

/// Scales `value` by `mul / 2^32`, saturating: the fixed-point step from one clock to another.
///
/// `mul` is made by [`ratio`]. Exact to one part in 2^32 of `mul`.
pub(crate) fn scale(value: u64, mul: u64) -> u64 {
    let wide = u128::from(value).wrapping_mul(u128::from(mul)) >> 32;
    u64::try_from(wide).unwrap_or(u64::MAX)
}

/// Returns `to / from` as a 32.32 fixed-point factor for [`scale`]; 0 when `from` is 0 or above
/// 2^32, and saturated when the factor does not fit.
///
/// Done by long division: the kernel has no 128-bit division.
pub(crate) fn ratio(to: u64, from: u64) -> u64 {
    let (Some(int), Some(mut rem)) = (to.checked_div(from), to.checked_rem(from)) else { return 0 };
    if from > 1 << 32 {
        return 0;
    }
    if int > u64::from(u32::MAX) {
        return u64::MAX;
    }
    let mut frac = 0u64;
    for _ in 0..32 {
        rem = rem.wrapping_shl(1);
        frac = frac.wrapping_shl(1);
        if rem >= from {
            rem = rem.wrapping_sub(from);
            frac |= 1;
        }
    }
    (int << 32) | frac
}
