// SPDX-License-Identifier: GPL-2.0

//! Addresses.

use crate::arch::addr::{canonical, Hpa, PAGE_SIZE};

#[test]
fn of_two_neighbouring_pages_the_second_of_an_even_pair_is_never_at_a_2_mib_boundary() {
    assert!(Hpa(0).is_at_2m_boundary());
    assert!(Hpa(0x4020_0000).is_at_2m_boundary());
    assert!(!Hpa(0x4020_1000).is_at_2m_boundary());
    assert!(!Hpa(0x4010_0000).is_at_2m_boundary());

    let pairs = (0..4096).map(|n| n * 2 * PAGE_SIZE);
    assert!(pairs.into_iter().all(|first| !Hpa(first + PAGE_SIZE).is_at_2m_boundary()));
}

#[test]
fn an_address_is_made_canonical_for_the_width_that_the_processor_has() {
    let kernel_5_levels = 0xff11_0000_1234_5678;
    assert_eq!(canonical(kernel_5_levels, 57), kernel_5_levels);
    assert_eq!(canonical(kernel_5_levels, 48), 0x1234_5678);
    assert_eq!(canonical(0x8000_0000_0000, 48), 0xffff_8000_0000_0000);
    assert_eq!(canonical(0x8000_0000_0000, 57), 0x8000_0000_0000);
    assert_eq!(canonical(u64::MAX >> 1, 64), u64::MAX >> 1);
}
