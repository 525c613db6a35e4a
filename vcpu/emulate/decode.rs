// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder: up to 15 bytes to an owned [`DecodedInsn`].
//!
//! SDM, "Instruction Format"; APM, "Instruction Encoding". Pure and total: every byte string in
//! every mode gives an instruction or one of the four [`DecodeError`]s.
//!
//! ```text
//! legacy prefixes*  REX?  (0F (38|3A)?)? opcode  ModRM? SIB? displacement?  immediate*
//! ```
//!
//! VEX, EVEX and XOP encodings are recognised and answered with [`DecodeError::Unknown`]. The
//! decoder knows the shape of every instruction of the four legacy maps, not whether the executor
//! can carry it out.

use super::table::{form, is_gone_in_64, long_size, LongSize, OpcodeForm, OpcodeMap};
use crate::arch::addr::AccessWidth;
use crate::arch::segment::SegReg;

/// The longest instruction in bytes.
pub(crate) const MAX_LEN: usize = 15;

/// The code size: what CS and EFER.LMA make of operand and address sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeMode {
    /// 16-bit code: real mode, virtual-8086 mode, or a 16-bit segment.
    Bits16,
    /// 32-bit code, in a legacy or compatibility segment.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl CodeMode {
    /// Returns the address of the instruction after `insn`, which is at `rip`: outside 64-bit mode it has 32
    /// bits.
    #[inline(always)]
    pub(crate) fn next_rip(self, rip: u64, insn: &DecodedInsn) -> u64 {
        let next = rip.wrapping_add(u64::from(insn.len));
        if self == CodeMode::Bits64 {
            next
        } else {
            next & 0xffff_ffff
        }
    }
}

/// Why bytes are no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The instruction goes on past the bytes given.
    Truncated,
    /// It would be longer than 15 bytes: #GP.
    TooLong,
    /// The architecture defines no such opcode: #UD.
    Undefined,
    /// A vector encoding (VEX, EVEX, XOP), which this decoder does not take apart.
    Unknown,
}

/// A repeat prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepPrefix {
    /// F2: REPNE.
    Ne,
    /// F3: REP, REPE.
    E,
}

/// The prefixes of an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InsnPrefixes {
    /// F0.
    pub(crate) lock: bool,
    /// 66.
    pub(crate) size_66: bool,
    /// 67.
    pub(crate) size_67: bool,
    /// The last of F2 and F3.
    pub(crate) rep: Option<RepPrefix>,
    /// The last segment override that counts in this mode.
    pub(crate) seg: Option<SegReg>,
    /// The REX byte, 0 where absent.
    pub(crate) rex: u8,
}

impl InsnPrefixes {
    /// Returns REX.W.
    pub(crate) fn rex_w(self) -> bool {
        self.rex & 8 != 0
    }

    /// Returns 8 where bit `bit` of REX is set (2 = R, 1 = X, 0 = B), else 0.
    fn extension(self, bit: u8) -> u8 {
        (self.rex.wrapping_shr(u32::from(bit)) & 1) << 3
    }
}

/// A memory operand: `seg:[base + index << scale + disp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemRef {
    /// The segment: an override, or the default of the base register.
    pub(crate) seg: SegReg,
    /// Number of the base register.
    pub(crate) base: Option<u8>,
    /// Number of the index register.
    pub(crate) index: Option<u8>,
    /// log2 of the index's factor, 0 to 3.
    pub(crate) scale: u8,
    /// The displacement, sign-extended.
    pub(crate) disp: u64,
    /// Whether the displacement counts from the next instruction.
    pub(crate) rip_relative: bool,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodedInsn {
    /// The opcode map.
    pub(crate) map: OpcodeMap,
    /// The last opcode byte.
    pub(crate) opcode: u8,
    /// The prefixes.
    pub(crate) prefixes: InsnPrefixes,
    /// The operand size where the opcode does not say 8 bits: 2, 4 or 8 bytes.
    pub(crate) op_size: AccessWidth,
    /// The address size: 2, 4 or 8 bytes.
    pub(crate) addr_size: AccessWidth,
    /// The reg field of ModRM without REX, 0 to 7: the extension of a group's opcode.
    pub(crate) ext: u8,
    /// The reg field of ModRM with REX.R, 0 to 15.
    pub(crate) reg: u8,
    /// The register that rm (with REX.B) names where there is no memory operand, or that the low
    /// three bits of the opcode name where there is no ModRM.
    pub(crate) rm: u8,
    /// The memory operand of ModRM or of a MOV moffs.
    pub(crate) mem: Option<MemRef>,
    /// The immediate, sign-extended; for a far pointer its offset, zero-extended.
    pub(crate) imm: u64,
    /// The second immediate: the level of ENTER, the selector of a far pointer.
    pub(crate) imm2: u16,
    /// The length in bytes, 1 to 15.
    pub(crate) len: u8,
}

