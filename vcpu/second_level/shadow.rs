// SPDX-License-Identifier: GPL-2.0

//! Shadow pages ([`crate::mmu::shadow`]) in the place of a second-level table, for a processor that has none.
//!
//! What is under the lock, who waits for whom, and when a page is freed is as for the direct table. In addition, a page
//! that follows a table of the guest's may have to wait for a flush before it is filled in; then the fault is blocked by
//! that ([`BlockedBy::NeedFlush`]).

use super::{host_size, GuestTable, GuestTables, RootWait, SecondLevel, TableFault, SECTION};
use crate::arch::addr::{Gpa, Gva};
use crate::host::cpu::PinnedCpu;
use crate::host::guest_ram::HostPage;
use crate::host::page::TablePages;
use crate::mmu::format::{GuestTouch, HardwareRoot, PageSize, TableFormat};
use crate::mmu::shadow::{
    RangeLoss, ShadowFault, ShadowFrame, ShadowMmu, ShadowRanges, ShadowRoot, ShadowStop, ShadowWork,
};
use crate::mmu::slots::GfnRange;
use crate::mmu::tlb::TlbFlushes;
use crate::mmu::walk::{AccessKind, PagingRegs, WalkAccess};
use crate::vcpu::outcome::BlockedBy;
use kernel::prelude::*;

impl<F: TableFormat> GuestTables<F> {
    /// Does work on the shadow pages, if there are any. What it leaves to be flushed is pending then. The caller holds the
    /// lock.
    pub(super) fn with_shadow<R>(
        &mut self,
        flushes: &TlbFlushes,
        f: impl FnOnce(&mut ShadowMmu, &mut ShadowWork<'_, TablePages>) -> R,
    ) -> Option<R> {
        let GuestTables { table: GuestTable::Shadow(mmu), pages, pending, .. } = self else { return None };
        let mut work = ShadowWork::new(pages, flushes);
        let done = f(mmu, &mut work);
        let flush = work.end(mmu);
        pending.join(pages, flush);
        Some(done)
    }

    /// Returns what must be waited for after a stop, if anything.
    fn wait_for(&self, stop: Option<ShadowStop>) -> Option<BlockedBy> {
        match stop {
            Some(ShadowStop::NeedPages) => Some(BlockedBy::NeedPages),
            Some(ShadowStop::NeedFlush) => Some(BlockedBy::NeedFlush),
            Some(ShadowStop::FaultIn(gpa)) => Some(BlockedBy::FaultIn { gpa, write: true }),
            // Also where the work is done: others may be waited for, and tables wait to be freed.
            _ => self.pending.is_needed().then_some(BlockedBy::NeedFlush),
        }
    }
}

impl<F: TableFormat + Copy + Send + Sync + Unpin> SecondLevel<F> {
    /// Returns whether processors walk shadow pages.
    pub(crate) fn is_shadow(&self) -> bool {
        self.format.is_none()
    }

    /// Fills the store of what lies beside shadow pages; may sleep.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn top_up_nodes(&self) -> Result {
        let missing = match &self.tables.lock().table {
            GuestTable::Shadow(mmu) => mmu.missing_nodes(),
            _ => 0,
        };
        for _ in 0..missing {
            let nodes = ShadowMmu::new_nodes()?;
            let mut t = self.tables.lock();
            let back = match &mut t.table {
                GuestTable::Shadow(mmu) => mmu.donate_nodes(nodes),
                _ => Some(nodes),
            };
            // Others filled the store as well. Freed without the lock.
            drop(t);
            drop(back);
        }
        Ok(())
    }

    /// [`SecondLevel::take`] of shadow pages.
    pub(super) fn take_shadows(&self, ranges: impl Iterator<Item = GfnRange>, loss: RangeLoss) {
        let mut ranges = ShadowRanges::new(ranges, loss);
        while !ranges.is_done() {
            let mut t = self.tables.lock();
            if t.with_shadow(&self.flushes, |mmu, work| ranges.go_on(mmu, work, SECTION)).is_none() {
                return;
            }
        }
        // Also of what others have taken and not yet made the CPUs forget.
        self.finish_flush();
    }

