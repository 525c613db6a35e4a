// SPDX-License-Identifier: GPL-2.0

//! Shifts and rotates with their flags.
//!
//! SDM, "SAL/SAR/SHL/SHR", "RCL/RCR/ROL/ROR", "SHLD", "SHRD". Pure. A count is taken modulo 32, or 64
//! for 64-bit operands; a count of zero changes no flag.

use super::alu::{bits, flag, is_negative, sign_extend, sign_flags, AluResult, CF, OF, PF, SF, ZF};
use crate::arch::addr::AccessWidth;

const SHIFT_FLAGS: u64 = CF | OF | PF | SF | ZF;

/// The operations of group 2, numbered as encoded; 6 is another encoding of SHL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShiftOp {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

impl ShiftOp {
    /// Returns the operation that the low three bits of `n` encode.
    pub(super) fn from_bits(n: u8) -> ShiftOp {
        match n & 7 {
            0 => ShiftOp::Rol,
            1 => ShiftOp::Ror,
            2 => ShiftOp::Rcl,
            3 => ShiftOp::Rcr,
            5 => ShiftOp::Shr,
            7 => ShiftOp::Sar,
            _ => ShiftOp::Shl,
        }
    }

    /// Carries out the operation; `carry` is CF before it, `count` the operand unmasked.
    pub(super) fn apply(self, w: AccessWidth, value: u64, count: u64, carry: bool) -> AluResult {
        let value = value & w.mask();
        let count = masked(w, count);
        if count == 0 {
            return unchanged(value);
        }
        match self {
            ShiftOp::Rol => rotate(w, value, count),
            ShiftOp::Ror => {
                let left = bits(w).wrapping_sub(count) & bits(w).wrapping_sub(1);
                let out = rotate(w, value, left);
                let top = is_negative(w, out.value);
                AluResult { flags: flag(CF, top) | flag(OF, differ(w, out.value)), ..out }
            }
            ShiftOp::Rcl => rotate_carry(w, value, count, carry, false),
            ShiftOp::Rcr => rotate_carry(w, value, count, carry, true),
            ShiftOp::Shl => {
                let wide = u128::from(value).wrapping_shl(count);
                let out = low(wide) & w.mask();
                let carry = wide.wrapping_shr(bits(w)) & 1 != 0;
                shifted(w, out, carry, carry != is_negative(w, out))
            }
            ShiftOp::Shr => {
                let carry = value.wrapping_shr(count.wrapping_sub(1)) & 1 != 0;
                let out = value.wrapping_shr(count);
                shifted(w, out, carry, differ(w, out))
            }
            ShiftOp::Sar => {
                let signed = i64::from_ne_bytes(sign_extend(w, value).to_ne_bytes());
                let carry = signed.wrapping_shr(count.wrapping_sub(1)) & 1 != 0;
                let out = u64::from_ne_bytes(signed.wrapping_shr(count).to_ne_bytes()) & w.mask();
                shifted(w, out, carry, false)
            }
        }
    }
}

/// SHLD: `to` moves left, its low bits come from the top of `from`.
pub(super) fn shld(w: AccessWidth, to: u64, from: u64, count: u64) -> AluResult {
    let (to, count) = (to & w.mask(), masked(w, count));
    if count == 0 {
        return unchanged(to);
    }
    let wide = u128::from(to).wrapping_shl(bits(w)) | u128::from(from & w.mask());
    let out = low(wide.wrapping_shl(count).wrapping_shr(bits(w))) & w.mask();
    let carry = wide.wrapping_shr(bits(w).wrapping_mul(2).wrapping_sub(count)) & 1 != 0;
    shifted(w, out, carry, is_negative(w, to ^ out))
}

/// SHRD: `to` moves right, its high bits come from the bottom of `from`.
pub(super) fn shrd(w: AccessWidth, to: u64, from: u64, count: u64) -> AluResult {
    let (to, count) = (to & w.mask(), masked(w, count));
    if count == 0 {
        return unchanged(to);
    }
    let wide = u128::from(from & w.mask()).wrapping_shl(bits(w)) | u128::from(to);
    let out = low(wide.wrapping_shr(count)) & w.mask();
    let carry = wide.wrapping_shr(count.wrapping_sub(1)) & 1 != 0;
    shifted(w, out, carry, is_negative(w, to ^ out))
}

fn masked(w: AccessWidth, count: u64) -> u32 {
    let mask = if w == AccessWidth::B8 { 63 } else { 31 };
    (count & mask) as u32
}

fn unchanged(value: u64) -> AluResult {
    AluResult { value, flags: 0, mask: 0 }
}

fn shifted(w: AccessWidth, value: u64, carry: bool, overflow: bool) -> AluResult {
    let flags = flag(CF, carry) | flag(OF, overflow) | sign_flags(w, value);
    AluResult { value, flags, mask: SHIFT_FLAGS }
}

/// Returns whether the two topmost bits differ.
fn differ(w: AccessWidth, value: u64) -> bool {
    is_negative(w, value ^ value.wrapping_shl(1))
}

fn low(wide: u128) -> u64 {
    (wide & u128::from(u64::MAX)) as u64
}

/// Rotates left; CF and OF are those of ROL.
fn rotate(w: AccessWidth, value: u64, count: u32) -> AluResult {
    // A multiple of the width turns nothing, but CF is set by the lowest bit all the same.
    let n = count & bits(w).wrapping_sub(1);
    let wide = u128::from(value).wrapping_shl(n);
    let out = low(wide | wide.wrapping_shr(bits(w))) & w.mask();
    let carry = out & 1 != 0;
    let flags = flag(CF, carry) | flag(OF, carry != is_negative(w, out));
    AluResult { value: out, flags, mask: CF | OF }
}

/// Rotates through CF: a rotation of one bit more than the width.
fn rotate_carry(w: AccessWidth, value: u64, count: u32, carry: bool, right: bool) -> AluResult {
    let size = bits(w).wrapping_add(1);
    let mut n = count;
    // A loop instead of a division: the count is 63 at most.
    while n >= size {
        n = n.wrapping_sub(size);
    }
    if n == 0 {
        return unchanged(value);
    }
    if right {
        n = size.wrapping_sub(n);
    }
    let whole = u128::from(value) | u128::from(carry).wrapping_shl(bits(w));
    let turned = whole.wrapping_shl(n) | whole.wrapping_shr(size.wrapping_sub(n));
    let out = low(turned) & w.mask();
    let carry = turned.wrapping_shr(bits(w)) & 1 != 0;
    let overflow = if right { differ(w, out) } else { carry != is_negative(w, out) };
    AluResult { value: out, flags: flag(CF, carry) | flag(OF, overflow), mask: CF | OF }
}