impl DecodedInsn {
    /// Returns whether this is INT n, INT3, INT1 or INTO, which goes to a handler as an event does.
    pub(crate) fn is_interrupt(&self) -> bool {
        self.map == OpcodeMap::One && matches!(self.opcode, 0xcc..=0xce | 0xf1)
    }

    /// Returns whether this is AMD's other name of MOV CR8, which reaches it outside 64-bit mode:
    /// MOV CR0 with LOCK. APM, "MOV CRn".
    pub(crate) fn alternate_cr8(&self) -> bool {
        self.map == OpcodeMap::Two
            && matches!(self.opcode, 0x20 | 0x22)
            && self.prefixes.lock
            && self.reg == 0
    }
}

/// Decodes the instruction at the start of `bytes`; what follows it is ignored.
///
/// # Errors
/// See [`DecodeError`].
pub(crate) fn decode(bytes: &[u8], mode: CodeMode) -> Result<DecodedInsn, DecodeError> {
    let mut from = InsnCursor { bytes, at: 0 };
    let (prefixes, first) = prefixes(&mut from, mode)?;
    let addr_size = address_size(mode, prefixes.size_67);
    let (map, opcode) = opcode(&mut from, first)?;
    if map == OpcodeMap::One {
        refuse_vector(&from, opcode, mode)?;
        if mode == CodeMode::Bits64 && is_gone_in_64(opcode) {
            return Err(DecodeError::Undefined);
        }
    }
    let mut insn = DecodedInsn {
        map,
        opcode,
        prefixes,
        op_size: AccessWidth::B4,
        addr_size,
        ext: 0,
        reg: 0,
        rm: (opcode & 7) | prefixes.extension(0),
        mem: None,
        imm: 0,
        imm2: 0,
        len: 0,
    };
    operands(&mut from, &mut insn, mode)?;
    insn.len = from.at;
    Ok(insn)
}

struct InsnCursor<'a> {
    bytes: &'a [u8],
    at: u8,
}

impl InsnCursor<'_> {
    fn peek(&self) -> Result<u8, DecodeError> {
        // First: whoever has 15 bytes must not be asked for one more.
        if usize::from(self.at) >= MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        self.bytes.get(usize::from(self.at)).copied().ok_or(DecodeError::Truncated)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.at = self.at.wrapping_add(1);
        Ok(byte)
    }

    /// Takes a little-endian number of `width`, zero-extended.
    fn number(&mut self, width: AccessWidth) -> Result<u64, DecodeError> {
        let mut le = [0u8; 8];
        for slot in le.iter_mut().take(width.bytes()) {
            *slot = self.byte()?;
        }
        Ok(u64::from_le_bytes(le))
    }

    /// Takes a little-endian number of `width`, sign-extended.
    fn signed(&mut self, width: AccessWidth) -> Result<u64, DecodeError> {
        Ok(super::alu::sign_extend(width, self.number(width)?))
    }
}

/// Takes the prefixes and the first byte after them.
fn prefixes(from: &mut InsnCursor<'_>, mode: CodeMode) -> Result<(InsnPrefixes, u8), DecodeError> {
    let mut found = InsnPrefixes::default();
    loop {
        let byte = from.byte()?;
        if mode == CodeMode::Bits64 && byte & 0xf0 == 0x40 {
            // Only the REX right before the opcode counts.
            found.rex = byte;
            continue;
        }
        let flat_seg = |seg| if mode == CodeMode::Bits64 { found.seg } else { Some(seg) };
        match byte {
            0x26 => found.seg = flat_seg(SegReg::Es),
            0x2e => found.seg = flat_seg(SegReg::Cs),
            0x36 => found.seg = flat_seg(SegReg::Ss),
            0x3e => found.seg = flat_seg(SegReg::Ds),
            0x64 => found.seg = Some(SegReg::Fs),
            0x65 => found.seg = Some(SegReg::Gs),
            0x66 => found.size_66 = true,
            0x67 => found.size_67 = true,
            0xf0 => found.lock = true,
            0xf2 => found.rep = Some(RepPrefix::Ne),
            0xf3 => found.rep = Some(RepPrefix::E),
            _ => return Ok((found, byte)),
        }
        // A REX before another prefix is ignored.
        found.rex = 0;
    }
}

