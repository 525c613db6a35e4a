// SPDX-License-Identifier: GPL-2.0

//! What a shadow page stands for: one value, comparable only as a whole.
//!
//! The entries of a shadow page follow from a guest frame and from its [`ShadowRole`]: the format of the guest's
//! tables and which bits of them count, the level, the part of the guest's table, the rights that the tables above leave,
//! whether there is a table of the guest's behind it at all, and the control bits that change what an entry allows. Two
//! pages are the same page where frame and role are equal. No part of a role can be compared alone: what was left out of
//! such a comparison is how a page of one meaning came to be used with another.

use crate::arch::addr::{Gfn, Gpa, Gva};
use crate::arch::cr::{Cr0, Cr4};
use crate::mmu::format::{ENTRIES, INDEX_BITS};
use crate::mmu::guest_entry::protection_key;
use crate::mmu::walk::{EntryRules, PageRights, PagingMode, PagingRegs};
use core::ops::Range;

/// The level of the four pages below a root of the PAE format, which has no page of its own here.
const PAE_TOP: u32 = 2;

/// What all shadow pages under one root have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoleBasis {
    rules: EntryRules,
    /// CR0.WP: the supervisor may not write where an entry forbids it.
    wp: bool,
    smep: bool,
    smap: bool,
    pke: bool,
}

impl RoleBasis {
    /// Takes it from the guest's registers.
    pub(crate) fn of(paging: &PagingRegs) -> RoleBasis {
        let rules = paging.entry_rules();
        // Without paging there are no rights, so the bits do not make pages different.
        let has = |bit| rules.mode() != PagingMode::Off && paging.cr4.contains(bit);
        RoleBasis {
            rules,
            wp: rules.mode() != PagingMode::Off && paging.cr0.contains(Cr0::WP),
            smep: has(Cr4::SMEP),
            smap: has(Cr4::SMAP),
            pke: has(Cr4::PKE),
        }
    }

    /// Returns the guest's format.
    pub(crate) fn mode(&self) -> PagingMode {
        self.rules.mode()
    }

    /// Returns how many shadow pages a root consists of, and their level.
    pub(super) fn top(&self) -> (usize, u32) {
        match self.mode() {
            PagingMode::Long { levels } => (1, levels),
            PagingMode::Off | PagingMode::Legacy | PagingMode::Pae => (4, PAE_TOP),
        }
    }

    /// Returns the frame and the role of the page `number` of a root, as CR3 and PAE's directory pointers have it; `None`
    /// where a pointer is absent.
    pub(super) fn root_page(&self, paging: &PagingRegs, number: usize) -> Option<(Gfn, ShadowRole)> {
        let (_, level) = self.top();
        let mode = self.mode();
        let mut role = ShadowRole {
            basis: *self,
            level,
            quadrant: 0,
            access: PageRights::all(),
            key: 0,
            is_direct: mode == PagingMode::Off,
        };
        let number = number as u32;
        let gfn = match mode {
            PagingMode::Off => Gfn(u64::from(number) << (2 * INDEX_BITS)),
            PagingMode::Legacy => {
                role.quadrant = number;
                mode.root(paging.cr3).gfn()
            }
            PagingMode::Pae => {
                let entry = paging.pdptes.unwrap_or_default().get(number as usize).copied().unwrap_or(0);
                self.rules.table((entry & 1 != 0).then_some(entry)?).gfn()
            }
            PagingMode::Long { .. } => mode.root(paging.cr3).gfn(),
        };
        Some((gfn, role))
    }

    /// Returns which page of a root `gva` is under.
    pub(super) fn root_number(&self, gva: Gva) -> usize {
        match self.mode() {
            PagingMode::Long { .. } => 0,
            _ => (gva.0 >> 30 & 3) as usize,
        }
    }
}

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShadowRole {
    basis: RoleBasis,
    level: u32,
    /// Which part of the guest's table it shows, where that has entries for more than one page.
    quadrant: u32,
    /// What the entries above leave; of a direct page, what its own allow.
    access: PageRights,
    /// The protection key of a direct page.
    key: u8,
    /// There is no table of the guest's behind it: it shows frames one after the other.
    is_direct: bool,
}

impl ShadowRole {
    /// Returns the level: 1 for a page whose entries map 4 KiB.
    pub(crate) fn level(&self) -> u32 {
        self.level
    }

