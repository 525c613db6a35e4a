// SPDX-License-Identifier: GPL-2.0

//! Addresses.

use crate::arch::addr::{Hpa, PAGE_SIZE};

#[test]
fn of_two_neighbouring_pages_the_second_of_an_even_pair_is_never_at_a_2_mib_boundary() {
    assert!(Hpa(0).is_at_2m_boundary());
    assert!(Hpa(0x4020_0000).is_at_2m_boundary());
    assert!(!Hpa(0x4020_1000).is_at_2m_boundary());
    assert!(!Hpa(0x4010_0000).is_at_2m_boundary());

    let pairs = (0..4096).map(|n| n * 2 * PAGE_SIZE);
    assert!(pairs.into_iter().all(|first| !Hpa(first + PAGE_SIZE).is_at_2m_boundary()));
}
