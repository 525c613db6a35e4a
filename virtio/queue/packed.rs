// SPDX-License-Identifier: GPL-2.0

//! The packed ring: one ring of descriptors, which the driver makes available and the device overwrites
//! with used ones, and a word of each side about notifications.
//!
//! Follows VIRTIO 1.2, "Packed Virtqueues". The ring has any number of entries.
//!
//! Each side goes around with a wrap counter of one bit, which starts at 1 and turns at the end of the
//! ring; a descriptor is available or used as its two bits say, compared with that counter. Here place
//! and counter are one number, the position: it runs from 0 to twice the size, and the counter is 1 in
//! the first half. So distances are differences.
//!
//! A buffer takes as many entries as it has descriptors in the ring. It is given back with one entry,
//! where the last one given back ended, and the device skips as many as the buffer has, whichever it is:
//! a [`QueueBuffer`] carries that number, so nothing has to be looked up.

use super::buffer::{QueueBuffer, UsedBuffer};
use super::desc::{BufferParts, DescTable, DESC_BYTES, INDIRECT, NEXT, WRITE};
use super::fault::{QueueError, QueueFault};
use super::format::{QueueShape, RingFormat};
use super::state::SavedQueue;
use crate::arch::addr::Gpa;
use crate::arch::rule::rule;
use crate::mmu::mem::{GuestMem, MemError};
use core::sync::atomic::{fence, Ordering};

/// Descriptor flag: the driver's wrap counter when the descriptor became available.
const AVAIL: u16 = 1 << 7;
/// Descriptor flag: the same as [`AVAIL`] once the descriptor is used, else not.
const USED: u16 = 1 << 15;
/// Offset of length and id in a descriptor, and of the flags.
const DESC_LEN: u64 = 8;
const DESC_FLAGS: u64 = 14;

/// Event suppression, upper half: always notify.
const EVENT_ENABLE: u32 = 0;
/// Event suppression, upper half: never notify.
const EVENT_DISABLE: u32 = 1;
/// Event suppression, upper half: notify at the descriptor in the lower half.
const EVENT_DESC: u32 = 2;
const EVENT_FLAGS: u32 = 3;
/// Event suppression, lower half: the wrap counter beside the descriptor's place.
const EVENT_WRAP: u32 = 1 << 15;

/// How far the device is in a packed ring.
///
/// # Invariants
/// Positions are below twice the ring's size, and `used` is at most the size behind `avail`.
#[derive(Debug)]
pub(super) struct PackedRing {
    /// Position of the next descriptor to take.
    avail: u32,
    /// Position of the next descriptor to give back.
    used: u32,
    /// Entries given back since an interrupt was last decided about.
    undecided: u32,
}

/// The positions of a ring.
#[derive(Clone, Copy)]
struct RingCircle {
    size: u32,
}

impl RingCircle {
    fn of(shape: &QueueShape) -> RingCircle {
        RingCircle { size: shape.size.into() }
    }

    /// Returns the position `n` entries on, at most the size of the ring.
    fn after(self, position: u32, n: u32) -> u32 {
        let next = position.wrapping_add(n);
        next.checked_sub(self.size.wrapping_mul(2)).unwrap_or(next)
    }

    /// Returns how many entries lie between two positions.
    fn distance(self, from: u32, to: u32) -> u32 {
        to.checked_sub(from).unwrap_or(to.wrapping_add(self.size.wrapping_mul(2)).wrapping_sub(from))
    }

    /// Returns the wrap counter.
    fn wrap(self, position: u32) -> bool {
        position < self.size
    }

    /// Returns the place in the ring.
    fn slot(self, position: u32) -> u16 {
        let slot = position.checked_sub(self.size).unwrap_or(position);
        (slot & 0xffff) as u16
    }

    /// Returns the position of a place with a wrap counter, if the ring has it.
    fn position(self, slot: u32, wrap: bool) -> Option<u32> {
        let lap = if wrap { 0 } else { self.size };
        (slot < self.size).then(|| slot.wrapping_add(lap))
    }
}

impl PackedRing {
    /// Returns the start of every ring.
    pub(super) fn new() -> PackedRing {
        PackedRing { avail: 0, used: 0, undecided: 0 }
    }