    /// Handles a page fault of the processor's that the guest's tables allow. Interrupts are off and it does not sleep.
    /// [`TableFault::Again`] also where the root is not the guest's any more.
    pub(crate) fn shadow_fault(
        &self,
        cpu: &PinnedCpu,
        root: &ShadowRoot,
        fault: &ShadowFault<'_>,
        hint: &mut usize,
    ) -> TableFault {
        let gpa = fault.translation.gpa;
        let touch = match fault.access.kind {
            AccessKind::Read => GuestTouch::Read,
            AccessKind::Write => GuestTouch::Write,
            AccessKind::Fetch => GuestTouch::Fetch,
        };
        let writes = touch == GuestTouch::Write;
        let Some(wanted) = self.wanted(gpa, touch, hint) else { return TableFault::Mmio };
        let slot = wanted.slot;
        let blocked = TableFault::Blocked(BlockedBy::MapIn { gpa, write: writes });
        let (page, is_writable) = match wanted.page(false) {
            Ok(page) => (page, slot.is_writable()),
            Err(_) if writes => return blocked,
            // What cannot be written yet may be read.
            Err(_) => match HostPage::get(wanted.hva, false, false) {
                Ok(page) => (page, false),
                Err(_) => return blocked,
            },
        };
        let size = match slot.logs_dirty() {
            true => PageSize::Size4K,
            false => slot.max_page_size(wanted.gfn).min(host_size(cpu, wanted.hva)),
        };
        let frame = ShadowFrame { pfn: page.pfn(), size };
        let mut t = self.tables.lock_with(cpu.irq());
        // Since the look-up the page may have become somebody else's.
        if !self.ram.invalidations().allows(wanted.snapshot) {
            return TableFault::Again;
        }
        let allow_write = || {
            let may = is_writable && self.ram.mark_mapped(&slot, wanted.gfn, writes);
            if may {
                // Under the lock that a notifier takes to unmap the page: see `SecondLevel::map()`.
                page.mark_dirty();
            }
            may
        };
        let done = t
            .with_shadow(&self.flushes, |mmu, work| {
                mmu.map(work, &*self.ram, root, fault, frame, allow_write)
            })
            .unwrap_or(Err(ShadowStop::Again));
        match t.wait_for(done.err()) {
            Some(by) => TableFault::Blocked(by),
            None => match done {
                Ok(true) => TableFault::Mapped,
                Ok(false) => TableFault::Stale,
                Err(ShadowStop::Emulate) => TableFault::Software,
                Err(_) => TableFault::Again,
            },
        }
    }

    /// Remembers that the address of a fault is a device's, as of `generation` of the slots. Interrupts are off.
    pub(crate) fn remember_device(
        &self,
        cpu: &PinnedCpu,
        root: &ShadowRoot,
        fault: &ShadowFault<'_>,
        generation: u64,
    ) {
        let mut t = self.tables.lock_with(cpu.irq());
        // Where it cannot be remembered now, the next access walks the guest's tables again.
        let _ = t.with_shadow(&self.flushes, |mmu, work| {
            mmu.remember_device(work, &*self.ram, root, fault, generation)
        });
    }

    /// Returns where an access goes, if it is remembered that it goes to a device, as of `generation` of the slots.
    /// Interrupts are off.
    pub(crate) fn device(
        &self,
        cpu: &PinnedCpu,
        root: &ShadowRoot,
        paging: &PagingRegs,
        (gva, access): (Gva, WalkAccess),
        generation: u64,
    ) -> Option<Gpa> {
        let t = self.tables.lock_with(cpu.irq());
        let GuestTable::Shadow(mmu) = &t.table else { return None };
        mmu.device(&t.pages, root, paging, gva, access, generation)
    }

    /// Returns what the processor is to walk for a guest with these registers, whose last root was `root`. Interrupts are
    /// off.
    ///
    /// # Errors
    /// As [`RootWait`].
    pub(crate) fn shadow_root(
        &self,
        cpu: &PinnedCpu,
        paging: &PagingRegs,
        root: Option<ShadowRoot>,
    ) -> Result<(ShadowRoot, HardwareRoot), RootWait> {
        let mut t = self.tables.lock_with(cpu.irq());
        let loaded = t.with_shadow(&self.flushes, |mmu, work| {
            if let Some((root, hardware)) = root.and_then(|r| mmu.hardware(&r).map(|h| (r, h))) {
                return Ok((root, hardware));
            }
            let root = mmu.load_root(work, paging)?;
            mmu.hardware(&root).map(|h| (root, h)).ok_or(ShadowStop::Again)
        });
        let loaded = loaded.unwrap_or(Err(ShadowStop::Again));
        match t.wait_for(loaded.err()) {
            Some(by) => Err(RootWait::Blocked(by)),
            None => loaded.map_err(|_| RootWait::Again),
        }
    }

    /// The guest has flushed the translation of an address. Interrupts are off.
    pub(crate) fn refresh_at(&self, cpu: &PinnedCpu, root: &ShadowRoot, gva: Gva) {
        let mut t = self.tables.lock_with(cpu.irq());
        t.with_shadow(&self.flushes, |mmu, work| mmu.refresh_at(work, &*self.ram, root, gva));
    }

    /// The guest has flushed all its translations. Interrupts are off.
    pub(crate) fn refresh_all(&self, cpu: &PinnedCpu) {
        let mut t = self.tables.lock_with(cpu.irq());
        t.with_shadow(&self.flushes, |mmu, work| mmu.refresh_all(work, &*self.ram));
    }

    /// Software wrote guest memory for the guest. Interrupts are off.
    pub(crate) fn wrote(&self, cpu: &PinnedCpu, gpa: Gpa, len: u64) {
        let mut t = self.tables.lock_with(cpu.irq());
        t.with_shadow(&self.flushes, |mmu, work| mmu.wrote(work, gpa, len));
    }
}
