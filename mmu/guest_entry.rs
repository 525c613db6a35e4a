// SPDX-License-Identifier: GPL-2.0

//! The entries of a guest's own page tables: what each bit means under the guest's control registers.
//!
//! SDM, "Paging"; APM, "Page Translation and Protection". [`super::walk`] follows them as the processor does.
//! Pure functions of numbers.

use crate::arch::addr::{Gfn, Gpa, Gva, PAGE_SHIFT};
use crate::arch::cr::{Cr0, Cr4, Efer};

/// The depth of the deepest mode.
pub(crate) const MAX_LEVELS: usize = 5;

/// The entry leads somewhere.
pub(super) const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// The entry was used.
pub(super) const ACCESSED: u64 = 1 << 5;
/// The page was written.
pub(super) const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXEC: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = bits(51, 12);

/// The bits `high` to `low` of an entry.
pub(super) const fn bits(high: u32, low: u32) -> u64 {
    if low > high {
        return 0;
    }
    u64::MAX.wrapping_shr(63u32.wrapping_sub(high)) & u64::MAX.wrapping_shl(low)
}

bitflags::bitflags! {
    /// What the guest's tables allow for a page, all levels combined.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PageRights: u8 {
        /// Writes; without it the supervisor still may unless CR0.WP is set.
        const WRITE = 1 << 0;
        /// It is a user page.
        const USER = 1 << 1;
        /// Instruction fetches.
        const EXEC = 1 << 2;
    }
}

impl PageRights {
    /// Returns what one entry allows.
    pub(crate) fn of_entry(entry: u64) -> PageRights {
        let mut rights = PageRights::empty();
        rights.set(PageRights::WRITE, entry & WRITE != 0);
        rights.set(PageRights::USER, entry & USER != 0);
        rights.set(PageRights::EXEC, entry & NO_EXEC == 0);
        rights
    }
}

/// Returns the protection key of a leaf.
pub(crate) fn protection_key(leaf: u64) -> u8 {
    ((leaf >> 59) & 0xf) as u8
}

/// The formats of a guest's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PagingMode {
    /// None: linear addresses are physical.
    Off,
    /// Two levels of 4-byte entries.
    Legacy,
    /// Three levels, the root of four entries.
    Pae,
    /// Four or five levels.
    Long {
        /// How many.
        levels: u32,
    },
}

impl PagingMode {
    /// Returns the level of the root table; 0 without paging.
    pub(crate) fn levels(self) -> u32 {
        match self {
            PagingMode::Off => 0,
            PagingMode::Legacy => 2,
            PagingMode::Pae => 3,
            PagingMode::Long { levels } => levels,
        }
    }

    /// Returns the size of an entry in bytes.
    pub(crate) fn entry_bytes(self) -> usize {
        match self {
            PagingMode::Legacy => 4,
            PagingMode::Off | PagingMode::Pae | PagingMode::Long { .. } => 8,
        }
    }

    /// Returns log2 of the bytes that an entry of `level` covers.
    pub(crate) fn shift(self, level: u32) -> u32 {
        let index_bits: u32 = if matches!(self, PagingMode::Legacy) { 10 } else { 9 };
        PAGE_SHIFT.wrapping_add(index_bits.wrapping_mul(level.wrapping_sub(1)))
    }

    /// Returns the address of the root table.
    pub(crate) fn root(self, cr3: u64) -> Gpa {
        Gpa(cr3
            & match self {
                PagingMode::Off => 0,
                PagingMode::Legacy => bits(31, 12),
                PagingMode::Pae => bits(31, 5),
                PagingMode::Long { .. } => ADDRESS,
            })
    }

    /// Returns whether entries of `level` carry rights and an accessed bit.
    pub(crate) fn has_rights(self, level: u32) -> bool {
        !(matches!(self, PagingMode::Pae) && level == 3)
    }

    /// Returns the address of the entry of a table of `level` that `gva` is under.
    pub(crate) fn entry_at(self, table: Gpa, gva: Gva, level: u32) -> Gpa {
        let index_mask = if matches!(self, PagingMode::Legacy) { 0x3ff } else { 0x1ff };
        let index = gva.0.wrapping_shr(self.shift(level)) & index_mask;
        table.wrapping_add(index.wrapping_mul(self.entry_bytes() as u64))
    }
}

/// All that decides what an entry means, beside the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EntryRules {
    mode: PagingMode,
    /// Bit 63 forbids fetches; else it is reserved.
    nxe: bool,
    /// Large pages at level 3.
    gib_pages: bool,
    /// 32 to 52.
    maxphyaddr: u32,
    /// The levels, as bits of their numbers, where bit 7 makes an entry a page.
    large_levels: u32,
    /// The bits that can hold an address of this guest.
    address: u64,
    /// The bits that are reserved in every entry that carries rights.
    never: u64,
}

