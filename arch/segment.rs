// SPDX-License-Identifier: GPL-2.0

//! Segment registers with their hidden parts, and descriptor tables.
//!
//! SDM, "Segment Descriptors"; the attribute word is that of the VMCS ("Access rights").

/// The access rights of a segment: bits 0 to 7 are the descriptor's type, S, DPL and P; bits 12 to
/// 15 are AVL, L, D/B and G; bit 16 says "unusable" (a null selector was loaded).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegAttr(pub(crate) u32);

impl SegAttr {
    /// No descriptor is loaded.
    pub(crate) const UNUSABLE: SegAttr = SegAttr(1 << 16);

    /// The type field and the S bit.
    pub(crate) fn kind(self) -> u8 {
        (self.0 & 0x1f) as u8
    }
    /// Descriptor privilege level.
    pub(crate) fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }
    /// Present.
    pub(crate) fn is_present(self) -> bool {
        self.0 & (1 << 7) != 0
    }
    /// 64-bit code segment.
    pub(crate) fn is_long(self) -> bool {
        self.0 & (1 << 13) != 0
    }
    /// Default operand size 32 bits (D/B).
    pub(crate) fn is_big(self) -> bool {
        self.0 & (1 << 14) != 0
    }
    /// No descriptor is loaded.
    pub(crate) fn is_unusable(self) -> bool {
        self.0 & SegAttr::UNUSABLE.0 != 0
    }
    /// Data segment that may be written, or code that may be read (type bit 1).
    pub(crate) fn is_readable_or_writable(self) -> bool {
        self.0 & 2 != 0
    }
    /// Code segment.
    pub(crate) fn is_code(self) -> bool {
        self.0 & 0x18 == 0x18
    }
    /// Data segment that grows down.
    pub(crate) fn is_expand_down(self) -> bool {
        self.0 & 0x1c == 0x14
    }
}

/// A segment register: the visible selector and the hidden descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentState {
    /// The selector.
    pub(crate) selector: u16,
    /// The access rights.
    pub(crate) attr: SegAttr,
    /// The limit in bytes, granularity applied.
    pub(crate) limit: u32,
    /// The base address.
    pub(crate) base: u64,
}

impl SegmentState {
    /// A register that a null selector was loaded into.
    pub(crate) fn null(selector: u16) -> SegmentState {
        SegmentState { selector, attr: SegAttr::UNUSABLE, limit: 0, base: 0 }
    }

    /// This register after a load in real mode: 16 bytes to each number, the rest as it was. SDM,
    /// "Real-Address Mode Operation".
    pub(crate) fn at_paragraph(self, selector: u16) -> SegmentState {
        SegmentState { selector, base: u64::from(selector) << 4, ..self }
    }
}

/// Returns the base in a descriptor's first eight bytes. SDM, "Segment Descriptors".
pub(crate) fn descriptor_base(raw: u64) -> u64 {
    (raw >> 16 & 0xff_ffff) | (raw >> 32 & 0xff00_0000)
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DescTableReg {
    /// The base address.
    pub(crate) base: u64,
    /// The limit in bytes.
    pub(crate) limit: u16,
}

/// The segment registers, numbered as instructions encode them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegReg {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

impl SegReg {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [SegReg; 6] =
        [SegReg::Es, SegReg::Cs, SegReg::Ss, SegReg::Ds, SegReg::Fs, SegReg::Gs];
}
