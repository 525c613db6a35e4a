// SPDX-License-Identifier: GPL-2.0

//! Making, linking and taking apart shadow pages: the only place where entries come and go.
//!
//! Each entry that leads somewhere is in the list of all that lead there: leaves by the guest frame, links by the page.
//! So what leads to a frame or to a page is found without looking at anything else, and nothing can be taken away with an
//! entry left that leads to it.
//!
//! A page that is taken apart leaves the arena at once, for its entries and the links to it are gone. Its table goes
//! on the list in [`FlushNeeded`]: a processor may walk it until the flush.

use super::arena::PageList;
use super::chain::IdList;
use super::entry::{self, EntryTarget};
use super::handle::PageHandle;
use super::index::{page_key, region_key};
use super::page::{ShadowPage, SyncState};
use super::role::ShadowRole;
use super::{ShadowMmu, ShadowStop, ShadowWork};
use crate::arch::addr::Gfn;
use crate::mmu::format::{PageSize, ENTRIES};
use crate::mmu::table::TableMem;

/// How many pages are taken apart at once where there are too many, so that one flush serves all.
const RECLAIMED: usize = 16;

impl ShadowMmu {
    /// Returns the page of a frame and a role, if there is one.
    pub(super) fn find(&mut self, gfn: Gfn, role: ShadowRole) -> Option<PageHandle> {
        let mut next = self.frames.of(gfn.0).first();
        while let Some(index) = next {
            let handle = self.arena.handle(index)?;
            let page = self.arena.get(handle)?;
            // The whole role: pages are the same in all that they mean, or different ones.
            if page.gfn == gfn && page.role == role {
                return Some(handle);
            }
            next = IdList::next(&mut self.arena.pages(PageList::Frame), index);
        }
        None
    }

