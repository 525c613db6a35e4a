// SPDX-License-Identifier: GPL-2.0

//! The split virtqueue, device side.
//!
//! Follows VIRTIO 1.2, "Split Virtqueues", with indirect descriptors and used buffer notification
//! suppression by flags and by event index. Not modelled: packed rings, in-order use, queue reset.
//!
//! The rings belong to the guest, which may change any byte at any time. Each field is fetched once,
//! into an owned value, and checked. Whatever the rings hold, a call here ends after a bounded number
//! of steps: a chain has at most as many descriptors as the queue was created for. A ring that breaks
//! the rules gives [`QueueError::Broken`], after which the device has to be reset.
//!
//! Ordering: the guest's CPUs and this one share memory as x86 processors do, so loads stay in order
//! and so do stores. `fence(Acquire)` and `fence(Release)` hold the compiler to that. Only the two
//! places where a store has to be seen before a later load is made (arming notifications, deciding
//! about an interrupt) need a real barrier, `fence(SeqCst)`. [`GuestMem`] has to copy an aligned
//! field of 2 or 4 bytes in one access.

use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use crate::virtio::segment::{Segment, SegmentList};
use core::sync::atomic::{fence, Ordering};
use kernel::prelude::*;

/// Largest queue that the specification allows.
pub(crate) const MAX_SIZE: u16 = 0x8000;

const DESC_BYTES: u64 = 16;
const DESC_NEXT: u16 = 1 << 0;
const DESC_WRITE: u16 = 1 << 1;
const DESC_INDIRECT: u16 = 1 << 2;

/// `flags` of the available ring: the driver wants no interrupts.
const AVAIL_NO_INTERRUPT: u16 = 1;
/// `flags` of the used ring: the device wants no notifications.
const USED_NO_NOTIFY: u16 = 1;
/// Offset of `idx` and of `ring` in both rings.
const RING_IDX: u64 = 2;
const RING_ENTRIES: u64 = 4;
const AVAIL_ENTRY: u64 = 2;
const USED_ENTRY: u64 = 8;

/// How the driver broke the queue's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// More buffers are available or in flight than the queue has descriptors.
    AvailIndex(u16),
    /// A descriptor's number is not below the table's size.
    DescIndex(u16),
    /// The chain has more descriptors than the device takes, or it is a loop.
    TooLong,
    /// An indirect table that was not negotiated, lies in another one, or goes on after it.
    Indirect,
    /// An indirect table whose size is 0, odd, or more than 32768 descriptors.
    IndirectBytes(u32),
    /// A device-readable descriptor follows a device-writable one.
    Order,
    /// A descriptor wraps around the address space, or a chain has more than 4 GiB.
    Bytes,
    /// A ring, a table, or a part of the buffer that the device must have lies outside of memory.
    Memory(Gpa),
    /// The queue was enabled with a size or an address that it cannot have.
    Layout,
    /// The buffer lacks what every request of this device has.
    Malformed,
}

/// Why a call on a queue did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// The page at this address must be faulted in; nothing was changed, call again after that.
    NotResident(Gpa),
    /// The driver broke the rules: the device needs a reset.
    Broken(Fault),
}

impl From<MemError> for QueueError {
    fn from(e: MemError) -> QueueError {
        match e {
            MemError::NotResident(gpa) => QueueError::NotResident(gpa),
            MemError::NoSlot(gpa) => QueueError::Broken(Fault::Memory(gpa)),
        }
    }
}

/// A buffer that the driver made available, lent by the queue until the next call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain<'q> {
    /// The number to give back with [`Queue::add_used`].
    pub(crate) head: u16,
    /// What the device may read, in order.
    pub(crate) readable: &'q [Segment],
    /// What the device may write, in order; comes after `readable`.
    pub(crate) writable: &'q [Segment],
}

/// A buffer to give back: its number, and the bytes of it that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    /// [`Chain::head`].
    pub(crate) head: u16,
    /// Bytes.
    pub(crate) len: u32,
}

/// How far a queue's buffers were popped: see [`Queue::mark`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark(u16);

#[derive(Clone, Copy)]
struct Desc {
    gpa: Gpa,
    len: u32,
    flags: u16,
    next: u16,
}

