// SPDX-License-Identifier: GPL-2.0

//! Integer arithmetic with its flags.
//!
//! SDM, "Status Flags" and the instruction reference of each operation. Pure functions of width and
//! operands; operands may have bits above the width, which are ignored, results have none.
//!
//! Flags that the manuals leave undefined are kept (AF of shifts, the sign flags of MUL), cleared
//! (AF of logic) or computed by the formula of a count of one (OF of longer shifts).

use crate::arch::addr::AccessWidth;
use crate::arch::cr::Rflags;

pub(super) const CF: u64 = Rflags::CF.bits();
pub(super) const PF: u64 = Rflags::PF.bits();
pub(super) const AF: u64 = Rflags::AF.bits();
pub(super) const ZF: u64 = Rflags::ZF.bits();
pub(super) const SF: u64 = Rflags::SF.bits();
pub(super) const OF: u64 = Rflags::OF.bits();
/// The six status flags.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// What an operation gives: a value, and flags of which only those in `mask` change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AluResult {
    pub(super) value: u64,
    pub(super) flags: u64,
    pub(super) mask: u64,
}

/// The eight operations of the first opcode rows, numbered as encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AluOp {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

impl AluOp {
    /// Returns the operation that the low three bits of `n` encode.
    pub(super) fn from_bits(n: u8) -> AluOp {
        match n & 7 {
            0 => AluOp::Add,
            1 => AluOp::Or,
            2 => AluOp::Adc,
            3 => AluOp::Sbb,
            4 => AluOp::And,
            5 => AluOp::Sub,
            6 => AluOp::Xor,
            _ => AluOp::Cmp,
        }
    }

    /// Carries out the operation; `carry` is CF before it. CMP gives the difference.
    pub(super) fn apply(self, w: AccessWidth, a: u64, b: u64, carry: bool) -> AluResult {
        match self {
            AluOp::Add => add(w, a, b, false),
            AluOp::Or => logic(w, a | b),
            AluOp::Adc => add(w, a, b, carry),
            AluOp::Sbb => sub(w, a, b, carry),
            AluOp::And => logic(w, a & b),
            AluOp::Sub | AluOp::Cmp => sub(w, a, b, false),
            AluOp::Xor => logic(w, a ^ b),
        }
    }
}

/// Returns the number of bits of a width.
pub(super) fn bits(w: AccessWidth) -> u32 {
    match w {
        AccessWidth::B1 => 8,
        AccessWidth::B2 => 16,
        AccessWidth::B4 => 32,
        AccessWidth::B8 => 64,
    }
}

/// Returns the topmost bit of a width, as a mask.
pub(super) fn sign_bit(w: AccessWidth) -> u64 {
    w.mask() ^ (w.mask() >> 1)
}

/// Returns whether the value is negative in its width.
pub(super) fn is_negative(w: AccessWidth, value: u64) -> bool {
    value & sign_bit(w) != 0
}

/// Returns the low `w` of `value`, sign-extended to 64 bits.
pub(super) fn sign_extend(w: AccessWidth, value: u64) -> u64 {
    if is_negative(w, value) {
        value | !w.mask()
    } else {
        value & w.mask()
    }
}

/// Returns `bit` where `on`, else 0.
pub(super) fn flag(bit: u64, on: bool) -> u64 {
    if on {
        bit
    } else {
        0
    }
}

/// Returns ZF, SF and PF of a result.
pub(super) fn sign_flags(w: AccessWidth, value: u64) -> u64 {
    flag(ZF, value & w.mask() == 0)
        | flag(SF, is_negative(w, value))
        | flag(PF, (value & 0xff).count_ones() & 1 == 0)
}

fn logic(w: AccessWidth, value: u64) -> AluResult {
    AluResult { value: value & w.mask(), flags: sign_flags(w, value), mask: STATUS }
}

/// TEST: AND for the flags alone.
pub(super) fn test(w: AccessWidth, a: u64, b: u64) -> AluResult {
    logic(w, a & b)
}

/// ADD and ADC.
pub(super) fn add(w: AccessWidth, a: u64, b: u64, carry: bool) -> AluResult {
    let (a, b) = (a & w.mask(), b & w.mask());
    let value = a.wrapping_add(b).wrapping_add(u64::from(carry)) & w.mask();
    // With a carry coming in, a sum that equals `a` has gone round once.
    let carry_out = value < a || (carry && value == a);
    // Bit 4 of a sum differs from that of the XOR where a carry has come into it: AF.
    let flags = flag(CF, carry_out)
        | flag(AF, (a ^ b ^ value) & 0x10 != 0)
        | flag(OF, is_negative(w, (a ^ value) & (b ^ value)))
        | sign_flags(w, value);
    AluResult { value, flags, mask: STATUS }
}

/// SUB, SBB and CMP.
pub(super) fn sub(w: AccessWidth, a: u64, b: u64, borrow: bool) -> AluResult {
    let (a, b) = (a & w.mask(), b & w.mask());
    let value = a.wrapping_sub(b).wrapping_sub(u64::from(borrow)) & w.mask();
    let flags = flag(CF, a < b || (borrow && a == b))
        | flag(AF, (a ^ b ^ value) & 0x10 != 0)
        | flag(OF, is_negative(w, (a ^ b) & (a ^ value)))
        | sign_flags(w, value);
    AluResult { value, flags, mask: STATUS }
}

/// INC: CF stays.
pub(super) fn inc(w: AccessWidth, a: u64) -> AluResult {
    AluResult { mask: STATUS & !CF, ..add(w, a, 1, false) }
}

/// DEC: CF stays.
pub(super) fn dec(w: AccessWidth, a: u64) -> AluResult {
    AluResult { mask: STATUS & !CF, ..sub(w, a, 1, false) }
}

/// NEG.
pub(super) fn neg(w: AccessWidth, a: u64) -> AluResult {
    sub(w, 0, a, false)
}

/// NOT: no flag changes.
pub(super) fn not(w: AccessWidth, a: u64) -> AluResult {
    AluResult { value: !a & w.mask(), flags: 0, mask: 0 }
}

/// Returns whether condition `cc` (the low four bits of Jcc, SETcc, CMOVcc) holds.
///
/// SDM, "EFLAGS Condition Codes".
pub(super) fn condition(cc: u8, rflags: u64) -> bool {
    let has = |bits: u64| rflags & bits != 0;
    let less = has(SF) != has(OF);
    let holds = match (cc >> 1) & 7 {
        0 => has(OF),
        1 => has(CF),
        2 => has(ZF),
        3 => has(CF | ZF),
        4 => has(SF),
        5 => has(PF),
        6 => less,
        _ => has(ZF) || less,
    };
    holds != (cc & 1 != 0)
}
