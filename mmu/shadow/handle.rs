// SPDX-License-Identifier: GPL-2.0

//! Names of shadow pages: a place in the arena, and the generation of what was put there.

use crate::mmu::format::ENTRIES;

/// Names a shadow page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHandle {
    index: u32,
    generation: u64,
}

impl PageHandle {
    const INDEX_BITS: u32 = 22;
    /// At a page each nanosecond it comes round in 18 minutes of one place alone, and each page takes microseconds.
    pub(super) const GENERATIONS: u64 = (1 << 40) - 1;

    /// Names what is in place `index`, the `generation`th that was put there.
    pub(super) fn new(index: u32, generation: u64) -> PageHandle {
        PageHandle { index, generation }
    }

    /// Returns the generation.
    pub(super) fn generation(self) -> u64 {
        self.generation
    }

    /// Returns it as a word of 62 bits.
    pub(super) fn word(self) -> u64 {
        (self.generation << Self::INDEX_BITS) | u64::from(self.index)
    }

    /// Takes [`PageHandle::word`].
    pub(super) fn from_word(word: u64) -> PageHandle {
        let index = (word & ((1 << Self::INDEX_BITS) - 1)) as u32;
        PageHandle { index, generation: word >> Self::INDEX_BITS & Self::GENERATIONS }
    }

    /// Returns the number of its place.
    pub(super) fn index(self) -> u32 {
        self.index
    }

    /// Returns the number of one of its entries among all entries of all pages.
    pub(super) fn entry(self, index: usize) -> u32 {
        self.index.wrapping_mul(ENTRIES as u32).wrapping_add(index as u32)
    }
}

/// The most places of an arena.
pub(super) const MAX_PAGES: usize = 1 << PageHandle::INDEX_BITS;