    /// Writes how far the device is.
    pub(super) fn save(&self, state: &mut SavedQueue) {
        let PackedRing { avail, used, undecided } = *self;
        (state.next_avail, state.next_used, state.signalled) = (avail, used, undecided);
    }

    /// Returns the ring in that state, as far as it can be in it: see the invariants.
    pub(super) fn from_state(state: &SavedQueue, shape: &QueueShape) -> PackedRing {
        let (avail, used) = (state.next_avail, state.next_used);
        let circle = RingCircle::of(shape);
        let end = circle.size.wrapping_mul(2);
        let fits = avail < end && used < end && circle.distance(used, avail) <= circle.size;
        // The start is always possible, and differs from what was asked: the restore refuses it.
        let (avail, used) = if fits { (avail, used) } else { (0, 0) };
        PackedRing { avail, used, undecided: state.signalled }
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(super) fn check(&self, shape: &QueueShape) -> Result<(), &'static str> {
        let circle = RingCircle::of(shape);
        let end = circle.size.wrapping_mul(2);
        rule(self.avail < end && self.used < end, "positions are below twice the size")?;
        rule(circle.distance(self.used, self.avail) <= circle.size, "no more is out than there are entries")
    }

    /// Returns whether a ring can be like that.
    pub(super) fn fits(shape: &QueueShape) -> bool {
        let layout = shape.layout;
        let bytes = DESC_BYTES.wrapping_mul(shape.size.into());
        shape.size != 0
            && layout.desc.0 & 15 == 0
            && layout.avail.0 & 3 == 0
            && layout.used.0 & 3 == 0
            && layout.desc.checked_add(bytes).is_some()
    }

    /// Returns the position of the next descriptor.
    pub(super) fn position(&self) -> u32 {
        self.avail
    }

    /// Goes back to a position.
    pub(super) fn set_position(&mut self, avail: u32) {
        self.avail = avail;
    }

    /// Returns how many entries the buffers have that were taken and not given back.
    pub(super) fn in_flight(&self, shape: &QueueShape) -> u16 {
        (RingCircle::of(shape).distance(self.used, self.avail) & 0xffff) as u16
    }
}

/// Returns where the descriptor at a position is.
fn desc_at(shape: &QueueShape, position: u32) -> Gpa {
    let slot = u64::from(RingCircle::of(shape).slot(position));
    shape.layout.desc.wrapping_add(slot.wrapping_mul(DESC_BYTES))
}

/// Writes the last 8 bytes of a used descriptor, length, id and flags, in one access.
fn put_used<M: GuestMem>(
    shape: &QueueShape,
    mem: &M,
    position: u32,
    used: &UsedBuffer,
) -> Result<(), MemError> {
    let written = if used.len != 0 { WRITE } else { 0 };
    let turn = if RingCircle::of(shape).wrap(position) { AVAIL | USED } else { 0 };
    let id = u64::from(used.buffer.id) << 32;
    let value = u64::from(used.len) | id | u64::from(written | turn) << 48;
    mem.write_obj(desc_at(shape, position).wrapping_add(DESC_LEN), &value)
}

/// Makes the used descriptors of `buffers` unused again, from `position` up to `end`.
///
/// # Errors
/// `NoSlot`: a page that was there a moment ago is gone. The ring makes no sense any more.
fn take_back<M: GuestMem>(
    shape: &QueueShape,
    mem: &M,
    buffers: &[UsedBuffer],
    mut position: u32,
    end: u32,
) -> Result<(), MemError> {
    let circle = RingCircle::of(shape);
    for used in buffers {
        if position == end {
            break;
        }
        let at = desc_at(shape, position).wrapping_add(DESC_FLAGS);
        let flags = if circle.wrap(position) { AVAIL } else { USED };
        mem.write_obj(at, &flags).map_err(|_| MemError::NoSlot(at))?;
        position = circle.after(position, used.buffer.slots.into());
    }
    Ok(())
}

