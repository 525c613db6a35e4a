// SPDX-License-Identifier: GPL-2.0

//! What transfers to or from the VMM's memory are made of.
//!
//! Addresses and lengths only: nothing here follows one.

use crate::arch::addr::Hva;
use kernel::prelude::*;

/// Room for the pieces of one transfer.
const PIECES: usize = 256;
/// The most bytes of one transfer: more than drivers ask for at a time, and little enough that what the
/// kernel allocates for all that are under way stays small.
const MAX_BYTES: u64 = 16 << 20;

/// `struct iovec`.
#[repr(C)]
pub(crate) struct IoVec {
    /// The first byte.
    pub(crate) base: u64,
    /// Bytes.
    pub(crate) len: usize,
}

/// The pieces of the process's memory that transfers are made of.
pub(crate) struct IoVecList {
    iov: KVec<IoVec>,
    /// Of the last transfer.
    bytes: u64,
}

/// Where the pieces of one of several transfers are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IoVecRange {
    first: usize,
    count: usize,
    bytes: u64,
}

impl IoVecRange {
    /// Returns the bytes in all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The pieces of one transfer.
#[derive(Clone, Copy)]
pub(crate) struct IoVecSlice<'a> {
    iov: &'a [IoVec],
    bytes: u64,
}

impl<'a> IoVecSlice<'a> {
    /// Returns the pieces.
    pub(crate) fn iov(&self) -> &'a [IoVec] {
        self.iov
    }

    /// Returns the bytes in all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl IoVecList {
    /// Returns none, with room for those of one transfer of the largest, or of more that are smaller.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<IoVecList> {
        Ok(IoVecList { iov: KVec::with_capacity(PIECES, GFP_KERNEL_ACCOUNT)?, bytes: 0 })
    }

    /// Sets them, in order. Returns whether they fit into one transfer.
    #[must_use]
    #[inline(always)]
    pub(crate) fn set(&mut self, pieces: impl Iterator<Item = (Hva, u64)>) -> bool {
        self.clear();
        self.add(pieces).is_some()
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) {
        self.iov.clear();
        self.bytes = 0;
    }

    /// Adds those of another transfer, in order. `None`: they do not fit.
    #[inline(always)]
    pub(crate) fn add(&mut self, mut pieces: impl Iterator<Item = (Hva, u64)>) -> Option<IoVecRange> {
        let first = self.iov.len();
        self.bytes = 0;
        pieces.try_for_each(|(hva, len)| self.push(hva, len))?;
        Some(IoVecRange { first, count: self.iov.len().saturating_sub(first), bytes: self.bytes })
    }

    /// Returns for how many more pieces there is room.
    pub(crate) fn room(&self) -> usize {
        PIECES.saturating_sub(self.iov.len())
    }

    /// Returns the pieces of the transfer that [`IoVecList::add`] returned.
    pub(crate) fn of(&self, extent: IoVecRange) -> IoVecSlice<'_> {
        let IoVecRange { first, count, bytes } = extent;
        match self.iov.get(first..first.saturating_add(count)) {
            Some(iov) => IoVecSlice { iov, bytes },
            None => IoVecSlice { iov: &[], bytes: 0 },
        }
    }

    /// Returns the only transfer.
    pub(crate) fn all(&self) -> IoVecSlice<'_> {
        IoVecSlice { iov: &self.iov, bytes: self.bytes }
    }

    /// Appends a piece; `None`: it does not fit.
    #[inline(always)]
    fn push(&mut self, hva: Hva, len: u64) -> Option<()> {
        let bytes = self.bytes.checked_add(len).filter(|n| *n <= MAX_BYTES)?;
        let piece = IoVec { base: hva.0, len: usize::try_from(len).ok()? };
        self.iov.push_within_capacity(piece).ok()?;
        self.bytes = bytes;
        Some(())
    }
}

/// Pieces of the process's memory, given out in parts: each a first address and bytes.
pub(crate) struct IoVecCut<I> {
    pieces: I,
    /// What is left of the piece that was cut last.
    rest: Option<(Hva, u64)>,
}

impl<I: Iterator<Item = (Hva, u64)>> IoVecCut<I> {
    /// Returns `pieces`, none of which is empty, uncut.
    pub(crate) fn new(pieces: I) -> IoVecCut<I> {
        IoVecCut { pieces, rest: None }
    }

    /// Returns the next part of at most `most` bytes, which is not 0.
    pub(crate) fn next(&mut self, most: u64) -> Option<(Hva, u64)> {
        let (at, len) = self.rest.take().or_else(|| self.pieces.next())?;
        let n = len.min(most);
        self.rest = len.checked_sub(n).filter(|left| *left != 0).map(|left| (at.wrapping_add(n), left));
        Some((at, n))
    }
}

/// Calls `copy` for each part of `buf` with where it belongs in the process's memory.
///
/// # Errors
/// `EFAULT` for more bytes than the pieces have; those of `copy`.
pub(crate) fn each_part(
    buf: &mut [u8],
    pieces: &mut IoVecCut<impl Iterator<Item = (Hva, u64)>>,
    copy: impl Fn(Hva, &mut [u8]) -> Result,
) -> Result {
    let mut rest = buf;
    while !rest.is_empty() {
        let (hva, n) = pieces.next(rest.len() as u64).ok_or(EFAULT)?;
        let (part, later) = rest.split_at_mut_checked(usize::try_from(n)?).ok_or(EINVAL)?;
        copy(hva, part)?;
        rest = later;
    }
    Ok(())
}

/// Returns the bytes of a transfer, or its error.
pub(crate) fn outcome(result: i64) -> Result<u64> {
    u64::try_from(result).map_err(|_| i32::try_from(result).map_or(EIO, Error::from_errno))
}
