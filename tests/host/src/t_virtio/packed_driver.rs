// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a packed virtqueue, as the specification tells a driver to do it.

use super::driver::{put_desc, Part, INDIRECT, NEXT, WRITE};
use super::mem::Mem;
use crate::arch::addr::Gpa;
use crate::virtio::queue::{QueueFeatures, QueueLayout, VirtQueue};

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// A place in the ring and the wrap counter there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) slot: u16,
    pub(crate) wrap: bool,
}

impl Turn {
    fn new() -> Turn {
        Turn { slot: 0, wrap: true }
    }

    pub(crate) fn on(self, n: u16, size: u16) -> Turn {
        let slot = u32::from(self.slot) + u32::from(n);
        if slot >= u32::from(size) {
            Turn { slot: (slot - u32::from(size)) as u16, wrap: !self.wrap }
        } else {
            Turn { slot: slot as u16, wrap: self.wrap }
        }
    }

    fn bits(self) -> u16 {
        self.slot | u16::from(self.wrap) << 15
    }
}

pub(crate) struct PackedRing {
    pub(crate) size: u16,
    pub(crate) layout: QueueLayout,
    pub(crate) event_idx: bool,
    /// Where the next buffer goes.
    pub(crate) next: Turn,
    /// Where the next used descriptor is expected.
    pub(crate) last: Turn,
    /// Entries of each buffer that the device has, by its id; 0 for a free id.
    slots: Vec<u16>,
    /// Entries that are the driver's.
    pub(crate) free: u16,
}

impl PackedRing {
    pub(crate) fn new(size: u16, event_idx: bool) -> PackedRing {
        PackedRing::at(0, size, event_idx)
    }

    /// A ring that lies `base` bytes after the place that others have.
    pub(crate) fn at(base: u64, size: u16, event_idx: bool) -> PackedRing {
        PackedRing {
            size,
            layout: QueueLayout {
                desc: Gpa(base + 0x1000),
                avail: Gpa(base + 0x5000),
                used: Gpa(base + 0x6000),
            },
            event_idx,
            next: Turn::new(),
            last: Turn::new(),
            slots: vec![0; size.into()],
            free: size,
        }
    }

    /// The device's side, ready.
    pub(crate) fn queue(&self, max_chain: usize) -> VirtQueue {
        let mut queue = VirtQueue::new(self.size.next_power_of_two(), max_chain).unwrap();
        queue.set_size(self.size, true);
        assert_eq!(queue.size(), self.size);
        queue.set_layout(self.layout);
        queue.enable(QueueFeatures { indirect: true, event_idx: self.event_idx, packed: true }).unwrap();
        queue
    }

    pub(crate) fn desc(&self, mem: &Mem, slot: u16, at: u64, len: u32, id: u16, flags: u16) {
        put_desc(mem, self.layout.desc.0, slot, at, len, id, flags);
    }

    /// Adds a buffer of descriptors in the ring, which is available at once. Returns its id.
    pub(crate) fn add(&mut self, mem: &Mem, parts: &[Part]) -> u16 {
        let count = parts.len() as u16;
        assert!(count <= self.free, "free descriptors");
        let last = parts.len() - 1;
        let descs = parts.iter().enumerate().map(|(i, (at, len, writable))| {
            (*at, *len, if *writable { WRITE } else { 0 } | if i == last { 0 } else { NEXT })
        });
        self.put(mem, &descs.collect::<Vec<_>>())
    }

    /// Adds a buffer through an indirect table at `table`. Returns its id.
    pub(crate) fn add_indirect(&mut self, mem: &Mem, table: u64, parts: &[Part]) -> u16 {
        for (i, (at, len, writable)) in parts.iter().enumerate() {
            // Other flags, and the id, mean nothing there.
            let flags = if *writable { WRITE } else { 0 } | if i % 2 == 0 { NEXT } else { AVAIL };
            put_desc(mem, table, i as u16, *at, *len, 0xabcd, flags);
        }
        self.put(mem, &[(table, 16 * parts.len() as u32, INDIRECT)])
    }

    fn put(&mut self, mem: &Mem, descs: &[(u64, u32, u16)]) -> u16 {
        let id = self.slots.iter().rposition(|n| *n == 0).expect("a free id") as u16;
        let count = descs.len() as u16;
        // The first one last: with it, all are available.
        for (i, (at, len, flags)) in descs.iter().enumerate().rev() {
            let turn = self.next.on(i as u16, self.size);
            let flags = flags | if turn.wrap { AVAIL } else { USED };
            // Only the last one's id counts.
            let id = if i + 1 == descs.len() { id } else { 0x7777 };
            self.desc(mem, turn.slot, *at, *len, id, flags);
        }
        self.slots[usize::from(id)] = count;
        self.free -= count;
        self.next = self.next.on(count, self.size);
        id
    }

    /// Returns whether the device wants to be notified of the last `added` entries.
    pub(crate) fn wants_kick(&self, mem: &Mem, added: u16) -> bool {
        let (wish, flags) = (mem.u16(self.layout.used.0), mem.u16(self.layout.used.0 + 2));
        match flags & 3 {
            0 => true,
            2 => {
                assert!(self.event_idx, "event indices were not negotiated");
                // As Linux's driver decides.
                let mut event = wish & 0x7fff;
                if (wish >> 15 != 0) != self.next.wrap {
                    event = event.wrapping_sub(self.size);
                }
                let new = self.next.slot;
                let old = new.wrapping_sub(added);
                new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
            }
            _ => false,
        }
    }

    /// Wants an interrupt when the used descriptor at `turn` is there.
    pub(crate) fn want_at(&self, mem: &Mem, turn: Turn) {
        mem.put(self.layout.avail.0, &turn.bits().to_le_bytes());
        mem.put(self.layout.avail.0 + 2, &2u16.to_le_bytes());
    }

    pub(crate) fn want_interrupts(&self, mem: &Mem, wanted: bool) {
        mem.put(self.layout.avail.0 + 2, &u16::from(!wanted).to_le_bytes());
    }

    /// Returns whether the next used descriptor is there.
    pub(crate) fn has_used(&self, mem: &Mem) -> bool {
        let flags = mem.u16(self.layout.desc.0 + 16 * u64::from(self.last.slot) + 14);
        (flags & AVAIL != 0) == self.last.wrap && (flags & USED != 0) == self.last.wrap
    }

    /// Takes the buffers that the device used: id and length.
    pub(crate) fn take_used(&mut self, mem: &Mem) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        while self.has_used(mem) {
            let at = self.layout.desc.0 + 16 * u64::from(self.last.slot);
            let (len, id) = (mem.u32(at + 8), mem.u16(at + 12));
            assert_eq!(mem.u16(at + 14) & WRITE != 0, len != 0, "the flag says whether anything was written");
            let count = std::mem::take(&mut self.slots[usize::from(id)]);
            assert_ne!(count, 0, "the device had that buffer");
            self.free += count;
            self.last = self.last.on(count, self.size);
            used.push((id, len));
        }
        used
    }
}