fn address_size(mode: CodeMode, prefixed: bool) -> AccessWidth {
    match (mode, prefixed) {
        (CodeMode::Bits16, false) | (CodeMode::Bits32, true) => AccessWidth::B2,
        (CodeMode::Bits16, true) | (CodeMode::Bits32, false) | (CodeMode::Bits64, true) => AccessWidth::B4,
        (CodeMode::Bits64, false) => AccessWidth::B8,
    }
}

fn opcode(from: &mut InsnCursor<'_>, first: u8) -> Result<(OpcodeMap, u8), DecodeError> {
    if first != 0x0f {
        return Ok((OpcodeMap::One, first));
    }
    Ok(match from.byte()? {
        0x38 => (OpcodeMap::Three38, from.byte()?),
        0x3a => (OpcodeMap::Three3a, from.byte()?),
        second => (OpcodeMap::Two, second),
    })
}

/// Refuses the bytes that begin a VEX, EVEX or XOP encoding. Outside 64-bit mode these are LES,
/// LDS and BOUND unless what would be their ModRM names a register.
fn refuse_vector(from: &InsnCursor<'_>, opcode: u8, mode: CodeMode) -> Result<(), DecodeError> {
    let vector = match opcode {
        0xc4 | 0xc5 | 0x62 => mode == CodeMode::Bits64 || from.peek()? >= 0xc0,
        // POP is 8F /0; an XOP map number of 8 or more never looks like it.
        0x8f => from.peek()? & 0x1f >= 8,
        _ => false,
    };
    if vector {
        return Err(DecodeError::Unknown);
    }
    Ok(())
}

fn operand_size(insn: &DecodedInsn, mode: CodeMode) -> AccessWidth {
    let narrow = insn.prefixes.size_66;
    match mode {
        CodeMode::Bits64 => match long_size(insn.map, insn.opcode, insn.ext) {
            LongSize::Always64 => AccessWidth::B8,
            _ if insn.prefixes.rex_w() => AccessWidth::B8,
            _ if narrow => AccessWidth::B2,
            LongSize::Default64 => AccessWidth::B8,
            LongSize::Usual => AccessWidth::B4,
        },
        // MOV to and from CR and DR has the size of the mode, whatever the prefixes say.
        _ if insn.map == OpcodeMap::Two && matches!(insn.opcode, 0x20..=0x23) => AccessWidth::B4,
        CodeMode::Bits32 if narrow => AccessWidth::B2,
        CodeMode::Bits16 if !narrow => AccessWidth::B2,
        _ => AccessWidth::B4,
    }
}

/// Takes everything after the opcode.
fn operands(from: &mut InsnCursor<'_>, insn: &mut DecodedInsn, mode: CodeMode) -> Result<(), DecodeError> {
    let form = form(insn.map, insn.opcode);
    if matches!(
        form,
        OpcodeForm::ModRm
            | OpcodeForm::ModRmImm8
            | OpcodeForm::ModRmImmZ
            | OpcodeForm::Group3
            | OpcodeForm::RegOnly
    ) {
        mod_rm(from, insn, mode, form == OpcodeForm::RegOnly)?;
    }
    // After ModRM, whose reg field decides within a group.
    insn.op_size = operand_size(insn, mode);
    let imm_z = if insn.op_size == AccessWidth::B2 { AccessWidth::B2 } else { AccessWidth::B4 };
    match form {
        OpcodeForm::Undefined => return Err(DecodeError::Undefined),
        OpcodeForm::Plain | OpcodeForm::ModRm | OpcodeForm::RegOnly => {}
        OpcodeForm::Imm8 | OpcodeForm::ModRmImm8 => insn.imm = from.signed(AccessWidth::B1)?,
        OpcodeForm::Imm16 => insn.imm = from.number(AccessWidth::B2)?,
        OpcodeForm::ImmZ | OpcodeForm::ModRmImmZ => insn.imm = from.signed(imm_z)?,
        OpcodeForm::ImmV => insn.imm = from.signed(insn.op_size)?,
        OpcodeForm::Group3 if insn.ext > 1 => {}
        OpcodeForm::Group3 if insn.opcode == 0xf6 => insn.imm = from.signed(AccessWidth::B1)?,
        OpcodeForm::Group3 => insn.imm = from.signed(imm_z)?,
        OpcodeForm::Enter => {
            insn.imm = from.number(AccessWidth::B2)?;
            insn.imm2 = u16::from(from.byte()?);
        }
        OpcodeForm::Far => {
            insn.imm = from.number(imm_z)?;
            insn.imm2 = (from.number(AccessWidth::B2)? & 0xffff) as u16;
        }
        OpcodeForm::Moffs => {
            let disp = from.number(insn.addr_size)?;
            let seg = insn.prefixes.seg.unwrap_or(SegReg::Ds);
            insn.mem = Some(MemRef { seg, base: None, index: None, scale: 0, disp, rip_relative: false });
        }
    }
    Ok(())
}

