// SPDX-License-Identifier: GPL-2.0

//! The bits of second-level page table entries: nested page tables (AMD) and EPT (Intel).
//!
//! APM, "Nested Paging", "Page-Translation-Table Access"; SDM, "The Extended Page Table
//! Mechanism (EPT)". One generic table ([`super::table`]) works on any [`TableFormat`].
//!
//! Accessed and dirty bits are set from the start where the format has them, so the processor need
//! not write to a table. Only after aging it sets an accessed bit again, and a plain 8-byte store by
//! the table's owner can lose at worst that: the page looks older than it is. A page mapped writable
//! counts as dirty for as long as it is.
//!
//! Tables have 512 entries of 8 bytes. Levels count from 1, the table whose entries map 4 KiB.

use crate::arch::addr::{Gfn, Hpa, Pfn, PAGE_SHIFT};
use crate::arch::slice::copy_common;

/// Entries in a table.
pub(crate) const ENTRIES: usize = 512;
/// log2 of [`ENTRIES`].
pub(crate) const INDEX_BITS: u32 = 9;

/// Bits 51:12 of an entry: the address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The size of a page that a leaf entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PageSize {
    /// 4 KiB, level 1.
    Size4K = 1,
    /// 2 MiB, level 2.
    Size2M = 2,
    /// 1 GiB, level 3.
    Size1G = 3,
}

impl PageSize {
    /// Returns the level of the table that maps pages of this size, 1 to 3.
    pub(crate) const fn level(self) -> u32 {
        self as u32
    }

    /// Returns the size of a leaf in a table of `level`, or `None` where leaves cannot be.
    pub(crate) const fn of_level(level: u32) -> Option<PageSize> {
        match level {
            1 => Some(PageSize::Size4K),
            2 => Some(PageSize::Size2M),
            3 => Some(PageSize::Size1G),
            _ => None,
        }
    }

    /// Returns the number of 4 KiB pages in it.
    pub(crate) const fn pages(self) -> u64 {
        match self {
            PageSize::Size4K => 1,
            PageSize::Size2M => 1 << INDEX_BITS,
            PageSize::Size1G => 1 << (2 * INDEX_BITS),
        }
    }

    /// Returns the number of bytes in it.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) const fn bytes(self) -> u64 {
        self.pages() << PAGE_SHIFT
    }
}

/// How deep a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableLevels {
    /// 48 bits of address.
    Four = 4,
    /// 57 bits of address.
    Five = 5,
}

impl TableLevels {
    /// Returns the level of the root table.
    pub(crate) const fn root(self) -> u32 {
        self as u32
    }
}

/// What the processor's CR3 is to name where it walks tables from linear addresses ([`super::shadow`]), which are in its
/// own format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HardwareRoot {
    /// A table of long mode.
    Long {
        /// Where it is.
        root: Hpa,
        /// How many levels there are, 4 or 5.
        levels: u32,
    },
    /// Directory pointers of the PAE format.
    Pae([u64; 4]),
}

impl HardwareRoot {
    /// Tables that map nothing.
    pub(crate) const NOTHING: HardwareRoot = HardwareRoot::Pae([0; 4]);

    /// Writes the directory pointers, if it has any, to the start of a page from which the processor is to load them.
    pub(crate) fn write_pointers(&self, page: &mut [u8]) {
        if let HardwareRoot::Pae(values) = self {
            for (bytes, value) in page.chunks_exact_mut(8).zip(values) {
                copy_common(bytes, &value.to_ne_bytes());
            }
        }
    }
}

bitflags::bitflags! {
    /// What the guest may do with a mapped page, besides reading it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct MapRights: u8 {
        /// Write.
        const WRITE = 1 << 0;
        /// Fetch instructions.
        const EXEC = 1 << 1;
    }
}

/// What a guest did with memory that is not mapped, or not for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestTouch {
    /// It read, or the processor did for it.
    Read,
    /// It wrote.
    Write,
    /// It fetched an instruction.
    Fetch,
}

/// Says how a page of `size` with `rights` is mapped where no page larger than 4 KiB may be executable: large and
/// for data, until an instruction is fetched from it. `is_split`: there are small pages in its place already, some
/// of them executable.
///
/// Intel, "Machine Check Error Avoidance on Page Size Change": an executable page whose size changes while the
/// processor holds its translation can stop the machine.
pub(crate) fn small_code(
    touch: GuestTouch,
    size: PageSize,
    rights: MapRights,
    is_split: impl FnOnce() -> bool,
) -> (PageSize, MapRights) {
    if size == PageSize::Size4K || touch == GuestTouch::Fetch || is_split() {
        return (PageSize::Size4K, rights);
    }
    (size, rights.difference(MapRights::EXEC))
}

