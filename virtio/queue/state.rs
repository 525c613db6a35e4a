// SPDX-License-Identifier: GPL-2.0

//! A virtqueue's state as bytes, which both formats write their part of.

use crate::chipset::saved::state_struct;

/// Entries of a split ring that can have been read ahead.
pub(super) const HEADS: usize = 8;

state_struct! {
    /// A virtqueue of either format.
    struct SavedQueue = 72 {
        /// Descriptor table, or packed ring.
        desc: u64,
        /// Available ring, or driver area.
        avail: u64,
        /// Used ring, or device area.
        used: u64,
        /// Next entry to take: an index that wraps at 16 bits, or a position in the packed ring.
        next_avail: u32,
        /// Next entry to complete.
        next_used: u32,
        /// `next_used` when an interrupt was last decided about, or the entries of a packed ring completed since.
        signalled: u32,
        /// How far the driver was when that was read last. Split rings only, as what follows.
        avail_idx: u16,
        /// Number of entries.
        size: u16,
        /// The entry that `heads` begins with.
        first_head: u16,
        /// How many of `heads` count.
        head_count: u16,
        /// What was read ahead.
        heads: [u16; HEADS],
        /// The driver makes chains.
        are_chains: u8,
        /// Enabled.
        ready: u8,
        /// The driver was asked to notify.
        armed: u8,
        /// Packed ring.
        packed: u8,
        /// Indirect descriptors.
        indirect: u8,
        /// Event indices.
        event_idx: u8,
        /// 0.
        pad: [u8; 6],
    }
}
