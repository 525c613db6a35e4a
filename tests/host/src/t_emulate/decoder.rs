// SPDX-License-Identifier: GPL-2.0

//! Lengths, shapes and totality of the decoder.

use crate::arch::addr::AccessWidth;
use crate::arch::segment::SegReg;
use crate::vcpu::emulate::decode::CodeMode::{self, Bits16, Bits32, Bits64};
use crate::vcpu::emulate::decode::{decode, DecodeError, MAX_LEN};
use crate::vcpu::emulate::exit_insn::{decode_exit_insn, insn_len, ExitInsn};
use proptest::prelude::*;

fn any_mode() -> impl Strategy<Value = CodeMode> {
    prop_oneof![Just(Bits16), Just(Bits32), Just(Bits64)]
}

/// Bytes that begin like an instruction more often than chance has it.
fn any_code() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop::sample::select(vec![0x66u8, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x48, 0x41, 0x0f]);
    (prop::collection::vec(prefix, 0..4), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(mut a, b)| {
        a.extend(b);
        a
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// An instruction is within its bytes and 15 long at most; what follows it does not count, and
    /// nothing shorter is an instruction.
    #[test]
    fn any_bytes_decode_to_what_their_first_bytes_say(code in any_code(), mode in any_mode()) {
        let Ok(insn) = decode(&code, mode) else { return Ok(()) };
        let len = usize::from(insn.len);

        prop_assert!((1..=MAX_LEN).contains(&len) && len <= code.len());
        prop_assert_eq!(decode(&code[..len], mode), Ok(insn));
        for cut in 0..len {
            prop_assert_eq!(decode(&code[..cut], mode), Err(DecodeError::Truncated));
        }
        prop_assert_eq!(insn_len(&code, mode), Some(len));
    }

    /// Fifteen bytes always do: more is never asked for.
    #[test]
    fn fifteen_bytes_are_never_too_few(code in prop::collection::vec(any::<u8>(), MAX_LEN), mode in any_mode()) {
        prop_assert_ne!(decode(&code, mode), Err(DecodeError::Truncated));
    }

    /// Register numbers index an array of sixteen; the scale is 0 to 3.
    #[test]
    fn register_numbers_stay_in_range(code in any_code(), mode in any_mode()) {
        let Ok(insn) = decode(&code, mode) else { return Ok(()) };
        let limit = if mode == Bits64 { 16 } else { 8 };

        prop_assert!(insn.reg < limit && insn.rm < limit && insn.ext < 8);
        if let Some(mem) = insn.mem {
            prop_assert!(mem.base.unwrap_or(0) < limit && mem.index.unwrap_or(0) < limit && mem.scale < 4);
        }
    }
}

#[test]
fn every_opcode_of_every_map_has_an_answer_in_every_mode() {
    let tail = [0x84, 0xc8, 1, 2, 3, 4, 5, 6, 7, 8];
    for mode in [Bits16, Bits32, Bits64] {
        for opcode in 0..=255u8 {
            for escape in [&[][..], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]] {
                for prefix in [&[][..], &[0x66], &[0x67]] {
                    let code = [prefix, escape, &[opcode], &tail].concat();
                    let answer = decode(&code, mode);
                    assert_ne!(answer, Err(DecodeError::Truncated), "{code:02x?} in {mode:?}");
                }
            }
        }
    }
}

