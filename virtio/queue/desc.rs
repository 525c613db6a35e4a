// SPDX-License-Identifier: GPL-2.0

//! Descriptors: tables of them, and the buffer that they make up.
//!
//! Follows VIRTIO 1.2, "The Virtqueue Descriptor Table", "Indirect Descriptors" and, for packed rings,
//! "Available and Used Ring Wrap Counters" and "Indirect Flag: Scatter-Gather Support". A descriptor has
//! 16 bytes in both formats; they differ in the last two fields.

use super::buffer::{PoppedBuffer, QueueBuffer};
use super::fault::{QueueError, QueueFault};
use crate::arch::addr::Gpa;
use crate::mmu::mem::GuestMem;
use crate::virtio::segment::{MemSegment, SegmentList};
use zerocopy::IntoBytes;

/// Most descriptors of a table, and so the largest queue that the specification allows.
pub(crate) const MAX_SIZE: u16 = 0x8000;
pub(super) const DESC_BYTES: u64 = 16;
/// The buffer goes on in another descriptor.
pub(super) const NEXT: u16 = 1 << 0;
/// The device may write, and not read.
pub(super) const WRITE: u16 = 1 << 1;
/// The descriptor refers to a table of others.
pub(super) const INDIRECT: u16 = 1 << 2;

/// A descriptor of either format.
#[derive(Clone, Copy)]
pub(super) struct RingDesc {
    gpa: Gpa,
    len: u32,
    /// Bytes 12 and 13.
    third: u16,
    /// Bytes 14 and 15.
    fourth: u16,
}

impl RingDesc {
    /// Reads the descriptor `index` of the table at `table`.
    #[inline(always)]
    pub(super) fn read<M: GuestMem>(mem: &M, table: Gpa, index: u16) -> Result<RingDesc, QueueError> {
        let at = table.wrapping_add(u64::from(index).wrapping_mul(DESC_BYTES));
        Ok(RingDesc::from_words(&mem.read_obj(at)?))
    }

    #[inline(always)]
    fn from_words([gpa, rest]: &[u64; 2]) -> RingDesc {
        RingDesc {
            gpa: Gpa(*gpa),
            len: *rest as u32,
            third: (rest >> 32) as u16,
            fourth: (rest >> 48) as u16,
        }
    }

    /// Returns flags and the next descriptor, of a split ring.
    pub(super) fn split(&self) -> (u16, u16) {
        (self.third, self.fourth)
    }

    /// Returns flags and buffer id, of a packed ring.
    pub(super) fn packed(&self) -> (u16, u16) {
        (self.fourth, self.third)
    }
}

/// Descriptors that are fetched at a time.
const BATCH: u16 = 4;

/// A table of descriptors: the queue's own or an indirect one.
///
/// Buffers mostly go from one descriptor to the next, so a few are fetched together.
pub(super) struct DescTable {
    gpa: Gpa,
    /// Descriptors, at most 32768.
    len: u16,
    /// How many to fetch next.
    ahead: u16,
    /// Descriptors `first` and on, `count` of them.
    batch: [[u64; 2]; BATCH as usize],
    first: u16,
    count: u16,
}

impl DescTable {
    /// Returns the table of `len` descriptors at `gpa`.
    pub(super) fn new(gpa: Gpa, len: u16) -> DescTable {
        DescTable { gpa, len, ahead: BATCH, batch: [[0; 2]; BATCH as usize], first: 0, count: 0 }
    }

    /// As [`DescTable::new`], for a table where the first descriptor is often all that is wanted.
    pub(super) fn of_single(gpa: Gpa, len: u16) -> DescTable {
        DescTable { ahead: 1, ..DescTable::new(gpa, len) }
    }

