// SPDX-License-Identifier: GPL-2.0

//! What a processor does with shadow pages: the walk, and the rights that it asks.

use crate::arch::addr::Hpa;
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::mmu::format::HardwareRoot;
use crate::mmu::walk::{PageRights, PagingRegs};

/// A translation, as a processor caches it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CachedPage {
    /// The frame of the 4 KiB that were asked for.
    pub(crate) pfn: u64,
    pub(crate) rights: PageRights,
    pub(crate) key: u8,
}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Returns the processor's registers where the guest's are `regs`.
pub(crate) fn registers(regs: &PagingRegs) -> PagingRegs {
    let mut hw = *regs;
    if !hw.cr0.contains(Cr0::PG) {
        hw.cr4.remove(Cr4::SMEP | Cr4::SMAP | Cr4::PKE);
    }
    hw.cr0.insert(Cr0::PG | Cr0::WP);
    hw.efer.insert(Efer::NXE);
    hw
}

/// Returns the table that a walk begins with, and its level.
pub(crate) fn top(root: &HardwareRoot, gva: u64) -> Option<(Hpa, u32)> {
    match root {
        HardwareRoot::Long { root, levels } => Some((*root, *levels)),
        HardwareRoot::Pae(pointers) => {
            let pointer = pointers[(gva >> 30 & 3) as usize];
            if pointer & 1 == 0 {
                return None;
            }
            assert_eq!(pointer & !(ADDRESS | 1), 0, "reserved bits of a pointer");
            Some((Hpa(pointer & ADDRESS), 2))
        }
    }
}

/// Walks from `table` of `level` on. `below` is told of a table of level 1.
pub(crate) fn walk(
    read: impl Fn(Hpa, usize) -> u64,
    (mut table, mut level): (Hpa, u32),
    gva: u64,
    mut below: impl FnMut(Hpa),
) -> Option<CachedPage> {
    loop {
        let entry = read(table, (gva >> (12 + 9 * (level - 1)) & 511) as usize);
        if entry & 1 == 0 {
            return None;
        }
        if level > 1 && entry & 0x80 == 0 {
            (table, level) = (Hpa(entry & ADDRESS), level - 1);
            if level == 1 {
                below(table);
            }
            continue;
        }
        assert_eq!(entry & 0x60, 0x60, "the processor need not write the tables");
        let offset = gva >> 12 & ((1 << (9 * (level - 1))) - 1);
        let pfn = ((entry & ADDRESS) >> 12) + offset;
        return Some(CachedPage { pfn, rights: PageRights::of_entry(entry), key: (entry >> 59 & 15) as u8 });
    }
}