#[test]
fn lengths_are_those_of_the_manual() {
    let cases: [(CodeMode, &[u8]); 38] = [
        (Bits64, &[0x90]),
        (Bits64, &[0x48, 0x89, 0xd8]),
        (Bits64, &[0x89, 0x04, 0x25, 0, 0, 0, 0]),
        (Bits64, &[0x8b, 0x05, 1, 2, 3, 4]),
        (Bits64, &[0x8b, 0x44, 0x24, 0x10]),
        (Bits64, &[0x8b, 0x84, 0x24, 1, 2, 3, 4]),
        (Bits64, &[0x8b, 0x04, 0x2d, 1, 2, 3, 4]),
        (Bits64, &[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8]),
        (Bits64, &[0x66, 0xb8, 1, 2]),
        (Bits64, &[0xb8, 1, 2, 3, 4]),
        (Bits64, &[0xa1, 1, 2, 3, 4, 5, 6, 7, 8]),
        (Bits64, &[0x67, 0xa1, 1, 2, 3, 4]),
        (Bits64, &[0xf6, 0x00, 0x01]),
        (Bits64, &[0xf6, 0x10]),
        (Bits64, &[0xf7, 0x00, 1, 2, 3, 4]),
        (Bits64, &[0x66, 0xf7, 0x00, 1, 2]),
        (Bits64, &[0x66, 0xc7, 0x00, 1, 2]),
        (Bits64, &[0x48, 0xc7, 0x00, 1, 2, 3, 4]),
        (Bits64, &[0xe8, 1, 2, 3, 4]),
        (Bits64, &[0x66, 0xe9, 1, 2, 3, 4]),
        (Bits64, &[0x0f, 0x84, 1, 2, 3, 4]),
        (Bits64, &[0xc8, 1, 2, 3]),
        (Bits64, &[0x0f, 0xba, 0xe0, 5]),
        (Bits64, &[0x0f, 0x20, 0x04]),
        (Bits64, &[0x66, 0x0f, 0x3a, 0x0f, 0xc1, 4]),
        (Bits64, &[0x0f, 0x38, 0xf1, 0x03]),
        (Bits64, &[0xf3, 0x48, 0xab]),
        (Bits32, &[0xa1, 1, 2, 3, 4]),
        (Bits32, &[0x66, 0xe9, 1, 2]),
        (Bits32, &[0xea, 1, 2, 3, 4, 5, 6]),
        (Bits32, &[0x67, 0x8b, 0x06, 1, 2]),
        (Bits32, &[0xc4, 0x00]),
        (Bits16, &[0xa1, 1, 2]),
        (Bits16, &[0x8b, 0x06, 1, 2]),
        (Bits16, &[0x8b, 0x46, 1]),
        (Bits16, &[0xea, 1, 2, 3, 4]),
        (Bits16, &[0x66, 0xb8, 1, 2, 3, 4]),
        (Bits16, &[0x67, 0x66, 0xc7, 0x04, 0x25, 1, 2, 3, 4, 5, 6, 7, 8]),
    ];
    for (mode, code) in cases {
        assert_eq!(insn_len(code, mode), Some(code.len()), "{code:02x?} in {mode:?}");
    }
}

#[test]
fn a_rex_counts_only_right_before_the_opcode() {
    let behind = decode(&[0x66, 0x48, 0x89, 0xc0], Bits64).unwrap();
    let before = decode(&[0x48, 0x66, 0x89, 0xc0], Bits64).unwrap();

    assert_eq!(behind.op_size, AccessWidth::B8);
    assert_eq!(before.op_size, AccessWidth::B2);
}

#[test]
fn segments_follow_the_base_register_and_the_override() {
    let seg = |code: &[u8], mode| decode(code, mode).unwrap().mem.unwrap().seg;

    assert_eq!(seg(&[0x8b, 0x45, 0], Bits32), SegReg::Ss);
    assert_eq!(seg(&[0x8b, 0x04, 0x24], Bits32), SegReg::Ss);
    assert_eq!(seg(&[0x41, 0x8b, 0x45, 0], Bits64), SegReg::Ds); // R13
    assert_eq!(seg(&[0x8b, 0x42, 0], Bits16), SegReg::Ss); // BP + SI
    assert_eq!(seg(&[0x8b, 0x07], Bits16), SegReg::Ds);
    assert_eq!(seg(&[0x26, 0x8b, 0x45, 0], Bits32), SegReg::Es);
    assert_eq!(seg(&[0x65, 0x2e, 0x8b, 0x00], Bits64), SegReg::Gs); // CS is ignored
}