    /// Returns the table that a descriptor refers to.
    pub(super) fn indirect(desc: &RingDesc) -> Result<DescTable, QueueError> {
        let bad = QueueError::Broken(QueueFault::IndirectBytes(desc.len));
        let len = u16::try_from(desc.len >> 4).map_err(|_| bad)?;
        if desc.len & 15 != 0 || len == 0 || len > MAX_SIZE {
            return Err(bad);
        }
        if desc.gpa.checked_add(u64::from(desc.len)).is_none() {
            return Err(QueueError::Broken(QueueFault::Bytes));
        }
        Ok(DescTable::new(desc.gpa, len))
    }

    /// Returns the number of descriptors.
    pub(super) fn len(&self) -> u16 {
        self.len
    }

    /// Returns a descriptor.
    pub(super) fn fetch<M: GuestMem>(&mut self, mem: &M, index: u16) -> Result<RingDesc, QueueError> {
        let left = self.len.checked_sub(index).filter(|left| *left != 0);
        let left = left.ok_or(QueueError::Broken(QueueFault::DescIndex(index)))?;
        if index.wrapping_sub(self.first) >= self.count {
            let count = left.min(self.ahead);
            let at = self.gpa.wrapping_add(u64::from(index).wrapping_mul(DESC_BYTES));
            let batch = self.batch.get_mut(..usize::from(count)).unwrap_or(&mut []);
            mem.read(at, batch.as_mut_bytes())?;
            (self.first, self.count, self.ahead) = (index, count, BATCH);
        }
        let desc = self.batch.get(usize::from(index.wrapping_sub(self.first)));
        // The batch has it, by what was done above.
        desc.map(RingDesc::from_words).ok_or(QueueError::Broken(QueueFault::DescIndex(index)))
    }
}

/// The pieces of a buffer, as they are collected: first what is to be read, then what is to be written.
pub(super) struct BufferParts<'a> {
    list: &'a mut SegmentList,
    /// Pieces and bytes before the first to be written.
    readable: Option<(usize, u64)>,
    bytes: u64,
    /// Descriptors that may still come.
    left: usize,
}

impl<'a> BufferParts<'a> {
    /// Empties `list` for a buffer of at most `most` descriptors, for which it has room.
    pub(super) fn new(list: &'a mut SegmentList, most: usize) -> BufferParts<'a> {
        list.clear();
        BufferParts { list, readable: None, bytes: 0, left: most }
    }

    /// Adds what a descriptor with these flags stands for. Every descriptor costs a step, so a loop ends as
    /// a chain that is too long does.
    #[inline(always)]
    pub(super) fn add(&mut self, desc: &RingDesc, flags: u16) -> Result<(), QueueError> {
        self.left = self.left.checked_sub(1).ok_or(QueueError::Broken(QueueFault::TooLong))?;
        let is_writable = flags & WRITE != 0;
        if !is_writable && self.readable.is_some() {
            return Err(QueueError::Broken(QueueFault::Order));
        }
        if is_writable && self.readable.is_none() {
            self.readable = Some((self.list.len(), self.bytes));
        }
        self.bytes = self.bytes.saturating_add(u64::from(desc.len));
        // VIRTIO, "The Virtqueue Descriptor Table": a chain has at most 2^32 bytes.
        if desc.gpa.checked_add(u64::from(desc.len)).is_none() || self.bytes > 1 << 32 {
            return Err(QueueError::Broken(QueueFault::Bytes));
        }
        if desc.len != 0 {
            // There is room for `most`, so this does not fail.
            let pushed = self.list.push(MemSegment { gpa: desc.gpa, len: desc.len });
            pushed.ok_or(QueueError::Broken(QueueFault::TooLong))?;
        }
        Ok(())
    }

    /// Returns what they make up, as `buffer`.
    #[inline(always)]
    pub(super) fn finish(&self, buffer: QueueBuffer) -> PoppedBuffer {
        let (readable, readable_bytes) = self.readable.unwrap_or((self.list.len(), self.bytes));
        PoppedBuffer { buffer, readable, readable_bytes }
    }
}
