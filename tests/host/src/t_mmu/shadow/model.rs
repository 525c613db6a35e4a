// SPDX-License-Identifier: GPL-2.0

//! What a processor may find, by the guest's tables since its last flush.
//!
//! SDM, "Caching Translation Information": what it has cached it may use until it is flushed, and it caches entries as it
//! walks, from the root down, once they are marked as accessed. So a translation is allowed if each entry on its way was
//! there at some time since the flush, none before the one above it.

use super::memory::Memory;
use crate::arch::addr::{Gpa, Gva};
use crate::mmu::guest_entry::protection_key;
use crate::mmu::walk::{AccessKind, EntryRules, PageRights, PagingRegs, WalkAccess};

struct History<'a> {
    memory: &'a Memory,
    regs: &'a PagingRegs,
    rules: EntryRules,
    gva: Gva,
    access: WalkAccess,
}

/// Returns whether a processor whose last flush was at `since` may find `gfn` behind `gva` for `access`.
pub(crate) fn may_find(
    memory: &Memory,
    regs: &PagingRegs,
    gva: Gva,
    access: WalkAccess,
    since: u64,
    gfn: u64,
) -> bool {
    let gva = regs.linear(gva);
    let rules = regs.entry_rules();
    let levels = rules.mode().levels();
    if levels == 0 {
        return gva.0 >> 12 == gfn;
    }
    let history = History { memory, regs, rules, gva, access };
    match regs.pdptes.filter(|_| levels == 3) {
        Some(pointers) => {
            let pointer = pointers[(gva.0 >> 30 & 3) as usize];
            pointer & 1 != 0 && history.leads_to(rules.table(pointer), 2, since, PageRights::all(), gfn)
        }
        None => history.leads_to(rules.mode().root(regs.cr3), levels, since, PageRights::all(), gfn),
    }
}

impl History<'_> {
    fn leads_to(&self, table: Gpa, level: u32, since: u64, rights: PageRights, gfn: u64) -> bool {
        let at = self.rules.mode().entry_at(table, self.gva, level);
        if !self.memory.has(at.0 >> 12) {
            return false;
        }
        let values = self.memory.values_since(at.0, self.rules.mode().entry_bytes(), since);
        values.into_iter().any(|(time, entry)| {
            // Present and accessed.
            if entry & 0x21 != 0x21 || entry & self.rules.reserved(entry, level) != 0 {
                return false;
            }
            let rights = rights & PageRights::of_entry(entry);
            if !self.rules.is_leaf(entry, level) {
                return self.leads_to(self.rules.table(entry), level - 1, time, rights, gfn);
            }
            let is_dirty = entry & 0x40 != 0;
            let offset = self.gva.0 & self.rules.offset_mask(level);
            (self.rules.page(entry, level).0 | offset) >> 12 == gfn
                && (is_dirty || self.access.kind != AccessKind::Write)
                && self.regs.check(self.access, rights, protection_key(entry)).is_ok()
        })
    }
}
