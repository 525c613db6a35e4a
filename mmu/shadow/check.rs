// SPDX-License-Identifier: GPL-2.0

//! What holds of shadow pages between two calls. Too much to look at for each change; the tests do.

#![allow(dead_code, reason = "used by the tests")]

use super::arena::PageList;
use super::chain::{ChainLinks, IdList};
use super::entry::{self, EntryTarget, LeafRights};
use super::handle::PageHandle;
use super::index::page_key;
use super::page::{ShadowPage, SyncState};
use super::tree::first_of;
use super::ShadowMmu;
use crate::arch::addr::Gfn;
use crate::arch::rule::rule;
use crate::mmu::format::{entry_pages, PageSize, ENTRIES};
use crate::mmu::mem::GuestMem;
use crate::mmu::table::TableMem;
use crate::mmu::tlb::TlbFlushes;
use crate::mmu::walk::{read_entry, PageRights, PagingMode};

/// Returns whether `id` is in a list.
fn has(chain: IdList, links: &mut impl ChainLinks, id: u32) -> bool {
    let mut next = chain.first();
    while let Some(member) = next {
        if member == id {
            return true;
        }
        next = IdList::next(links, member);
    }
    false
}

impl ShadowMmu {
    /// Looks whether pages, lists and the processor's tables say the same. Returns how many pages there are.
    ///
    /// # Errors
    /// The name of a rule that does not hold.
    pub(crate) fn check(&mut self, mem: &impl TableMem) -> Result<usize, &'static str> {
        let mut count = 0usize;
        for place in 0..self.arena.capacity() as u32 {
            if let Some(handle) = self.arena.handle(place) {
                count = count.wrapping_add(1);
                self.check_page(mem, handle)?;
            }
        }
        rule(self.ages.len() as usize == count, "each page has an age")?;
        rule(
            (self.arena.free() as usize).wrapping_add(count) == self.arena.capacity(),
            "each place is free or used",
        )?;
        Ok(count)
    }

    fn check_page(&mut self, mem: &impl TableMem, handle: PageHandle) -> Result<(), &'static str> {
        let Some(page) = self.arena.get(handle) else { return Err("a handle names its page") };
        let (gfn, parents, is_refreshed, filled, level) =
            (page.gfn, page.parents, page.is_refreshed(), page.filled, page.role.level());
        rule(!is_refreshed || level == 1, "only pages of level 1 are out of sync")?;
        let index = handle.index();
        rule(
            has(self.frames.of(gfn.0), &mut self.arena.pages(PageList::Frame), index),
            "a page is found by its frame",
        )?;
        rule(has(self.ages, &mut self.arena.pages(PageList::Age), index), "a page has an age")?;
        let refreshed = has(self.refreshed, &mut self.arena.pages(PageList::Refresh), index);
        rule(refreshed == is_refreshed, "what is out of sync is brought up to date")?;
        let mut next = parents.first();
        while let Some(id) = next {
            let parent = self.arena.owner(id).map(|(owner, entry)| self.arena.target(owner, entry));
            rule(parent == Some(EntryTarget::Table(handle)), "a page's parents link to it")?;
            next = IdList::next(&mut self.arena.entries(), id);
        }
        let mut count = 0u32;
        for index in 0..ENTRIES {
            if self.check_entry(mem, handle, index)? {
                count = count.wrapping_add(1);
            }
        }
        rule(count == filled, "entries are counted")
    }

    /// Returns whether the entry leads somewhere.
    fn check_entry(
        &mut self,
        mem: &impl TableMem,
        handle: PageHandle,
        index: usize,
    ) -> Result<bool, &'static str> {
        let Some(page) = self.arena.get(handle) else { return Err("a handle names its page") };
        let (value, level) = (mem.read(page.table, index), page.role.level());
        let id = handle.entry(index);
        match self.arena.target(handle, index) {
            EntryTarget::Nothing => {
                rule(value == 0, "an entry that leads nowhere is empty")?;
                return Ok(false);
            }
            EntryTarget::Page(gfn) => {
                rule(PageSize::of_level(level).is_some_and(|s| s <= PageSize::Size2M), "a leaf has a size")?;
                rule(value & 1 != 0, "a leaf is present")?;
                let chain = self.leaves.of(page_key(gfn, level));
                rule(has(chain, &mut self.arena.entries(), id), "a leaf is found by its frame")?;
            }
            EntryTarget::Table(child) => {
                let Some(child) = self.arena.get(child) else {
                    return Err("a link leads to a page that is there");
                };
                rule(value == entry::link(child.table), "the processor follows the same link")?;
                rule(child.role.level().wrapping_add(1) == level, "a link leads one level down")?;
                rule(has(child.parents, &mut self.arena.entries(), id), "a page knows its parents")?;
            }
            EntryTarget::Device(_) => {
                rule(level == 1 && value & 1 == 0 && value != 0, "a device's page is not present")?
            }
        }
        Ok(true)
    }

    /// Looks whether what pages say is what the guest's tables say, as far as it must be: of all pages that are not out of
    /// sync. A linked page has the frame and the role that the guest's entry asks for.
    ///
    /// # Errors
    /// The name of a rule that does not hold.
    pub(crate) fn check_guest(
        &mut self,
        mem: &impl TableMem,
        ram: &impl GuestMem,
        flushes: &TlbFlushes,
    ) -> Result<(), &'static str> {
        for place in 0..self.arena.capacity() as u32 {
            let Some(handle) = self.arena.handle(place) else { continue };
            let Some(page) = self.arena.get(handle) else { continue };
            let is_protected = matches!(page.sync, SyncState::Protected { .. });
            rule(
                page.is_ready(flushes) || page.filled == 0,
                "nothing is filled in before the table is protected",
            )?;
            for index in 0..ENTRIES {
                let is_direct = page.role.is_direct();
                match self.arena.target(handle, index) {
                    EntryTarget::Nothing => {}
                    target if is_direct => self.check_part(page, index, target)?,
                    target if is_protected => self.check_followed(mem, ram, page, index, target)?,
                    _ => {}
                }
            }
            let followed = (is_protected && page.has_table()).then_some(page.gfn);
            if let Some(gfn) = followed {
                self.check_unwritable(mem, gfn)?;
            }
        }
        Ok(())
    }

    /// Nothing lets the guest write a table that is followed.
    fn check_unwritable(&mut self, mem: &impl TableMem, gfn: Gfn) -> Result<(), &'static str> {
        for size in [PageSize::Size4K, PageSize::Size2M] {
            let first = first_of(gfn, size);
            let mut next = self.first_leaf(first, size);
            while let Some(id) = next {
                let is_writable =
                    self.owner_table(id).is_some_and(|(t, i)| entry::is_writable(mem.read(t, i)));
                rule(!is_writable, "a followed table cannot be written")?;
                next = self.next_leaf(id, first, size);
            }
        }
        Ok(())
    }

    /// Entries of a direct page show frames one after the other.
    fn check_part(&self, page: &ShadowPage, index: usize, target: EntryTarget) -> Result<(), &'static str> {
        let gfn = match target {
            EntryTarget::Page(gfn) => gfn,
            EntryTarget::Table(child) => {
                let Some(child) = self.arena.get(child) else {
                    return Err("a link leads to a page that is there");
                };
                rule(child.role == page.role.of_part(), "a part has its role")?;
                child.gfn
            }
            _ => return Ok(()),
        };
        let first = page.gfn.0.wrapping_add((index as u64).wrapping_mul(entry_pages(page.role.level())));
        rule(gfn.0 == first, "a part has its frame")
    }

    fn check_followed(
        &self,
        mem: &impl TableMem,
        ram: &impl GuestMem,
        page: &ShadowPage,
        index: usize,
        target: EntryTarget,
    ) -> Result<(), &'static str> {
        let (role, level) = (&page.role, page.role.level());
        let rules = role.rules();
        let Ok(guest) = read_entry(ram, rules.mode(), role.guest_entry(page.gfn, index)) else {
            return Ok(());
        };
        rule(guest & 1 != 0, "what is shown is present in the guest's table")?;
        rule(guest & rules.reserved(guest, level) == 0, "what is shown has no reserved bit")?;
        // The second half of 4 MiB.
        let half = if rules.mode() == PagingMode::Legacy && level == 2 { (index as u64 & 1) << 9 } else { 0 };
        let first = Gfn(rules.page(guest, level).gfn().0.wrapping_add(half));
        let rights = role.access() & PageRights::of_entry(guest);
        match target {
            EntryTarget::Table(child) => {
                let Some(child) = self.arena.get(child) else {
                    return Err("a link leads to a page that is there");
                };
                if !rules.is_leaf(guest, level) {
                    let (gfn, role) = (rules.table(guest).gfn(), role.of_table(guest, index));
                    return rule(
                        child.gfn == gfn && child.role == role,
                        "a linked page has the entry's frame and role",
                    );
                }
                let written = role.of_large(guest, rights);
                let unwritten = role.of_large(guest, rights.difference(PageRights::WRITE));
                let is_one = child.role == written || child.role == unwritten;
                rule(child.gfn == first && is_one, "a part of a large page has its frame and role")
            }
            EntryTarget::Page(gfn) => {
                rule(rules.is_leaf(guest, level) && gfn == first, "a leaf has the entry's frame")?;
                let shown = LeafRights::of(mem.read(page.table, index)).rights;
                let by_supervisor = role.supervisor_write(rights).is_some_and(|r| r.contains(shown));
                rule(rights.contains(shown) || by_supervisor, "a leaf allows no more than the entries do")
            }
            _ => Ok(()),
        }
    }
}
