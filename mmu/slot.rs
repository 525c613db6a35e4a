// SPDX-License-Identifier: GPL-2.0

//! One memory slot, and ranges of guest frames: values, which the set of slots and its index share.
//!
//! Follows the KVM API documentation, "KVM_SET_USER_MEMORY_REGION".

use super::format::PageSize;
use crate::arch::addr::{Gfn, Gpa, Hva, PAGE_SHIFT};
use crate::arch::rule::rule;

/// The first frame number that no guest can have: physical addresses have at most 52 bits.
pub(super) const END_GFN: u64 = 1 << (52 - PAGE_SHIFT);

bitflags::bitflags! {
    /// The flags of a slot, with the ABI's values.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct SlotFlags: u32 {
        /// Log which pages are written (`KVM_MEM_LOG_DIRTY_PAGES`).
        const LOG_DIRTY = 1 << 0;
        /// Guest writes are MMIO (`KVM_MEM_READONLY`).
        const READONLY = 1 << 1;
    }
}

/// A range of guest frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GfnRange {
    /// The first frame.
    pub(crate) start: Gfn,
    /// The frame after the last one.
    pub(crate) end: Gfn,
}

impl GfnRange {
    /// Every frame there can be.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) const ALL: GfnRange = GfnRange { start: Gfn(0), end: Gfn(END_GFN) };

    /// Returns whether there is no frame in it.
    pub(crate) fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Returns whether it holds `gfn`.
    pub(crate) fn contains(self, gfn: Gfn) -> bool {
        self.start <= gfn && gfn < self.end
    }

    /// Returns whether it has a frame in common with `other`.
    pub(crate) fn overlaps(self, other: GfnRange) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// One memory slot.
///
/// # Invariants
/// `npages` is 1 to 2^31 - 1, and neither the guest nor the host range wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemSlot {
    /// Its number, below [`MAX_SLOTS`](super::slots::MAX_SLOTS).
    pub(crate) id: u16,
    /// Its flags.
    pub(crate) flags: SlotFlags,
    /// Its first guest frame.
    pub(crate) base: Gfn,
    /// Its size in 4 KiB pages.
    pub(crate) npages: u64,
    /// The page-aligned address of its first byte in the VMM.
    pub(crate) hva: Hva,
}

impl MemSlot {
    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        rule((1..1 << 31).contains(&self.npages), "a slot has pages, as many as can be counted")?;
        rule(self.base.0.checked_add(self.npages).is_some(), "the guest's range does not wrap")?;
        let bytes = self.npages.wrapping_shl(PAGE_SHIFT);
        rule(self.hva.checked_add(bytes).is_some(), "the host's range does not wrap")
    }

    /// Returns its guest frames.
    pub(crate) fn range(&self) -> GfnRange {
        GfnRange { start: self.base, end: Gfn(self.base.0.wrapping_add(self.npages)) }
    }

    /// Returns whether the guest may write to it.
    pub(crate) fn is_writable(&self) -> bool {
        !self.flags.contains(SlotFlags::READONLY)
    }

    /// Returns whether writes to it are logged.
    pub(crate) fn logs_dirty(&self) -> bool {
        self.flags.contains(SlotFlags::LOG_DIRTY)
    }

    /// Returns the host address of a frame, or `None` outside the slot.
    pub(crate) fn hva_of(&self, gfn: Gfn) -> Option<Hva> {
        let index = gfn.0.checked_sub(self.base.0).filter(|&i| i < self.npages)?;
        Some(self.hva.wrapping_add(index << PAGE_SHIFT))
    }

    /// Returns the memory behind an address, or `None` outside the slot.
    #[inline(always)]
    pub(crate) fn span(&self, gpa: Gpa) -> Option<HvaSpan> {
        // Below the slot this wraps to more than any slot has, so that one comparison serves both ends.
        let offset = gpa.0.wrapping_sub(self.base.gpa().0);
        let left = (self.npages << PAGE_SHIFT).checked_sub(offset).filter(|left| *left != 0)?;
        Some(HvaSpan { hva: self.hva.wrapping_add(offset), left, flags: self.flags })
    }

    /// Returns the largest page that can map `gfn`: it must lie in the slot as a whole, and the
    /// host address must have the alignment of the guest address. Small outside the slot.
    pub(crate) fn max_page_size(&self, gfn: Gfn) -> PageSize {
        let skew = self.base.0 ^ (self.hva.0 >> PAGE_SHIFT);
        let fits = |size: PageSize| {
            let first = gfn.0 & !(size.pages().wrapping_sub(1));
            let end = first.wrapping_add(size.pages());
            skew & (size.pages().wrapping_sub(1)) == 0 && first >= self.base.0 && end <= self.range().end.0
        };
        [PageSize::Size1G, PageSize::Size2M].into_iter().find(|&s| fits(s)).unwrap_or(PageSize::Size4K)
    }
}

/// A guest physical address, found in the VMM's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HvaSpan {
    /// The host address.
    pub(crate) hva: Hva,
    /// Bytes from there to the end of the slot, at least 1.
    pub(crate) left: u64,
    /// The slot's flags.
    pub(crate) flags: SlotFlags,
}

impl HvaSpan {
    /// Returns whether the slot may be written.
    #[inline(always)]
    pub(crate) fn is_writable(&self) -> bool {
        !self.flags.contains(SlotFlags::READONLY)
    }

    /// Returns whether the slot may be written and does not log it: then there is nothing to a write but the copy.
    #[inline(always)]
    pub(crate) fn is_plain(&self) -> bool {
        self.flags.is_empty()
    }
}
