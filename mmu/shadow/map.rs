// SPDX-License-Identifier: GPL-2.0

//! A page fault of the processor's that the guest's own tables allow: what they say, made entries of shadow pages.
//!
//! The walk of the guest's tables ([`crate::mmu::walk`]) and the host's page come from outside the lock. Under it, each
//! entry that the walk used is read again on the way down, and must be as it was: either the table cannot be written
//! any more, and then it stays so; or it is out of sync, and then what is filled in now is what a processor could have
//! read now. An entry that is filled in later than a table was taken from the guest is never older than the write that
//! the guest made last.

use super::entry::{self, EntryTarget, LeafRights};
use super::handle::PageHandle;
use super::root::ShadowRoot;
use super::tree::first_of;
use super::{ShadowMmu, ShadowStop, ShadowWork};
use crate::arch::addr::{Gfn, Gpa, Gva, Pfn, PAGE_SHIFT};
use crate::mmu::format::{entry_pages, index, PageSize, INDEX_BITS};
use crate::mmu::guest_entry::{ACCESSED, DIRTY};
use crate::mmu::mem::{GuestMem, MemError};
use crate::mmu::table::TableMem;
use crate::mmu::walk::{
    read_entry, AccessKind, GuestTranslation, PageRights, PagingMode, PagingRegs, WalkAccess, WalkSteps,
};

/// A fault that the guest's tables allow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShadowFault<'a> {
    /// The linear address, as [`PagingRegs::linear`] has it.
    pub(crate) gva: Gva,
    /// What the guest did there.
    pub(crate) access: WalkAccess,
    /// The entries of the guest's that lead there.
    pub(crate) steps: &'a WalkSteps,
    /// Where they lead.
    pub(crate) translation: GuestTranslation,
}

/// The host's page behind an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShadowFrame {
    /// The host frame of the 4 KiB that were asked for.
    pub(crate) pfn: Pfn,
    /// The largest page that host and memory slot let map it.
    pub(crate) size: PageSize,
}

/// Where a fault's entry is.
#[derive(Clone, Copy)]
struct ReachedEntry {
    page: PageHandle,
    index: usize,
    /// What the guest's tables allow there, without what they do not say until a page is written.
    rights: PageRights,
    key: u8,
}

impl ShadowFault<'_> {
    fn writes(&self) -> bool {
        self.access.kind == AccessKind::Write
    }

    fn gfn(&self) -> Gfn {
        self.translation.gpa.gfn()
    }

    /// Returns the largest page that the guest's tables let map the address.
    fn guest_size(&self, mode: PagingMode) -> PageSize {
        // Without paging the walk tells the smallest.
        if mode == PagingMode::Off || self.translation.page_shift >= PAGE_SHIFT.wrapping_add(INDEX_BITS) {
            PageSize::Size2M
        } else {
            PageSize::Size4K
        }
    }

    /// Returns what an entry of the guest's at the end of the walk allows, below what `above` leaves: writing where the
    /// page is marked as written, or is being.
    fn leaf_rights(&self, above: PageRights, entry: u64) -> PageRights {
        let mut rights = above & PageRights::of_entry(entry);
        if entry & DIRTY == 0 && !self.writes() {
            rights.remove(PageRights::WRITE);
        }
        rights
    }
}

