// SPDX-License-Identifier: GPL-2.0

//! Which memory slots show a range of the VMM's address space.
//!
//! Slots may show the same memory, so their host ranges overlap in any way. They lie in a list in the order of their
//! starts, and each part of the list, of [`PART`] nodes, has the greatest end in it. A search leaves out the parts that
//! end too early. A part that it looks at has a slot of the range, or is the last one, so a range that `k` of `n` slots
//! show is found in `k * PART + n / PART` steps.
//!
//! As the slots themselves it is made anew for each change.

use super::slot::{GfnRange, MemSlot};
use crate::arch::addr::{Gfn, Hva, PAGE_SHIFT};
use crate::arch::rule::rule;
use crate::arch::slice::count_first;
use kernel::prelude::*;

/// A slot's range of the VMM's address space.
#[derive(Clone, Copy, Debug)]
struct HvaNode {
    start: Hva,
    end: Hva,
    /// Where the slot shows it.
    base: Gfn,
}

/// How many nodes have a greatest end together.
const PART: usize = 64;

impl HvaNode {
    fn of(slot: &MemSlot) -> HvaNode {
        let end = slot.hva.wrapping_add(slot.npages << PAGE_SHIFT);
        HvaNode { start: slot.hva, end, base: slot.base }
    }
}

/// The index over all slots of a VM.
///
/// # Invariants
/// Sorted by `start`, then by `base`; `greatest_ends` has the greatest end of each part.
#[derive(Debug, Default)]
pub(crate) struct HvaIndex {
    nodes: KVVec<HvaNode>,
    greatest_ends: KVVec<Hva>,
}

impl HvaIndex {
    /// Nothing, with room for `slots`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn with_room(slots: usize) -> Result<HvaIndex> {
        Ok(HvaIndex {
            nodes: KVVec::with_capacity(slots, GFP_KERNEL_ACCOUNT)?,
            greatest_ends: KVVec::with_capacity(slots.div_ceil(PART), GFP_KERNEL_ACCOUNT)?,
        })
    }

    /// Takes over all of `other`, into an empty index with room for it.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room; does not allocate.
    pub(crate) fn copy_from(&mut self, other: &HvaIndex) -> Result {
        copy_within_capacity(&mut self.greatest_ends, &other.greatest_ends)?;
        copy_within_capacity(&mut self.nodes, &other.nodes)
    }

    /// Takes `remove` out and puts `insert` in.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room for it; does not allocate.
    pub(crate) fn replace(&mut self, remove: Option<&MemSlot>, insert: Option<&MemSlot>) -> Result {
        let mut first = usize::MAX;
        if let Some(old) = remove.map(HvaNode::of) {
            let at = self.position(&old);
            self.nodes.remove(at).map_err(|_| EINVAL)?;
            first = first.min(at);
        }
        if let Some(new) = insert.map(HvaNode::of) {
            let at = self.position(&new);
            self.nodes.insert_within_capacity(at, new).map_err(|_| ENOMEM)?;
            first = first.min(at);
        }
        // Of all parts from there on: behind the change, each node may be in another one now.
        let kept = self.greatest_ends.len().min(first / PART);
        while self.greatest_ends.len() > kept {
            self.greatest_ends.pop();
        }
        let changed = self.nodes.get(kept.wrapping_mul(PART)..).unwrap_or_default();
        for part in changed.chunks(PART) {
            let greatest = part.iter().fold(Hva(0), |greatest, node| greatest.max(node.end));
            self.greatest_ends.push_within_capacity(greatest)?;
        }
        Ok(())
    }

    /// Returns whether a slot is in it.
    pub(super) fn has(&self, slot: &MemSlot) -> bool {
        let node = HvaNode::of(slot);
        let found = self.nodes.get(self.position(&node));
        found.is_some_and(|n| (n.start, n.end, n.base) == (node.start, node.end, node.base))
    }

    /// Looks whether the invariants hold of an index over `slots` slots.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(super) fn check(&self, slots: usize) -> Result<(), &'static str> {
        rule(self.nodes.len() == slots, "the index has no other slots")?;
        let before = |two: &[HvaNode]| matches!(two, [a, b] if (a.start, a.base) < (b.start, b.base));
        rule(self.nodes.windows(2).all(before), "the index is sorted")?;
        let greatest = self.nodes.chunks(PART).map(|part| part.iter().map(|n| n.end).max());
        rule(greatest.eq(self.greatest_ends.iter().map(|end| Some(*end))), "each part has its greatest end")
    }

    /// Returns where `node` is in the list, or is to be.
    fn position(&self, node: &HvaNode) -> usize {
        // No two nodes have both alike, for slots do not overlap in guest memory.
        let before = |n: &HvaNode| (n.start, n.base) < (node.start, node.base);
        count_first(self.nodes.len(), |i| self.nodes.get(i).is_some_and(before))
    }

    /// Returns the first node at or after `first` with a byte in `start..end`.
    fn find(&self, first: usize, start: Hva, end: Hva) -> Option<usize> {
        let mut at = first;
        loop {
            let part = at / PART;
            if *self.greatest_ends.get(part)? <= start {
                at = part.wrapping_add(1).wrapping_mul(PART);
                continue;
            }
            let node = self.nodes.get(at)?;
            if node.start >= end {
                return None;
            }
            if node.end > start {
                return Some(at);
            }
            at = at.wrapping_add(1);
        }
    }

    /// Returns whether a slot shows a byte of `start..end`.
    pub(crate) fn is_shown(&self, start: Hva, end: Hva) -> bool {
        self.ranges(start, end).next().is_some()
    }

    /// Returns the guest frames that have a byte in `start..end`, one range for each slot concerned.
    pub(crate) fn ranges(&self, start: Hva, end: Hva) -> HvaRanges<'_> {
        let end = if start < end { end } else { start };
        HvaRanges { index: self, next: 0, start, end }
    }
}

/// Copies `from` to the end of `to`.
///
/// # Errors
/// `ENOMEM` where there is no room; does not allocate.
pub(super) fn copy_within_capacity<T: Copy>(to: &mut KVVec<T>, from: &[T]) -> Result {
    from.iter().try_for_each(|value| to.push_within_capacity(*value))?;
    Ok(())
}

/// See [`HvaIndex::ranges`].
#[derive(Debug)]
pub(crate) struct HvaRanges<'a> {
    index: &'a HvaIndex,
    /// All nodes before this one have been looked at.
    next: usize,
    start: Hva,
    end: Hva,
}

impl Iterator for HvaRanges<'_> {
    type Item = GfnRange;

    fn next(&mut self) -> Option<GfnRange> {
        if self.start >= self.end {
            return None;
        }
        let at = self.index.find(self.next, self.start, self.end)?;
        let node = self.index.nodes.get(at)?;
        self.next = at.wrapping_add(1);
        let frame = |hva: Hva| hva.0.wrapping_sub(node.start.0) >> PAGE_SHIFT;
        let last = frame(Hva(self.end.min(node.end).0.wrapping_sub(1)));
        let first = frame(self.start.max(node.start));
        Some(GfnRange {
            start: Gfn(node.base.0.wrapping_add(first)),
            end: Gfn(node.base.0.wrapping_add(last).wrapping_add(1)),
        })
    }
}