/// Takes ModRM, SIB and displacement.
fn mod_rm(
    from: &mut InsnCursor<'_>,
    insn: &mut DecodedInsn,
    mode: CodeMode,
    reg_only: bool,
) -> Result<(), DecodeError> {
    let byte = from.byte()?;
    insn.ext = (byte >> 3) & 7;
    insn.reg = insn.ext | insn.prefixes.extension(2);
    insn.rm = (byte & 7) | insn.prefixes.extension(0);
    let kind = byte >> 6;
    if kind == 3 || reg_only {
        return Ok(());
    }
    let mut mem = if insn.addr_size == AccessWidth::B2 {
        memory_16(from, kind, byte & 7)?
    } else {
        memory_32(from, insn.prefixes, kind, byte & 7, mode)?
    };
    if let Some(seg) = insn.prefixes.seg {
        mem.seg = seg;
    }
    insn.mem = Some(mem);
    Ok(())
}

/// SDM, "16-Bit Addressing Forms with the ModR/M Byte".
fn memory_16(from: &mut InsnCursor<'_>, kind: u8, rm: u8) -> Result<MemRef, DecodeError> {
    const BX: Option<u8> = Some(3);
    const BP: Option<u8> = Some(5);
    const SI: Option<u8> = Some(6);
    const DI: Option<u8> = Some(7);
    let (base, index) = match rm {
        0 => (BX, SI),
        1 => (BX, DI),
        2 => (BP, SI),
        3 => (BP, DI),
        4 => (SI, None),
        5 => (DI, None),
        6 if kind == 0 => (None, None),
        6 => (BP, None),
        _ => (BX, None),
    };
    let disp = match kind {
        0 if rm == 6 => from.signed(AccessWidth::B2)?,
        0 => 0,
        1 => from.signed(AccessWidth::B1)?,
        _ => from.signed(AccessWidth::B2)?,
    };
    let seg = if base == BP { SegReg::Ss } else { SegReg::Ds };
    Ok(MemRef { seg, base, index, scale: 0, disp, rip_relative: false })
}

/// SDM, "32-Bit Addressing Forms with the ModR/M Byte" and "… with the SIB Byte".
fn memory_32(
    from: &mut InsnCursor<'_>,
    prefixes: InsnPrefixes,
    kind: u8,
    rm: u8,
    mode: CodeMode,
) -> Result<MemRef, DecodeError> {
    let mut mem = MemRef { seg: SegReg::Ds, base: None, index: None, scale: 0, disp: 0, rip_relative: false };
    let mut base = rm;
    if rm == 4 {
        let sib = from.byte()?;
        mem.scale = sib >> 6;
        let index = ((sib >> 3) & 7) | prefixes.extension(1);
        // Number 4 says "no index"; R12 can be one.
        mem.index = (index != 4).then_some(index);
        base = sib & 7;
    }
    // REX.B does not count here: R13 needs a displacement just as RBP does.
    if base == 5 && kind == 0 {
        mem.rip_relative = mode == CodeMode::Bits64 && rm == 5;
        mem.disp = from.signed(AccessWidth::B4)?;
        return Ok(mem);
    }
    mem.base = Some(base | prefixes.extension(0));
    // RSP and RBP. R12 and R13 have the same low bits, and the segment of all others.
    if matches!(mem.base, Some(4 | 5)) {
        mem.seg = SegReg::Ss;
    }
    mem.disp = match kind {
        0 => 0,
        1 => from.signed(AccessWidth::B1)?,
        _ => from.signed(AccessWidth::B4)?,
    };
    Ok(mem)
}