    /// Returns what the entries above leave.
    pub(super) fn access(&self) -> PageRights {
        self.access
    }

    /// Returns whether there is no table of the guest's behind it.
    pub(crate) fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// Returns what decides what an entry of the guest's means.
    pub(super) fn rules(&self) -> &EntryRules {
        &self.basis.rules
    }

    /// Returns the role of the page for the table that an entry of the guest's leads to, which the entry `index` follows.
    pub(super) fn of_table(&self, entry: u64, index: usize) -> ShadowRole {
        let quadrant = match self.basis.mode() {
            PagingMode::Legacy => index as u32 & 1,
            _ => 0,
        };
        ShadowRole {
            level: self.level.wrapping_sub(1),
            quadrant,
            access: self.access & PageRights::of_entry(entry),
            ..*self
        }
    }

    /// Returns the role of the page for a part of what a direct page shows.
    pub(super) fn of_part(&self) -> ShadowRole {
        ShadowRole { level: self.level.wrapping_sub(1), ..*self }
    }

    /// Returns the role of the page for a part of the large page that a leaf of the guest's maps; `rights` are the leaf's,
    /// as it is used.
    pub(super) fn of_large(&self, leaf: u64, rights: PageRights) -> ShadowRole {
        ShadowRole { quadrant: 0, access: rights, key: self.key(leaf), is_direct: true, ..self.of_part() }
    }

    /// Returns what a page may be used for, where the guest's tables allow `rights` and software found that a write is
    /// allowed nevertheless: the supervisor's, with CR0.WP clear. The processor has CR0.WP set, so a user page is shown as
    /// the supervisor's, and is not executable where SMEP would forbid it. `None`: SMAP or a protection key would have to
    /// be asked at each access, which the processor does for user pages alone.
    pub(super) fn supervisor_write(&self, rights: PageRights) -> Option<PageRights> {
        let mut shown = rights | PageRights::WRITE;
        if rights.contains(PageRights::USER) {
            if self.basis.smap || self.basis.pke {
                return None;
            }
            shown.remove(PageRights::USER);
            if self.basis.smep {
                shown.remove(PageRights::EXEC);
            }
        }
        Some(shown)
    }

    /// Returns the protection key of a direct page.
    pub(super) fn direct_key(&self) -> u8 {
        self.key
    }

    /// Returns the protection key that the processor compares, of a leaf of the guest's.
    pub(super) fn key(&self, leaf: u64) -> u8 {
        match self.basis.mode() {
            PagingMode::Long { .. } if self.basis.pke => protection_key(leaf),
            _ => 0,
        }
    }

    /// Returns where in the guest's table the entry is that entry `index` follows.
    pub(super) fn guest_entry(&self, gfn: Gfn, index: usize) -> Gpa {
        let (index, part) = (index as u64, u64::from(self.quadrant));
        let offset = match (self.basis.mode(), self.level) {
            (PagingMode::Legacy, 1) => part.wrapping_mul(ENTRIES as u64).wrapping_add(index).wrapping_mul(4),
            // An entry for 4 MiB is followed by two.
            (PagingMode::Legacy, _) => part.wrapping_mul(256).wrapping_add(index >> 1).wrapping_mul(4),
            _ => index.wrapping_mul(8),
        };
        gfn.gpa().wrapping_add(offset)
    }

    /// Returns the entries that follow the bytes `from..to` of the guest's table.
    pub(super) fn entries_at(&self, from: u64, to: u64) -> Range<usize> {
        // Entries of the guest's in this page, bytes of each, entries here that follow each.
        let (count, bytes, followers) = match (self.basis.mode(), self.level) {
            (PagingMode::Legacy, 1) => (ENTRIES as u64, 4u64, 1),
            (PagingMode::Legacy, _) => (256, 4, 2),
            _ => (ENTRIES as u64, 8, 1),
        };
        let first = count.wrapping_mul(u64::from(self.quadrant));
        let number = |guest: u64| guest.saturating_sub(first).min(count).wrapping_mul(followers) as usize;
        let last = to.saturating_add(bytes.wrapping_sub(1)).checked_div(bytes).unwrap_or(0);
        number(from.checked_div(bytes).unwrap_or(0))..number(last)
    }
}