impl ShadowMmu {
    /// Shows a page to the guest. `allow_write` says whether the host lets the guest write it, and notes that it may: it
    /// is asked at most once, and only where nothing else forbids that. Returns whether it was not shown so already; if it
    /// was, the processor has used what it had cached, and must flush that.
    ///
    /// # Errors
    /// As [`ShadowStop`].
    pub(crate) fn map<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        ram: &impl GuestMem,
        root: &ShadowRoot,
        fault: &ShadowFault<'_>,
        frame: ShadowFrame,
        allow_write: impl FnOnce() -> bool,
    ) -> Result<bool, ShadowStop> {
        let mode = root
            .page(fault.gva)
            .and_then(|p| self.arena.get(p))
            .ok_or(ShadowStop::Reload)?
            .role
            .rules()
            .mode();
        let mut size = frame.size.min(fault.guest_size(mode)).min(PageSize::Size2M);
        // Intel, "Machine Check Error Avoidance on Page Size Change": see `small_code()` of the direct tables.
        let is_code = fault.translation.rights.contains(PageRights::EXEC);
        if size != PageSize::Size4K && ((self.small_code && is_code) || self.has_table_near(fault.gfn())) {
            size = PageSize::Size4K;
        }
        let at = self.reach(work, ram, root, fault, size)?;
        let mut rights = at.rights;
        if fault.writes() {
            if !rights.contains(PageRights::WRITE) {
                let role = self.arena.get(at.page).ok_or(ShadowStop::Again)?.role;
                rights = role.supervisor_write(rights).ok_or(ShadowStop::Emulate)?;
            }
            self.let_write(work, fault.gfn())?;
        }
        let gfn = first_of(fault.gfn(), size);
        if size != PageSize::Size4K && self.has_table_near(gfn) {
            // Made on the way down.
            return Err(ShadowStop::Again);
        }
        if rights.contains(PageRights::WRITE) && (self.is_protected(gfn) || !allow_write()) {
            if fault.writes() {
                return Err(ShadowStop::Emulate);
            }
            rights.remove(PageRights::WRITE);
        }
        let pfn = Pfn(frame.pfn.0 & !size.pages().wrapping_sub(1));
        let value = entry::leaf(pfn, size, LeafRights { rights, key: at.key });
        self.place(work, &at, gfn, value)
    }

    /// Puts a leaf where a fault's entry is. Returns whether it was not there.
    fn place<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        at: &ReachedEntry,
        gfn: Gfn,
        value: u64,
    ) -> Result<bool, ShadowStop> {
        let table = self.arena.get(at.page).ok_or(ShadowStop::Again)?.table;
        let target = EntryTarget::Page(gfn);
        if self.arena.target(at.page, at.index) == target {
            let old = work.mem.read(table, at.index);
            if old != value {
                // Fewer rights, or another host's page: as if the old entry had been dropped.
                let (was, is) = (LeafRights::of(old), LeafRights::of(value));
                let is_less = !is.rights.contains(was.rights) || is.key != was.key;
                self.is_stale |= is_less || entry::pfn(old) != entry::pfn(value);
                work.mem.write(table, at.index, value);
            }
            return Ok(old != value);
        }
        self.drop_entry(work.mem, at.page.entry(at.index));
        self.fill_entry(work.mem, (at.page, at.index), target, value);
        Ok(true)
    }

    /// Remembers that the page is a device's, as of `generation` of the memory slots, so that the next access there needs
    /// no walk: see [`ShadowMmu::device`].
    ///
    /// # Errors
    /// As [`ShadowStop`]; it is then not remembered, and need not be.
    pub(crate) fn remember_device<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        ram: &impl GuestMem,
        root: &ShadowRoot,
        fault: &ShadowFault<'_>,
        generation: u64,
    ) -> Result<(), ShadowStop> {
        let at = self.reach(work, ram, root, fault, PageSize::Size4K)?;
        // A page may have been there, if the guest's tables or the slots were changed by nobody that told.
        self.drop_entry(work.mem, at.page.entry(at.index));
        let mark = entry::device(fault.gfn(), LeafRights { rights: at.rights, key: at.key });
        self.fill_entry(work.mem, (at.page, at.index), EntryTarget::Device(generation), mark);
        Ok(())
    }

    /// Returns the guest physical address of an access, if it is remembered that it is a device's as of `generation`, and
    /// the guest's tables allow it.
    pub(crate) fn device(
        &self,
        mem: &impl TableMem,
        root: &ShadowRoot,
        paging: &PagingRegs,
        gva: Gva,
        access: WalkAccess,
        generation: u64,
    ) -> Option<Gpa> {
        let gva = paging.linear(gva);
        let (handle, index) = self.lowest(root, gva)?;
        if self.arena.target(handle, index) != EntryTarget::Device(generation) {
            return None;
        }
        let mark = mem.read(self.arena.get(handle)?.table, index);
        let LeafRights { rights, key } = LeafRights::of(mark);
        // Nothing but a walk marks a page as written.
        let is_marked = access.kind != AccessKind::Write || rights.contains(PageRights::WRITE);
        let is_allowed = is_marked && paging.check(access, rights, key).is_ok();
        is_allowed.then(|| entry::device_gfn(mark).gpa().wrapping_add(gva.page_offset()))
    }

    /// Follows the links towards `gva`. Returns the entry of a page of level 1, if they lead to one.
    pub(super) fn lowest(&self, root: &ShadowRoot, gva: Gva) -> Option<(PageHandle, usize)> {
        let mut handle = root.page(gva)?;
        loop {
            let level = self.arena.get(handle)?.role.level();
            let index = index_of(gva, level);
            if level <= 1 {
                return Some((handle, index));
            }
            let EntryTarget::Table(child) = self.arena.target(handle, index) else { return None };
            handle = child;
        }
    }

    /// Makes the pages down to the entry for a page of `size`.
    fn reach<M: TableMem>(
        &mut self,
        work: &mut ShadowWork<'_, M>,
        ram: &impl GuestMem,
        root: &ShadowRoot,
        fault: &ShadowFault<'_>,
        size: PageSize,
    ) -> Result<ReachedEntry, ShadowStop> {
        let gva = fault.gva;
        let mut handle = root.page(gva).ok_or(ShadowStop::Reload)?;
        loop {
            self.touch(handle);
            let page = self.arena.get(handle).ok_or(ShadowStop::Reload)?;
            if !page.is_ready(work.flushes) {
                return Err(ShadowStop::NeedFlush);
            }
            let (role, gfn) = (page.role, page.gfn);
            let index = index_of(gva, role.level());
            let is_lowest = role.level() == size.level();
            let part = || Gfn(fault.gfn().0 & !entry_pages(role.level()).wrapping_sub(1));
            let (child_gfn, child) = if role.is_direct() {
                if is_lowest {
                    let (rights, key) = (role.access(), role.direct_key());
                    return Ok(ReachedEntry { page: handle, index, rights, key });
                }
                (part(), role.of_part())
            } else {
                let entry = current_entry(
                    ram,
                    fault,
                    role.rules().mode(),
                    role.level(),
                    role.guest_entry(gfn, index),
                )?;
                let is_leaf = role.rules().is_leaf(entry, role.level());
                let rights = fault.leaf_rights(role.access(), entry);
                match (is_leaf, is_lowest) {
                    (true, true) => {
                        return Ok(ReachedEntry { page: handle, index, rights, key: role.key(entry) });
                    }
                    (true, false) => (part(), role.of_large(entry, rights)),
                    (false, false) => (role.rules().table(entry).gfn(), role.of_table(entry, index)),
                    // The walk and the size come from the same entries.
                    (false, true) => return Err(ShadowStop::Again),
                }
            };
            let (child, is_new) = self.link(work, (handle, index), child_gfn, child)?;
            if is_new {
                self.refresh_linked(work, ram, child);
            }
            handle = child;
        }
    }
}

