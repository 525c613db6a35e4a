// SPDX-License-Identifier: GPL-2.0

//! Large arrays on the heap, which never lie on a stack on their way there.

#![expect(unsafe_code, reason = "an allocation changes its type")]

use kernel::prelude::*;

/// Allocates an array of `N` copies of a value.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn array<T: Copy, const N: usize>(value: T) -> Result<KBox<[T; N]>> {
    let items = KVec::from_elem(value, N, GFP_KERNEL_ACCOUNT)?;
    let (items, _, _) = items.into_raw_parts();
    // SAFETY: N initialized items in one allocation, of the allocator that the box frees them with, and of nobody else's
    // from here on. Without any the pointer dangles, as that of an empty box may.
    Ok(unsafe { KBox::from_raw(items.cast()) })
}
