// SPDX-License-Identifier: GPL-2.0

//! The processor as the reference: every family in 64-bit mode, on random registers and memory.
//!
//! The random numbers are seeded, so a failure repeats; it prints the bytes of the instruction.
#![cfg(target_arch = "x86_64")]

use super::machine::{Box86, RAX, RBX, RCX, RDI, RDX, RSI, RSP};
use super::native::{Native, Regs, MEMORY};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::vcpu::emulate::decode::CodeMode;
use crate::vcpu::emulate::execute::emulate;
use crate::vcpu::emulate::machine::StopReason;

const CF: u64 = 1;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const PF: u64 = 1 << 2;
const SF: u64 = 1 << 7;
const DF: u64 = 1 << 10;
const OF: u64 = 1 << 11;
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A value that is often at an edge of some width.
    fn value(&mut self) -> u64 {
        const EDGES: [u64; 12] = [
            0,
            1,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
        ];
        let edge = EDGES[(self.next() % 12) as usize];
        match self.next() % 6 {
            0 => edge,
            1 => !edge,
            2 => edge.wrapping_add(self.next() % 5).wrapping_sub(2),
            3 => self.next() >> (self.next() % 64),
            _ => self.next(),
        }
    }
}

struct Rig {
    native: Native,
    random: Random,
    /// Random bytes, of which the middle changes with every state.
    noise: Vec<u8>,
}

impl Rig {
    fn new(seed: u64) -> Rig {
        let mut random = Random(seed);
        let noise = (0..MEMORY).map(|_| random.next().to_le_bytes()[7]).collect();
        Rig { native: Native::new(), random, noise }
    }

    fn state(&mut self) -> (Regs, Vec<u8>) {
        let mut gpr = [0; 16];
        gpr.fill_with(|| self.random.value());
        gpr[usize::from(RSP)] = self.middle();
        let rflags = 0x202 | (self.random.next() & STATUS);
        for at in (MEMORY / 2 - 32..MEMORY / 2 + 64).step_by(8) {
            let value = self.random.value().to_le_bytes();
            self.noise[at..at + 8].copy_from_slice(&value);
        }
        (Regs { gpr, rflags }, self.noise.clone())
    }

    fn middle(&self) -> u64 {
        self.native.memory_base() + MEMORY as u64 / 2
    }

    fn emulated(&self, insn: &[u8], regs: &Regs, memory: &[u8]) -> (Result<(), StopReason>, Box86) {
        let mut m = Box86::new(CodeMode::Bits64, self.native.memory_base(), memory.to_vec());
        m.gpr = regs.gpr;
        m.rflags = regs.rflags;
        m.rip = self.native.rip();
        m.cpl = 3;
        let mut result = emulate(&mut m, Some(insn));
        // A long repetition is left in between.
        if m.rip == self.native.rip() {
            result = result.and_then(|()| emulate(&mut m, Some(insn)));
        }
        (result, m)
    }

    /// Runs the instruction both ways and compares all but the flags in `undefined`.
    fn compare(&mut self, insn: &[u8], start: &Regs, memory: &[u8], undefined: u64) {
        let (result, m) = self.emulated(insn, start, memory);
        assert_eq!(result, Ok(()), "{insn:02x?} from {start:x?}");
        assert_eq!(m.rip, self.native.rip() + insn.len() as u64, "{insn:02x?}: length");
        let mut regs = *start;
        let mut left = memory.to_vec();

        self.native.run(insn, &mut regs, &mut left);

        let seen = (STATUS | DF) & !undefined;
        assert_eq!(m.gpr, regs.gpr, "{insn:02x?}: registers (emulated, native) from {start:x?}");
        assert_eq!(
            m.rflags & seen,
            regs.rflags & seen,
            "{insn:02x?}: flags {:x} and natively {:x} from {start:x?}",
            m.rflags & seen,
            regs.rflags & seen
        );
        if m.mem != left {
            let at = m.mem.iter().zip(&left).position(|(a, b)| a != b);
            panic!("{insn:02x?}: memory differs at {at:x?} from {start:x?}");
        }
    }

