// SPDX-License-Identifier: GPL-2.0

//! Multiplication and division.
//!
//! SDM, "MUL", "IMUL", "DIV", "IDIV". Pure. The 128-bit division is done bit by bit: the kernel has
//! none to call.

use super::alu::{bits, sign_bit, sign_extend};
use crate::arch::addr::AccessWidth;

/// A product or a dividend of twice the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DoubleWidth {
    pub(super) high: u64,
    pub(super) low: u64,
}

/// MUL: the product, and whether its high half is needed (CF and OF).
pub(super) fn mul(w: AccessWidth, a: u64, b: u64) -> (DoubleWidth, bool) {
    let wide = u128::from(a & w.mask()).wrapping_mul(u128::from(b & w.mask()));
    let product = split(w, wide);
    (product, product.high != 0)
}

/// IMUL: the signed product, and whether it overflows the low half (CF and OF).
pub(super) fn imul(w: AccessWidth, a: u64, b: u64) -> (DoubleWidth, bool) {
    let wide = signed(w, a).wrapping_mul(signed(w, b));
    let product = split(w, u128::from_ne_bytes(wide.to_ne_bytes()));
    (product, signed(w, product.low) != wide)
}

/// DIV: quotient and remainder, or `None` for #DE.
pub(super) fn div(w: AccessWidth, dividend: DoubleWidth, divisor: u64) -> Option<(u64, u64)> {
    let divisor = divisor & w.mask();
    let (high, low) = (dividend.high & w.mask(), dividend.low & w.mask());
    if high >= divisor {
        // Also a divisor of zero.
        return None;
    }
    if w == AccessWidth::B8 {
        return Some(divide_128(high, low, divisor));
    }
    let whole = high.wrapping_shl(bits(w)) | low;
    Some((whole.checked_div(divisor)?, whole.checked_rem(divisor)?))
}

/// IDIV: quotient (towards zero) and remainder (of the dividend's sign), or `None` for #DE.
pub(super) fn idiv(w: AccessWidth, dividend: DoubleWidth, divisor: u64) -> Option<(u64, u64)> {
    let whole =
        u128::from(dividend.high & w.mask()).wrapping_shl(bits(w)) | u128::from(dividend.low & w.mask());
    let unused = 128u32.wrapping_sub(bits(w).wrapping_mul(2));
    let whole = i128::from_ne_bytes(whole.to_ne_bytes()).wrapping_shl(unused).wrapping_shr(unused);
    let by = signed(w, divisor);
    let size = whole.unsigned_abs();
    let half = DoubleWidth { high: halve(size.wrapping_shr(bits(w))), low: halve(size) & w.mask() };
    if half.high > w.mask() {
        return None;
    }
    let (quotient, remainder) = div(w, half, halve(by.unsigned_abs()))?;
    let negative = (whole < 0) != (by < 0);
    // There is one more value below zero than above.
    let most = if negative { sign_bit(w) } else { sign_bit(w).wrapping_sub(1) };
    if quotient > most {
        return None;
    }
    Some((negate_if(w, negative, quotient), negate_if(w, whole < 0, remainder)))
}

fn signed(w: AccessWidth, value: u64) -> i128 {
    i128::from(i64::from_ne_bytes(sign_extend(w, value).to_ne_bytes()))
}

fn halve(wide: u128) -> u64 {
    (wide & u128::from(u64::MAX)) as u64
}

fn split(w: AccessWidth, wide: u128) -> DoubleWidth {
    DoubleWidth { high: halve(wide.wrapping_shr(bits(w))) & w.mask(), low: halve(wide) & w.mask() }
}

fn negate_if(w: AccessWidth, negative: bool, value: u64) -> u64 {
    if negative {
        value.wrapping_neg() & w.mask()
    } else {
        value
    }
}

/// Long division of `high:low`, with `high < divisor`.
fn divide_128(high: u64, low: u64, divisor: u64) -> (u64, u64) {
    let (mut remainder, mut rest, mut quotient) = (high, low, 0u64);
    for _ in 0..64 {
        // The remainder has 65 bits for a moment, and the topmost one counts.
        let out = remainder >> 63 != 0;
        remainder = remainder.wrapping_shl(1) | (rest >> 63);
        rest = rest.wrapping_shl(1);
        quotient = quotient.wrapping_shl(1);
        if out || remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    (quotient, remainder)
}
