// SPDX-License-Identifier: GPL-2.0

//! Virtqueues, device side: split and packed ones behind one type.
//!
//! Follows VIRTIO 1.2, "Split Virtqueues" and "Packed Virtqueues", with indirect descriptors and used
//! buffer notification suppression by flags and by event index. Not modelled: in-order use, queue reset.
//!
//! The driver chooses the format with its features; who serves a queue does not see which it is. The
//! formats are in [`split`] and [`packed`], what they share in [`format`](mod@format), what a descriptor says in [`desc`].
//!
//! The rings belong to the guest, which may change any byte at any time. Each field is fetched once,
//! into an owned value, and checked. Whatever the rings hold, a call here ends after a bounded number
//! of steps: a chain has at most as many descriptors as the queue was created for. A ring that breaks
//! the rules gives [`QueueError::Broken`], after which the device has to be reset.
//!
//! Ordering: the guest's CPUs and this one share memory as x86 processors do, so loads stay in order
//! and so do stores. `fence(Acquire)` and `fence(Release)` hold the compiler to that. Only the two
//! places where a store has to be seen before a later load is made (arming notifications, deciding
//! about an interrupt) need a real barrier, `fence(SeqCst)`. [`GuestMem`] copies an aligned field in one
//! access.

use crate::arch::rule::rule;
use crate::mmu::mem::GuestMem;
use crate::virtio::segment::SegmentList;
use core::sync::atomic::{fence, Ordering};
use kernel::prelude::*;

mod buffer;
mod desc;
mod fault;
mod format;
mod packed;
mod save;
mod split;
mod state;

pub(crate) use buffer::{BufferChain, PoppedBuffer, QueueBuffer, QueueMark, UsedBuffer};
pub(crate) use desc::MAX_SIZE;
pub(crate) use fault::{QueueError, QueueFault};
pub(crate) use format::{QueueFeatures, QueueLayout};

use desc::BufferParts;
use format::{QueueShape, RingFormat};
use packed::PackedRing;
use split::SplitRing;

#[derive(Debug)]
enum AnyRing {
    Split(SplitRing),
    Packed(PackedRing),
}

/// Calls the same method of whichever format it is.
macro_rules! each {
    ($format:expr, $r:ident => $e:expr) => {
        match $format {
            AnyRing::Split($r) => $e,
            AnyRing::Packed($r) => $e,
        }
    };
}

/// One virtqueue.
#[derive(Debug)]
pub(crate) struct VirtQueue {
    max_size: u16,
    max_chain: usize,
    shape: QueueShape,
    ready: bool,
    /// The driver was told to notify, and sees no entry that was not popped.
    armed: bool,
    format: AnyRing,
    chain: SegmentList,
}

impl VirtQueue {
    /// Returns a queue of at most `max_size` entries (a power of two), whose chains have at most
    /// `max_chain` descriptors.
    ///
    /// # Errors
    /// `EINVAL`: the size is none. `ENOMEM`.
    pub(crate) fn new(max_size: u16, max_chain: usize) -> Result<VirtQueue> {
        if !max_size.is_power_of_two() || max_size > MAX_SIZE {
            return Err(EINVAL);
        }
        Ok(VirtQueue::with_chain(max_size, max_chain, SegmentList::new(max_chain)?))
    }

    fn with_chain(max_size: u16, max_chain: usize, chain: SegmentList) -> VirtQueue {
        VirtQueue {
            max_size,
            max_chain,
            shape: QueueShape {
                size: max_size,
                layout: QueueLayout::default(),
                features: QueueFeatures::default(),
            },
            ready: false,
            armed: false,
            format: AnyRing::Split(SplitRing::new()),
            chain,
        }
    }

    /// Puts the queue into the state before the driver configured it.
    pub(crate) fn reset(&mut self) {
        // Kept, for a reset must not fail for want of memory.
        let chain = core::mem::take(&mut self.chain);
        *self = VirtQueue::with_chain(self.max_size, self.max_chain, chain);
    }

