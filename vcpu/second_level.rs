// SPDX-License-Identifier: GPL-2.0

//! The guest's physical address space: its RAM, and the second-level table that shows it to the processor.
//!
//! A page is mapped under the table's lock, and only if nothing has changed since it was looked up: neither the slots
//! nor the VMM's memory ([`Invalidations`](crate::mmu::tlb::Invalidations)). Whoever changes either begins there first,
//! then takes the lock and unmaps, then makes every CPU in guest mode leave it. So a page that was looked up before a
//! change cannot be mapped after it, and the notifier returns when no CPU uses the page.
//!
//! The lock is held with interrupts off. So what a section under it does is bounded by [`SECTION`], whatever the size
//! of the range; tables that were unlinked are freed outside.

use super::backend::{Backend, TableRoot};
use crate::arch::addr::{Gfn, Gpa, Hpa, Hva, Pfn};
use crate::host::cpu::{self, PinnedCpu};
use crate::host::guest_ram::{self, HostPage};
use crate::host::notifier::OnInvalidate;
use crate::host::page::{TablePage, TablePages};
use crate::machine::mailbox::Mailboxes;
use crate::machine::memory::{PinnedRam, SlotLookup};
use crate::machine::ram::GuestRam;
use crate::mmu::format::{small_code, PageSize, Rights, Touch};
use crate::mmu::slots::{Change, GfnRange, HvaSpan, Request, Slot};
use crate::mmu::table::{FlushNeeded, MapError, Table, Unmapping};
use crate::mmu::tlb::{Flushes, Snapshot};
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLockIrq};

/// How many entries of the table a section with interrupts off reads, about, when it unmaps.
const SECTION: usize = 128;

struct Tables<B: Backend> {
    table: Option<Table<B::Format>>,
    pages: TablePages,
    /// What faults have taken out, waiting for [`SecondLevel::finish_flush`].
    pending: FlushNeeded,
}

/// See the module's description.
#[pin_data]
pub(crate) struct SecondLevel<B: Backend> {
    #[pin]
    ram: GuestRam,
    #[pin]
    tables: SpinLockIrq<Tables<B>>,
    /// The table's.
    format: B::Format,
    root: Hpa,
    /// Only pages of 4 KiB may be executable.
    small_code: bool,
    /// Flushes of translations that a CPU may hold and that were taken away.
    pub(crate) flushes: Flushes,
    /// The VM's vCPUs.
    pub(crate) vcpus: Arc<Mailboxes>,
}

/// What a fault of the second-level table turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Mapped now; run the instruction again.
    Mapped,
    /// No memory there: a device, or nothing.
    Mmio,
    /// The host page must be made resident first: see [`SecondLevel::map_in`].
    NotResident,
    /// The pool of table pages is too low to map anything.
    NeedPages,
    /// Mapped, in the place of something that other CPUs may still use: see [`SecondLevel::finish_flush`].
    NeedFlush,
    /// The memory below is changing: run the instruction again a little later.
    Again,
}

/// A guest frame that is to be mapped.
struct Wanted {
    gfn: Gfn,
    slot: Slot,
    /// Where it is in the VMM.
    hva: Hva,
    /// What the guest does with it.
    access: Touch,
    /// What was taken before it was looked for.
    snapshot: Snapshot,
}

impl Wanted {
    /// Looks the page up, for writing at once where the slot allows it: a first touch is mostly a write, or
    /// soon followed by one.
    #[inline(always)]
    fn page(&self, may_sleep: bool) -> Result<HostPage> {
        HostPage::get(self.hva, self.slot.is_writable(), may_sleep)
    }
}

