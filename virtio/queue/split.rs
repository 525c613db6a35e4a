// SPDX-License-Identifier: GPL-2.0

//! The split ring: a table of descriptors, a ring of available buffers, a ring of used ones.
//!
//! Follows VIRTIO 1.2, "Split Virtqueues". Indices count buffers and wrap at 16 bits.

use super::buffer::{QueueBuffer, UsedBuffer};
use super::desc::{BufferParts, DescTable, RingDesc, DESC_BYTES, INDIRECT, NEXT};
use super::fault::{QueueError, QueueFault};
use super::format::{QueueShape, RingFormat};
use super::state::{SavedQueue, HEADS};
use crate::arch::addr::Gpa;
use crate::arch::rule::rule;
use crate::mmu::mem::{GuestMem, MemError};
use core::sync::atomic::{fence, Ordering};
use zerocopy::IntoBytes;

/// `flags` of the available ring: the driver wants no interrupts.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// `flags` of the used ring: the device wants no notifications.
const USED_NO_NOTIFY: u16 = 1;
/// Offset of `idx` and of `ring` in both rings.
const RING_IDX: u64 = 2;
const RING_ENTRIES: u64 = 4;
const AVAIL_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;

/// Entries that are read or written together, if they come together.
const GROUP: usize = HEADS;

/// How far the device is in a split ring.
#[derive(Debug)]
pub(super) struct SplitRing {
    /// Next entry of the available ring.
    next_avail: u16,
    /// The driver has filled the entries before this one: what it said last.
    avail_idx: u16,
    /// What is in the entries of the available ring from `first_head` on, as far as it was read.
    heads: [u16; GROUP],
    first_head: u16,
    head_count: u16,
    /// The driver makes chains of descriptors of the queue's own table: several are read at once.
    are_chains: bool,
    /// Next entry of the used ring.
    next_used: u16,
    /// `next_used` when an interrupt was last decided about.
    signalled: u16,
}

impl SplitRing {
    /// Returns the start of every ring.
    pub(super) fn new() -> SplitRing {
        SplitRing {
            next_avail: 0,
            avail_idx: 0,
            heads: [0; GROUP],
            first_head: 0,
            head_count: 0,
            are_chains: false,
            next_used: 0,
            signalled: 0,
        }
    }

    /// Writes how far the device is.
    pub(super) fn save(&self, state: &mut SavedQueue) {
        let SplitRing {
            next_avail,
            avail_idx,
            heads,
            first_head,
            head_count,
            are_chains,
            next_used,
            signalled,
        } = *self;
        state.next_avail = next_avail.into();
        state.avail_idx = avail_idx;
        state.heads = heads;
        state.first_head = first_head;
        state.head_count = head_count;
        state.are_chains = are_chains.into();
        state.next_used = next_used.into();
        state.signalled = signalled.into();
    }

    /// Returns the ring in that state, as far as it can be in it: no more buffers are out or announced than the ring
    /// has entries.
    pub(super) fn from_state(state: &SavedQueue, shape: &QueueShape) -> SplitRing {
        let mut ring = SplitRing {
            next_avail: (state.next_avail & 0xffff) as u16,
            avail_idx: state.avail_idx,
            heads: state.heads,
            first_head: state.first_head,
            head_count: state.head_count.min(GROUP as u16),
            are_chains: state.are_chains != 0,
            next_used: (state.next_used & 0xffff) as u16,
            signalled: (state.signalled & 0xffff) as u16,
        };
        if ring.in_flight() > shape.size {
            // Something that can be; as it differs from what was asked, the restore refuses it.
            ring.next_used = ring.next_avail;
        }
        let ahead = u32::from(ring.avail_idx.wrapping_sub(ring.next_avail));
        if ahead.wrapping_add(ring.in_flight().into()) > shape.size.into() {
            ring.avail_idx = ring.next_avail;
        }
        ring
    }