    /// Returns the number of entries.
    pub(crate) fn size(&self) -> u16 {
        self.shape.size
    }

    /// Sets the number of entries: a power of two, or any number for a packed ring. One that the queue
    /// cannot have is kept out, as are changes once the queue is ready.
    pub(crate) fn set_size(&mut self, size: u16, packed: bool) {
        let fits = size.is_power_of_two() || packed && size != 0;
        if !self.ready && fits && size <= self.max_size {
            self.shape.size = size;
        }
    }

    /// Returns where the areas lie.
    pub(crate) fn layout(&self) -> QueueLayout {
        self.shape.layout
    }

    /// Sets where the areas lie; ignored once the queue is ready.
    pub(crate) fn set_layout(&mut self, layout: QueueLayout) {
        if !self.ready {
            self.shape.layout = layout;
        }
    }

    /// Returns whether the driver enabled the queue.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Enables the queue with what was set before.
    ///
    /// # Errors
    /// [`QueueFault::Layout`]: the size is none of the format, or an area wraps or is not aligned as the
    /// format wants it.
    pub(crate) fn enable(&mut self, features: QueueFeatures) -> Result<(), QueueFault> {
        let shape = QueueShape { features, ..self.shape };
        let format = if features.packed {
            PackedRing::fits(&shape).then(|| AnyRing::Packed(PackedRing::new()))
        } else {
            SplitRing::fits(&shape).then(|| AnyRing::Split(SplitRing::new()))
        };
        self.format = format.ok_or(QueueFault::Layout)?;
        self.shape = shape;
        self.ready = true;
        Ok(())
    }

