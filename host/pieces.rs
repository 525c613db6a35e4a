// SPDX-License-Identifier: GPL-2.0

//! What one transfer to or from the VMM's memory is made of.

use crate::arch::addr::Hva;
use core::mem::{align_of, size_of};
use kernel::bindings;
use kernel::prelude::*;
use static_assertions::const_assert;

/// Room for the pieces of one transfer.
const PIECES: usize = 256;
/// The most bytes of one transfer: more than drivers ask for at a time, and little enough that what the
/// kernel allocates for all that are under way stays small.
const MAX_BYTES: u64 = 16 << 20;

/// `struct iovec`, whose address nothing here follows.
#[repr(C)]
struct Piece {
    base: u64,
    len: usize,
}

const_assert!(size_of::<Piece>() == size_of::<bindings::iovec>());
const_assert!(align_of::<Piece>() == align_of::<bindings::iovec>());

/// The pieces of the process's memory that one transfer is made of.
pub(crate) struct Pieces {
    iov: KVec<Piece>,
    bytes: u64,
}

impl Pieces {
    /// Returns none, with room for those of one transfer.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Pieces> {
        Ok(Pieces { iov: KVec::with_capacity(PIECES, GFP_KERNEL_ACCOUNT)?, bytes: 0 })
    }

    /// Sets them, in order. Returns whether they fit into one transfer.
    #[must_use]
    pub(crate) fn set(&mut self, mut pieces: impl Iterator<Item = (Hva, u64)>) -> bool {
        self.iov.clear();
        self.bytes = 0;
        pieces.all(|(hva, len)| self.push(hva, len).is_some())
    }

    /// Appends a piece; `None`: it does not fit.
    fn push(&mut self, hva: Hva, len: u64) -> Option<()> {
        let bytes = self.bytes.checked_add(len).filter(|n| *n <= MAX_BYTES)?;
        let piece = Piece { base: hva.0, len: usize::try_from(len).ok()? };
        self.iov.push_within_capacity(piece).ok()?;
        self.bytes = bytes;
        Some(())
    }

    pub(super) fn as_ptr(&self) -> *const bindings::iovec {
        self.iov.as_ptr().cast()
    }

    pub(super) fn count(&self) -> u32 {
        self.iov.len() as u32
    }

    /// Returns the bytes in all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Returns the bytes of a transfer, or its error.
pub(super) fn outcome(result: i64) -> Result<u64> {
    u64::try_from(result).map_err(|_| i32::try_from(result).map_or(EIO, Error::from_errno))
}
