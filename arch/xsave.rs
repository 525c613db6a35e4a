// SPDX-License-Identifier: GPL-2.0

//! The image that XSAVE and FXSAVE store: where things are in it, and which images load without a fault.
//!
//! SDM, "XSAVE Area", "FXSAVE Area", "Operation of XRSTOR". Only the standard format, not the compacted one.
//! Pure; the registers themselves are in `host/fpu.rs`.

use super::cr::Xcr0;

/// Offset of MXCSR in the legacy area.
pub(crate) const MXCSR: usize = 24;
/// Offset of MXCSR_MASK, which the processor only stores.
pub(crate) const MXCSR_MASK: usize = 28;
/// Offset of the header's state-component bitmap; the rest of the header follows it.
pub(crate) const XSTATE_BV: usize = 512;
/// Offset of the header's XCOMP_BV, 0 in the standard format.
const XCOMP_BV: usize = 520;
/// The part of the header that must be 0.
const RESERVED: core::ops::Range<usize> = 528..576;

/// MXCSR after reset.
pub(crate) const MXCSR_INITIAL: u32 = 0x1f80;

/// Returns the bits that MXCSR has, given the MXCSR_MASK that FXSAVE stored; loading any other faults.
///
/// SDM, "Guidelines for Writing to the MXCSR Register".
pub(crate) fn mxcsr_bits(stored: u32) -> u32 {
    // A processor that stores none has no DAZ, bit 6.
    if stored == 0 {
        0xffbf
    } else {
        stored
    }
}

/// Returns four bytes of an image; 0 past its end.
pub(crate) fn word(image: &[u8], at: usize) -> u32 {
    match image.get(at..at.saturating_add(4)) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]),
        _ => 0,
    }
}

fn quad(image: &[u8], at: usize) -> u64 {
    u64::from(word(image, at)) | u64::from(word(image, at.saturating_add(4))) << 32
}

/// Returns the MXCSR with which XRSTOR and FXRSTOR load `image`, whose other bytes are right as they are;
/// `None` where they would fault. `supported` has the components that are enabled, `mxcsr_bits` the bits of
/// MXCSR.
///
/// XRSTOR takes MXCSR from an image also where the components that use it are initial. What it says there
/// was never looked at by those who store such an image, so it counts as initial, too.
pub(crate) fn loads(image: &[u8], supported: Xcr0, mxcsr_bits: u32) -> Option<u32> {
    let present = Xcr0::from_bits(quad(image, XSTATE_BV)).filter(|bv| supported.contains(*bv))?;
    if quad(image, XCOMP_BV) != 0 || RESERVED.step_by(4).any(|at| word(image, at) != 0) {
        return None;
    }
    if !present.intersects(Xcr0::X87 | Xcr0::SSE | Xcr0::AVX) {
        return Some(MXCSR_INITIAL);
    }
    Some(word(image, MXCSR)).filter(|mxcsr| mxcsr & !mxcsr_bits == 0)
}
