// SPDX-License-Identifier: GPL-2.0

//! The second-level table: what shows the guest's RAM to the processor.
//!
//! A page is mapped under the table's lock, and only if nothing has changed since it was looked up: neither the slots
//! nor the VMM's memory ([`RamChanges`](crate::mmu::tlb::RamChanges)). Whoever changes either begins there first,
//! then takes the lock and unmaps, then makes every CPU in guest mode leave it. So a page that was looked up before a
//! change cannot be mapped after it, and the notifier returns when no CPU uses the page.
//!
//! The lock is held with interrupts off. So what a section under it does is bounded by [`SECTION`], whatever the size
//! of the range; tables that were unlinked are freed outside.

mod protect;
mod shadow;

use super::backend::TableRoot;
use super::outcome::BlockedBy;
use crate::arch::addr::{Gfn, Gpa, Hpa, Hva, Pfn};
use crate::host::cpu::{self, PinnedCpu};
use crate::host::file::signal_pending;
use crate::host::guest_ram::{self, HostPage};
use crate::host::notifier::OnInvalidate;
use crate::host::page::{TablePage, TablePages};
use crate::host::trace;
use crate::machine::mailbox::VcpuMailboxes;
use crate::machine::ram::GuestRam;
use crate::mmu::format::{small_code, GuestTouch, MapRights, PageSize, TableFormat};
use crate::mmu::shadow::{RangeLoss, ShadowMmu};
use crate::mmu::slots::{ChangedSlot, GfnRange, MemSlot, SlotFlags, SlotRequest};
use crate::mmu::table::{FlushNeeded, MapError, PageTable, RangeUnmapping};
use crate::mmu::tlb::{RamSnapshot, TlbFlushes};
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLockIrq};

/// How many entries of the table a section with interrupts off reads, about, when it unmaps.
const SECTION: usize = 128;

/// The most shadow pages of a VM.
const SHADOW_PAGES: usize = 4096;

/// The tables that show the guest's RAM.
enum GuestTable<F: TableFormat> {
    /// One, from guest physical addresses.
    Direct(PageTable<F>),
    /// Those of a processor that has no second level, from linear addresses: see [`shadow`].
    Shadow(ShadowMmu),
    /// They have been taken down.
    Gone,
}

struct GuestTables<F: TableFormat> {
    table: GuestTable<F>,
    pages: TablePages,
    /// What faults have taken out, waiting for [`SecondLevel::finish_flush`].
    pending: FlushNeeded,
}

/// See the module's description.
#[pin_data]
pub(crate) struct SecondLevel<F: TableFormat> {
    /// What it shows.
    ram: Arc<GuestRam>,
    #[pin]
    tables: SpinLockIrq<GuestTables<F>>,
    /// The table's; there is none where processors walk shadow pages.
    format: Option<F>,
    /// Of a direct table.
    root: Hpa,
    /// Only pages of 4 KiB may be executable.
    small_code: bool,
    /// Flushes of translations that a CPU may hold and that were taken away.
    pub(crate) flushes: TlbFlushes,
    /// The vCPUs that walk it.
    mailboxes: Arc<VcpuMailboxes>,
}

/// What a fault of the second-level table turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableFault {
    /// Mapped now; run the instruction again.
    Mapped,
    /// It was mapped already, and the processor used what it had cached: as [`TableFault::Mapped`], after a flush.
    Stale,
    /// No memory there: a device, or nothing.
    Mmio,
    /// Something must be done first, or after, that sleeps: see [`SecondLevel::unblock`].
    Blocked(BlockedBy),
    /// The memory below is changing: run the instruction again a little later.
    Again,
    /// The access can only be made in software.
    Software,
}

/// Why shadow pages cannot be walked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RootWait {
    /// Something must be done first that sleeps.
    Blocked(BlockedBy),
    /// Try again a little later.
    Again,
}

/// A guest frame that is to be mapped.
struct WantedPage {
    gfn: Gfn,
    slot: MemSlot,
    /// Where it is in the VMM.
    hva: Hva,
    /// What the guest does with it.
    access: GuestTouch,
    /// What was taken before it was looked for.
    snapshot: RamSnapshot,
}

impl WantedPage {
    /// Looks the page up, for writing at once where the slot allows it: a first touch is mostly a write, or
    /// soon followed by one.
    #[inline(always)]
    fn page(&self, may_sleep: bool) -> Result<HostPage> {
        HostPage::get(self.hva, self.slot.is_writable(), may_sleep)
    }
}