    /// Looks whether no more buffers are out or announced than the ring has entries.
    ///
    /// # Errors
    /// The name of what does not hold.
    pub(super) fn check(&self, shape: &QueueShape) -> Result<(), &'static str> {
        rule(self.in_flight() <= shape.size, "no more buffers are out than there are entries")?;
        let ahead = u32::from(self.avail_idx.wrapping_sub(self.next_avail));
        let all = ahead.wrapping_add(self.in_flight().into());
        rule(all <= shape.size.into(), "no more buffers are announced than there are entries")?;
        rule(usize::from(self.head_count) <= GROUP, "what was read ahead is a group")
    }

    /// Returns whether a ring can be like that.
    pub(super) fn fits(shape: &QueueShape) -> bool {
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

    /// Returns whether there are entries that the driver had filled when it was looked at last.
    pub(super) fn knows_more(&self) -> bool {
        self.avail_idx != self.next_avail
    }

    /// Goes back to an entry.
    pub(super) fn set_position(&mut self, next_avail: u16) {
        self.next_avail = next_avail;
    }

    /// Returns how many buffers were taken and not given back.
    pub(super) fn in_flight(&self) -> u16 {
        self.next_avail.wrapping_sub(self.next_used)
    }

    /// Returns the first descriptor of the next buffer, which is there.
    #[inline(always)]
    fn head<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> Result<u16, MemError> {
        let at = self.next_avail.wrapping_sub(self.first_head);
        match self.heads.get(usize::from(at)) {
            Some(head) if at < self.head_count => Ok(*head),
            _ => self.read_heads(shape, mem),
        }
    }

    #[inline(never)]
    fn read_heads<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> Result<u16, MemError> {
        let ahead = self.avail_idx.wrapping_sub(self.next_avail);
        let count = run(shape, self.next_avail, ahead.into());
        let at = entry(shape, shape.layout.avail, self.next_avail, AVAIL_ENTRY);
        // Until the read has succeeded nothing counts: it may have written a part of them.
        self.head_count = 0;
        mem.read(at, self.heads.get_mut(..count).unwrap_or(&mut []).as_mut_bytes())?;
        (self.first_head, self.head_count) = (self.next_avail, count as u16);
        let [head, ..] = self.heads;
        Ok(head)
    }

    /// Reads how far the driver is.
    #[inline(never)]
    fn look<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<u16, QueueError> {
        let idx: u16 = mem.read_obj(shape.layout.avail.wrapping_add(RING_IDX))?;
        let ahead = idx.wrapping_sub(self.next_avail);
        // Each buffer takes a descriptor of the queue from the driver's side until it is used.
        if u32::from(ahead).wrapping_add(u32::from(self.in_flight())) > u32::from(shape.size) {
            return Err(QueueError::Broken(QueueFault::AvailIndex(idx)));
        }
        Ok(idx)
    }
}

/// Returns the place of the entry `index` in a ring.
fn slot(shape: &QueueShape, index: u16) -> u16 {
    index & shape.size.wrapping_sub(1)
}

/// Returns where the entry `index` of a ring is.
fn entry(shape: &QueueShape, ring: Gpa, index: u16, bytes: u64) -> Gpa {
    let slot = u64::from(slot(shape, index));
    ring.wrapping_add(RING_ENTRIES.wrapping_add(slot.wrapping_mul(bytes)))
}

/// Returns how many of `count` entries from `index` on lie one after the other, and fit into a group.
fn run(shape: &QueueShape, index: u16, count: usize) -> usize {
    let before_end = shape.size.saturating_sub(slot(shape, index));
    count.min(GROUP).min(usize::from(before_end))
}

/// Where the driver says after which used entry it wants an interrupt.
fn used_event(shape: &QueueShape) -> Gpa {
    let entries = u64::from(shape.size).wrapping_mul(AVAIL_ENTRY);
    shape.layout.avail.wrapping_add(RING_ENTRIES.wrapping_add(entries))
}

/// Where the device says after which available entry it wants a notification.
fn avail_event(shape: &QueueShape) -> Gpa {
    let entries = u64::from(shape.size).wrapping_mul(USED_ENTRY);
    shape.layout.used.wrapping_add(RING_ENTRIES.wrapping_add(entries))
}

impl RingFormat for SplitRing {
    #[inline(always)]
    fn has_buffer<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> Result<bool, QueueError> {
        if self.avail_idx == self.next_avail {
            self.avail_idx = self.look(shape, mem)?;
        }
        Ok(self.knows_more())
    }