/// Returns which entry of a page of `level` a linear address is under.
pub(super) fn index_of(gva: Gva, level: u32) -> usize {
    index(Gfn(gva.0 >> PAGE_SHIFT), level)
}

/// Returns the guest's entry at `at`, which must be the one that the walk used, as it left it.
fn current_entry(
    ram: &impl GuestMem,
    fault: &ShadowFault<'_>,
    mode: PagingMode,
    level: u32,
    at: Gpa,
) -> Result<u64, ShadowStop> {
    let step = fault.steps.get(level.wrapping_sub(1) as usize).copied().flatten();
    // A walk by another CR3: the root is not the guest's any more.
    let step = step.filter(|s| s.at == at && s.level == level).ok_or(ShadowStop::Reload)?;
    let entry = match read_entry(ram, mode, at) {
        Ok(entry) => entry,
        Err(MemError::NotResident(gpa)) => return Err(ShadowStop::FaultIn(gpa)),
        Err(MemError::NoSlot(_)) => return Err(ShadowStop::Again),
    };
    // Other walks may have marked it since.
    let (marks, had) = (ACCESSED | DIRTY, step.entry & (ACCESSED | DIRTY));
    let is_same = (entry ^ step.entry) & !marks == 0 && entry & had == had;
    is_same.then_some(entry).ok_or(ShadowStop::Again)
}
