// SPDX-License-Identifier: GPL-2.0

//! The host's random numbers.

use kernel::bindings;

/// Fills `buf` from the kernel's generator. Any context.
pub(crate) fn fill(buf: &mut [u8]) {
    // SAFETY: `buf` is valid for its length.
    unsafe { bindings::get_random_bytes(buf.as_mut_ptr().cast(), buf.len()) }
}