impl EntryRules {
    /// Takes them from the control registers, the guest's physical address width in bits, and whether it has 1 GiB
    /// pages.
    pub(crate) fn new(cr0: Cr0, cr4: Cr4, efer: Efer, maxphyaddr: u32, gib_pages: bool) -> EntryRules {
        let mode = if !cr0.contains(Cr0::PG) {
            PagingMode::Off
        } else if efer.contains(Efer::LMA) {
            PagingMode::Long { levels: if cr4.contains(Cr4::LA57) { 5 } else { 4 } }
        } else if cr4.contains(Cr4::PAE) {
            PagingMode::Pae
        } else {
            PagingMode::Legacy
        };
        let (nxe, maxphyaddr) = (efer.contains(Efer::NXE), maxphyaddr.clamp(32, 52));
        let no_exec = if nxe { 0 } else { NO_EXEC };
        let large_levels = match mode {
            PagingMode::Legacy if cr4.contains(Cr4::PSE) => 1 << 2,
            PagingMode::Off | PagingMode::Legacy => 0,
            PagingMode::Pae => 1 << 2,
            PagingMode::Long { .. } => 1 << 2 | 1 << 3,
        };
        let never = match mode {
            PagingMode::Off | PagingMode::Legacy => 0,
            PagingMode::Pae => no_exec | bits(62, maxphyaddr),
            PagingMode::Long { .. } => no_exec | bits(51, maxphyaddr),
        };
        let address = match mode {
            PagingMode::Legacy => bits(31, 12),
            PagingMode::Off | PagingMode::Pae | PagingMode::Long { .. } => {
                bits(maxphyaddr.wrapping_sub(1), 12)
            }
        };
        EntryRules { mode, nxe, gib_pages, maxphyaddr, large_levels, address, never }
    }

    /// Returns the format.
    pub(crate) fn mode(&self) -> PagingMode {
        self.mode
    }

    /// Returns whether the entry maps a page.
    #[inline]
    pub(crate) fn is_leaf(&self, entry: u64, level: u32) -> bool {
        // At level 1 bit 7 is the PAT's, not the size.
        level == 1 || (entry & LARGE != 0 && self.large_levels.wrapping_shr(level) & 1 != 0)
    }

    /// Returns the bits that must be 0 in a present entry of `level`.
    #[inline]
    pub(crate) fn reserved(&self, entry: u64, level: u32) -> u64 {
        let never = self.never;
        if level == 1 || (entry & LARGE == 0 && self.mode.has_rights(level)) {
            return never;
        }
        let leaf = self.is_leaf(entry, level);
        match (self.mode, level) {
            // PSE-36: bits 20:13 are bits 39:32 of the address, as far as the guest has them.
            (PagingMode::Legacy, 2) if leaf => bits(21, self.maxphyaddr.min(40).wrapping_sub(19)),
            (PagingMode::Off | PagingMode::Legacy, _) => 0,
            (PagingMode::Pae, 3) => 0,
            (PagingMode::Long { .. }, 4 | 5) => never | LARGE,
            (PagingMode::Long { .. }, 3) if !self.gib_pages => LARGE,
            (PagingMode::Long { .. }, 3) => never | bits(29, 13),
            (PagingMode::Pae | PagingMode::Long { .. }, _) => never | bits(20, 13),
        }
    }

    /// Returns the address of the table that an entry leads to.
    pub(crate) fn table(&self, entry: u64) -> Gpa {
        Gpa(entry & self.address)
    }

    /// Returns the address of the page that a leaf of `level` maps.
    pub(crate) fn page(&self, leaf: u64, level: u32) -> Gpa {
        let mut base = leaf & self.address & !self.offset_mask(level);
        if matches!(self.mode, PagingMode::Legacy) && level == 2 {
            base |= (leaf & bits(20, 13)) << 19;
        }
        Gpa(base)
    }

    /// Returns the bits of an address within a page of `level`.
    pub(crate) fn offset_mask(&self, level: u32) -> u64 {
        bits(self.mode.shift(level).wrapping_sub(1), 0)
    }

    /// Returns whether fetches need a right of their own.
    pub(crate) fn has_no_exec(&self) -> bool {
        self.nxe && !matches!(self.mode, PagingMode::Legacy)
    }

    /// Reads a leaf of a table of 4 KiB pages as a processor that has used it finds it: the frame, what the entry
    /// allows, writing only where it is marked as written. `None` for an entry that would fault, or has not been used.
    pub(crate) fn used_page(&self, entry: u64) -> Option<(Gfn, PageRights)> {
        if entry & PRESENT == 0 || entry & ACCESSED == 0 || entry & self.reserved(entry, 1) != 0 {
            return None;
        }
        let mut rights = PageRights::of_entry(entry);
        rights.set(PageRights::WRITE, rights.contains(PageRights::WRITE) && entry & DIRTY != 0);
        Some((self.page(entry, 1).gfn(), rights))
    }
}