    /// Returns the page of a frame and a role, and makes it if there is none.
    ///
    /// # Errors
    /// [`ShadowStop::NeedPages`].
    pub(super) fn find_or_make<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        gfn: Gfn,
        role: ShadowRole,
    ) -> Result<PageHandle, ShadowStop> {
        match self.find(gfn, role) {
            Some(handle) => Ok(handle),
            None => self.make(work, gfn, role),
        }
    }

    fn make<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        gfn: Gfn,
        role: ShadowRole,
    ) -> Result<PageHandle, ShadowStop> {
        if self.arena.free() == 0 {
            self.reclaim(work);
        }
        for chain in [self.frames.of(gfn.0), self.regions.of(region_key(gfn))] {
            let last = chain.last().filter(|_| chain.is_full()).and_then(|index| self.arena.handle(index));
            if let Some(last) = last {
                self.zap(work, last);
            }
        }
        let table = work.mem.alloc().ok_or(ShadowStop::NeedPages)?;
        let Some(handle) = self.arena.insert(ShadowPage::new(table, gfn, role)) else {
            // It was linked nowhere.
            work.mem.free(table);
            return Err(ShadowStop::NeedPages);
        };
        let index = handle.index();
        self.ages.push(&mut self.arena.pages(PageList::Age), index);
        if let Some(chain) = self.frames.of_mut(gfn.0) {
            chain.push(&mut self.arena.pages(PageList::Frame), index);
        }
        if !role.is_direct() {
            if let Some(chain) = self.regions.of_mut(region_key(gfn)) {
                chain.push(&mut self.arena.pages(PageList::Region), index);
            }
            let since = self.protect_table(work, gfn);
            if let Some(page) = self.arena.get_mut(handle) {
                page.sync = SyncState::Protected { since };
            }
        }
        Ok(handle)
    }

    /// Takes the right to write a guest's table from all that maps it. Returns the flush after which no processor has it.
    pub(super) fn protect_table<M: TableMem>(&mut self, work: &mut ShadowWork<'_, M>, gfn: Gfn) -> u64 {
        if self.protect_frame(work.mem, gfn) || self.is_stale {
            return work.flush_after();
        }
        0
    }

    /// Takes away all rights to write a guest frame. Returns whether there were any.
    pub(super) fn protect_frame(&mut self, mem: &mut impl TableMem, gfn: Gfn) -> bool {
        let mut any = false;
        let mut next = self.first_leaf(gfn, PageSize::Size4K);
        while let Some(id) = next {
            next = self.next_leaf(id, gfn, PageSize::Size4K);
            let Some((page, index)) = self.owner_table(id) else { continue };
            let leaf = mem.read(page, index);
            if entry::is_writable(leaf) {
                mem.write(page, index, entry::without_write(leaf));
                any = true;
            }
        }
        // Smaller pages come in its place.
        any | self.unmap_leaves(mem, first_of(gfn, PageSize::Size2M), PageSize::Size2M)
    }

    /// Takes out all leaves that map frames from `gfn` on with pages of `size`. Returns whether there were any.
    pub(super) fn unmap_leaves(&mut self, mem: &mut impl TableMem, gfn: Gfn, size: PageSize) -> bool {
        let mut next = self.first_leaf(gfn, size);
        let any = next.is_some();
        while let Some(id) = next {
            // Before it leaves the list, of which others may be in front that stay.
            next = self.next_leaf(id, gfn, size);
            self.drop_entry(mem, id);
        }
        any
    }

    pub(super) fn owner_table(&self, id: u32) -> Option<(crate::arch::addr::Hpa, usize)> {
        let (handle, index) = self.arena.owner(id)?;
        Some((self.arena.get(handle)?.table, index))
    }

    /// Returns the first entry that maps frames from `gfn` on with a page of `size`.
    pub(super) fn first_leaf(&mut self, gfn: Gfn, size: PageSize) -> Option<u32> {
        let first = self.leaves.of(page_key(gfn, size.level())).first()?;
        if self.is_leaf_of(first, gfn, size) {
            return Some(first);
        }
        self.next_leaf(first, gfn, size)
    }

    /// Returns the next one after the entry `id`.
    pub(super) fn next_leaf(&mut self, id: u32, gfn: Gfn, size: PageSize) -> Option<u32> {
        let mut next = IdList::next(&mut self.arena.entries(), id);
        while let Some(id) = next {
            if self.is_leaf_of(id, gfn, size) {
                return Some(id);
            }
            next = IdList::next(&mut self.arena.entries(), id);
        }
        None
    }

    fn is_leaf_of(&self, id: u32, gfn: Gfn, size: PageSize) -> bool {
        let Some((handle, index)) = self.arena.owner(id) else { return false };
        let level = self.arena.get(handle).map_or(0, |p| p.role.level());
        level == size.level() && self.arena.target(handle, index) == EntryTarget::Page(gfn)
    }

    /// Empties an entry.
    pub(super) fn drop_entry(&mut self, mem: &mut impl TableMem, id: u32) {
        let Some((handle, index)) = self.arena.owner(id) else { return };
        let Some((table, level)) = self.arena.get(handle).map(|p| (p.table, p.role.level())) else { return };
        match self.arena.target(handle, index) {
            EntryTarget::Nothing => return,
            EntryTarget::Page(gfn) => {
                if let Some(chain) = self.leaves.of_mut(page_key(gfn, level)) {
                    chain.remove(&mut self.arena.entries(), id);
                }
                // Processors may use it until the guest flushes, or somebody asks for it: see `ShadowWork::end()`.
                self.is_stale = true;
            }
            EntryTarget::Table(child) => self.unlink_parent(child, id),
            EntryTarget::Device(_) => {}
        }
        self.arena.set_target(handle, index, EntryTarget::Nothing);
        mem.write(table, index, 0);
    }

    fn unlink_parent(&mut self, child: PageHandle, id: u32) {
        let Some(mut parents) = self.arena.get(child).map(|p| p.parents) else { return };
        parents.remove(&mut self.arena.entries(), id);
        if let Some(page) = self.arena.get_mut(child) {
            page.parents = parents;
        }
    }

    /// Fills an empty entry with a leaf or a device's mark.
    pub(super) fn fill_entry(
        &mut self,
        mem: &mut impl TableMem,
        (handle, index): (PageHandle, usize),
        target: EntryTarget,
        value: u64,
    ) {
        let Some((table, level)) = self.arena.get(handle).map(|p| (p.table, p.role.level())) else { return };
        if let EntryTarget::Page(gfn) = target {
            let key = page_key(gfn, level);
            let full = self.leaves.of(key);
            if let Some(last) = full.last().filter(|_| full.is_full()) {
                self.drop_entry(mem, last);
            }
            if let Some(chain) = self.leaves.of_mut(key) {
                chain.push(&mut self.arena.entries(), handle.entry(index));
            }
        }
        self.arena.set_target(handle, index, target);
        mem.write(table, index, value);
    }

    /// Makes an entry link to the page of `gfn` and `role`, whatever it led to. Returns that page, and whether the link is
    /// new.
    ///
    /// # Errors
    /// [`ShadowStop::NeedPages`]; [`ShadowStop::Again`] where the page of the entry had to go meanwhile.
    pub(super) fn link<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        (parent, index): (PageHandle, usize),
        gfn: Gfn,
        role: ShadowRole,
    ) -> Result<(PageHandle, bool), ShadowStop> {
        if let EntryTarget::Table(child) = self.arena.target(parent, index) {
            // Not what the entry said when it was made, but what it must say now.
            if self.arena.get(child).is_some_and(|p| p.gfn == gfn && p.role == role) {
                return Ok((child, false));
            }
        }
        let child = self.find_or_make(work, gfn, role)?;
        let parent_table = self.arena.get(parent).map(|p| p.table).ok_or(ShadowStop::Again)?;
        self.drop_entry(work.mem, parent.entry(index));
        let mut parents = self.arena.get(child).map(|p| p.parents).ok_or(ShadowStop::Again)?;
        if let Some(last) = parents.last().filter(|_| parents.is_full()) {
            self.drop_entry(work.mem, last);
            parents = self.arena.get(child).map(|p| p.parents).ok_or(ShadowStop::Again)?;
        }
        parents.push(&mut self.arena.entries(), parent.entry(index));
        self.arena.set_target(parent, index, EntryTarget::Table(child));
        let page = self.arena.get_mut(child).ok_or(ShadowStop::Again)?;
        page.parents = parents;
        work.mem.write(parent_table, index, entry::link(page.table));
        Ok((child, true))
    }

    /// Takes a page apart: it is found no more, nothing leads to it, and its table is freed after the flush.
    pub(super) fn zap<M: TableMem>(&mut self, work: &mut ShadowWork<'_, M>, handle: PageHandle) {
        while let Some(parent) = self.arena.get(handle).and_then(|p| p.parents.first()) {
            self.drop_entry(work.mem, parent);
        }
        for index in 0..ENTRIES {
            if self.arena.get(handle).is_none_or(|p| p.filled == 0) {
                break;
            }
            self.drop_entry(work.mem, handle.entry(index));
        }
        let Some((gfn, is_refreshed, has_table)) =
            self.arena.get(handle).map(|p| (p.gfn, p.is_refreshed(), p.has_table()))
        else {
            return;
        };
        let index = handle.index();
        if is_refreshed {
            self.refreshed.remove(&mut self.arena.pages(PageList::Refresh), index);
        }
        if let Some(chain) = self.regions.of_mut(region_key(gfn)).filter(|_| has_table) {
            chain.remove(&mut self.arena.pages(PageList::Region), index);
        }
        if let Some(chain) = self.frames.of_mut(gfn.0) {
            chain.remove(&mut self.arena.pages(PageList::Frame), index);
        }
        self.ages.remove(&mut self.arena.pages(PageList::Age), index);
        if let Some(page) = self.arena.remove(handle) {
            work.flush.retire(work.mem, page.table, 1);
        }
    }

    /// Takes the pages apart that were not used for longest.
    fn reclaim<M: TableMem>(&mut self, work: &mut ShadowWork<'_, M>) {
        for _ in 0..RECLAIMED.min(self.arena.capacity() >> 2) {
            let Some(oldest) = self.ages.last().and_then(|index| self.arena.handle(index)) else { return };
            self.zap(work, oldest);
        }
    }

    /// Notes that a page is in use.
    pub(super) fn touch(&mut self, handle: PageHandle) {
        let Some(page) = self.arena.get_mut(handle) else { return };
        page.writes = 0;
        if self.ages.first() != Some(handle.index()) {
            self.ages.remove(&mut self.arena.pages(PageList::Age), handle.index());
            self.ages.push(&mut self.arena.pages(PageList::Age), handle.index());
        }
    }
}

/// Returns the first frame of the page of `size` that `gfn` lies in.
pub(super) fn first_of(gfn: Gfn, size: PageSize) -> Gfn {
    Gfn(gfn.0 & !size.pages().wrapping_sub(1))
}
