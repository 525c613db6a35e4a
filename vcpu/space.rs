// SPDX-License-Identifier: GPL-2.0

//! The guest's physical address space: memslots over the VMM's memory, and the second-level table
//! that shows them to the processor.
//!
//! A mapping is made under the table's lock after comparing `sequence`: whoever changes the memory
//! below (the MMU notifier, a slot change) first counts itself into `changing` and bumps `sequence`,
//! then takes the lock and unmaps, then makes every CPU in guest mode leave it. So a page that was
//! looked up before a change can not be mapped after it.
//!
//! The lock is held with interrupts off. So what a section under it does is bounded by [`SECTION`], whatever the size
//! of the range; tables that were unlinked are freed outside.

use super::backend::{Backend, TableRoot};
use super::memory::{InSlots, Near};
use super::shared::VcpuShared;
use crate::arch::addr::{Gfn, Gpa, Hpa, Hva, Pfn};
use crate::host::cpu::{self, PinnedCpu};
use crate::host::guest_ram::{self, HostPage};
use crate::host::notifier::OnInvalidate;
use crate::host::page::{TablePage, TablePages};
use crate::host::rcu::RcuBox;
use crate::mmu::format::{PageSize, Rights};
use crate::mmu::slots::{Change, GfnRange, HvaSpan, Request, Slot, Slots};
use crate::mmu::table::{FlushNeeded, MapError, Table, Unmapping};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce, SpinLockIrq};

/// How many entries of the table a section with interrupts off reads, about, when it unmaps.
const SECTION: usize = 128;

/// The most vCPUs of a VM.
pub(crate) const MAX_VCPUS: usize = 64;

/// The vCPUs of a VM, published one by one.
pub(crate) struct VcpuList {
    slots: [SetOnce<Arc<VcpuShared>>; MAX_VCPUS],
    /// All numbers that are taken lie below it.
    limit: AtomicUsize,
}

impl VcpuList {
    /// No vCPUs.
    pub(crate) fn new() -> VcpuList {
        VcpuList { slots: [const { SetOnce::new() }; MAX_VCPUS], limit: AtomicUsize::new(0) }
    }

    /// Publishes vCPU `id`. Returns whether that number was free.
    pub(crate) fn publish(&self, id: usize, vcpu: Arc<VcpuShared>) -> bool {
        // First, so that whoever acts because the vCPU is there finds it.
        self.limit.fetch_max(id.saturating_add(1).min(MAX_VCPUS), SeqCst);
        self.slots.get(id).is_some_and(|slot| slot.populate(vcpu))
    }

    /// Returns vCPU `id`.
    pub(crate) fn get(&self, id: usize) -> Option<&Arc<VcpuShared>> {
        self.slots.get(id)?.as_ref()
    }

    /// Returns all vCPUs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<VcpuShared>> {
        self.slots.iter().take(self.limit.load(SeqCst)).filter_map(|s| s.as_ref())
    }
}

struct Tables<B: Backend> {
    table: Option<Table<B::Format>>,
    pages: TablePages,
    /// What faults have taken out, waiting for [`Space::finish_flush`].
    pending: FlushNeeded,
}

/// See the module's description.
#[pin_data]
pub(crate) struct Space<B: Backend> {
    slots: RcuBox<Slots>,
    #[pin]
    tables: SpinLockIrq<Tables<B>>,
    /// The table's.
    format: B::Format,
    root: Hpa,
    /// Bumped by every change of the memory below.
    sequence: AtomicU64,
    /// Bumped before the slots change, and again after.
    slots_generation: AtomicU64,
    /// Changes under way.
    changing: AtomicU64,
    /// The place of the slot that was accessed last, wrong at worst.
    slot_hint: AtomicUsize,
    /// Bumped whenever translations that a CPU may hold were taken away.
    pub(crate) flush_generation: AtomicU64,
    /// The VM's vCPUs.
    pub(crate) vcpus: Arc<VcpuList>,
}

/// What a fault of the second-level table turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Mapped now; run the instruction again.
    Mapped,
    /// No memory there: a device, or nothing.
    Mmio,
    /// The host page must be made resident first: see [`Space::map_in`].
    NotResident,
    /// The pool of table pages is too low to map anything.
    NeedPages,
    /// Mapped, in the place of something that other CPUs may still use: see [`Space::finish_flush`].
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
    /// [`Space::sequence`] before it was looked for.
    sequence: u64,
}