    /// Compares `times` runs with RBX in the middle of the memory.
    fn check(&mut self, insn: &[u8], times: u32, undefined: impl Fn(&Regs) -> u64) {
        for _ in 0..times {
            let (mut regs, memory) = self.state();
            regs.gpr[usize::from(RBX)] = self.middle();
            let mask = undefined(&regs);
            self.compare(insn, &regs, &memory, mask);
        }
    }

    fn byte(&mut self) -> u8 {
        self.random.value().to_le_bytes()[0]
    }
}

/// Prefixes for operand sizes of 16, 32 and 64 bits; those of 8 bits go by opcode.
const SIZES: [&[u8]; 3] = [&[0x66], &[], &[0x48]];
/// ModRM bytes with reg = RDX: memory at [rbx], at [rbx + 0x10], and the registers RAX, RCX, RSI.
const OPERANDS: [&[u8]; 5] = [&[0x13], &[0x53, 0x10], &[0xd0], &[0xd1], &[0xd6]];
const TIMES: u32 = 24;

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// `operand` with its reg field replaced.
fn with_ext(operand: &[u8], ext: u8) -> Vec<u8> {
    let mut bytes = operand.to_vec();
    bytes[0] = (bytes[0] & !0x38) | ext << 3;
    bytes
}

fn is_memory(operand: &[u8]) -> bool {
    operand[0] < 0xc0
}

#[test]
fn the_alu_rows_do_what_the_processor_does() {
    let mut rig = Rig::new(1);
    for row in 0..8u8 {
        let undefined = if matches!(row, 1 | 4 | 6) { AF } else { 0 };
        for size in SIZES {
            for column in 0..4u8 {
                for operand in OPERANDS {
                    rig.check(&join(&[size, &[row << 3 | column], operand]), TIMES, |_| undefined);
                    if row != 7 && column < 2 && is_memory(operand) {
                        let locked = join(&[&[0xf0], size, &[row << 3 | column], operand]);
                        rig.check(&locked, TIMES, |_| undefined);
                    }
                }
            }
            for _ in 0..TIMES {
                let imm = rig.random.value().to_le_bytes();
                let len = if size == [0x66] { 2 } else { 4 };
                rig.check(&join(&[&[row << 3 | 4], &imm[..1]]), 2, |_| undefined);
                rig.check(&join(&[size, &[row << 3 | 5], &imm[..len]]), 2, |_| undefined);
                for operand in OPERANDS {
                    let operand = with_ext(operand, row);
                    rig.check(&join(&[size, &[0x80], &operand, &imm[..1]]), 2, |_| undefined);
                    rig.check(&join(&[size, &[0x81], &operand, &imm[..len]]), 2, |_| undefined);
                    rig.check(&join(&[size, &[0x83], &operand, &imm[..1]]), 2, |_| undefined);
                }
            }
        }
    }
}

#[test]
fn one_operand_arithmetic_does_what_the_processor_does() {
    let mut rig = Rig::new(2);
    for size in SIZES {
        for operand in OPERANDS {
            for low in 0..2u8 {
                for ext in 0..2 {
                    rig.check(&join(&[size, &[0xfe | low], &with_ext(operand, ext)]), TIMES, |_| 0);
                }
                for ext in 2..4 {
                    rig.check(&join(&[size, &[0xf6 | low], &with_ext(operand, ext)]), TIMES, |_| 0);
                }
                // TEST with an immediate and with a register.
                let imm = rig.random.value().to_le_bytes();
                let len = match (low, size) {
                    (0, _) => 1,
                    (_, [0x66]) => 2,
                    _ => 4,
                };
                let test = join(&[size, &[0xf6 | low], &with_ext(operand, 0), &imm[..len]]);
                rig.check(&test, TIMES, |_| AF);
                rig.check(&join(&[size, &[0x84 | low], operand]), TIMES, |_| AF);
                rig.check(&join(&[size, &[0xa8 | low], &imm[..len]]), TIMES, |_| AF);
            }
        }
    }
}