    #[inline(always)]
    fn fetch<M: GuestMem>(
        &mut self,
        shape: &QueueShape,
        mem: &M,
        parts: &mut BufferParts<'_>,
    ) -> Result<QueueBuffer, QueueError> {
        let head = self.head(shape, mem)?;
        if head >= shape.size {
            return Err(QueueError::Broken(QueueFault::DescIndex(head)));
        }
        let buffer = QueueBuffer { id: head, slots: 1 };
        // Buffers of one descriptor and indirect ones need one of this table, read alone; a driver that once chained in
        // it will do so again.
        if !self.are_chains {
            let first = RingDesc::read(mem, shape.layout.desc, head)?;
            let (flags, _) = first.split();
            if flags & (INDIRECT | NEXT) == 0 {
                parts.add(&first, flags)?;
                return Ok(buffer);
            }
            if flags & INDIRECT != 0 {
                collect(shape, mem, &mut indirect(shape, &first)?, 0, true, parts)?;
                return Ok(buffer);
            }
            self.are_chains = true;
        }
        collect(shape, mem, &mut DescTable::new(shape.layout.desc, shape.size), head, false, parts)?;
        Ok(buffer)
    }

    fn take(&mut self, _shape: &QueueShape, _buffer: QueueBuffer) {
        self.next_avail = self.next_avail.wrapping_add(1);
    }

    fn arm<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<(), MemError> {
        if shape.features.event_idx {
            mem.write_obj(avail_event(shape), &self.next_avail)
        } else {
            mem.write_obj(shape.layout.used, &0u16)
        }
    }

    fn disarm<M: GuestMem>(&self, shape: &QueueShape, mem: &M) -> Result<(), MemError> {
        // With event indices the old wish is already behind and asks for nothing.
        if shape.features.event_idx {
            return Ok(());
        }
        mem.write_obj(shape.layout.used, &USED_NO_NOTIFY)
    }

    fn give<M: GuestMem>(
        &mut self,
        shape: &QueueShape,
        mem: &M,
        buffers: &[UsedBuffer],
    ) -> Result<(), MemError> {
        let mut next = self.next_used;
        let mut rest = buffers;
        while !rest.is_empty() {
            let count = run(shape, next, rest.len());
            let (now, later) = rest.split_at_checked(count).unwrap_or((rest, &[]));
            let mut entries = [0u64; GROUP];
            for (entry, used) in entries.iter_mut().zip(now) {
                *entry = u64::from(used.buffer.id) | u64::from(used.len) << 32;
            }
            let bytes = entries.get(..count).unwrap_or(&[]).as_bytes();
            // The driver does not look beyond the index, so an error halfway has changed nothing for it.
            mem.write(entry(shape, shape.layout.used, next, USED_ENTRY), bytes)?;
            next = next.wrapping_add(count as u16);
            rest = later;
        }
        // The entries, and what the device wrote to the buffers, are stored before the index.
        fence(Ordering::Release);
        mem.write_obj(shape.layout.used.wrapping_add(RING_IDX), &next)?;
        self.next_used = next;
        Ok(())
    }

    fn decide<M: GuestMem>(&mut self, shape: &QueueShape, mem: &M) -> bool {
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

/// Returns the table that a descriptor refers to.
fn indirect(shape: &QueueShape, desc: &RingDesc) -> Result<DescTable, QueueError> {
    let (flags, _) = desc.split();
    if flags & NEXT != 0 || !shape.features.indirect {
        return Err(QueueError::Broken(QueueFault::Indirect));
    }
    DescTable::indirect(desc)
}

/// Collects the chain of descriptors that begins with `index` in `table`, an indirect one or not.
#[inline(never)]
fn collect<M: GuestMem>(
    shape: &QueueShape,
    mem: &M,
    table: &mut DescTable,
    mut index: u16,
    mut is_indirect: bool,
    parts: &mut BufferParts<'_>,
) -> Result<(), QueueError> {
    loop {
        let desc = table.fetch(mem, index)?;
        let (flags, next) = desc.split();
        if flags & INDIRECT != 0 {
            // The descriptor that refers to a table is not part of the buffer.
            if is_indirect {
                return Err(QueueError::Broken(QueueFault::Indirect));
            }
            (*table, index, is_indirect) = (indirect(shape, &desc)?, 0, true);
            continue;
        }
        parts.add(&desc, flags)?;
        if flags & NEXT == 0 {
            return Ok(());
        }
        index = next;
    }
}

/// Returns whether going from `old` to `new` passed the wish `event`: "Used Buffer Notification
/// Suppression".
fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
