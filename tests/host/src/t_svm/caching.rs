// SPDX-License-Identifier: GPL-2.0

//! A guest finds the caching bits that it set, and the processor never has them.

use crate::svm::caching::{has_caching_bits, HiddenCaching};

const CD: u64 = 1 << 30;
const NW: u64 = 1 << 29;

#[test]
fn the_processor_never_has_the_caching_bits_and_the_guest_finds_them() {
    for bits in [0, CD, NW, CD | NW] {
        for rest in [0x10, 0x11, 0x8005_0033] {
            let mut hidden = HiddenCaching::default();

            let own = hidden.take(rest | bits);

            assert_eq!(own, rest);
            assert!(!has_caching_bits(own));
            assert_eq!((hidden.shown(own), hidden.is_any()), (rest | bits, bits != 0));
            // Other bits that the processor changes by itself are the guest's.
            assert_eq!(hidden.shown(own | 8), rest | bits | 8);
        }
    }
}

#[test]
fn bits_that_a_guest_clears_are_gone() {
    let mut hidden = HiddenCaching::default();
    hidden.take(0x10 | CD | NW);

    let own = hidden.take(0x11);

    assert_eq!((own, hidden.shown(own), hidden.is_any()), (0x11, 0x11, false));
    assert!(has_caching_bits(CD) && has_caching_bits(NW | 0x11) && !has_caching_bits(0x8005_0033));
}
