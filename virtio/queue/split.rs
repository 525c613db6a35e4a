// SPDX-License-Identifier: GPL-2.0

//! The split ring: a table of descriptors, a ring of available buffers, a ring of used ones.
//!
//! Follows VIRTIO 1.2, "Split Virtqueues". Indices count buffers and wrap at 16 bits.

use super::desc::{Parts, Table, DESC_BYTES, INDIRECT, NEXT};
use super::{Buffer, Fault, QueueError, Ring, Shape, Used};
use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use core::sync::atomic::{fence, Ordering};

/// `flags` of the available ring: the driver wants no interrupts.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// `flags` of the used ring: the device wants no notifications.
const USED_NO_NOTIFY: u16 = 1;
/// Offset of `idx` and of `ring` in both rings.
const RING_IDX: u64 = 2;
const RING_ENTRIES: u64 = 4;
const AVAIL_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;

/// How far the device is in a split ring.
#[derive(Debug)]
pub(super) struct Split {
    /// Next entry of the available ring.
    next_avail: u16,
    /// The driver has filled the entries before this one: what it said last.
    avail_idx: u16,
    /// Next entry of the used ring.
    next_used: u16,
    /// `next_used` when an interrupt was last decided about.
    signalled: u16,
}

impl Split {
    /// Returns the start of every ring.
    pub(super) fn new() -> Split {
        Split { next_avail: 0, avail_idx: 0, next_used: 0, signalled: 0 }
    }

    /// Returns whether a ring can be like that.
    pub(super) fn fits(shape: &Shape) -> bool {
        let (layout, size) = (shape.layout, u64::from(shape.size));
        // Each area with its flags, index and event fields.
        let fits = |at: Gpa, entry: u64| at.checked_add(entry.wrapping_mul(size).wrapping_add(8)).is_some();
        shape.size.is_power_of_two()
            && layout.desc.0 & 15 == 0
            && layout.avail.0 & 1 == 0
            && layout.used.0 & 3 == 0
            && fits(layout.desc, DESC_BYTES)
            && fits(layout.avail, AVAIL_ENTRY)
            && fits(layout.used, USED_ENTRY)
    }

    /// Returns the next entry of the available ring.
    pub(super) fn position(&self) -> u16 {
        self.next_avail
    }

    /// Goes back to an entry.
    pub(super) fn set_position(&mut self, next_avail: u16) {
        self.next_avail = next_avail;
    }

    /// Returns how many buffers were taken and not given back.
    pub(super) fn in_flight(&self) -> u16 {
        self.next_avail.wrapping_sub(self.next_used)
    }

    /// Reads how far the driver is.
    fn look<M: GuestMem>(&self, shape: &Shape, mem: &M) -> Result<u16, QueueError> {
        let idx: u16 = mem.read_obj(shape.layout.avail.wrapping_add(RING_IDX))?;
        let ahead = idx.wrapping_sub(self.next_avail);
        // Each buffer takes a descriptor of the queue from the driver's side until it is used.
        if u32::from(ahead).wrapping_add(u32::from(self.in_flight())) > u32::from(shape.size) {
            return Err(QueueError::Broken(Fault::AvailIndex(idx)));
        }
        Ok(idx)
    }
}

/// Returns where the entry `index` of a ring is.
fn entry(shape: &Shape, ring: Gpa, index: u16, bytes: u64) -> Gpa {
    let slot = u64::from(index & shape.size.wrapping_sub(1));
    ring.wrapping_add(RING_ENTRIES.wrapping_add(slot.wrapping_mul(bytes)))
}

/// Where the driver says after which used entry it wants an interrupt.
fn used_event(shape: &Shape) -> Gpa {
    let entries = u64::from(shape.size).wrapping_mul(AVAIL_ENTRY);
    shape.layout.avail.wrapping_add(RING_ENTRIES.wrapping_add(entries))
}

/// Where the device says after which available entry it wants a notification.
fn avail_event(shape: &Shape) -> Gpa {
    let entries = u64::from(shape.size).wrapping_mul(USED_ENTRY);
    shape.layout.used.wrapping_add(RING_ENTRIES.wrapping_add(entries))
}

impl Ring for Split {
    fn has_buffer<M: GuestMem>(&mut self, shape: &Shape, mem: &M) -> Result<bool, QueueError> {
        if self.avail_idx == self.next_avail {
            self.avail_idx = self.look(shape, mem)?;
        }
        Ok(self.avail_idx != self.next_avail)
    }

    fn fetch<M: GuestMem>(
        &self,
        shape: &Shape,
        mem: &M,
        parts: &mut Parts<'_>,
    ) -> Result<Buffer, QueueError> {
        let head: u16 = mem.read_obj(entry(shape, shape.layout.avail, self.next_avail, AVAIL_ENTRY))?;
        let mut table = Table::of_single(shape.layout.desc, shape.size);
        let mut in_indirect = false;
        let mut index = head;
        loop {
            let desc = table.fetch(mem, index)?;
            let (flags, next) = desc.split();
            if flags & INDIRECT != 0 {
                // The descriptor that refers to a table is not part of the buffer.
                if in_indirect || flags & NEXT != 0 || !shape.features.indirect {
                    return Err(QueueError::Broken(Fault::Indirect));
                }
                table = Table::indirect(&desc)?;
                in_indirect = true;
                index = 0;
                continue;
            }
            parts.add(&desc, flags)?;
            if flags & NEXT == 0 {
                return Ok(Buffer { id: head, slots: 1 });
            }
            index = next;
        }
    }

    fn take(&mut self, _shape: &Shape, _buffer: Buffer) {
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    fn arm<M: GuestMem>(&self, shape: &Shape, mem: &M) -> Result<(), MemError> {
        if shape.features.event_idx {
            mem.write_obj(avail_event(shape), &self.next_avail)
        } else {
            mem.write_obj(shape.layout.used, &0u16)
        }
    }

    fn disarm<M: GuestMem>(&self, shape: &Shape, mem: &M) -> Result<(), MemError> {
        // With event indices the old wish is already behind and asks for nothing.
        if shape.features.event_idx {
            return Ok(());
        }
        mem.write_obj(shape.layout.used, &USED_NO_NOTIFY)
    }

    fn give<M: GuestMem>(&mut self, shape: &Shape, mem: &M, buffers: &[Used]) -> Result<(), MemError> {
        let mut next = self.next_used;
        for used in buffers {
            let value = u64::from(used.buffer.id) | u64::from(used.len) << 32;
            mem.write_obj(entry(shape, shape.layout.used, next, USED_ENTRY), &value)?;
            next = next.wrapping_add(1);
        }
        // The entries, and what the device wrote to the buffers, are stored before the index.
        fence(Ordering::Release);
        mem.write_obj(shape.layout.used.wrapping_add(RING_IDX), &next)?;
        self.next_used = next;
        Ok(())
    }

    fn decide<M: GuestMem>(&mut self, shape: &Shape, mem: &M) -> bool {
        let new = self.next_used;
        if self.signalled == new {
            return false;
        }
        // The used index is seen before the driver's wish is read.
        fence(Ordering::SeqCst);
        let old = core::mem::replace(&mut self.signalled, new);
        if shape.features.event_idx {
            mem.read_obj(used_event(shape)).map_or(true, |event| crossed(event, new, old))
        } else {
            mem.read_obj::<u16>(shape.layout.avail).map_or(true, |flags| flags & AVAIL_NO_INTERRUPT == 0)
        }
    }
}

/// Returns whether going from `old` to `new` passed the wish `event`: "Used Buffer Notification
/// Suppression".
fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
