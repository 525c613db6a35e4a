// SPDX-License-Identifier: GPL-2.0

//! What `core` offers for slices, without its hidden panics.
//!
//! The kernel's build checks every addition, also in what is inlined from `core`, so that bisection
//! and copies by slice keep a call to a panic function that nothing can reach. These have none.

/// Returns how many of the indices `0..len` come before the first for which `holds` is false.
///
/// `holds` must be true for a first part of the indices and false for all after it.
#[inline]
pub(crate) fn count_first(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.wrapping_add(high.wrapping_sub(low) >> 1);
        if holds(middle) {
            low = middle.wrapping_add(1);
        } else {
            high = middle;
        }
    }
    low
}

/// Copies `src` over the start of `dst`, as far as both reach.
#[inline]
pub(crate) fn copy_common(dst: &mut [u8], src: &[u8]) {
    for (to, from) in dst.iter_mut().zip(src) {
        *to = *from;
    }
}
