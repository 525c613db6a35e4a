// SPDX-License-Identifier: GPL-2.0

//! What transfers to or from the VMM's memory are made of.

use crate::arch::addr::Hva;
use kernel::prelude::*;
use kernel::task::current;

/// Room for the pieces of one transfer.
const PIECES: usize = 256;
/// The most bytes of one transfer.
const MAX_BYTES: u64 = 16 << 20;

/// The pieces of the process's memory that transfers are made of.
pub(crate) struct IoVecList {
    iov: KVec<(Hva, u64)>,
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
    iov: &'a [(Hva, u64)],
    bytes: u64,
}

impl<'a> IoVecSlice<'a> {
    /// Returns the pieces.
    pub(super) fn pieces(&self) -> &'a [(Hva, u64)] {
        self.iov
    }

    /// Returns the bytes in all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies them out of the process; sleeps.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for (hva, len) in self.iov {
            let mut part = vec![0; *len as usize];
            current().process.read(hva.0, &mut part, true)?;
            out.extend_from_slice(&part);
        }
        Ok(out)
    }

    /// Copies as much into the process as there is room for; sleeps.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize> {
        let mut left = bytes;
        for (hva, len) in self.iov {
            let (part, later) = left.split_at(left.len().min(*len as usize));
            current().process.write(hva.0, part, true)?;
            left = later;
        }
        Ok(bytes.len() - left.len())
    }
}

impl IoVecList {
    /// Returns none.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<IoVecList> {
        Ok(IoVecList { iov: KVec::with_capacity(PIECES, GFP_KERNEL_ACCOUNT)?, bytes: 0 })
    }

    /// Sets them, in order. Returns whether they fit into one transfer.
    #[must_use]
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
    pub(crate) fn add(&mut self, pieces: impl Iterator<Item = (Hva, u64)>) -> Option<IoVecRange> {
        let first = self.iov.len();
        self.bytes = 0;
        for (hva, len) in pieces {
            self.bytes = self.bytes.checked_add(len).filter(|n| *n <= MAX_BYTES)?;
            if self.iov.len() == PIECES {
                return None;
            }
            self.iov.push_within_capacity((hva, len)).ok()?;
        }
        Some(IoVecRange { first, count: self.iov.len() - first, bytes: self.bytes })
    }

    /// Returns for how many more pieces there is room.
    pub(crate) fn room(&self) -> usize {
        PIECES - self.iov.len()
    }

    /// Returns the pieces of one transfer.
    pub(crate) fn of(&self, extent: IoVecRange) -> IoVecSlice<'_> {
        IoVecSlice { iov: &self.iov[extent.first..extent.first + extent.count], bytes: extent.bytes }
    }

    /// Returns the only transfer.
    pub(crate) fn all(&self) -> IoVecSlice<'_> {
        IoVecSlice { iov: &self.iov, bytes: self.bytes }
    }
}
