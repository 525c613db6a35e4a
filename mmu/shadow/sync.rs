// SPDX-License-Identifier: GPL-2.0

//! Keeping shadow pages what the guest's tables say, or what they said since the guest last flushed.
//!
//! | the guest's table | what becomes of a write to it |
//! |---|---|
//! | has a shadow page above level 1 | it exits, is carried out in software and told by [`ShadowMmu::wrote`], which empties the entries that follow |
//! | has pages of level 1 alone | they are out of sync from then on: the guest writes as it likes |
//!
//! The processor may keep what an entry said until the guest flushes it: SDM, "Caching Translation Information". So a page
//! that is out of sync is compared with the guest's table where the guest flushes: one entry at INVLPG
//! ([`ShadowMmu::refresh_at`]), all where CR3 is loaded, or CR4 or the like changed ([`ShadowMmu::refresh_all`]). And where
//! a link to it is made: what was absent needs no flush to be there, so nothing old may come with it.
//!
//! A page in which nothing has changed for some time settles: the right to write is taken from the guest, and once no
//! processor has it any more the page is in sync.

use super::arena::PageList;
use super::chain::IdList;
use super::entry::{self, EntryTarget, LeafRights};
use super::handle::PageHandle;
use super::index::region_key;
use super::page::SyncState;
use super::root::ShadowRoot;
use super::{ShadowMmu, ShadowStop, ShadowWork};
use crate::arch::addr::{Gfn, Gpa, Gva, PAGE_SIZE};
use crate::mmu::format::ENTRIES;
use crate::mmu::mem::GuestMem;
use crate::mmu::table::TableMem;
use crate::mmu::walk::{read_entry, PageRights};

/// The most pages that are brought up to date at once; the one that is so for longest makes room.
const MAX_OUT_OF_SYNC: u32 = 32;
/// After so many times without a change, a page settles.
const SETTLES: u8 = 4;
/// After so many writes without a use, a page is taken to be none of the guest's tables any more.
const MAX_WRITES: u8 = 4;

impl ShadowMmu {
    /// Returns the first page that follows the guest's table at `gfn`.
    fn first_table(&mut self, gfn: Gfn) -> Option<PageHandle> {
        let first = self.frames.of(gfn.0).first()?;
        self.table_from(Some(first), gfn)
    }

    /// Returns the one that was made first.
    pub(super) fn oldest_table(&mut self, gfn: Gfn) -> Option<PageHandle> {
        let mut next = self.frames.of(gfn.0).last();
        while let Some(index) = next {
            let handle = self.arena.handle(index)?;
            if self.follows(handle, gfn) {
                return Some(handle);
            }
            next = IdList::prev(&mut self.arena.pages(PageList::Frame), index);
        }
        None
    }

    /// Returns the one after `handle`.
    fn next_table(&mut self, handle: PageHandle, gfn: Gfn) -> Option<PageHandle> {
        let next = IdList::next(&mut self.arena.pages(PageList::Frame), handle.index());
        self.table_from(next, gfn)
    }

    /// Returns whether a page follows the guest's table at `gfn`.
    fn follows(&self, handle: PageHandle, gfn: Gfn) -> bool {
        self.arena.get(handle).is_some_and(|p| p.gfn == gfn && p.has_table())
    }

    fn table_from(&mut self, mut next: Option<u32>, gfn: Gfn) -> Option<PageHandle> {
        while let Some(index) = next {
            let handle = self.arena.handle(index)?;
            if self.follows(handle, gfn) {
                return Some(handle);
            }
            next = IdList::next(&mut self.arena.pages(PageList::Frame), index);
        }
        None
    }

    /// Returns whether the guest may not write a frame, for a page follows the table there.
    pub(super) fn is_protected(&mut self, gfn: Gfn) -> bool {
        let mut next = self.first_table(gfn);
        while let Some(handle) = next {
            if self.arena.get(handle).is_some_and(|p| !p.lets_write()) {
                return true;
            }
            next = self.next_table(handle, gfn);
        }
        false
    }

