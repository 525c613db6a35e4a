// SPDX-License-Identifier: GPL-2.0

//! The buffers of a virtqueue on their way: made available, popped, used.

use crate::virtio::segment::MemSegment;

/// Names a buffer that was popped, to give it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueBuffer {
    /// What the driver knows it by: the number of its first descriptor, or the id that the driver gave
    /// it in a packed ring.
    pub(crate) id: u16,
    /// Entries of the ring that it takes from one being available to it being used.
    pub(super) slots: u16,
}

/// A buffer that the driver made available, lent by the queue until the next call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferChain<'q> {
    /// To give back with [`VirtQueue::add_used`](super::VirtQueue::add_used).
    pub(crate) buffer: QueueBuffer,
    /// What the device may read, in order.
    pub(crate) readable: &'q [MemSegment],
    /// What the device may write, in order; comes after `readable`.
    pub(crate) writable: &'q [MemSegment],
}

/// A buffer that the driver made available, whose pieces are in a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoppedBuffer {
    /// To give back with [`VirtQueue::add_used`](super::VirtQueue::add_used).
    pub(crate) buffer: QueueBuffer,
    /// How many of the pieces, from the first on, the device may read; the others it may write.
    pub(crate) readable: usize,
    /// Bytes that the device may read.
    pub(crate) readable_bytes: u64,
}

/// A buffer to give back, and the bytes of it that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedBuffer {
    /// [`BufferChain::buffer`].
    pub(crate) buffer: QueueBuffer,
    /// Bytes.
    pub(crate) len: u32,
}

/// How far a queue's buffers were popped: see [`VirtQueue::mark`](super::VirtQueue::mark).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueMark(pub(super) u32);