/// A leaf entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeafEntry {
    /// The first host frame of the page.
    pub(crate) pfn: Pfn,
    /// What the guest may do.
    pub(crate) rights: MapRights,
    /// The processor used the entry; always set where the format cannot tell.
    pub(crate) accessed: bool,
}

/// An entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableEntry {
    /// Nothing there.
    Absent,
    /// A table of the next lower level.
    Link(Hpa),
    /// A page.
    Leaf(LeafEntry),
}

/// Encodes and decodes the entries of a second-level table.
pub(crate) trait TableFormat {
    /// Returns the depth.
    fn levels(&self) -> TableLevels;

    /// Returns the largest page that a leaf may map.
    fn max_page_size(&self) -> PageSize;

    /// Encodes a leaf for a page of `size` at `pfn`, which has that alignment; accessed and dirty.
    fn leaf(&self, pfn: Pfn, size: PageSize, rights: MapRights) -> u64;

    /// Encodes a link to a lower table; it takes no right away.
    fn link(&self, table: Hpa) -> u64;

    /// Decodes an entry of a table of `level`, 1 to 5.
    fn decode(&self, entry: u64, level: u32) -> TableEntry;

    /// Returns a leaf entry without the right to write.
    fn without_write(&self, leaf: u64) -> u64;

    /// Returns a leaf entry marked as not accessed; unchanged where the format cannot tell.
    #[allow(dead_code, reason = "for page aging; used by the tests")]
    fn without_accessed(&self, leaf: u64) -> u64;
}

/// Returns the index of `gfn` in a table of `level`, 1 to 5.
pub(crate) fn index(gfn: Gfn, level: u32) -> usize {
    let shift = INDEX_BITS.wrapping_mul(level.wrapping_sub(1));
    (gfn.0.wrapping_shr(shift) & (ENTRIES as u64 - 1)) as usize
}

/// Returns how many 4 KiB frames an entry of a table of `level`, 1 to 6, stands for.
pub(crate) fn entry_pages(level: u32) -> u64 {
    1u64.wrapping_shl(INDEX_BITS.wrapping_mul(level.wrapping_sub(1)))
}

/// Nested page tables. APM, "Nested Paging".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Npt {
    /// As deep as the host's own paging: the processor takes the mode from host CR4.LA57.
    pub(crate) levels: TableLevels,
    /// Whether leaves of 1 GiB may be made.
    pub(crate) gib_pages: bool,
    /// The bits that the host sets in each address for memory encryption; 0 without.
    pub(crate) encryption_mask: u64,
}

impl Npt {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    /// Nested walks are made as user accesses, so each entry needs it.
    const USER: u64 = 1 << 2;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;
    const LARGE: u64 = 1 << 7;
    const NO_EXEC: u64 = 1 << 63;
}

impl TableFormat for Npt {
    fn levels(&self) -> TableLevels {
        self.levels
    }

    fn max_page_size(&self) -> PageSize {
        if self.gib_pages {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        }
    }

    fn leaf(&self, pfn: Pfn, size: PageSize, rights: MapRights) -> u64 {
        let mut entry = (pfn.hpa().0 & ADDRESS) | self.encryption_mask;
        entry |= Npt::PRESENT | Npt::USER | Npt::ACCESSED;
        if size != PageSize::Size4K {
            entry |= Npt::LARGE;
        }
        if rights.contains(MapRights::WRITE) {
            entry |= Npt::WRITE | Npt::DIRTY;
        }
        if !rights.contains(MapRights::EXEC) {
            entry |= Npt::NO_EXEC;
        }
        entry
    }

    fn link(&self, table: Hpa) -> u64 {
        let flags = Npt::PRESENT | Npt::WRITE | Npt::USER | Npt::ACCESSED;
        (table.0 & ADDRESS) | self.encryption_mask | flags
    }

    fn decode(&self, entry: u64, level: u32) -> TableEntry {
        if entry & Npt::PRESENT == 0 {
            return TableEntry::Absent;
        }
        let address = Hpa(entry & ADDRESS & !self.encryption_mask);
        if level != 1 && entry & Npt::LARGE == 0 {
            return TableEntry::Link(address);
        }
        let mut rights = MapRights::empty();
        rights.set(MapRights::WRITE, entry & Npt::WRITE != 0);
        rights.set(MapRights::EXEC, entry & Npt::NO_EXEC == 0);
        TableEntry::Leaf(LeafEntry { pfn: address.pfn(), rights, accessed: entry & Npt::ACCESSED != 0 })
    }

