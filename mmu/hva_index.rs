// SPDX-License-Identifier: GPL-2.0

//! Which memory slots show a range of the VMM's address space.
//!
//! Slots may show the same memory, so their host ranges overlap in any way. They lie in a list in the order of their
//! starts, which is a balanced tree at the same time: the root of a part of the list is the node in its middle, and
//! what lies before and after it are the root's subtrees. Each root knows the greatest end in its part, so a search
//! leaves out the parts that end too early. Finding the next slot of a range takes steps by the logarithm of the
//! number of slots, so a range that `k` of `n` slots show is found in `k log n` steps.
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
    /// The greatest end in the part of the list that this node is the root of.
    greatest_end: Hva,
}

impl HvaNode {
    fn of(slot: &MemSlot) -> HvaNode {
        let end = slot.hva.wrapping_add(slot.npages << PAGE_SHIFT);
        HvaNode { start: slot.hva, end, base: slot.base, greatest_end: end }
    }
}

/// The index over all slots of a VM.
///
/// # Invariants
/// Sorted by `start`, then by `base`; `greatest_end` is as [`HvaNode`] has it.
#[derive(Debug, Default)]
pub(crate) struct HvaIndex {
    nodes: KVVec<HvaNode>,
}

impl HvaIndex {
    /// Nothing, with room for `slots`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn with_room(slots: usize) -> Result<HvaIndex> {
        Ok(HvaIndex { nodes: KVVec::with_capacity(slots, GFP_KERNEL_ACCOUNT)? })
    }

    /// Takes over all of `other`, into an empty index with room for it.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room; does not allocate.
    pub(crate) fn copy_from(&mut self, other: &HvaIndex) -> Result {
        other.nodes.iter().try_for_each(|node| self.nodes.push_within_capacity(*node))?;
        Ok(())
    }

    /// Takes `remove` out and puts `insert` in.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room for it; does not allocate.
    pub(crate) fn replace(&mut self, remove: Option<&MemSlot>, insert: Option<&MemSlot>) -> Result {
        if let Some(old) = remove.map(HvaNode::of) {
            let at = self.position(&old);
            self.nodes.remove(at).map_err(|_| EINVAL)?;
        }
        if let Some(new) = insert.map(HvaNode::of) {
            let at = self.position(&new);
            self.nodes.insert_within_capacity(at, new).map_err(|_| ENOMEM)?;
        }
        let all = self.nodes.len();
        // All of them: the shape of the tree follows from the length, so any node may be the root of another part now.
        self.set_greatest_ends(0, all);
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
        let greatest = self.nodes.iter().map(|n| n.end).max();
        let root = self.nodes.get(middle(0, self.nodes.len())).map(|n| n.greatest_end);
        rule(root == greatest, "the root has the greatest end")
    }

    /// Returns where `node` is in the list, or is to be.
    fn position(&self, node: &HvaNode) -> usize {
        // No two nodes have both alike, for slots do not overlap in guest memory.
        let before = |n: &HvaNode| (n.start, n.base) < (node.start, node.base);
        count_first(self.nodes.len(), |i| self.nodes.get(i).is_some_and(before))
    }

    /// Sets `greatest_end` in a part of the list and returns that of its root. As deep as the tree is.
    fn set_greatest_ends(&mut self, from: usize, to: usize) -> Hva {
        if from >= to {
            return Hva(0);
        }
        let root = middle(from, to);
        let below = self.set_greatest_ends(from, root).max(self.set_greatest_ends(root.wrapping_add(1), to));
        let Some(node) = self.nodes.get_mut(root) else { return Hva(0) };
        node.greatest_end = node.end.max(below);
        node.greatest_end
    }

    /// Returns the first node at or after `first` with a byte in `start..end`, in the part `from..to` of the list.
    fn find(&self, (from, to): (usize, usize), first: usize, start: Hva, end: Hva) -> Option<usize> {
        if from >= to || to <= first {
            return None;
        }
        let root = middle(from, to);
        let node = self.nodes.get(root).filter(|n| n.greatest_end > start)?;
        if let Some(found) = self.find((from, root), first, start, end) {
            return Some(found);
        }
        if node.start >= end {
            return None;
        }
        if root >= first && node.end > start {
            return Some(root);
        }
        self.find((root.wrapping_add(1), to), first, start, end)
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

/// Returns the root of a part of the list that has one.
fn middle(from: usize, to: usize) -> usize {
    from.wrapping_add(to.wrapping_sub(from) >> 1)
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
        let nodes = &self.index.nodes;
        let at = self.index.find((0, nodes.len()), self.next, self.start, self.end)?;
        let node = nodes.get(at)?;
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