impl RingFormat for PackedRing {
    fn has_buffer<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> Result<bool, QueueError> {
        let flags: u16 = mem.read_obj(desc_at(shape, self.avail).wrapping_add(DESC_FLAGS))?;
        let wrap = RingCircle::of(shape).wrap(self.avail);
        // Both bits equal to the counter would be a descriptor that is used already.
        Ok((flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap)
    }

    fn fetch<M: GuestMem>(
        &mut self,
        shape: &QueueShape,
        mem: &M,
        parts: &mut BufferParts<'_>,
    ) -> Result<QueueBuffer, QueueError> {
        let circle = RingCircle::of(shape);
        let mut table = DescTable::of_single(shape.layout.desc, shape.size);
        let room = shape.size.saturating_sub(self.in_flight(shape));
        let mut position = self.avail;
        let mut slots = 0u16;
        loop {
            let slot = circle.slot(position);
            // Each entry is the device's until it is given back.
            if slots >= room {
                return Err(QueueError::Broken(QueueFault::AvailIndex(slot)));
            }
            let desc = table.fetch(mem, slot)?;
            let (flags, id) = desc.packed();
            slots = slots.wrapping_add(1);
            if flags & INDIRECT != 0 {
                if slots != 1 || flags & NEXT != 0 || !shape.features.indirect {
                    return Err(QueueError::Broken(QueueFault::Indirect));
                }
                let mut table = DescTable::indirect(&desc)?;
                // All of the table is the buffer; of the flags there only WRITE counts.
                for index in 0..table.len() {
                    let part = table.fetch(mem, index)?;
                    parts.add(&part, part.packed().0)?;
                }
                return Ok(QueueBuffer { id, slots });
            }
            parts.add(&desc, flags)?;
            if flags & NEXT == 0 {
                return Ok(QueueBuffer { id, slots });
            }
            position = circle.after(position, 1);
        }
    }

    fn take(&mut self, shape: &QueueShape, buffer: QueueBuffer) {
        self.avail = RingCircle::of(shape).after(self.avail, buffer.slots.into());
    }

    fn arm<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<(), MemError> {
        let circle = RingCircle::of(shape);
        let wish = if shape.features.event_idx {
            let wrap = if circle.wrap(self.avail) { EVENT_WRAP } else { 0 };
            EVENT_DESC << 16 | wrap | u32::from(circle.slot(self.avail))
        } else {
            EVENT_ENABLE << 16
        };
        mem.write_obj(shape.layout.used, &wish)
    }

    fn disarm<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<(), MemError> {
        // With event indices the old wish is already behind. It asks again only after two laps.
        if shape.features.event_idx {
            return Ok(());
        }
        mem.write_obj(shape.layout.used, &(EVENT_DISABLE << 16))
    }

    fn give<M: GuestMem>(
        &mut self,
        shape: &QueueShape,
        mem: &M,
        buffers: &[UsedBuffer],
    ) -> Result<(), MemError> {
        let Some((first, rest)) = buffers.split_first() else { return Ok(()) };
        let circle = RingCircle::of(shape);
        let second = circle.after(self.used, first.buffer.slots.into());
        let mut position = second;
        let mut done = Ok(());
        for used in rest {
            done = put_used(shape, mem, position, used);
            if done.is_err() {
                break;
            }
            position = circle.after(position, used.buffer.slots.into());
        }
        // All else, and what the device wrote to the buffers, is stored before the first: the driver looks at
        // none of the others before.
        fence(Ordering::Release);
        if let Err(e) = done.and_then(|()| put_used(shape, mem, self.used, first)) {
            return Err(take_back(shape, mem, rest, second, position).err().unwrap_or(e));
        }
        self.undecided = self.undecided.saturating_add(circle.distance(self.used, position));
        self.used = position;
        Ok(())
    }

    fn decide<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> bool {
        if self.undecided == 0 {
            return false;
        }
        // The used descriptors are seen before the driver's wish is read.
        fence(Ordering::SeqCst);
        let given = core::mem::take(&mut self.undecided);
        let Ok(wish) = mem.read_obj::<u32>(shape.layout.avail) else { return true };
        match wish >> 16 & EVENT_FLAGS {
            EVENT_DISABLE => false,
            EVENT_DESC if shape.features.event_idx => {
                let circle = RingCircle::of(shape);
                let slot = wish & EVENT_WRAP.wrapping_sub(1);
                // A place that the ring does not have cannot be waited for.
                circle.position(slot, wish & EVENT_WRAP != 0).is_none_or(|event| {
                    // Passed, if it is one of those that were given back.
                    let behind = circle.distance(event, self.used);
                    (behind != 0 && behind <= given) || given >= circle.size.wrapping_mul(2)
                })
            }
            _ => true,
        }
    }
}
