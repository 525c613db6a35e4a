// SPDX-License-Identifier: GPL-2.0

//! What the two formats of a virtqueue share: how the driver set the queue up, and what a format has to do.
//!
//! Follows VIRTIO 1.2, "Virtqueues".

use super::buffer::{QueueBuffer, UsedBuffer};
use super::desc::BufferParts;
use super::fault::QueueError;
use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};

/// The features that change how a queue works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueFeatures {
    /// VIRTIO_F_INDIRECT_DESC.
    pub(crate) indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub(crate) event_idx: bool,
    /// VIRTIO_F_RING_PACKED.
    pub(crate) packed: bool,
}

/// The addresses of a queue's three areas, as the driver chose them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueLayout {
    /// Descriptor table, or packed ring.
    pub(crate) desc: Gpa,
    /// Available ring, or the driver's event suppression ("driver area").
    pub(crate) avail: Gpa,
    /// Used ring, or the device's event suppression ("device area").
    pub(crate) used: Gpa,
}

/// What a ring is like, as the driver set it up.
///
/// # Invariants
/// Once the queue is ready, `size` is one that the format can have, and the areas are aligned and do
/// not wrap.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueShape {
    /// Entries.
    pub(super) size: u16,
    /// Where its areas lie.
    pub(super) layout: QueueLayout,
    /// How it works.
    pub(super) features: QueueFeatures,
}

/// What the two formats have to do.
pub(super) trait RingFormat {
    /// Returns whether the driver made a buffer available.
    fn has_buffer<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> Result<bool, QueueError>;

    /// Collects the next buffer, which is there, without taking it.
    fn fetch<M: GuestMem>(
        &mut self,
        shape: &QueueShape,
        mem: &M,
        parts: &mut BufferParts<'_>,
    ) -> Result<QueueBuffer, QueueError>;

    /// Takes the buffer that [`RingFormat::fetch`] gave.
    fn take(&mut self, shape: &QueueShape, buffer: QueueBuffer);

    /// Asks the driver to notify of the next buffer.
    fn arm<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<(), MemError>;

    /// Tells the driver not to notify, if the wish does not lie behind by itself.
    fn disarm<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<(), MemError>;

    /// Gives buffers back: the driver sees all of them or none.
    fn give<M: GuestMem>(
        &mut self,
        shape: &QueueShape,
        mem: &M,
        buffers: &[UsedBuffer],
    ) -> Result<(), MemError>;

    /// Returns whether the driver wants an interrupt for what was given back since the last call.
    fn decide<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> bool;
}
