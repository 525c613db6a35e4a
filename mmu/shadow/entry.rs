// SPDX-License-Identifier: GPL-2.0

//! The entries of shadow pages: what the processor reads, and beside each what it leads to.
//!
//! APM, "Long-Mode Page Translation" and "Legacy-Mode Page Translation"; SDM, "Paging". The processor walks them with
//! CR0.WP and EFER.NXE set, so all of a page's rights are in its leaf; links take none away. Accessed and dirty
//! bits are set from the start, so the processor does not write to the tables. Nothing is global.
//!
//! An entry that is not present may remember a device's page. Its address is stored inverted: a processor that goes on
//! speculatively with an entry that is not present (L1 terminal fault) must not find memory there.

use super::chain::ChainLink;
use super::handle::PageHandle;
use crate::arch::addr::{Gfn, Hpa, Pfn};
use crate::mmu::format::PageSize;
use crate::mmu::walk::PageRights;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXEC: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const KEY_SHIFT: u32 = 59;
/// In an entry that is not present: it is of a device's page. The rights are where a leaf has them.
const DEVICE: u64 = 1 << 9;

/// What a leaf, or a device's mark, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeafRights {
    /// What the processor allows.
    pub(super) rights: PageRights,
    /// The protection key that it compares.
    pub(super) key: u8,
}

impl LeafRights {
    fn encode(self) -> u64 {
        let bit = |right, bit| if self.rights.contains(right) { bit } else { 0 };
        let no_exec = if self.rights.contains(PageRights::EXEC) { 0 } else { NO_EXEC };
        bit(PageRights::WRITE, WRITE)
            | bit(PageRights::USER, USER)
            | no_exec
            | (u64::from(self.key & 0xf) << KEY_SHIFT)
    }

    /// Reads them from a leaf or a mark.
    pub(super) fn of(entry: u64) -> LeafRights {
        LeafRights {
            rights: PageRights::of_entry(entry),
            key: crate::mmu::guest_entry::protection_key(entry),
        }
    }
}

/// Encodes a link.
pub(super) fn link(table: Hpa) -> u64 {
    (table.0 & ADDRESS) | PRESENT | WRITE | USER | ACCESSED
}

/// Encodes a directory pointer of the PAE format.
pub(super) fn pdpte(table: Hpa) -> u64 {
    (table.0 & ADDRESS) | PRESENT
}

/// Encodes a leaf.
pub(super) fn leaf(pfn: Pfn, size: PageSize, rights: LeafRights) -> u64 {
    let large = if size == PageSize::Size4K { 0 } else { LARGE };
    (pfn.hpa().0 & ADDRESS) | PRESENT | ACCESSED | DIRTY | large | rights.encode()
}

/// Returns the first frame of the page that a leaf maps.
pub(super) fn pfn(leaf: u64) -> Pfn {
    Hpa(leaf & ADDRESS).pfn()
}

/// Returns whether a leaf may be written.
pub(super) fn is_writable(leaf: u64) -> bool {
    leaf & WRITE != 0
}

/// Returns a leaf without the right to write.
pub(super) fn without_write(leaf: u64) -> u64 {
    leaf & !WRITE
}

/// Encodes the mark of a device's page.
pub(super) fn device(gfn: Gfn, rights: LeafRights) -> u64 {
    (!gfn.gpa().0 & ADDRESS) | DEVICE | rights.encode()
}

/// Returns the frame that a device's mark names.
pub(super) fn device_gfn(mark: u64) -> Gfn {
    Gfn((!mark & ADDRESS) >> crate::arch::addr::PAGE_SHIFT)
}

/// What an entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryTarget {
    /// Nothing.
    Nothing,
    /// Guest frames, of which this is the first.
    Page(Gfn),
    /// A shadow page.
    Table(PageHandle),
    /// A device's page, as of this generation of the memory slots.
    Device(u64),
}

/// What is kept beside an entry, out of the processor's sight: its target, in one word, and its place in the list of all
/// entries with that target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryNode {
    target: u64,
    pub(super) link: ChainLink,
}

impl EntryNode {
    /// The kind is in the two upper bits.
    const KIND: u64 = 3 << 62;
    const PAGE: u64 = 1 << 62;
    const TABLE: u64 = 2 << 62;
    const DEVICE: u64 = 3 << 62;

    /// One that leads nowhere.
    pub(crate) const EMPTY: EntryNode = EntryNode { target: 0, link: ChainLink::NONE };

    pub(super) fn target(&self) -> EntryTarget {
        let value = self.target & !Self::KIND;
        match self.target & Self::KIND {
            Self::PAGE => EntryTarget::Page(Gfn(value)),
            Self::TABLE => EntryTarget::Table(PageHandle::from_word(value)),
            Self::DEVICE => EntryTarget::Device(value),
            _ => EntryTarget::Nothing,
        }
    }

    pub(super) fn set_target(&mut self, target: EntryTarget) {
        self.target = match target {
            EntryTarget::Nothing => 0,
            EntryTarget::Page(gfn) => Self::PAGE | (gfn.0 & !Self::KIND),
            EntryTarget::Table(handle) => Self::TABLE | (handle.word() & !Self::KIND),
            EntryTarget::Device(generation) => Self::DEVICE | (generation & !Self::KIND),
        };
    }
}