impl Wanted {
    /// Looks the page up, for writing at once where the slot allows it: a first touch is mostly a write, or
    /// soon followed by one.
    #[inline(always)]
    fn page(&self, may_sleep: bool) -> Result<HostPage> {
        HostPage::get(self.hva, self.slot.is_writable(), may_sleep)
    }
}

impl<B: Backend> Space<B> {
    /// An empty space for guests of `backend`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(backend: &B, vcpus: Arc<VcpuList>) -> Result<Arc<Space<B>>> {
        let mut pages = TablePages::new();
        for _ in 0..pages.missing() {
            pages.donate(TablePage::new()?);
        }
        let table = Table::new(&mut pages, backend.format()).map_err(|_| ENOMEM)?;
        let root = table.root();
        let format = backend.format();
        Arc::pin_init(
            try_pin_init!(Space {
                slots: RcuBox::new(Slots::new()?)?,
                tables <- kernel::new_spinlock_irq!(Tables { table: Some(table), pages, pending: FlushNeeded::default() }),
                format,
                root,
                sequence: AtomicU64::new(0),
                slots_generation: AtomicU64::new(0),
                changing: AtomicU64::new(0),
                slot_hint: AtomicUsize::new(0),
                flush_generation: AtomicU64::new(0),
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
    /// Those of [`Slots::change`].
    pub(crate) fn change_slots(&self, request: &Request) -> Result {
        // Made outside the read section, for it allocates. Only the caller changes slots, so their number stays.
        let mut new = Slots::with_room(self.slots.read(|s| s.as_slice().len()).saturating_add(1))?;
        self.slots.read(|s| new.copy_from(s))?;
        let change = new.change(request)?;
        self.changing.fetch_add(1, SeqCst);
        self.sequence.fetch_add(1, SeqCst);
        self.slots_generation.fetch_add(1, SeqCst);
        let done = self.slots.replace(new);
        self.slots_generation.fetch_add(1, SeqCst);
        if let (Ok(()), Change::Deleted(old) | Change::Moved { old, .. }) = (done, change) {
            self.unmap(old.range());
        }
        self.changing.fetch_sub(1, SeqCst);
        done
    }

    /// Unmaps guest frames and makes every CPU forget them. Interrupts are on.
    fn unmap(&self, range: GfnRange) {
        let mut unmapping = Unmapping::new(core::iter::once(range));
        let mut all = FlushNeeded::default();
        while !unmapping.is_done() {
            let mut t = self.tables.lock();
            let Tables { table, pages, .. } = &mut *t;
            let Some(table) = table else { return };
            let flush = unmapping.go_on(table, pages, SECTION);
            all.join(pages, flush);
        }
        self.flush(all);
    }

    /// Makes every CPU forget what was taken out, then frees the table pages. Interrupts are on.
    fn flush(&self, flush: FlushNeeded) {
        if flush.is_needed() {
            self.flush_generation.fetch_add(1, SeqCst);
            self.leave_guest_mode();
        }
        flush.release(&mut TablePages::new(), &self.format);
    }

    /// Finishes the flushes that faults left behind. Interrupts are on.
    pub(crate) fn finish_flush(&self) {
        let flush = core::mem::take(&mut self.tables.lock().pending);
        self.flush(flush);
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
    pub(crate) fn fault(&self, cpu: &PinnedCpu, gpa: Gpa, write: bool, hint: &mut usize) -> Fault {
        let Some(wanted) = self.wanted(gpa, write, hint) else { return Fault::Mmio };
        match wanted.page(false) {
            Ok(page) => self.map(cpu, &wanted, &page),
            Err(_) => Fault::NotResident,
        }
    }

    /// As [`Space::fault`], but makes the page resident and does what else a mapping needs; sleeps. What is no
    /// memory any more, or could not be mapped yet, faults again.
    ///
    /// # Errors
    /// `EFAULT` when there is no page; `ENOMEM`.
    pub(crate) fn map_in(&self, gpa: Gpa, write: bool, hint: &mut usize) -> Result {
        let Some(wanted) = self.wanted(gpa, write, hint) else { return Ok(()) };
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
    fn wanted(&self, gpa: Gpa, write: bool, hint: &mut usize) -> Option<Wanted> {
        let gfn = gpa.gfn();
        let sequence = self.sequence.load(SeqCst);
        let slot = self.slots.read(|s| s.lookup(gfn, hint).copied())?;
        let hva = slot.hva_of(gfn).filter(|_| slot.is_writable() || !write)?;
        Some(Wanted { gfn, slot, hva, sequence })
    }

    /// Maps a page that was looked up after `wanted` was.
    fn map(&self, cpu: &PinnedCpu, wanted: &Wanted, page: &HostPage) -> Fault {
        let Wanted { gfn, slot, hva, sequence } = *wanted;
        let size = slot.max_page_size(gfn).min(host_size(cpu, hva)).min(PageSize::Size2M);
        let first = !(size.pages().wrapping_sub(1));
        let rights = if slot.is_writable() { Rights::all() } else { Rights::EXEC };
        let mut t = self.tables.lock_with(cpu.irq());
        if self.changing.load(SeqCst) != 0 || self.sequence.load(SeqCst) != sequence {
            return Fault::Again;
        }
        let Tables { table, pages, pending } = &mut *t;
        let Some(table) = table else { return Fault::Again };
        match table.map(pages, Gfn(gfn.0 & first).gpa(), Pfn(page.pfn().0 & first), size, rights) {
            Ok(mapped) if mapped.flush.is_needed() => {
                pending.join(pages, mapped.flush);
                self.flush_generation.fetch_add(1, SeqCst);
                Fault::NeedFlush
            }
            Ok(_) => Fault::Mapped,
            Err(MapError::NoMemory) => Fault::NeedPages,
            Err(MapError::Misaligned | MapError::OutOfRange) => Fault::Mmio,
        }
    }

    /// Returns a number that stays the same as long as neither slots nor the memory below change;
    /// `None` while they do.
    #[inline]
    pub(crate) fn stable_sequence(&self) -> Option<u64> {
        (self.changing.load(SeqCst) == 0).then(|| self.sequence.load(SeqCst))
    }

    /// Returns a number that is another one after the slots have changed.
    #[inline(always)]
    pub(crate) fn slots_generation(&self) -> u64 {
        self.slots_generation.load(SeqCst)
    }

    /// Returns whether a slot holds `gfn`.
    pub(crate) fn has_slot(&self, gfn: Gfn) -> bool {
        let mut hint = 0;
        self.slots.read(|s| s.lookup(gfn, &mut hint).is_some())
    }

    /// Returns the guest's memory for as long as `cpu` is held.
    #[inline(always)]
    pub(crate) fn near<'a>(&'a self, cpu: &'a PinnedCpu) -> Near<'a> {
        Near::new(self.slots.pinned(cpu), self.slot_hint.load(Relaxed))
    }

    /// Faults in the page behind `gpa`; sleeps.
    ///
    /// # Errors
    /// `EFAULT` when there is none.
    pub(crate) fn fault_in(&self, gpa: Gpa, write: bool) -> Result {
        let span = self.span(gpa).ok_or(EFAULT)?;
        guest_ram::fault_in(span.hva, write && span.writable)
    }
}

impl<B: Backend> InSlots for Space<B> {
    #[inline(always)]
    fn span(&self, gpa: Gpa) -> Option<HvaSpan> {
        let before = self.slot_hint.load(Relaxed);
        let mut hint = before;
        let span = self.slots.read(|s| s.gpa_to_hva(gpa, &mut hint))?;
        if hint != before {
            self.slot_hint.store(hint, Relaxed);
        }
        Some(span)
    }
}

impl<B: Backend> OnInvalidate for Space<B> {
    fn begin(&self, start: Hva, end: Hva) {
        self.changing.fetch_add(1, SeqCst);
        self.sequence.fetch_add(1, SeqCst);
        // Range by range: unmapping makes other CPUs leave guest mode, which must not happen inside the
        // read section.
        let mut done = 0;
        while let Some(range) = self.slots.read(|s| s.ranges_of_hva(start, end).nth(done)) {
            self.unmap(range);
            done = done.saturating_add(1);
        }
    }

    fn end(&self) {
        self.changing.fetch_sub(1, SeqCst);
    }

    fn release(&self) {
        self.changing.fetch_add(1, SeqCst);
        self.sequence.fetch_add(1, SeqCst);
        self.unmap(GfnRange { start: Gfn(0), end: Gfn(u64::MAX) });
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
