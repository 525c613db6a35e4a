// SPDX-License-Identifier: GPL-2.0

//! Where reads of a file go and writes come from.

use core::marker::PhantomData;

/// Where a read goes.
pub struct IovIterDest<'a> {
    bytes: Vec<u8>,
    room: usize,
    _of: PhantomData<&'a mut [u8]>,
}

impl IovIterDest<'_> {
    /// One with this room.
    pub fn new(room: usize) -> Self {
        IovIterDest { bytes: Vec::new(), room, _of: PhantomData }
    }

    /// Returns what room is left.
    pub fn len(&self) -> usize {
        self.room - self.bytes.len()
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies what fits. Returns how much did.
    pub fn copy_to_iter(&mut self, bytes: &[u8]) -> usize {
        let n = self.len().min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..n]);
        n
    }

    /// Returns what was read.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Where a write comes from.
pub struct IovIterSource<'a> {
    bytes: &'a [u8],
}

impl<'a> IovIterSource<'a> {
    /// These bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        IovIterSource { bytes }
    }

    /// Returns what is left.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Copies what there is room for. Returns how much that was.
    pub fn copy_from_iter(&mut self, out: &mut [u8]) -> usize {
        let n = self.bytes.len().min(out.len());
        let (now, later) = self.bytes.split_at(n);
        out[..n].copy_from_slice(now);
        self.bytes = later;
        n
    }
}