/// What the manuals leave undefined of a shift: AF, OF unless the count is one, CF for a count
/// above the width.
fn undefined_of_shift(ext: u8, width: u64, count: u64) -> u64 {
    let count = count & if width == 64 { 63 } else { 31 };
    let rotates = ext < 4;
    let mut mask = if rotates || count == 0 { 0 } else { AF };
    if count != 1 && count != 0 {
        mask |= OF;
    }
    if !rotates && ext != 7 && count >= width {
        mask |= CF;
    }
    mask
}

#[test]
fn shifts_and_rotates_do_what_the_processor_does() {
    let mut rig = Rig::new(3);
    for (size, wide) in SIZES.into_iter().zip([16, 32, 64]) {
        for operand in OPERANDS {
            for ext in 0..8u8 {
                let modrm = with_ext(operand, ext);
                for low in 0..2u8 {
                    let width = if low == 0 { 8 } else { wide };
                    // The width of a byte goes without REX.W.
                    let size = if low == 0 { &[][..] } else { size };
                    let once = join(&[size, &[0xd0 | low], &modrm]);
                    rig.check(&once, TIMES, |_| undefined_of_shift(ext, width, 1));
                    let by_cl = join(&[size, &[0xd2 | low], &modrm]);
                    rig.check(&by_cl, TIMES, |r| undefined_of_shift(ext, width, r.gpr[1]));
                    for _ in 0..TIMES {
                        let imm = rig.byte();
                        let by_imm = join(&[size, &[0xc0 | low], &modrm, &[imm]]);
                        rig.check(&by_imm, 1, |_| undefined_of_shift(ext, width, u64::from(imm)));
                    }
                }
            }
        }
    }
}