impl Desc {
    fn from_bytes(bytes: &[u8; DESC_BYTES as usize]) -> Desc {
        let [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1] = *bytes;
        Desc {
            gpa: Gpa(u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Descriptors that are fetched at a time.
const BATCH: u16 = 4;
const BATCH_BYTES: usize = BATCH as usize * DESC_BYTES as usize;

/// A table of descriptors: the queue's own or an indirect one.
///
/// Chains mostly go from one descriptor to the next, so a few are fetched together.
struct Table {
    gpa: Gpa,
    /// Descriptors, at most 32768.
    len: u16,
    /// Descriptors `first` and on, `count` of them.
    batch: [u8; BATCH_BYTES],
    first: u16,
    count: u16,
}

impl Table {
    fn new(gpa: Gpa, len: u16) -> Table {
        Table { gpa, len, batch: [0; BATCH_BYTES], first: 0, count: 0 }
    }

    fn fetch<M: GuestMem>(&mut self, mem: &M, index: u16) -> Result<Desc, QueueError> {
        let left = self.len.checked_sub(index).filter(|left| *left != 0);
        let left = left.ok_or(QueueError::Broken(Fault::DescIndex(index)))?;
        if index.wrapping_sub(self.first) >= self.count {
            let count = left.min(BATCH);
            let at = self.gpa.wrapping_add(u64::from(index).wrapping_mul(DESC_BYTES));
            let bytes = usize::from(count).wrapping_mul(DESC_BYTES as usize);
            mem.read(at, self.batch.get_mut(..bytes).unwrap_or(&mut []))?;
            (self.first, self.count) = (index, count);
        }
        let at = usize::from(index.wrapping_sub(self.first)).wrapping_mul(DESC_BYTES as usize);
        let desc = self.batch.get(at..).and_then(|bytes| bytes.first_chunk::<{ DESC_BYTES as usize }>());
        // The batch has it, by what was done above.
        desc.map(Desc::from_bytes).ok_or(QueueError::Broken(Fault::DescIndex(index)))
    }

    fn indirect(desc: &Desc) -> Result<Table, QueueError> {
        let bad = QueueError::Broken(Fault::IndirectBytes(desc.len));
        let len = u16::try_from(desc.len >> 4).map_err(|_| bad)?;
        if desc.len & 15 != 0 || len == 0 || len > MAX_SIZE {
            return Err(bad);
        }
        if desc.gpa.checked_add(u64::from(desc.len)).is_none() {
            return Err(QueueError::Broken(Fault::Bytes));
        }
        Ok(Table::new(desc.gpa, len))
    }
}

/// The features that change how a queue works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueFeatures {
    /// VIRTIO_F_INDIRECT_DESC.
    pub(crate) indirect: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub(crate) event_idx: bool,
}

/// The addresses of a queue's three areas, as the driver chose them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Descriptor table.
    pub(crate) desc: Gpa,
    /// Available ring ("driver area").
    pub(crate) avail: Gpa,
    /// Used ring ("device area").
    pub(crate) used: Gpa,
}

/// One split virtqueue.
///
/// # Invariants
/// While it is ready, `size` is a power of two of at most `max_size`, and the areas do not wrap.
#[derive(Debug)]
pub(crate) struct Queue {
    max_size: u16,
    max_chain: usize,
    size: u16,
    layout: Layout,
    features: QueueFeatures,
    ready: bool,
    /// Next entry of the available ring.
    next_avail: u16,
    /// Next entry of the used ring.
    next_used: u16,
    /// `next_used` when an interrupt was last decided about.
    signalled: u16,
    /// The driver was told to notify, and sees no entry that was not popped.
    armed: bool,
    chain: SegmentList,
}

impl Queue {
    /// Returns a queue of at most `max_size` entries (a power of two), whose chains have at most
    /// `max_chain` descriptors.
    ///
    /// # Errors
    /// `EINVAL`: the size is none. `ENOMEM`.
    pub(crate) fn new(max_size: u16, max_chain: usize) -> Result<Queue> {
        if !max_size.is_power_of_two() || max_size > MAX_SIZE {
            return Err(EINVAL);
        }
        Ok(Queue {
            max_size,
            max_chain,
            size: max_size,
            layout: Layout::default(),
            features: QueueFeatures::default(),
            ready: false,
            next_avail: 0,
            next_used: 0,
            signalled: 0,
            armed: false,
            chain: SegmentList::new(max_chain)?,
        })
    }

    /// Puts the queue into the state before the driver configured it.
    pub(crate) fn reset(&mut self) {
        let chain = core::mem::take(&mut self.chain);
        *self = Queue {
            max_size: self.max_size,
            max_chain: self.max_chain,
            size: self.max_size,
            layout: Layout::default(),
            features: QueueFeatures::default(),
            ready: false,
            next_avail: 0,
            next_used: 0,
            signalled: 0,
            armed: false,
            chain,
        };
    }

    /// Returns the number of entries.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Sets the number of entries. A number that the queue cannot have is kept out, as are changes
    /// once the queue is ready.
    pub(crate) fn set_size(&mut self, size: u16) {
        if !self.ready && size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }

    /// Returns where the areas lie.
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// Sets where the areas lie; ignored once the queue is ready.
    pub(crate) fn set_layout(&mut self, layout: Layout) {
        if !self.ready {
            self.layout = layout;
        }
    }

    /// Returns whether the driver enabled the queue.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// Enables the queue with what was set before.
    ///
    /// # Errors
    /// [`Fault::Layout`]: an area wraps or is not aligned as "Split Virtqueues" wants it.
    pub(crate) fn enable(&mut self, features: QueueFeatures) -> Result<(), Fault> {
        let Layout { desc, avail, used } = self.layout;
        let size = u64::from(self.size);
        // Each area with its flags, index and event fields.
        let fits = |at: Gpa, entry: u64| at.checked_add(entry.wrapping_mul(size).wrapping_add(8)).is_some();
        let aligned = desc.0 & 15 == 0 && avail.0 & 1 == 0 && used.0 & 3 == 0;
        if !aligned || !fits(desc, DESC_BYTES) || !fits(avail, AVAIL_ENTRY) || !fits(used, USED_ENTRY) {
            return Err(Fault::Layout);
        }
        self.features = features;
        self.ready = true;
        Ok(())
    }

    /// Takes the next buffer. When there is none, arms the driver's notifications first, so after
    /// `None` a notification will come with the next buffer.
    ///
    /// # Errors
    /// As [`QueueError`].
    pub(crate) fn pop<M: GuestMem>(&mut self, mem: &M) -> Result<Option<Chain<'_>>, QueueError> {
        if !self.ready || !self.has_entry(mem)? {
            return Ok(None);
        }
        // The index was loaded before the entry that it publishes.
        fence(Ordering::Acquire);
        let head: u16 = mem.read_obj(self.avail_entry(self.next_avail))?;
        let readable = self.walk(mem, head)?;
        self.disarm(mem)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        let (readable, writable) = self.chain.as_slice().split_at_checked(readable).unwrap_or((&[], &[]));
        Ok(Some(Chain { head, readable, writable }))
    }

    /// Takes back the last [`Queue::pop`], so that the next one gives the same buffer.
    pub(crate) fn unpop(&mut self) {
        self.next_avail = self.next_avail.wrapping_sub(1);
    }

    /// Returns where the queue stands, for [`Queue::rewind`].
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.next_avail)
    }

    /// Takes back every [`Queue::pop`] since the mark was made. None of those buffers was given back.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.next_avail = mark.0;
    }

    /// Gives a buffer back, `len` bytes of it written.
    ///
    /// # Errors
    /// As [`QueueError`].
    pub(crate) fn add_used<M: GuestMem>(&mut self, mem: &M, head: u16, len: u32) -> Result<(), QueueError> {
        self.add_used_together(mem, &[Used { head, len }])
    }

    /// Gives buffers back such that the driver sees all of them or none.
    ///
    /// # Errors
    /// As [`QueueError`].
    pub(crate) fn add_used_together<M: GuestMem>(
        &mut self,
        mem: &M,
        buffers: &[Used],
    ) -> Result<(), QueueError> {
        let mut next = self.next_used;
        for used in buffers {
            let slot = u64::from(next & self.mask());
            let at = self.layout.used.wrapping_add(RING_ENTRIES.wrapping_add(slot.wrapping_mul(USED_ENTRY)));
            let entry = u64::from(used.head) | u64::from(used.len) << 32;
            mem.write_obj(at, &entry)?;
            next = next.wrapping_add(1);
        }
        // The entries, and what the device wrote to the buffers, are stored before the index.
        fence(Ordering::Release);
        mem.write_obj(self.layout.used.wrapping_add(RING_IDX), &next)?;
        self.next_used = next;
        Ok(())
    }

    /// Returns whether the driver wants an interrupt for what was used since the last call.
    ///
    /// A page that cannot be read counts as yes: one interrupt too many does no harm.
    pub(crate) fn needs_notification<M: GuestMem>(&mut self, mem: &M) -> bool {
        let new = self.next_used;
        if self.signalled == new {
            return false;
        }
        // The used index is seen before the driver's wish is read.
        fence(Ordering::SeqCst);
        let old = core::mem::replace(&mut self.signalled, new);
        if self.features.event_idx {
            mem.read_obj(self.used_event()).map_or(true, |event| crossed(event, new, old))
        } else {
            mem.read_obj::<u16>(self.layout.avail).map_or(true, |flags| flags & AVAIL_NO_INTERRUPT == 0)
        }
    }

    /// Returns how many buffers were popped and not yet given back.
    pub(crate) fn in_flight(&self) -> u16 {
        self.next_avail.wrapping_sub(self.next_used)
    }

    fn mask(&self) -> u16 {
        self.size.wrapping_sub(1)
    }

    fn avail_entry(&self, index: u16) -> Gpa {
        let slot = u64::from(index & self.mask());
        self.layout.avail.wrapping_add(RING_ENTRIES.wrapping_add(slot.wrapping_mul(AVAIL_ENTRY)))
    }

    /// Where the driver says after which used entry it wants an interrupt.
    fn used_event(&self) -> Gpa {
        let entries = u64::from(self.size).wrapping_mul(AVAIL_ENTRY);
        self.layout.avail.wrapping_add(RING_ENTRIES.wrapping_add(entries))
    }

    /// Where the device says after which available entry it wants a notification.
    fn avail_event(&self) -> Gpa {
        let entries = u64::from(self.size).wrapping_mul(USED_ENTRY);
        self.layout.used.wrapping_add(RING_ENTRIES.wrapping_add(entries))
    }

    fn avail_idx<M: GuestMem>(&self, mem: &M) -> Result<u16, QueueError> {
        let idx: u16 = mem.read_obj(self.layout.avail.wrapping_add(RING_IDX))?;
        let ahead = idx.wrapping_sub(self.next_avail);
        // Each buffer takes a descriptor of the queue from the driver's side until it is used.
        if u32::from(ahead).wrapping_add(u32::from(self.in_flight())) > u32::from(self.size) {
            return Err(QueueError::Broken(Fault::AvailIndex(idx)));
        }
        Ok(idx)
    }

    /// Returns whether the driver made a buffer available; arms notifications if it did not.
    fn has_entry<M: GuestMem>(&mut self, mem: &M) -> Result<bool, QueueError> {
        if self.avail_idx(mem)? != self.next_avail {
            return Ok(true);
        }
        if self.armed {
            return Ok(false);
        }
        if self.features.event_idx {
            mem.write_obj(self.avail_event(), &self.next_avail)?;
        } else {
            mem.write_obj(self.layout.used, &0u16)?;
        }
        self.armed = true;
        // The wish is seen before the index is read again; else a buffer could be overlooked.
        fence(Ordering::SeqCst);
        Ok(self.avail_idx(mem)? != self.next_avail)
    }

    /// Tells the driver not to notify while the queue is being emptied.
    fn disarm<M: GuestMem>(&mut self, mem: &M) -> Result<(), QueueError> {
        // With event indices the old wish is already behind and asks for nothing.
        if self.armed && !self.features.event_idx {
            mem.write_obj(self.layout.used, &USED_NO_NOTIFY)?;
        }
        self.armed = false;
        Ok(())
    }

    /// Collects the chain that starts at `head`. Returns how many of its segments are readable.
    fn walk<M: GuestMem>(&mut self, mem: &M, head: u16) -> Result<usize, QueueError> {
        self.chain.clear();
        let mut table = Table::new(self.layout.desc, self.size);
        let mut in_indirect = false;
        let mut index = head;
        let mut readable = None;
        let mut bytes = 0u64;
        // Every descriptor costs a step, so a loop ends as a chain that is too long does. The one
        // that refers to an indirect table is not part of the buffer.
        let mut left = self.max_chain;
        loop {
            let desc = table.fetch(mem, index)?;
            if desc.has(DESC_INDIRECT) {
                if in_indirect || desc.has(DESC_NEXT) || !self.features.indirect {
                    return Err(QueueError::Broken(Fault::Indirect));
                }
                table = Table::indirect(&desc)?;
                in_indirect = true;
                index = 0;
                continue;
            }
            left = left.checked_sub(1).ok_or(QueueError::Broken(Fault::TooLong))?;
            let writable = desc.has(DESC_WRITE);
            if !writable && readable.is_some() {
                return Err(QueueError::Broken(Fault::Order));
            }
            if writable && readable.is_none() {
                readable = Some(self.chain.as_slice().len());
            }
            bytes = bytes.saturating_add(u64::from(desc.len));
            if desc.gpa.checked_add(u64::from(desc.len)).is_none() || bytes > 1 << 32 {
                return Err(QueueError::Broken(Fault::Bytes));
            }
            if desc.len != 0 {
                // There is room for `max_chain`, so this does not fail.
                let pushed = self.chain.push(Segment { gpa: desc.gpa, len: desc.len });
                pushed.ok_or(QueueError::Broken(Fault::TooLong))?;
            }
            if !desc.has(DESC_NEXT) {
                return Ok(readable.unwrap_or(self.chain.as_slice().len()));
            }
            index = desc.next;
        }
    }
}

/// Returns whether going from `old` to `new` passed the wish `event`: "Used Buffer Notification
/// Suppression".
fn crossed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
