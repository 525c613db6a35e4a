// SPDX-License-Identifier: GPL-2.0

//! The opcode maps: what follows each opcode byte.
//!
//! SDM, "Opcode Map"; APM, "Opcode Encoding". Each map is a grid of letters, sixteen by sixteen, the
//! high half of the opcode choosing the row:
//!
//! | letter | after the opcode comes |
//! |---|---|
//! | `.` | nothing |
//! | `m` | ModRM |
//! | `M` | ModRM and an 8-bit immediate |
//! | `Z` | ModRM and an immediate of operand size, at most 32 bits |
//! | `g` | ModRM and, where its reg field is 0 or 1, an immediate (group 3) |
//! | `b` `w` `z` `v` | an immediate: 8 bits, 16 bits, operand size up to 32 bits, full operand size |
//! | `e` | a 16-bit and an 8-bit immediate (ENTER) |
//! | `f` | a far pointer |
//! | `o` | an absolute address of address size (MOV moffs) |
//! | `r` | ModRM whose mod field is ignored: always a register (MOV CR, MOV DR) |
//! | `p` `x` | a prefix; the escape to another map |
//! | `u` | nothing: the opcode is undefined |

/// Which opcode map an instruction belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpcodeMap {
    /// One-byte opcodes.
    One,
    /// After 0F.
    Two,
    /// After 0F 38.
    Three38,
    /// After 0F 3A.
    Three3a,
}

/// What follows an opcode byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpcodeForm {
    Plain,
    ModRm,
    ModRmImm8,
    ModRmImmZ,
    Group3,
    Imm8,
    Imm16,
    ImmZ,
    ImmV,
    Enter,
    Far,
    Moffs,
    RegOnly,
    Undefined,
}

type OpcodeGrid = [&'static [u8; 16]; 16];

const ONE: OpcodeGrid = [
    b"mmmmbz..mmmmbz.x",
    b"mmmmbz..mmmmbz..",
    b"mmmmbzp.mmmmbzp.",
    b"mmmmbzp.mmmmbzp.",
    b"................",
    b"................",
    b"..mmppppzZbM....",
    b"bbbbbbbbbbbbbbbb",
    b"MZMMmmmmmmmmmmmm",
    b"..........f.....",
    b"oooo....bz......",
    b"bbbbbbbbvvvvvvvv",
    b"MMw.mmMZe.w..b..",
    b"mmmmbb..mmmmmmmm",
    b"bbbbbbbbzzfb....",
    b"p.pp..gg......mm",
];

const TWO: OpcodeGrid = [
    b"mmmmu.....u.um.M",
    b"mmmmmmmmmmmmmmmm",
    b"rrrruuuummmmmmmm",
    b"......u.xuxuuuuu",
    b"mmmmmmmmmmmmmmmm",
    b"mmmmmmmmmmmmmmmm",
    b"mmmmmmmmmmmmmmmm",
    b"MMMMmmm.mmuummmm",
    b"zzzzzzzzzzzzzzzz",
    b"mmmmmmmmmmmmmmmm",
    b"...mMmuu...mMmmm",
    b"mmmmmmmmmmMmmmmm",
    b"mmMmMMMm........",
    b"mmmmmmmmmmmmmmmm",
    b"mmmmmmmmmmmmmmmm",
    b"mmmmmmmmmmmmmmmm",
];

/// Returns what follows `opcode` in `map`.
pub(super) fn form(map: OpcodeMap, opcode: u8) -> OpcodeForm {
    let grid = match map {
        OpcodeMap::One => &ONE,
        OpcodeMap::Two => &TWO,
        OpcodeMap::Three38 => return OpcodeForm::ModRm,
        OpcodeMap::Three3a => return OpcodeForm::ModRmImm8,
    };
    let row = usize::from(opcode >> 4);
    let column = usize::from(opcode & 15);
    let letter = grid.get(row).and_then(|cells| cells.get(column)).copied().unwrap_or(b'u');
    match letter {
        b'm' => OpcodeForm::ModRm,
        b'M' => OpcodeForm::ModRmImm8,
        b'Z' => OpcodeForm::ModRmImmZ,
        b'g' => OpcodeForm::Group3,
        b'b' => OpcodeForm::Imm8,
        b'w' => OpcodeForm::Imm16,
        b'z' => OpcodeForm::ImmZ,
        b'v' => OpcodeForm::ImmV,
        b'e' => OpcodeForm::Enter,
        b'f' => OpcodeForm::Far,
        b'o' => OpcodeForm::Moffs,
        b'r' => OpcodeForm::RegOnly,
        b'.' => OpcodeForm::Plain,
        // Prefixes and escapes are taken before the map is asked; left over, they are undefined.
        _ => OpcodeForm::Undefined,
    }
}

/// Returns whether a one-byte opcode does not exist in 64-bit mode.
pub(super) fn is_gone_in_64(opcode: u8) -> bool {
    matches!(
        opcode,
        0x06 | 0x07
            | 0x0e
            | 0x16
            | 0x17
            | 0x1e
            | 0x1f
            | 0x27
            | 0x2f
            | 0x37
            | 0x3f
            | 0x60..=0x62
            | 0x82
            | 0x9a
            | 0xc4
            | 0xc5
            | 0xce
            | 0xd4..=0xd6
            | 0xea
    )
}

/// How 64-bit mode treats an instruction's operand size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LongSize {
    /// 32 bits, 16 with prefix 66, 64 with REX.W.
    Usual,
    /// 64 bits, or 16 with prefix 66: what uses the stack.
    Default64,
    /// Always 64 bits: near branches, MOV to and from CR and DR.
    ///
    /// Prefix 66 on a branch is ignored, as Intel's processors do.
    Always64,
}

/// Returns how 64-bit mode treats the operand size. `ext` is the reg field of ModRM, 0 without one.
pub(super) fn long_size(map: OpcodeMap, opcode: u8, ext: u8) -> LongSize {
    match (map, opcode) {
        (OpcodeMap::One, 0x50..=0x5f | 0x68 | 0x6a | 0x8f | 0x9c | 0x9d | 0xc8 | 0xc9) => LongSize::Default64,
        (OpcodeMap::One, 0x70..=0x7f | 0xc2 | 0xc3 | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb) => LongSize::Always64,
        (OpcodeMap::One, 0xff) => match ext {
            2 | 4 => LongSize::Always64,
            6 => LongSize::Default64,
            _ => LongSize::Usual,
        },
        (OpcodeMap::Two, 0xa0 | 0xa1 | 0xa8 | 0xa9) => LongSize::Default64,
        (OpcodeMap::Two, 0x20..=0x23 | 0x80..=0x8f) => LongSize::Always64,
        _ => LongSize::Usual,
    }
}