#[test]
fn double_shifts_do_what_the_processor_does() {
    let mut rig = Rig::new(4);
    for (size, width) in SIZES.into_iter().zip([16u8, 32, 64]) {
        for operand in OPERANDS {
            for opcode in [0xa4, 0xac] {
                // A count above the width leaves the result undefined.
                for count in 0..=width.min(63) {
                    let insn = join(&[size, &[0x0f, opcode], operand, &[count]]);
                    let undefined = undefined_of_shift(4, 64, u64::from(count));
                    rig.check(&insn, 4, |_| undefined & !CF);
                }
                if width != 16 {
                    let insn = join(&[size, &[0x0f, opcode | 1], operand]);
                    rig.check(&insn, TIMES, |r| undefined_of_shift(4, 64, r.gpr[1] & u64::from(width - 1)));
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_the_processor() {
    let mut rig = Rig::new(5);
    let undefined = SF | ZF | AF | PF;
    for size in SIZES {
        for operand in OPERANDS {
            for ext in 4..6 {
                for low in 0..2u8 {
                    rig.check(&join(&[size, &[0xf6 | low], &with_ext(operand, ext)]), TIMES, |_| undefined);
                }
            }
            rig.check(&join(&[size, &[0x0f, 0xaf], operand]), TIMES, |_| undefined);
            for _ in 0..TIMES {
                let imm = rig.random.value().to_le_bytes();
                let len = if size == [0x66] { 2 } else { 4 };
                rig.check(&join(&[size, &[0x69], operand, &imm[..len]]), 1, |_| undefined);
                rig.check(&join(&[size, &[0x6b], operand, &imm[..1]]), 1, |_| undefined);
            }
        }
    }
}

/// Whether a division by RSI (of `width` bits) faults, by 128-bit arithmetic.
fn divides(signed: bool, width: u32, regs: &Regs) -> bool {
    let mask = u128::MAX >> (128 - width);
    let reg = |n: u8| u128::from(regs.gpr[usize::from(n)]) & mask;
    let high = if width == 8 { u128::from(regs.gpr[0] >> 8) & mask } else { reg(RDX) };
    let whole = high << width | reg(RAX);
    if !signed {
        return reg(RSI) != 0 && whole / reg(RSI) <= mask;
    }
    let extend = |value: u128, bits: u32| (value << (128 - bits)) as i128 >> (128 - bits);
    let quotient = extend(whole, width * 2).checked_div(extend(reg(RSI), width));
    let half = 1i128 << (width - 1);
    quotient.is_some_and(|q| q < half && q >= -half)
}

#[test]
fn quotients_and_divide_errors_are_those_of_the_processor() {
    let mut rig = Rig::new(6);
    let (mut done, mut faults) = (0, 0);
    for (size, wide) in SIZES.into_iter().zip([16, 32, 64]) {
        for (ext, signed) in [(6, false), (7, true)] {
            for low in 0..2u8 {
                // SIL needs REX.
                let (size, width) = if low == 0 { (&[0x40][..], 8) } else { (size, wide) };
                let insn = join(&[size, &[0xf6 | low], &with_ext(&[0xc6], ext)]);
                for _ in 0..2000 {
                    let (mut regs, memory) = rig.state();
                    let n = rig.random.next();
                    // Mostly a dividend small enough to have a quotient.
                    let divisor = regs.gpr[usize::from(RSI)];
                    let high = &mut regs.gpr[usize::from(RDX)];
                    match n % 8 {
                        0 | 4 => {}
                        1 => *high = 0,
                        5 | 7 if signed => *high = u64::MAX,
                        _ => *high = divisor >> (n % 60) >> 2,
                    }
                    if divides(signed, width, &regs) {
                        done += 1;
                        rig.compare(&insn, &regs, &memory, STATUS);
                    } else {
                        faults += 1;
                        let (result, m) = rig.emulated(&insn, &regs, &memory);
                        assert_eq!(
                            result,
                            Err(StopReason::Fault(CpuException::plain(ExceptionVector::DE))),
                            "{insn:02x?} {regs:x?}"
                        );
                        assert_eq!(m.gpr, regs.gpr);
                    }
                }
            }
        }
    }
    assert!(done > 5000 && faults > 2000, "{done} done, {faults} faults");
}

#[test]
fn moves_do_what_the_processor_does() {
    let mut rig = Rig::new(7);
    for size in SIZES {
        for operand in OPERANDS {
            for opcode in 0x88..=0x8b {
                rig.check(&join(&[size, &[opcode], operand]), TIMES, |_| 0);
            }
            for opcode in [0xb6, 0xb7, 0xbe, 0xbf] {
                rig.check(&join(&[size, &[0x0f, opcode], operand]), TIMES, |_| 0);
            }
            rig.check(&join(&[size, &[0x63], operand]), TIMES, |_| 0);
            for opcode in [0x86, 0x87] {
                rig.check(&join(&[size, &[opcode], operand]), TIMES, |_| 0);
            }
            let imm = rig.random.value().to_le_bytes();
            let len = if size == [0x66] { 2 } else { 4 };
            rig.check(&join(&[size, &[0xc6], &with_ext(operand, 0), &imm[..1]]), TIMES, |_| 0);
            rig.check(&join(&[size, &[0xc7], &with_ext(operand, 0), &imm[..len]]), TIMES, |_| 0);
            if is_memory(operand) {
                rig.check(&join(&[size, &[0x8d], operand]), TIMES, |_| 0);
            }
        }
        rig.check(&join(&[size, &[0x98]]), TIMES, |_| 0);
        rig.check(&join(&[size, &[0x99]]), TIMES, |_| 0);
        for n in 0..8 {
            rig.check(&join(&[size, &[0x90 | n]]), 8, |_| 0);
        }
        for n in [0, 1, 2, 3, 5, 6, 7] {
            let imm = rig.random.value().to_le_bytes();
            rig.check(&[0xb0 | n, imm[0]], 8, |_| 0);
            let len = match size {
                [0x66] => 2,
                [] => 4,
                _ => 8,
            };
            rig.check(&join(&[size, &[0xb8 | n], &imm[..len]]), 8, |_| 0);
        }
    }
}

#[test]
fn rex_reaches_all_registers_as_on_the_processor() {
    let mut rig = Rig::new(8);
    for rex in 0x40..0x50u8 {
        for modrm in 0xc0..=0xffu8 {
            let to_rsp = modrm & 7 == 4 && rex & 1 == 0;
            let from_rsp = modrm & 0x38 == 0x20 && rex & 4 == 0;
            if !to_rsp && !from_rsp {
                for opcode in [0x00, 0x01, 0x8a, 0x8b, 0x86] {
                    rig.check(&[rex, opcode, modrm], 2, |_| 0);
                }
            }
        }
    }
    for modrm in 0xc0..=0xffu8 {
        // Without REX the byte registers 4 to 7 are AH, CH, DH, BH.
        rig.check(&[0x00, modrm], 4, |_| 0);
        rig.check(&[0x8a, modrm], 4, |_| 0);
    }
}

#[test]
fn effective_addresses_are_those_of_the_processor() {
    let mut rig = Rig::new(9);
    for prefix in [&[][..], &[0x67]] {
        for rex in 0x48..0x50u8 {
            for modrm in (0..0xc0u8).filter(|byte| byte & 0x38 == 0x10) {
                for _ in 0..4 {
                    let mut insn = join(&[prefix, &[rex, 0x8d, modrm]]);
                    if modrm & 7 == 4 {
                        insn.push(rig.byte());
                    }
                    let sib_base_5 = modrm & 7 == 4 && insn.last().unwrap() & 7 == 5;
                    let disp = match modrm >> 6 {
                        0 if modrm & 7 == 5 || sib_base_5 => 4,
                        0 => 0,
                        1 => 1,
                        _ => 4,
                    };
                    insn.extend_from_slice(&rig.random.value().to_le_bytes()[..disp]);
                    rig.check(&insn, 4, |_| 0);
                }
            }
        }
    }
}

#[test]
fn bit_instructions_do_what_the_processor_does() {
    let mut rig = Rig::new(10);
    let undefined = OF | SF | AF | PF;
    for size in SIZES {
        for operand in OPERANDS {
            for kind in 4..8u8 {
                for _ in 0..TIMES {
                    let imm = rig.byte();
                    let insn = join(&[size, &[0x0f, 0xba], &with_ext(operand, kind), &[imm]]);
                    rig.check(&insn, 1, |_| undefined);
                }
                let by_reg = join(&[size, &[0x0f, 0x83 | kind << 3], operand]);
                for _ in 0..TIMES {
                    let (mut regs, memory) = rig.state();
                    regs.gpr[usize::from(RBX)] = rig.middle();
                    if is_memory(operand) {
                        // Bits to both sides of RBX, within the memory.
                        let near = (rig.random.next() % 60_000).wrapping_sub(30_000);
                        let above = if size == [0x48] { 0 } else { rig.random.next() << 32 };
                        regs.gpr[usize::from(RDX)] =
                            if above == 0 { near } else { near & 0xffff_ffff | above };
                    }
                    rig.compare(&by_reg, &regs, &memory, undefined);
                }
            }
            for opcode in [0xbc, 0xbd] {
                let scan = join(&[size, &[0x0f, opcode], operand]);
                rig.check(&scan, TIMES, |_| STATUS & !ZF);
            }
        }
        for n in [0, 1, 2, 6, 7] {
            if size != [0x66] {
                rig.check(&join(&[size, &[0x0f, 0xc8 | n]]), TIMES, |_| 0);
            }
        }
    }
}

#[test]
fn conditions_are_those_of_the_processor() {
    let mut rig = Rig::new(11);
    for cc in 0..16u8 {
        for operand in OPERANDS {
            rig.check(&join(&[&[0x0f, 0x90 | cc], operand]), TIMES, |_| 0);
            for size in SIZES {
                rig.check(&join(&[size, &[0x0f, 0x40 | cc], operand]), TIMES, |_| 0);
            }
        }
    }
}

#[test]
fn exchanges_do_what_the_processor_does() {
    let mut rig = Rig::new(12);
    for size in SIZES {
        for operand in OPERANDS {
            for opcode in [0xb0, 0xb1, 0xc0, 0xc1] {
                let insn = join(&[size, &[0x0f, opcode], operand]);
                let locked = join(&[&[0xf0], &insn]);
                for n in 0..TIMES {
                    let (mut regs, mut memory) = rig.state();
                    regs.gpr[usize::from(RBX)] = rig.middle();
                    if n % 2 == 0 {
                        // Make the comparison succeed.
                        let rax = regs.gpr[0];
                        for at in [MEMORY / 2, MEMORY / 2 + 16] {
                            memory[at..at + 8].copy_from_slice(&rax.to_le_bytes());
                        }
                        regs.gpr[1] = rax;
                        regs.gpr[6] = rax;
                    }
                    rig.compare(&insn, &regs, &memory, 0);
                    if is_memory(operand) {
                        rig.compare(&locked, &regs, &memory, 0);
                    }
                }
            }
        }
    }
}

#[test]
fn double_word_exchanges_do_what_the_processor_does() {
    let mut rig = Rig::new(13);
    for (prefix, half) in [(&[][..], 4), (&[0x48], 8)] {
        let insn = join(&[prefix, &[0x0f, 0xc7, 0x0e]]);
        for n in 0..TIMES * 4 {
            let (mut regs, mut memory) = rig.state();
            regs.gpr[usize::from(RSI)] = rig.middle();
            if n % 2 == 0 {
                let at = MEMORY / 2;
                memory[at..at + half].copy_from_slice(&regs.gpr[0].to_le_bytes()[..half]);
                memory[at + half..at + 2 * half].copy_from_slice(&regs.gpr[2].to_le_bytes()[..half]);
            }
            rig.compare(&insn, &regs, &memory, 0);
            rig.compare(&join(&[&[0xf0], &insn]), &regs, &memory, 0);
        }
    }
}

#[test]
fn string_instructions_do_what_the_processor_does() {
    let mut rig = Rig::new(14);
    for prefix in [&[][..], &[0xf2], &[0xf3]] {
        for small_addresses in [&[][..], &[0x67]] {
            for size in SIZES {
                for opcode in [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf] {
                    let insn = join(&[prefix, small_addresses, size, &[opcode]]);
                    for n in 0..TIMES {
                        let (mut regs, mut memory) = rig.state();
                        let off = |rig: &mut Rig| rig.random.next() % 600;
                        regs.gpr[usize::from(RSI)] = rig.middle() + off(&mut rig);
                        regs.gpr[usize::from(RDI)] = rig.middle() - off(&mut rig);
                        regs.gpr[usize::from(RCX)] = rig.random.next() % 200;
                        if small_addresses.is_empty() || n % 8 != 0 {
                            // No repetition with 32-bit addresses: processors differ in the upper half.
                            regs.gpr[usize::from(RCX)] = regs.gpr[usize::from(RCX)].max(1);
                        }
                        if n % 2 == 0 {
                            regs.rflags |= DF;
                        }
                        if n % 4 > 1 {
                            // Long runs of equal bytes.
                            memory.fill(regs.gpr[0].to_le_bytes()[0]);
                            memory[MEMORY / 2 + 50] ^= 1;
                            regs.gpr[0] = u64::from_le_bytes([memory[0]; 8]);
                        }
                        rig.compare(&insn, &regs, &memory, 0);
                    }
                }
            }
        }
    }
}

#[test]
fn stack_instructions_do_what_the_processor_does() {
    let mut rig = Rig::new(15);
    for size in [&[][..], &[0x66]] {
        for n in 0..8 {
            rig.check(&join(&[size, &[0x50 | n]]), 8, |_| 0);
            // POP RSP loads a wild stack pointer, which the harness survives.
            rig.check(&join(&[size, &[0x58 | n]]), 8, |_| 0);
        }
        let imm = rig.random.value().to_le_bytes();
        let len = if size == [0x66] { 2 } else { 4 };
        rig.check(&join(&[size, &[0x68], &imm[..len]]), 8, |_| 0);
        rig.check(&join(&[size, &[0x6a], &imm[..1]]), 8, |_| 0);
        for operand in OPERANDS {
            rig.check(&join(&[size, &[0xff], &with_ext(operand, 6)]), 8, |_| 0);
            rig.check(&join(&[size, &[0x8f], &with_ext(operand, 0)]), 8, |_| 0);
        }
        // Based on RSP: push [rsp + 8], pop [rsp + 8].
        rig.check(&join(&[size, &[0xff, 0x74, 0x24, 0x08]]), 8, |_| 0);
        rig.check(&join(&[size, &[0x8f, 0x44, 0x24, 0x08]]), 8, |_| 0);
        rig.check(&join(&[size, &[0xc8, 0x20, 0x01, 0x00]]), 8, |_| 0);
        for _ in 0..8 {
            let (mut regs, memory) = rig.state();
            regs.gpr[5] = rig.middle() + 0x100;
            rig.compare(&join(&[size, &[0xc9]]), &regs, &memory, 0);
        }
    }
    for opcode in [0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd] {
        rig.check(&[opcode], TIMES, |_| 0);
    }
    rig.check(&[0xd7], TIMES, |_| 0);
}

#[test]
fn reads_relative_to_rip_are_those_of_the_processor() {
    let mut rig = Rig::new(16);
    let disp = |rig: &Rig, len: u64| {
        let to = rig.middle().wrapping_sub(rig.native.rip() + len);
        i32::try_from(to).unwrap().to_le_bytes()
    };
    let load = disp(&rig, 7);
    rig.check(&join(&[&[0x48, 0x8b, 0x15], &load]), TIMES, |_| 0);
    let store = disp(&rig, 8);
    // The displacement counts from behind the immediate.
    rig.check(&join(&[&[0x48, 0x83, 0x05], &store, &[0x55]]), TIMES, |_| 0);
}

#[test]
fn counts_and_byte_reversals_are_those_of_the_processor() {
    let mut rig = Rig::new(17);
    for operand in OPERANDS {
        for size in SIZES {
            let bits = if size == [0x66] { join(&[&[0x66, 0xf3]]) } else { join(&[&[0xf3], size]) };
            if std::is_x86_feature_detected!("bmi1") {
                rig.check(&join(&[&bits, &[0x0f, 0xbc], operand]), TIMES, |_| OF | SF | PF | AF);
            }
            if std::is_x86_feature_detected!("lzcnt") {
                rig.check(&join(&[&bits, &[0x0f, 0xbd], operand]), TIMES, |_| OF | SF | PF | AF);
            }
            if std::is_x86_feature_detected!("popcnt") {
                rig.check(&join(&[&bits, &[0x0f, 0xb8], operand]), TIMES, |_| 0);
            }
            if std::is_x86_feature_detected!("movbe") && is_memory(operand) {
                rig.check(&join(&[size, &[0x0f, 0x38, 0xf0], operand]), TIMES, |_| 0);
                rig.check(&join(&[size, &[0x0f, 0x38, 0xf1], operand]), TIMES, |_| 0);
            }
            if is_memory(operand) && size != [0x66] {
                rig.check(&join(&[size, &[0x0f, 0xc3], operand]), TIMES, |_| 0);
            }
        }
    }
}