impl<B: Backend> SecondLevel<B> {
    /// An empty space for guests of `backend`; `small_code`: only pages of 4 KiB may be executable.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(backend: &B, vcpus: Arc<Mailboxes>, small_code: bool) -> Result<Arc<SecondLevel<B>>> {
        let mut pages = TablePages::new();
        for _ in 0..pages.missing() {
            pages.donate(TablePage::new()?);
        }
        let table = Table::new(&mut pages, backend.format()).map_err(|_| ENOMEM)?;
        let root = table.root();
        let format = backend.format();
        Arc::pin_init(
            try_pin_init!(SecondLevel {
                ram <- GuestRam::new(),
                tables <- kernel::new_spinlock_irq!(Tables { table: Some(table), pages, pending: FlushNeeded::default() }),
                format,
                root,
                small_code,
                flushes: Flushes::new(),
                vcpus,
            }? Error),
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
            let page = TablePage::new()?;
            self.tables.lock().pages.donate(page);
        }
        Ok(())
    }

    /// Changes the slots. The caller holds the VM's configuration lock, so that changes come one by
    /// one. Sleeps.
    ///
    /// # Errors
    /// Those of [`Slots::change`](crate::mmu::slots::Slots::change); `EINTR` when the calling thread is killed.
    pub(crate) fn change_slots(&self, request: &Request) -> Result {
        let change = self.ram.begin_change(request)?;
        // Before the slot goes: as long as a page is mapped, an MMU notifier finds the slot that shows it.
        if let Change::Deleted(old) | Change::Moved { old, .. } = change.change {
            self.unmap(core::iter::once(old.range()));
        }
        change.commit()
    }

    /// Unmaps guest frames and makes every CPU forget them, also what others have unmapped before. Interrupts are on.
    fn unmap(&self, ranges: impl Iterator<Item = GfnRange>) {
        let mut unmapping = Unmapping::new(ranges);
        let mut all = FlushNeeded::default();
        let generation = loop {
            let mut t = self.tables.lock();
            let Tables { table, pages, .. } = &mut *t;
            let Some(table) = table else { return };
            let flush = unmapping.go_on(table, pages, SECTION);
            if flush.is_needed() {
                self.flushes.request();
            }
            all.join(pages, flush);
            if unmapping.is_done() {
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
        unlinked.release(&mut TablePages::new(), &self.format);
    }

    /// Finishes the flushes that faults left behind. Interrupts are on.
    pub(crate) fn finish_flush(&self) {
        let (generation, unlinked) = {
            let mut t = self.tables.lock();
            (self.flushes.requested(), core::mem::take(&mut t.pending))
        };
        self.finish(generation, unlinked);
    }

    /// Makes every vCPU that is in guest mode leave it, and waits until they have.
    fn leave_guest_mode(&self) {
        for vcpu in self.vcpus.iter() {
            if let Some(id) = vcpu.running_on() {
                cpu::sync(id);
            }
        }
    }

    /// Handles a fault at `gpa`. Interrupts are off and it does not sleep.
    pub(crate) fn fault(&self, cpu: &PinnedCpu, gpa: Gpa, access: Touch, hint: &mut usize) -> Fault {
        let Some(wanted) = self.wanted(gpa, access, hint) else { return Fault::Mmio };
        match wanted.page(false) {
            Ok(page) => self.map(cpu, &wanted, &page),
            Err(_) => Fault::NotResident,
        }
    }

    /// As [`SecondLevel::fault`], but makes the page resident and does what else a mapping needs; sleeps. What is no
    /// memory any more, or could not be mapped yet, faults again.
    ///
    /// # Errors
    /// `EFAULT` when there is no page; `ENOMEM`.
    pub(crate) fn map_in(&self, gpa: Gpa, write: bool, hint: &mut usize) -> Result {
        // A fetch that finds the page not executable then faults once more.
        let access = if write { Touch::Write } else { Touch::Read };
        let Some(wanted) = self.wanted(gpa, access, hint) else { return Ok(()) };
        let page = wanted.page(true)?;
        let fault = self.map(&PinnedCpu::pin(), &wanted, &page);
        match fault {
            Fault::NeedPages => self.top_up()?,
            Fault::NeedFlush => self.finish_flush(),
            Fault::Mapped | Fault::Mmio | Fault::NotResident | Fault::Again => {}
        }
        Ok(())
    }

    /// Returns what a fault at `gpa` wants mapped, if it is memory.
    #[inline(always)]
    fn wanted(&self, gpa: Gpa, access: Touch, hint: &mut usize) -> Option<Wanted> {
        let gfn = gpa.gfn();
        let (slot, snapshot) = self.ram.slot(gfn, hint)?;
        let hva = slot.hva_of(gfn).filter(|_| slot.is_writable() || access != Touch::Write)?;
        Some(Wanted { gfn, slot, hva, access, snapshot })
    }

    /// Maps a page that was looked up after `wanted` was.
    fn map(&self, cpu: &PinnedCpu, wanted: &Wanted, page: &HostPage) -> Fault {
        let Wanted { gfn, slot, hva, access, snapshot } = *wanted;
        let size = slot.max_page_size(gfn).min(host_size(cpu, hva)).min(PageSize::Size2M);
        let rights = if slot.is_writable() { Rights::all() } else { Rights::EXEC };
        let mut t = self.tables.lock_with(cpu.irq());
        if !self.ram.invalidations().allows(snapshot) {
            return Fault::Again;
        }
        let Tables { table, pages, pending } = &mut *t;
        let Some(table) = table else { return Fault::Again };
        let (size, rights) = match self.small_code {
            true => small_code(access, size, rights, || table.has_table(pages, gfn)),
            false => (size, rights),
        };
        let first = !(size.pages().wrapping_sub(1));
        let mapped = table.map(pages, Gfn(gfn.0 & first).gpa(), Pfn(page.pfn().0 & first), size, rights);
        let flush = match mapped {
            Ok(mapped) => mapped.flush,
            Err(MapError::NoMemory) => return Fault::NeedPages,
            Err(MapError::Misaligned | MapError::OutOfRange) => return Fault::Mmio,
        };
        if rights.contains(Rights::WRITE) {
            page.mark_dirty();
        }
        if flush.is_needed() {
            pending.join(pages, flush);
            self.flushes.request();
            return Fault::NeedFlush;
        }
        Fault::Mapped
    }

    /// Returns a number that stays the same as long as neither slots nor the memory below change;
    /// `None` while they do.
    #[inline(always)]
    pub(crate) fn stable_sequence(&self) -> Option<u64> {
        self.ram.invalidations().stable()
    }

    /// Returns a number that is another one after the slots have changed.
    #[inline(always)]
    pub(crate) fn slots_generation(&self) -> u64 {
        self.ram.generation()
    }

    /// Returns whether a slot holds `gfn`.
    pub(crate) fn has_slot(&self, gfn: Gfn) -> bool {
        self.ram.slot(gfn, &mut 0).is_some()
    }

    /// Returns the guest's memory for as long as `cpu` is held.
    #[inline(always)]
    pub(crate) fn near<'a>(&'a self, cpu: &'a PinnedCpu) -> PinnedRam<'a> {
        let (slots, hint) = self.ram.pinned(cpu);
        PinnedRam::new(slots, hint)
    }

    /// Faults in the page behind `gpa`; sleeps.
    ///
    /// # Errors
    /// `EFAULT` when there is none.
    pub(crate) fn fault_in(&self, gpa: Gpa, write: bool) -> Result {
        let span = self.with_span(gpa, |span| span).ok_or(EFAULT)?;
        guest_ram::fault_in(span.hva, write && span.writable)
    }
}

impl<B: Backend> SlotLookup for SecondLevel<B> {
    #[inline(always)]
    fn with_span<R>(&self, gpa: Gpa, access: impl FnOnce(Option<HvaSpan>) -> R) -> R {
        self.ram.with_span(gpa, access)
    }
}

impl<B: Backend> OnInvalidate for SecondLevel<B> {
    fn begin(&self, start: Hva, end: Hva) {
        self.ram.begin_notifier(start, end, |slots| self.unmap(slots.ranges_of_hva(start, end)));
    }

    fn end(&self, start: Hva, end: Hva) {
        self.ram.end_notifier(start, end);
    }

    fn release(&self) {
        self.ram.close();
        self.unmap(core::iter::once(GfnRange { start: Gfn(0), end: Gfn(u64::MAX) }));
    }
}

impl<B: Backend> Drop for Tables<B> {
    fn drop(&mut self) {
        // No vCPU is left, and no number that tagged the translations is used again before a flush.
        let Tables { table, pages, pending } = self;
        if let Some(table) = table.take() {
            core::mem::take(pending).release(pages, table.format());
            table.teardown(pages);
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