    /// Takes the next buffer. When there is none, arms the driver's notifications first, so after
    /// `None` a notification will come with the next buffer.
    ///
    /// # Errors
    /// As [`QueueError`].
    pub(crate) fn pop<M: GuestMem>(&mut self, mem: &M) -> Result<Option<BufferChain<'_>>, QueueError> {
        let VirtQueue { ready, shape, armed, chain, max_chain, format, .. } = self;
        if !*ready {
            return Ok(None);
        }
        let popped = pop(format, shape, mem, armed, BufferParts::new(chain, *max_chain))?;
        Ok(popped.map(|popped| {
            let halves = self.chain.as_slice().split_at_checked(popped.readable);
            let (readable, writable) = halves.unwrap_or((&[], &[]));
            BufferChain { buffer: popped.buffer, readable, writable }
        }))
    }

    /// As [`VirtQueue::pop`]; puts the pieces of the buffer into `list`, which has room for `max_chain` and is
    /// emptied first.
    ///
    /// # Errors
    /// As [`QueueError`].
    #[inline(always)]
    pub(crate) fn pop_into<M: GuestMem>(
        &mut self,
        mem: &M,
        list: &mut SegmentList,
    ) -> Result<Option<PoppedBuffer>, QueueError> {
        if !self.ready {
            return Ok(None);
        }
        let VirtQueue { shape, armed, max_chain, format, .. } = self;
        pop(format, shape, mem, armed, BufferParts::new(list, *max_chain))
    }

    /// Returns whether the driver is known to have made more buffers available, without a look at the ring.
    pub(crate) fn knows_more(&self) -> bool {
        match &self.format {
            AnyRing::Split(ring) => ring.knows_more(),
            AnyRing::Packed(_) => false,
        }
    }

    /// Looks whether the invariants of the shape and of the ring hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        rule(
            self.shape.size != 0 && self.shape.size <= self.max_size,
            "a queue's size is within its bounds",
        )?;
        if !self.ready {
            return Ok(());
        }
        match &self.format {
            AnyRing::Split(ring) => {
                rule(SplitRing::fits(&self.shape), "a split ring is aligned and does not wrap")?;
                ring.check(&self.shape)
            }
            AnyRing::Packed(ring) => {
                rule(PackedRing::fits(&self.shape), "a packed ring is aligned and does not wrap")?;
                ring.check(&self.shape)
            }
        }
    }

    /// Returns where the queue stands, for [`VirtQueue::rewind`].
    pub(crate) fn mark(&self) -> QueueMark {
        QueueMark(match &self.format {
            AnyRing::Split(ring) => ring.position().into(),
            AnyRing::Packed(ring) => ring.position(),
        })
    }

    /// Takes back every [`VirtQueue::pop`] since the mark was made, so that the next one gives the same
    /// buffers. None of them was given back.
    pub(crate) fn rewind(&mut self, mark: QueueMark) {
        match &mut self.format {
            AnyRing::Split(ring) => ring.set_position((mark.0 & 0xffff) as u16),
            AnyRing::Packed(ring) => ring.set_position(mark.0),
        }
    }

    /// Gives a buffer back, `len` bytes of it written.
    ///
    /// # Errors
    /// As [`QueueError`].
    pub(crate) fn add_used<M: GuestMem>(
        &mut self,
        mem: &M,
        buffer: QueueBuffer,
        len: u32,
    ) -> Result<(), QueueError> {
        self.add_used_together(mem, &[UsedBuffer { buffer, len }])
    }

    /// Gives buffers back such that the driver sees all of them or none.
    ///
    /// # Errors
    /// As [`QueueError`].
    pub(crate) fn add_used_together<M: GuestMem>(
        &mut self,
        mem: &M,
        buffers: &[UsedBuffer],
    ) -> Result<(), QueueError> {
        Ok(each!(&mut self.format, ring => ring.give(&self.shape, mem, buffers))?)
    }

    /// Returns whether the driver wants an interrupt for what was used since the last call.
    ///
    /// A page that cannot be read counts as yes: one interrupt too many does no harm.
    pub(crate) fn needs_notification<M: GuestMem>(&mut self, mem: &M) -> bool {
        each!(&mut self.format, ring => ring.decide(&self.shape, mem))
    }

    /// Returns how many entries of the ring belong to buffers that were popped and not yet given back.
    pub(crate) fn in_flight(&self) -> u16 {
        match &self.format {
            AnyRing::Split(ring) => ring.in_flight(),
            AnyRing::Packed(ring) => ring.in_flight(&self.shape),
        }
    }
}

/// [`VirtQueue::pop_into`] of either format.
#[inline(always)]
fn pop<M: GuestMem>(
    format: &mut AnyRing,
    shape: &QueueShape,
    mem: &M,
    armed: &mut bool,
    mut parts: BufferParts<'_>,
) -> Result<Option<PoppedBuffer>, QueueError> {
    let buffer = each!(format, ring => pop_from(ring, shape, mem, armed, &mut parts))?;
    Ok(buffer.map(|buffer| parts.finish(buffer)))
}

#[inline(always)]
fn pop_from<R: RingFormat, M: GuestMem>(
    ring: &mut R,
    shape: &QueueShape,
    mem: &M,
    armed: &mut bool,
    parts: &mut BufferParts<'_>,
) -> Result<Option<QueueBuffer>, QueueError> {
    if !ring.has_buffer(shape, mem)? {
        // The driver was asked before this look, so whatever it adds after the look brings a notification.
        if *armed {
            return Ok(None);
        }
        ring.arm(shape, mem)?;
        *armed = true;
        // The wish is seen before the ring is looked at again; else a buffer could be overlooked.
        fence(Ordering::SeqCst);
        if !ring.has_buffer(shape, mem)? {
            return Ok(None);
        }
    }
    // What says that the buffer is there was loaded before the buffer.
    fence(Ordering::Acquire);
    let buffer = ring.fetch(shape, mem, parts)?;
    if *armed {
        // Before the buffer is taken: when a page is missing here, the next call must find the same buffer.
        ring.disarm(shape, mem)?;
        *armed = false;
    }
    ring.take(shape, buffer);
    Ok(Some(buffer))
}
