// SPDX-License-Identifier: GPL-2.0

//! The driver's side of a split virtqueue, as the specification tells a driver to do it.

use super::mem::Mem;
use crate::arch::addr::Gpa;
use crate::virtio::queue::{QueueFeatures, QueueLayout, VirtQueue};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// A part of a buffer: address, length, device-writable.
pub(crate) type Part = (u64, u32, bool);

pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) layout: QueueLayout,
    pub(crate) event_idx: bool,
    free: Vec<u16>,
    chains: Vec<Vec<u16>>,
    /// Index up to which buffers were published.
    pub(crate) avail: u16,
    added: u16,
    seen: u16,
}

impl Ring {
    /// A ring at a fixed place below 64 KiB.
    pub(crate) fn new(size: u16, event_idx: bool) -> Ring {
        Ring::at(0, size, event_idx)
    }

    /// A ring that lies `base` bytes after the place that others have.
    pub(crate) fn at(base: u64, size: u16, event_idx: bool) -> Ring {
        Ring {
            size,
            layout: QueueLayout {
                desc: Gpa(base + 0x1000),
                avail: Gpa(base + 0x5000),
                used: Gpa(base + 0x6000),
            },
            event_idx,
            free: (0..size).rev().collect(),
            chains: vec![Vec::new(); size as usize],
            avail: 0,
            added: 0,
            seen: 0,
        }
    }

    /// The device's side, ready.
    pub(crate) fn queue(&self, max_chain: usize) -> VirtQueue {
        let mut queue = VirtQueue::new(self.size, max_chain).unwrap();
        queue.set_layout(self.layout);
        queue.enable(QueueFeatures { indirect: true, event_idx: self.event_idx, packed: false }).unwrap();
        queue
    }

    pub(crate) fn desc(&self, mem: &Mem, index: u16, at: u64, len: u32, flags: u16, next: u16) {
        put_desc(mem, self.layout.desc.0, index, at, len, flags, next);
    }

    /// Puts a head into the next entry of the available ring, without publishing it.
    pub(crate) fn offer(&mut self, mem: &Mem, head: u16) {
        let slot = u64::from(self.added % self.size);
        mem.put(self.layout.avail.0 + 4 + 2 * slot, &head.to_le_bytes());
        self.added = self.added.wrapping_add(1);
    }

    /// Adds a buffer of descriptors in the queue's own table. Returns its head.
    pub(crate) fn add(&mut self, mem: &Mem, parts: &[Part]) -> u16 {
        let chain: Vec<u16> = parts.iter().map(|_| self.free.pop().expect("free descriptor")).collect();
        for (i, (at, len, writable)) in parts.iter().enumerate() {
            let next = chain.get(i + 1).copied();
            let flags = if *writable { WRITE } else { 0 } | if next.is_some() { NEXT } else { 0 };
            self.desc(mem, chain[i], *at, *len, flags, next.unwrap_or(0));
        }
        let head = chain[0];
        self.chains[head as usize] = chain;
        self.offer(mem, head);
        head
    }

    /// Adds a buffer through an indirect table at `table`. Returns its head.
    pub(crate) fn add_indirect(&mut self, mem: &Mem, table: u64, parts: &[Part]) -> u16 {
        let head = self.free.pop().expect("free descriptor");
        put_table(mem, table, parts);
        self.desc(mem, head, table, 16 * parts.len() as u32, INDIRECT, 0);
        self.chains[head as usize] = vec![head];
        self.offer(mem, head);
        head
    }

    /// Makes all buffers that were added available. Returns whether the device wants to be notified.
    pub(crate) fn publish(&mut self, mem: &Mem) -> bool {
        let old = self.avail;
        self.avail = self.added;
        mem.put(self.layout.avail.0 + 2, &self.avail.to_le_bytes());
        if self.event_idx {
            let event = mem.u16(self.layout.used.0 + 4 + 8 * u64::from(self.size));
            self.avail.wrapping_sub(event).wrapping_sub(1) < self.avail.wrapping_sub(old)
        } else {
            mem.u16(self.layout.used.0) & 1 == 0
        }
    }

    /// Publishes an index that was not earned.
    pub(crate) fn publish_index(&mut self, mem: &Mem, index: u16) {
        self.avail = index;
        mem.put(self.layout.avail.0 + 2, &index.to_le_bytes());
    }

    /// Wants an interrupt when the used index passes `event`.
    pub(crate) fn want_after(&self, mem: &Mem, event: u16) {
        mem.put(self.layout.avail.0 + 4 + 2 * u64::from(self.size), &event.to_le_bytes());
    }

    pub(crate) fn want_interrupts(&self, mem: &Mem, wanted: bool) {
        mem.put(self.layout.avail.0, &u16::from(!wanted).to_le_bytes());
    }

    pub(crate) fn used_index(&self, mem: &Mem) -> u16 {
        mem.u16(self.layout.used.0 + 2)
    }

    /// Takes the buffers that the device used: head and length.
    pub(crate) fn take_used(&mut self, mem: &Mem) -> Vec<(u16, u32)> {
        let mut used = Vec::new();
        while self.seen != self.used_index(mem) {
            let at = self.layout.used.0 + 4 + 8 * u64::from(self.seen % self.size);
            let head = u16::try_from(mem.u32(at)).expect("a head");
            self.free.append(&mut self.chains[head as usize]);
            used.push((head, mem.u32(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        used
    }
}

pub(crate) fn put_desc(mem: &Mem, table: u64, index: u16, at: u64, len: u32, flags: u16, next: u16) {
    let to = table + 16 * u64::from(index);
    mem.put(to, &at.to_le_bytes());
    mem.put(to + 8, &len.to_le_bytes());
    mem.put(to + 12, &flags.to_le_bytes());
    mem.put(to + 14, &next.to_le_bytes());
}

/// Writes an indirect table.
pub(crate) fn put_table(mem: &Mem, table: u64, parts: &[Part]) {
    for (i, (at, len, writable)) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
        put_desc(mem, table, i as u16, *at, *len, flags, if last { 0 } else { i as u16 + 1 });
    }
}