impl<F: TableFormat + Copy + Send + Sync + Unpin> SecondLevel<F> {
    /// An empty table of `format` that will show `ram` to the processors that `mailboxes` belong to, or shadow pages where
    /// there is no format; `small_code`: only pages of 4 KiB may be executable.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        format: Option<F>,
        ram: Arc<GuestRam>,
        mailboxes: Arc<VcpuMailboxes>,
        small_code: bool,
    ) -> Result<Arc<SecondLevel<F>>> {
        let mut pages = TablePages::new();
        for _ in 0..pages.missing() {
            pages.donate(TablePage::new()?);
        }
        let (table, root) = match format {
            None => (GuestTable::Shadow(ShadowMmu::new(SHADOW_PAGES, small_code)?), Hpa(0)),
            Some(format) => {
                let table = PageTable::new(&mut pages, format).map_err(|_| ENOMEM)?;
                let root = table.root();
                (GuestTable::Direct(table), root)
            }
        };
        Arc::pin_init(
            pin_init!(SecondLevel {
                ram,
                tables <- kernel::new_spinlock_irq!(GuestTables { table, pages, pending: FlushNeeded::default() }),
                format,
                root,
                small_code,
                flushes: TlbFlushes::new(),
                mailboxes,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the root of the second-level table.
    #[inline]
    pub(crate) fn root(&self) -> TableRoot<'_> {
        TableRoot::new(self.root, self)
    }

    /// Fills the pool of table pages for the faults to come; may sleep.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn top_up(&self) -> Result {
        let missing = self.tables.lock().pages.missing();
        for _ in 0..missing {
            // Made outside the lock, since it may sleep; that others fill the pool as well only makes it fuller.
            let page = TablePage::new()?;
            self.tables.lock().pages.donate(page);
        }
        if self.is_shadow() {
            self.top_up_nodes()?;
        }
        Ok(())
    }

    /// Changes the slots. The caller holds the VM's configuration lock, so that changes come one by
    /// one. Sleeps.
    ///
    /// # Errors
    /// Those of [`MemSlots::plan`](crate::mmu::slots::MemSlots::plan); `ENOMEM`; `EINTR` when the calling thread is killed.
    pub(crate) fn change_slots(&self, request: &SlotRequest) -> Result {
        let change = self.ram.begin_change(request)?;
        let what = change.change;
        // Before the slot goes: as long as a page is mapped, an MMU notifier finds the slot that shows it.
        if let ChangedSlot::Deleted(old) | ChangedSlot::Moved { old, .. } = what {
            self.take(core::iter::once(old.range()), RangeLoss::Memory);
        }
        change.commit()?;
        if let ChangedSlot::Flags { old, new } = what {
            self.follow_logging(&old, &new);
        }
        Ok(())
    }

    /// Takes guest frames away and makes every CPU forget them, also what others have taken before. Interrupts are on.
    fn take(&self, ranges: impl Iterator<Item = GfnRange>, loss: RangeLoss) {
        if self.is_shadow() {
            self.take_shadows(ranges, loss);
        } else {
            self.unmap(ranges);
        }
    }

    /// As [`SecondLevel::take`], of a direct table.
    fn unmap(&self, ranges: impl Iterator<Item = GfnRange>) {
        let mut unmapping = RangeUnmapping::new(ranges);
        let mut all = FlushNeeded::default();
        let generation = loop {
            let mut t = self.tables.lock();
            let GuestTables { table, pages, .. } = &mut *t;
            let GuestTable::Direct(table) = table else { return };
            let flush = unmapping.go_on(table, pages, SECTION);
            // Still under the lock: whoever finds the table empty must find the flush asked for.
            if flush.is_needed() {
                self.flushes.request();
            }
            all.join(pages, flush);
            if unmapping.is_done() {
                // Not only of what was taken out here: somebody else may have, and not have made the CPUs forget it
                // yet.
                break self.flushes.requested();
            }
        };
        self.finish(generation, all);
    }

    /// Waits until no CPU uses what was taken out before `generation`, then frees the tables that were unlinked.
    /// Interrupts are on.
    fn finish(&self, generation: u64, unlinked: FlushNeeded) {
        if !self.flushes.is_done(generation) {
            self.leave_guest_mode();
            self.flushes.note_done(generation);
        }
        // No CPU walks them any more.
        match &self.format {
            Some(format) => unlinked.release(&mut TablePages::new(), format),
            None => unlinked.release_each(&mut TablePages::new()),
        };
    }

    /// Finishes the flushes that faults left behind. Interrupts are on.
    fn finish_flush(&self) {
        let (generation, unlinked) = {
            let mut t = self.tables.lock();
            (self.flushes.requested(), core::mem::take(&mut t.pending))
        };
        self.finish(generation, unlinked);
    }

    /// Makes every vCPU that is in guest mode leave it, and waits until they have.
    fn leave_guest_mode(&self) {
        for vcpu in self.mailboxes.iter() {
            // One that is outside compares the generation on its way in, after it has announced guest mode.
            if let Some(id) = vcpu.running_on() {
                cpu::sync(id);
            }
        }
    }

    /// Handles a fault at `gpa`. Interrupts are off and it does not sleep.
    pub(crate) fn fault(
        &self,
        cpu: &PinnedCpu,
        gpa: Gpa,
        access: GuestTouch,
        hint: &mut usize,
    ) -> TableFault {
        let Some(wanted) = self.wanted(gpa, access, hint) else { return TableFault::Mmio };
        match wanted.page(false) {
            Ok(page) => self.map(cpu, &wanted, &page),
            Err(_) => TableFault::Blocked(BlockedBy::MapIn { gpa, write: access == GuestTouch::Write }),
        }
    }

    /// As [`SecondLevel::fault`], but makes the page resident and does what else a mapping needs; sleeps. What is no
    /// memory any more, or could not be mapped yet, faults again.
    ///
    /// # Errors
    /// `EFAULT` when there is no page; `ENOMEM`.
    fn map_in(&self, gpa: Gpa, write: bool, hint: &mut usize) -> Result {
        // A fetch that finds the page not executable then faults once more.
        let access = if write { GuestTouch::Write } else { GuestTouch::Read };
        let Some(mut wanted) = self.wanted(gpa, access, hint) else { return Ok(()) };
        let page = match wanted.page(true) {
            // What the VMM itself may only read (mprotect), the guest may read.
            Err(e) if e == EFAULT && !write && wanted.slot.is_writable() => {
                wanted.slot.flags.insert(SlotFlags::READONLY);
                wanted.page(true)?
            }
            page => page?,
        };
        // Where the guest's tables lead is looked up anew, with its fault.
        if self.is_shadow() {
            return Ok(());
        }
        let fault = self.map(&PinnedCpu::pin(), &wanted, &page);
        match fault {
            TableFault::Blocked(BlockedBy::NeedPages) => self.top_up(),
            TableFault::Blocked(BlockedBy::NeedFlush) => {
                self.finish_flush();
                Ok(())
            }
            TableFault::Blocked(_)
            | TableFault::Mapped
            | TableFault::Stale
            | TableFault::Mmio
            | TableFault::Again
            | TableFault::Software => Ok(()),
        }
    }

    /// Maps the page of `gpa` as a read of the guest's would; sleeps.
    ///
    /// # Errors
    /// `ENOENT` where no memory is, `EFAULT` when there is no page, `ENOMEM`, `EINTR` on a signal, `EOPNOTSUPP` where no
    /// table is from guest physical addresses.
    pub(crate) fn pre_fault(&self, gpa: Gpa, hint: &mut usize) -> Result {
        if self.is_shadow() {
            return Err(EOPNOTSUPP);
        }
        loop {
            let wanted = self.wanted(gpa, GuestTouch::Read, hint).ok_or(ENOENT)?;
            let page = wanted.page(true)?;
            let fault = self.map(&PinnedCpu::pin(), &wanted, &page);
            match fault {
                TableFault::Mapped | TableFault::Stale => return Ok(()),
                // Mapped, and another page is to be forgotten for it.
                TableFault::Blocked(BlockedBy::NeedFlush) => {
                    self.finish_flush();
                    return Ok(());
                }
                TableFault::Mmio | TableFault::Software => return Err(ENOENT),
                TableFault::Blocked(by) => self.unblock(by, hint)?,
                // The memory below is changing.
                TableFault::Again if signal_pending() => return Err(EINTR),
                TableFault::Again => core::hint::spin_loop(),
            }
        }
    }

    /// Does what a vCPU is blocked by; sleeps. `hint` is as [`SecondLevel::fault`] has it.
    ///
    /// # Errors
    /// `EFAULT` when there is no page; `ENOMEM`; `EINTR` for a thread that is being killed.
    pub(crate) fn unblock(&self, by: BlockedBy, hint: &mut usize) -> Result {
        match by {
            BlockedBy::MapIn { gpa, write } => self.map_in(gpa, write, hint),
            BlockedBy::FaultIn { gpa, write } => self.ram.fault_in(gpa, write),
            BlockedBy::NeedPages => self.top_up(),
            BlockedBy::NeedFlush => {
                self.finish_flush();
                Ok(())
            }
        }
    }

    /// Returns what a fault at `gpa` wants mapped, if it is memory.
    #[inline(always)]
    fn wanted(&self, gpa: Gpa, access: GuestTouch, hint: &mut usize) -> Option<WantedPage> {
        let gfn = gpa.gfn();
        let (slot, snapshot) = self.ram.slot(gfn, hint)?;
        let hva = slot.hva_of(gfn).filter(|_| slot.is_writable() || access != GuestTouch::Write)?;
        Some(WantedPage { gfn, slot, hva, access, snapshot })
    }

    /// Maps a page that was looked up after `wanted` was.
    fn map(&self, cpu: &PinnedCpu, wanted: &WantedPage, page: &HostPage) -> TableFault {
        let WantedPage { gfn, slot, hva, access, snapshot } = *wanted;
        let size = slot.max_page_size(gfn).min(host_size(cpu, hva)).min(PageSize::Size2M);
        let mut t = self.tables.lock_with(cpu.irq());
        // Since the look-up the page may have become somebody else's.
        if !self.ram.invalidations().allows(snapshot) {
            return TableFault::Again;
        }
        let (size, rights) = match slot.flags.is_empty() {
            true => (size, MapRights::all()),
            false => self.restricted(wanted, size),
        };
        let GuestTables { table, pages, pending, .. } = &mut *t;
        let GuestTable::Direct(table) = table else { return TableFault::Again };
        let (size, rights) = match self.small_code {
            true => small_code(access, size, rights, || table.has_table(pages, gfn)),
            false => (size, rights),
        };
        let first = !(size.pages().wrapping_sub(1));
        let mapped = table.map(pages, Gfn(gfn.0 & first).gpa(), Pfn(page.pfn().0 & first), size, rights);
        let flush = match mapped {
            Ok(mapped) => mapped.flush,
            Err(MapError::NoMemory) => return TableFault::Blocked(BlockedBy::NeedPages),
            // Beyond what the table can show, no address is memory's.
            Err(MapError::Misaligned | MapError::OutOfRange) => return TableFault::Mmio,
        };
        trace::map(|| trace::Map {
            gpa: Gfn(gfn.0 & first).gpa().0,
            hpa: Pfn(page.pfn().0 & first).hpa().0,
            pages: size.pages(),
            writable: rights.contains(MapRights::WRITE),
        });
        if rights.contains(MapRights::WRITE) {
            // Under the lock that a notifier takes to unmap the page: a file system that cleaned it must not find it
            // dirty.
            page.mark_dirty();
        }
        if flush.is_needed() {
            // Not waited for here: the other CPU may be spinning on this lock with its interrupts off.
            pending.join(pages, flush);
            self.flushes.request();
            return TableFault::Blocked(BlockedBy::NeedFlush);
        }
        TableFault::Mapped
    }
}

impl<F: TableFormat + Copy + Send + Sync + Unpin> OnInvalidate for SecondLevel<F> {
    fn begin(&self, start: Hva, end: Hva) {
        trace::invalidate(|| trace::Invalidate { start: start.0, end: end.0 });
        self.ram
            .begin_notifier(start, end, |slots| self.take(slots.ranges_of_hva(start, end), RangeLoss::Pages));
    }

    fn end(&self, start: Hva, end: Hva) {
        self.ram.end_notifier(start, end);
    }

    fn release(&self) {
        // First: what is unmapped below must not be mapped again.
        self.ram.close();
        self.take(core::iter::once(GfnRange { start: Gfn(0), end: Gfn(u64::MAX) }), RangeLoss::Pages);
    }
}

impl<F: TableFormat> Drop for GuestTables<F> {
    fn drop(&mut self) {
        // No vCPU is left, and no number that tagged the translations is used again before a flush.
        let GuestTables { table, pages, pending } = self;
        let pending = core::mem::take(pending);
        match core::mem::replace(table, GuestTable::Gone) {
            GuestTable::Direct(table) => {
                pending.release(pages, table.format());
                table.teardown(pages);
            }
            GuestTable::Shadow(mmu) => {
                pending.release_each(pages);
                mmu.teardown(pages);
            }
            GuestTable::Gone => {}
        }
    }
}

/// Returns the size of the page that maps `hva` in the host.
fn host_size(cpu: &PinnedCpu, hva: Hva) -> PageSize {
    match guest_ram::mapping_shift(cpu, hva) {
        30.. => PageSize::Size1G,
        21.. => PageSize::Size2M,
        _ => PageSize::Size4K,
    }
}
