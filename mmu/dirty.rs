// SPDX-License-Identifier: GPL-2.0

//! The dirty log of one memory slot: a bit for each page that was written since user space took it last.
//!
//! Follows the KVM API documentation, "KVM_GET_DIRTY_LOG" and "KVM_CLEAR_DIRTY_LOG".
//!
//! No write is lost, by two orders:
//!
//! - Who writes by software writes, then marks. A bit that is taken in between is set again, for the next time.
//! - The processor writes without telling. So a page is mapped for writing only while its bit is set: the fault that
//!   maps it marks it, and who takes the bit takes the right to write as well, both under the lock of the table. Before
//!   user space learns of the bit, no processor has the right in its TLB any more.
//!
//! Marking is a locked operation even where the bit is set already: without one a processor could look at the bit before
//! its own store is seen by others, and leave a page unmarked whose bit is just being taken.

use crate::arch::addr::{Gfn, PAGE_SHIFT};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;

/// Pages in a word.
pub(crate) const WORD_PAGES: u64 = u64::BITS as u64;

/// The bits of one slot's pages, from the first on. Any thread may mark.
#[derive(Debug)]
pub(crate) struct DirtyBitmap {
    words: KVVec<AtomicU64>,
}

impl DirtyBitmap {
    /// A log of `pages` pages: all marked, or none.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(pages: u64, all: bool) -> Result<DirtyBitmap> {
        let count = usize::try_from(pages.div_ceil(WORD_PAGES))?;
        let mut words = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        let mut left = if all { pages } else { 0 };
        for _ in 0..count {
            let marked = left.min(WORD_PAGES);
            left = left.saturating_sub(marked);
            words.push_within_capacity(AtomicU64::new(low_bits(marked)))?;
        }
        Ok(DirtyBitmap { words })
    }

    /// Returns how many words there are.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    /// Returns a word, whose lowest bit is that of its first page; 0 beyond the end.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |w| w.load(SeqCst))
    }

    /// Marks a page, after it was written. Returns whether it was not marked.
    pub(crate) fn mark(&self, page: u64) -> bool {
        self.place(page).is_some_and(|(word, bit)| word.fetch_or(bit, SeqCst) & bit == 0)
    }

    /// Returns whether a page is marked.
    pub(crate) fn is_marked(&self, page: u64) -> bool {
        self.place(page).is_some_and(|(word, bit)| word.load(SeqCst) & bit != 0)
    }

    /// Takes the marks of a word that are in `mask`. The caller holds the lock of the table, and takes the right to
    /// write from their pages.
    pub(crate) fn take(&self, index: usize, mask: u64) -> u64 {
        self.words.get(index).map_or(0, |w| w.fetch_and(!mask, SeqCst) & mask)
    }

    /// Marks pages again whose marks were taken for somebody who could not be told of them.
    pub(crate) fn put_back(&self, index: usize, mask: u64) {
        if let Some(word) = self.words.get(index) {
            word.fetch_or(mask, SeqCst);
        }
    }

    fn place(&self, page: u64) -> Option<(&AtomicU64, u64)> {
        let (index, bit) = place_of(page)?;
        Some((self.words.get(index)?, bit))
    }
}

/// Returns the number of the word that a page's mark is in, and the mark.
pub(crate) fn place_of(page: u64) -> Option<(usize, u64)> {
    let index = usize::try_from(page / WORD_PAGES).ok()?;
    Some((index, 1u64.wrapping_shl((page % WORD_PAGES) as u32)))
}

/// Returns a word whose `count` lowest bits are set.
fn low_bits(count: u64) -> u64 {
    match WORD_PAGES.saturating_sub(count) as u32 {
        0 => u64::MAX,
        u64::BITS => 0,
        unset => u64::MAX.wrapping_shr(unset),
    }
}

/// A page of a slot that logs what is written to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoggedPage<'a> {
    /// The slot.
    pub(crate) slot: u16,
    /// Its log.
    pub(crate) log: &'a DirtyBitmap,
    /// The page's number in the slot.
    pub(crate) page: u64,
}

impl LoggedPage<'_> {
    /// Marks it and those after it that the `len` bytes from `offset` in it lie in. `note` gets those that were not
    /// marked.
    pub(crate) fn mark_bytes(self, offset: u64, len: u64, mut note: impl FnMut(u64)) {
        let last = offset.saturating_add(len.saturating_sub(1)) >> PAGE_SHIFT;
        for page in self.page..=self.page.saturating_add(last) {
            if self.log.mark(page) {
                note(page);
            }
        }
    }
}

/// A word of a log on its way into the table: the frames whose right to write goes with their marks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenWord {
    /// The frame of the lowest bit.
    pub(crate) first: Gfn,
    /// The marks that were taken.
    pub(crate) mask: u64,
}

impl TakenWord {
    /// Returns the frames from the first taken to the last; empty for no marks.
    pub(crate) fn frames(self) -> super::slots::GfnRange {
        let at = |bit: u32| Gfn(self.first.0.wrapping_add(u64::from(bit)));
        match self.mask {
            0 => super::slots::GfnRange { start: self.first, end: self.first },
            mask => super::slots::GfnRange {
                start: at(mask.trailing_zeros()),
                end: at(u64::BITS.wrapping_sub(mask.leading_zeros())),
            },
        }
    }

    /// Returns whether the mark of `gfn` was taken.
    pub(crate) fn has(self, gfn: Gfn) -> bool {
        let bit = gfn.0.wrapping_sub(self.first.0);
        bit < WORD_PAGES && self.mask >> bit & 1 != 0
    }
}