#[test]
fn undefined_bytes_and_overlong_ones_are_told_apart() {
    assert_eq!(decode(&[0x06], Bits64), Err(DecodeError::Undefined));
    assert_eq!(decode(&[0x0f, 0x04], Bits32), Err(DecodeError::Undefined));
    assert_eq!(decode(&[0xc5, 0xf8, 0x77], Bits64), Err(DecodeError::Unknown));
    assert_eq!(decode(&[0x62, 0xf1, 0x7c], Bits32), Err(DecodeError::Unknown));
    assert_eq!(decode(&[0x66; 15], Bits32), Err(DecodeError::TooLong));
    let mut long = [0x66; 16];
    long[14] = 0x89;
    assert_eq!(decode(&long, Bits64), Err(DecodeError::TooLong));
    long[13] = 0x90;
    assert_eq!(insn_len(&long, Bits64), Some(14));
}

#[test]
fn instructions_that_exit_are_named_with_their_length() {
    let cases: [(&[u8], ExitInsn); 32] = [
        (&[0x0f, 0xa2], ExitInsn::Cpuid),
        (&[0xf4], ExitInsn::Hlt),
        (&[0xf3, 0x90], ExitInsn::Pause),
        (&[0x0f, 0x32], ExitInsn::Rdmsr),
        (&[0x0f, 0x30], ExitInsn::Wrmsr),
        (&[0x0f, 0x31], ExitInsn::Rdtsc),
        (&[0x0f, 0x01, 0xf9], ExitInsn::Rdtscp),
        (&[0x0f, 0x33], ExitInsn::Rdpmc),
        (&[0x0f, 0x01, 0xd1], ExitInsn::Xsetbv),
        (&[0x0f, 0x01, 0xd9], ExitInsn::Vmmcall),
        (&[0x0f, 0x01, 0xc1], ExitInsn::Vmcall),
        (&[0x0f, 0x01, 0xd8], ExitInsn::Svm),
        (&[0xe4, 0x60], ExitInsn::In),
        (&[0x66, 0xef], ExitInsn::Out),
        (&[0xf3, 0x6d], ExitInsn::Ins),
        (&[0xf3, 0x66, 0x6f], ExitInsn::Outs),
        (&[0x0f, 0x01, 0x38], ExitInsn::Invlpg),
        (&[0x66, 0x0f, 0x38, 0x82, 0x08], ExitInsn::Invpcid),
        (&[0x0f, 0x08], ExitInsn::Invd),
        (&[0x0f, 0x09], ExitInsn::Wbinvd),
        (&[0x0f, 0x01, 0xc8], ExitInsn::Monitor),
        (&[0x0f, 0x01, 0xc9], ExitInsn::Mwait),
        (&[0x44, 0x0f, 0x20, 0xc0], ExitInsn::MovFromCr(8)),
        (&[0x0f, 0x22, 0xd8], ExitInsn::MovToCr(3)),
        (&[0x0f, 0x23, 0xf8], ExitInsn::MovToDr(7)),
        (&[0x0f, 0x06], ExitInsn::Clts),
        (&[0x0f, 0x01, 0xf0], ExitInsn::Lmsw),
        (&[0x0f, 0x01, 0x10], ExitInsn::DescriptorTable),
        (&[0xcd, 0x80], ExitInsn::Int(0x80)),
        (&[0xcc], ExitInsn::Int3),
        (&[0x0f, 0x0b], ExitInsn::Ud),
        (&[0x90], ExitInsn::Other),
    ];
    for (code, what) in cases {
        let longer = [code, &[0x00; 4]].concat();
        assert_eq!(decode_exit_insn(&longer, Bits64), Some((what, code.len())), "{code:02x?}");
    }
}
