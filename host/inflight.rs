// SPDX-License-Identifier: GPL-2.0

//! Bookkeeping of work that is done elsewhere: which pieces are under way, and which have ended.
//!
//! A worker reserves a slot of an [`InFlight`], hands its number out with a piece of work, and puts the piece
//! into the slot if the work goes on. Whoever does it, in any order and in any context, pushes number and
//! result onto an [`EndedRing`]. The worker pops them there and takes the pieces out again.
//!
//! ```text
//! worker: reserve() -> slot, fill(slot, item) ──> the work ──> push(slot, result) :any context
//! worker: end(slot) -> item <──────────────────────────────────────────── pop()
//! ```
//!
//! All room is allocated at the start; nothing allocates afterwards. Slot numbers are below the room,
//! and at most as many are out as there is room, so an [`EndedRing`] of the same room is never full. The
//! worker owns the [`InFlight`]; the [`EndedRing`] is under a lock that both sides take.

use crate::arch::rule::rule;
use kernel::prelude::*;

/// Pieces of work that are under way, each in a slot of its own.
///
/// # Invariants
/// Each slot number is either in `free`, once, or reserved, or its slot holds an item.
pub(crate) struct InFlight<T> {
    slots: KVec<Option<T>>,
    free: KVec<u16>,
}

impl<T> InFlight<T> {
    /// Returns `room` free slots.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(room: u16) -> Result<InFlight<T>> {
        let mut slots = KVec::with_capacity(usize::from(room), GFP_KERNEL_ACCOUNT)?;
        let mut free = KVec::with_capacity(usize::from(room), GFP_KERNEL_ACCOUNT)?;
        for slot in (0..room).rev() {
            slots.push_within_capacity(None)?;
            free.push_within_capacity(slot)?;
        }
        Ok(InFlight { slots, free })
    }

    /// Takes a slot, for an item that comes with [`InFlight::fill`] or not at all, with [`InFlight::release`]:
    /// much of what is begun has ended at once. `None`: all slots are taken.
    pub(crate) fn reserve(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Puts the item into a slot that was reserved.
    pub(crate) fn fill(&mut self, slot: u16, item: T) {
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = Some(item);
        }
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        for (n, number) in self.free.iter().enumerate() {
            let place = self.slots.get(usize::from(*number));
            rule(matches!(place, Some(None)), "what is free holds no item")?;
            let again = self.free.iter().skip(n.saturating_add(1)).any(|other| other == number);
            rule(!again, "what is free is so once")?;
        }
        Ok(())
    }

    /// Gives back a slot that was reserved and not filled.
    pub(crate) fn release(&mut self, slot: u16) {
        // There is room for all numbers, and each is in the list at most once.
        let _ = self.free.push_within_capacity(slot);
        debug_assert_eq!(self.check(), Ok(()));
    }

    /// Takes the item out of a slot, which is free then. `None`: it was free before.
    pub(crate) fn end(&mut self, slot: u16) -> Option<T> {
        let item = self.slots.get_mut(usize::from(slot))?.take()?;
        self.release(slot);
        Some(item)
    }

    /// Returns how many slots are taken.
    pub(crate) fn len(&self) -> usize {
        self.slots.len().saturating_sub(self.free.len())
    }
}

/// What has ended and was not looked at yet, the oldest first.
pub(crate) struct EndedRing {
    ring: KVec<(u16, i64)>,
    /// The oldest entry.
    head: usize,
    len: usize,
}

impl EndedRing {
    /// Returns an empty queue with room for `room` entries.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(room: u16) -> Result<EndedRing> {
        Ok(EndedRing {
            ring: KVec::from_elem((0, 0), usize::from(room), GFP_KERNEL_ACCOUNT)?,
            head: 0,
            len: 0,
        })
    }

    /// Adds an entry: a slot and its result. Returns whether there was room.
    #[must_use]
    pub(crate) fn push(&mut self, slot: u16, result: i64) -> bool {
        if self.len >= self.ring.len() {
            return false;
        }
        let at = self.place(self.len);
        match self.ring.get_mut(at) {
            Some(entry) => *entry = (slot, result),
            None => return false,
        }
        self.len = self.len.wrapping_add(1);
        true
    }

    /// Removes the oldest entry.
    pub(crate) fn pop(&mut self) -> Option<(u16, i64)> {
        let left = self.len.checked_sub(1)?;
        let entry = *self.ring.get(self.head)?;
        self.head = self.place(1);
        self.len = left;
        Some(entry)
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns where the entry `n` after the oldest is; `n` is at most the room.
    fn place(&self, n: usize) -> usize {
        let at = self.head.wrapping_add(n);
        at.checked_sub(self.ring.len()).unwrap_or(at)
    }
}
