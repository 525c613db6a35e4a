// SPDX-License-Identifier: GPL-2.0

//! Which images of the extended state load without a fault, by the manual.

use crate::arch::cr::Xcr0;
use crate::arch::xsave::{loads, mxcsr_bits, word, MXCSR, MXCSR_INITIAL, MXCSR_MASK, XSTATE_BV};

const SSE: Xcr0 = Xcr0::X87.union(Xcr0::SSE);
/// A processor without misaligned SSE mode.
const BITS: u32 = 0xffff;

fn image(components: u64, mxcsr: u32) -> [u8; 4096] {
    let mut image = [0; 4096];
    image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
    image[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&components.to_le_bytes());
    image
}

#[test]
fn the_bits_of_mxcsr_are_those_that_fxsave_tells() {
    assert_eq!(mxcsr_bits(0x2_ffff), 0x2_ffff);
    assert_eq!(mxcsr_bits(0), 0xffbf, "the first processors tell nothing");
    assert_eq!(word(&image(0, 0x1fa0), MXCSR), 0x1fa0);
    assert_eq!(word(&[0; 2], MXCSR_MASK), 0);
}

#[test]
fn an_absent_bit_of_mxcsr_is_refused_wherever_a_component_uses_it() {
    for bit in (0..32).map(|n| 1u32 << n) {
        for components in 1..8 {
            let got = loads(&image(components, bit), SSE | Xcr0::AVX, BITS);
            assert_eq!(got, (bit & BITS != 0).then_some(bit), "{bit:#x} with components {components}");
        }
    }
    assert_eq!(loads(&image(1, 1 << 17), SSE, 0x2_ffff), Some(1 << 17), "AMD's processors have this one");
}

#[test]
fn an_mxcsr_that_no_component_uses_is_initial() {
    assert_eq!(loads(&image(0, u32::MAX), SSE, BITS), Some(MXCSR_INITIAL));
    assert_eq!(loads(&image(1 << 9, u32::MAX), SSE | Xcr0::PKRU, BITS), Some(MXCSR_INITIAL));
}

#[test]
fn components_that_are_not_enabled_are_refused() {
    for components in [1u64 << 2, 1 << 9, 1 << 17, 1 << 18, 1 << 62, 1 << 63] {
        assert_eq!(loads(&image(components | 3, 0), SSE, BITS), None, "{components:#x}");
    }
}

#[test]
fn every_other_byte_of_the_header_must_be_zero() {
    for at in XSTATE_BV + 8..576 {
        let mut image = image(3, MXCSR_INITIAL);
        image[at] = 0x10;
        assert_eq!(loads(&image, SSE, BITS), None, "byte {at}");
    }
    assert_eq!(loads(&[0; 24], SSE, BITS), Some(MXCSR_INITIAL), "what is not there is zero");
}
