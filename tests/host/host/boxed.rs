// SPDX-License-Identifier: GPL-2.0

//! Large arrays on the heap; here by way of the stack.

use kernel::prelude::*;

/// Allocates an array of `N` copies of a value.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn array<T: Copy, const N: usize>(value: T) -> Result<KBox<[T; N]>> {
    Ok(KBox::new([value; N], GFP_KERNEL_ACCOUNT)?)
}