    /// Returns whether a page follows a table in the 2 MiB around `gfn`.
    pub(super) fn has_table_near(&mut self, gfn: Gfn) -> bool {
        let mut next = self.regions.of(region_key(gfn)).first();
        while let Some(index) = next {
            let page = self.arena.handle(index).and_then(|handle| self.arena.get(handle));
            if page.is_some_and(|p| region_key(p.gfn) == region_key(gfn)) {
                return true;
            }
            next = IdList::next(&mut self.arena.pages(PageList::Region), index);
        }
        false
    }

    /// Lets the guest write a frame. Pages of level 1 that follow it are out of sync from now on.
    ///
    /// # Errors
    /// [`ShadowStop::Emulate`]: other pages follow it.
    pub(super) fn let_write<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        gfn: Gfn,
    ) -> Result<(), ShadowStop> {
        let mut next = self.first_table(gfn);
        while let Some(handle) = next {
            if self.arena.get(handle).is_some_and(|p| p.role.level() > 1) {
                return Err(ShadowStop::Emulate);
            }
            next = self.next_table(handle, gfn);
        }
        let mut next = self.first_table(gfn);
        while let Some(handle) = next {
            next = self.next_table(handle, gfn);
            let Some(page) = self.arena.get_mut(handle).filter(|p| !p.lets_write()) else { continue };
            let was_refreshed = page.is_refreshed();
            page.sync = SyncState::OutOfSync { clean: 0 };
            if !was_refreshed {
                self.refreshed.push(&mut self.arena.pages(PageList::Refresh), handle.index());
            }
        }
        while self.refreshed.len() > MAX_OUT_OF_SYNC {
            let Some(oldest) = self.refreshed.last().and_then(|index| self.arena.handle(index)) else {
                break;
            };
            self.zap(work, oldest);
        }
        Ok(())
    }

    /// Software wrote `len` bytes of the guest's memory at `gpa`, for the guest: the entries that follow them lead nowhere
    /// until they are used again.
    pub(crate) fn wrote<M: TableMem>(&mut self, work: &mut ShadowWork<'_, M>, gpa: Gpa, len: u64) {
        let (mut at, mut left) = (gpa, len);
        while left > 0 {
            let part = left.min(at.left_in_page());
            self.wrote_table(work, at, part);
            at = at.wrapping_add(part);
            left = left.saturating_sub(part);
        }
    }

    /// As [`ShadowMmu::wrote`], within a page.
    fn wrote_table<M: TableMem>(&mut self, work: &mut ShadowWork<'_, M>, gpa: Gpa, len: u64) {
        let (from, to) = (gpa.page_offset(), gpa.page_offset().saturating_add(len).min(PAGE_SIZE));
        let gfn = gpa.gfn();
        let mut next = self.first_table(gfn);
        while let Some(handle) = next {
            next = self.next_table(handle, gfn);
            let Some(page) = self.arena.get_mut(handle) else { continue };
            page.writes = page.writes.saturating_add(1);
            let (role, is_flooded) = (page.role, page.writes >= MAX_WRITES && page.role.level() > 1);
            if is_flooded {
                self.zap(work, handle);
                continue;
            }
            for index in role.entries_at(from, to) {
                self.drop_entry(work.mem, handle.entry(index));
            }
        }
    }

    /// The guest has flushed the translation of `gva`, as [`PagingRegs::linear`](crate::mmu::walk::PagingRegs::linear) has
    /// it: brings its entry up to date.
    pub(crate) fn refresh_at<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        ram: &impl GuestMem,
        root: &ShadowRoot,
        gva: Gva,
    ) {
        let Some((handle, index)) = self.lowest(root, gva) else { return };
        if self.arena.get(handle).is_some_and(|p| p.is_refreshed()) {
            self.refresh_entry(work.mem, ram, handle, index);
        }
    }

    /// The guest has flushed all its translations: brings all pages up to date.
    pub(crate) fn refresh_all<M: TableMem>(&mut self, work: &mut ShadowWork<'_, M>, ram: &impl GuestMem) {
        let mut next = self.refreshed.first();
        while let Some(index) = next {
            next = IdList::next(&mut self.arena.pages(PageList::Refresh), index);
            let Some(handle) = self.arena.handle(index) else { continue };
            let Some((gfn, sync)) = self.arena.get(handle).map(|p| (p.gfn, p.sync)) else { continue };
            // Before the look at the table: what is written until the flush is done must be seen.
            let is_settled = matches!(sync, SyncState::Settling { since } if work.flushes.is_done(since));
            let is_changed = self.refresh_page(work.mem, ram, handle);
            let sync = match sync {
                SyncState::Settling { since } if is_settled => SyncState::Protected { since },
                SyncState::OutOfSync { .. } if is_changed => SyncState::OutOfSync { clean: 0 },
                SyncState::OutOfSync { clean } if clean >= SETTLES => {
                    SyncState::Settling { since: self.protect_table(work, gfn) }
                }
                SyncState::OutOfSync { clean } => SyncState::OutOfSync { clean: clean.saturating_add(1) },
                sync => sync,
            };
            if is_settled {
                self.refreshed.remove(&mut self.arena.pages(PageList::Refresh), index);
            }
            if let Some(page) = self.arena.get_mut(handle) {
                page.sync = sync;
            }
        }
    }

    /// A link to a page is new: what the page has must be what a walk would find now.
    pub(super) fn refresh_linked<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        ram: &impl GuestMem,
        handle: PageHandle,
    ) {
        if self.arena.get(handle).is_some_and(|p| p.is_refreshed()) {
            self.refresh_page(work.mem, ram, handle);
        }
    }

    /// Empties the entries of a page of level 1 that the guest's table does not bear out any more. Returns whether there
    /// were any.
    fn refresh_page(&mut self, mem: &mut impl TableMem, ram: &impl GuestMem, handle: PageHandle) -> bool {
        let mut left = self.arena.get(handle).map_or(0, |p| p.filled);
        let mut any = false;
        for index in 0..ENTRIES {
            if left == 0 {
                break;
            }
            if self.arena.target(handle, index) != EntryTarget::Nothing {
                left = left.saturating_sub(1);
                any |= self.refresh_entry(mem, ram, handle, index);
            }
        }
        any
    }

    fn refresh_entry(
        &mut self,
        mem: &mut impl TableMem,
        ram: &impl GuestMem,
        handle: PageHandle,
        index: usize,
    ) -> bool {
        let Some(page) = self.arena.get(handle) else { return false };
        let (role, at) = (page.role, page.role.guest_entry(page.gfn, index));
        let value = mem.read(page.table, index);
        let shown = match self.arena.target(handle, index) {
            EntryTarget::Page(gfn) => gfn,
            EntryTarget::Device(_) => entry::device_gfn(value),
            EntryTarget::Nothing | EntryTarget::Table(_) => return false,
        };
        // A table that cannot be read now is as good as one that has changed.
        let guest = read_entry(ram, role.rules().mode(), at).ok();
        let is_borne_out = guest.is_some_and(|guest| {
            let LeafRights { rights, key } = LeafRights::of(value);
            role.rules().used_page(guest).is_some_and(|(gfn, allowed)| {
                let allowed = allowed & role.access();
                // Writing may be forbidden by the host alone.
                let is_alike = (rights ^ allowed).difference(PageRights::WRITE).is_empty();
                gfn == shown && is_alike && allowed.contains(rights) && key == role.key(guest)
            })
        });
        if !is_borne_out {
            self.drop_entry(mem, handle.entry(index));
        }
        !is_borne_out
    }
}