    fn without_write(&self, leaf: u64) -> u64 {
        leaf & !(Npt::WRITE | Npt::DIRTY)
    }

    fn without_accessed(&self, leaf: u64) -> u64 {
        leaf & !Npt::ACCESSED
    }
}

/// The memory type of EPT leaves. SDM, "EPT and Memory Typing".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "guests have no device whose memory must not be cached; used by the tests")]
pub(crate) enum MemoryType {
    /// Uncacheable.
    Uncacheable = 0,
    /// Write-back, for RAM.
    WriteBack = 6,
}

/// Extended page tables of four levels. SDM, "The Extended Page Table Mechanism (EPT)".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ept {
    /// Whether leaves of 1 GiB may be made.
    pub(crate) gib_pages: bool,
    /// Whether accessed and dirty flags are on (EPTP bit 6).
    pub(crate) accessed_dirty: bool,
    /// The memory type of all leaves.
    pub(crate) memory_type: MemoryType,
    /// Whether the guest's PAT is ignored.
    pub(crate) ignore_pat: bool,
}

impl Ept {
    const READ: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const EXEC: u64 = 1 << 2;
    const IGNORE_PAT: u64 = 1 << 6;
    const LARGE: u64 = 1 << 7;
    const ACCESSED: u64 = 1 << 8;
    const DIRTY: u64 = 1 << 9;

    /// Returns the EPT pointer for a root table: write-back walks, four levels.
    ///
    /// SDM, "Extended-Page-Table Pointer (EPTP)".
    pub(crate) fn eptp(&self, root: Hpa) -> u64 {
        // The length of the walk is given less 1.
        let walk = MemoryType::WriteBack as u64 | (3 << 3);
        (root.0 & ADDRESS) | walk | (u64::from(self.accessed_dirty) << 6)
    }
}

impl TableFormat for Ept {
    fn levels(&self) -> TableLevels {
        TableLevels::Four
    }

    fn max_page_size(&self) -> PageSize {
        if self.gib_pages {
            PageSize::Size1G
        } else {
            PageSize::Size2M
        }
    }

    fn leaf(&self, pfn: Pfn, size: PageSize, rights: MapRights) -> u64 {
        let mut entry = (pfn.hpa().0 & ADDRESS) | Ept::READ | ((self.memory_type as u64) << 3);
        if self.ignore_pat {
            entry |= Ept::IGNORE_PAT;
        }
        if size != PageSize::Size4K {
            entry |= Ept::LARGE;
        }
        if rights.contains(MapRights::WRITE) {
            entry |= Ept::WRITE;
        }
        if rights.contains(MapRights::EXEC) {
            entry |= Ept::EXEC;
        }
        if self.accessed_dirty {
            entry |= Ept::ACCESSED;
            if rights.contains(MapRights::WRITE) {
                entry |= Ept::DIRTY;
            }
        }
        entry
    }

    fn link(&self, table: Hpa) -> u64 {
        let accessed = if self.accessed_dirty { Ept::ACCESSED } else { 0 };
        (table.0 & ADDRESS) | Ept::READ | Ept::WRITE | Ept::EXEC | accessed
    }

    fn decode(&self, entry: u64, level: u32) -> TableEntry {
        if entry & (Ept::READ | Ept::WRITE | Ept::EXEC) == 0 {
            return TableEntry::Absent;
        }
        let address = Hpa(entry & ADDRESS);
        if level != 1 && entry & Ept::LARGE == 0 {
            return TableEntry::Link(address);
        }
        let mut rights = MapRights::empty();
        rights.set(MapRights::WRITE, entry & Ept::WRITE != 0);
        rights.set(MapRights::EXEC, entry & Ept::EXEC != 0);
        let accessed = !self.accessed_dirty || entry & Ept::ACCESSED != 0;
        TableEntry::Leaf(LeafEntry { pfn: address.pfn(), rights, accessed })
    }

    fn without_write(&self, leaf: u64) -> u64 {
        leaf & !(Ept::WRITE | Ept::DIRTY)
    }

    fn without_accessed(&self, leaf: u64) -> u64 {
        if self.accessed_dirty {
            leaf & !Ept::ACCESSED
        } else {
            leaf
        }
    }
}
