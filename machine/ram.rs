// SPDX-License-Identifier: GPL-2.0

//! The guest's RAM, as far as no processor's table is concerned: the memory slots, and the changes of the VMM's memory
//! behind them.
//!
//! Two rules keep a page that the host takes away from staying with the guest:
//!
//! - While anything changes, the slots or the memory behind one, nothing is mapped: [`GuestRam::invalidations`].
//! - While an MMU notifier is between its begin and its end, the slots stay as they are. So the notifier finds in one
//!   set of slots all that can be mapped, and its end finds the same slots as its beginning. A change of the slots
//!   waits for that, after the slot that goes has been unmapped and before it goes.
//!
//! The VM's configuration lock serializes changes of the slots. `notifiers` is a spin lock that nothing is taken under;
//! it is held for a few instructions.

use super::dirty::DirtyLogMode;
use super::dirty_ring::DirtyRings;
use super::memory::{note_page, PinnedRam, SlotLookup};
use crate::arch::addr::{Gfn, Gpa, Hva, PAGE_SHIFT};
use crate::host::cpu::{self, PinnedCpu};
use crate::host::file::WaitQueue;
use crate::host::guest_ram;
use crate::host::rcu::{RcuBox, RetiredValue};
use crate::mmu::dirty::{DirtyBitmap, LoggedPage};
use crate::mmu::slots::{ChangedSlot, HvaSpan, MemSlot, MemSlots, SlotLimits, SlotRequest, SpareSlots};
use crate::mmu::tlb::{RamChanges, RamSnapshot};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce, SpinLock};

/// See the module's description.
#[pin_data]
pub(crate) struct GuestRam {
    slots: RcuBox<MemSlots>,
    limits: SlotLimits,
    /// Bumped before the slots change, and again after.
    generation: AtomicU64,
    /// The place of the slot that was accessed last, wrong at worst.
    hint: AtomicUsize,
    /// How dirty logs are kept.
    pub(crate) dirty_mode: DirtyLogMode,
    /// Who is told of marks, where user space has asked for rings.
    rings: SetOnce<DirtyRings>,
    /// What may not be mapped.
    invalidations: RamChanges,
    /// What the next change begins with, if anything is left of the last one. Only who changes the slots takes it.
    #[pin]
    spare: SpinLock<Option<SpareSlots>>,
    /// MMU notifiers between their begin and their end.
    #[pin]
    notifiers: SpinLock<usize>,
    /// Woken when there are none any more.
    #[pin]
    no_notifiers: WaitQueue,
}

/// A change of the slots that is under way; nothing is mapped until it is dropped.
pub(crate) struct SlotChange<'a> {
    ram: &'a GuestRam,
    new: KBox<MemSlots>,
    /// What it changes.
    pub(crate) change: ChangedSlot,
    block: MappingBlock<'a>,
}

/// Keeps anything from being mapped.
struct MappingBlock<'a>(&'a RamChanges);

impl Drop for MappingBlock<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl GuestRam {
    /// No slots.
    pub(crate) fn new() -> impl PinInit<GuestRam, Error> {
        // Leaf 0x80000008: the bits of a physical address, of the host's, which is what its tables take.
        let bits = cpu::cpuid(0x8000_0008, 0).eax & 0xff;
        let limits = SlotLimits {
            end_hva: guest_ram::user_end(),
            end_gfn: Gfn(1u64.wrapping_shl(bits.saturating_sub(PAGE_SHIFT))),
        };
        try_pin_init!(GuestRam {
            slots: RcuBox::new(MemSlots::new()?)?,
            limits,
            generation: AtomicU64::new(0),
            hint: AtomicUsize::new(0),
            dirty_mode: DirtyLogMode::new(),
            rings: SetOnce::new(),
            invalidations: RamChanges::new(),
            spare <- kernel::new_spinlock!(None),
            notifiers <- kernel::new_spinlock!(0),
            no_notifiers <- WaitQueue::new(),
        }? Error)
    }

    /// Begins a change of the slots, the only one. Sleeps.
    ///
    /// # Errors
    /// Those of [`MemSlots::plan`]; `ENOMEM`.
    pub(crate) fn begin_change(&self, request: &SlotRequest) -> Result<SlotChange<'_>> {
        let change = self.slots.read(|slots| slots.plan(request, &self.limits))?;
        let mut new = self.copy_slots()?;
        new.apply(&change)?;
        new.keep_logs(&change, self.log_starts_marked())?;
        self.invalidations.begin();
        Ok(SlotChange { ram: self, new, change, block: MappingBlock(&self.invalidations) })
    }

    /// Returns a copy of the slots with room for one more. Nobody else changes them. Sleeps.
    ///
    /// # Errors
    /// `ENOMEM`.
    fn copy_slots(&self) -> Result<KBox<MemSlots>> {
        let counts = self.slots.read(MemSlots::counts);
        let spare = self.spare.lock().take();
        if let Some(spare) = spare.filter(|spare| spare.suits(counts)) {
            return self.slots.read(|slots| spare.catch_up(slots));
        }
        // Made outside the read section, for it allocates.
        let mut new = KBox::new(MemSlots::room_for_change(counts)?, GFP_KERNEL_ACCOUNT)?;
        self.slots.read(|slots| new.copy_from(slots))?;
        Ok(new)
    }

    /// Puts slots in the place of the present ones, when no MMU notifier is under way. Sleeps.
    ///
    /// # Errors
    /// `EINTR` when the calling thread is killed.
    fn publish(&self, new: KBox<MemSlots>) -> Result<RetiredValue<MemSlots>> {
        loop {
            self.no_notifiers.wait_killable(|| *self.notifiers.lock() == 0)?;
            // Again, with the lock held until the slots are changed: one may have begun since the wait.
            let notifiers = self.notifiers.lock();
            if *notifiers == 0 {
                self.generation.fetch_add(1, SeqCst);
                let old = self.slots.publish(new);
                self.generation.fetch_add(1, SeqCst);
                return Ok(old);
            }
        }
    }

    /// An MMU notifier begins. Calls `unmap` with the slots, if one of them shows memory that it takes away; what is
    /// unmapped then stays so until [`GuestRam::end_notifier`]. Any context; `unmap` must not sleep.
    pub(crate) fn begin_notifier(&self, start: Hva, end: Hva, unmap: impl FnOnce(&MemSlots)) {
        {
            // Counted before the slots are looked at: from here on they stay.
            let mut notifiers = self.notifiers.lock();
            *notifiers = notifiers.saturating_add(1);
        }
        self.slots.read(|slots| {
            if slots.shows_hva(start, end) {
                self.invalidations.begin();
                unmap(slots);
            }
        });
    }

    /// The MMU notifier that began with the same range ends. Any context.
    pub(crate) fn end_notifier(&self, start: Hva, end: Hva) {
        // The slots are those of the beginning.
        if self.slots.read(|slots| slots.shows_hva(start, end)) {
            self.invalidations.end();
        }
        let none_left = {
            let mut notifiers = self.notifiers.lock();
            *notifiers = notifiers.saturating_sub(1);
            *notifiers == 0
        };
        if none_left {
            self.no_notifiers.wake();
        }
    }

    /// The VMM's memory goes away as a whole: nothing is mapped any more.
    pub(crate) fn close(&self) {
        self.invalidations.begin();
    }

    /// Returns a number that stays the same as long as neither slots nor the memory below change;
    /// `None` while they do.
    #[inline(always)]
    pub(crate) fn stable_sequence(&self) -> Option<u64> {
        self.invalidations.stable()
    }

    /// Returns the slot that is `index`th in the order of guest addresses, for who looks at one after the other.
    pub(crate) fn slot_at(&self, index: usize) -> Option<MemSlot> {
        self.slots.read(|slots| slots.as_slice().get(index).copied())
    }

    /// Returns what decides whether a page may be mapped.
    #[inline(always)]
    pub(crate) fn invalidations(&self) -> &RamChanges {
        &self.invalidations
    }

    /// Returns a number that is another one after the slots have changed.
    #[inline(always)]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Returns the slot of `gfn`, and what a page that is looked up there from now on is to be mapped with. `hint` is
    /// as [`MemSlots::lookup`] has it.
    #[inline(always)]
    pub(crate) fn slot(&self, gfn: Gfn, hint: &mut usize) -> Option<(MemSlot, RamSnapshot)> {
        let snapshot = self.invalidations.snapshot();
        let slot = self.slots.read(|s| s.lookup(gfn, hint).copied())?;
        Some((slot, snapshot))
    }

    /// Returns the guest's memory for as long as `cpu` is held.
    #[inline(always)]
    pub(crate) fn pinned<'a>(&'a self, cpu: &'a PinnedCpu) -> PinnedRam<'a> {
        PinnedRam::new(self.slots.pinned(cpu), &self.rings, self.hint.load(Relaxed))
    }

    /// From here on marks come to rings. Returns whether they did not already.
    pub(crate) fn choose_rings(&self, rings: DirtyRings) -> bool {
        self.rings.populate(rings)
    }

    /// Returns them, if they were chosen.
    pub(crate) fn dirty_rings(&self) -> Option<&DirtyRings> {
        self.rings.as_ref()
    }

    /// Returns whether a new log begins with all pages marked: what is so would come to no ring.
    pub(crate) fn log_starts_marked(&self) -> bool {
        self.dirty_mode.starts_marked() && self.rings.as_ref().is_none()
    }

    /// Returns the slot numbered `id` and its dirty log, if it has one.
    pub(crate) fn dirty_log(&self, id: u16) -> Option<(MemSlot, Arc<DirtyBitmap>)> {
        self.slots.read(|slots| slots.log_of(id))
    }

    /// Returns whether a page may be mapped for writing as far as a log of its slot goes, and marks it there if the guest
    /// `writes` to it now. The caller holds the lock of the table, under which marks are taken.
    pub(crate) fn mark_mapped(&self, slot: &MemSlot, gfn: Gfn, writes: bool) -> bool {
        if !slot.logs_dirty() {
            return true;
        }
        self.slots.read(|slots| match slots.logged_page(slot, gfn) {
            Some(logged) if writes => {
                note_page(self, logged);
                true
            }
            Some(LoggedPage { log, page, .. }) => log.is_marked(page),
            // The slot has just stopped to log.
            None => true,
        })
    }

    /// Returns whether a slot holds `gfn`.
    pub(crate) fn has_slot(&self, gfn: Gfn) -> bool {
        self.slot(gfn, &mut 0).is_some()
    }

    /// Faults in the page behind `gpa`; sleeps.
    ///
    /// # Errors
    /// `EFAULT` when there is none; `EINTR` for a thread that is being killed.
    pub(crate) fn fault_in(&self, gpa: Gpa, write: bool) -> Result {
        let span = self.with_span(gpa, |span| span).ok_or(EFAULT)?;
        // Behind a slot that is not to be written the VMM may have memory that it cannot write either.
        guest_ram::fault_in(span.hva, write && span.is_writable())
    }

    /// Calls `step` until it misses no page any more; what it misses is faulted in for writing. Sleeps.
    ///
    /// ```text
    /// let msg = ram.until_resident(|| function.with_ram(|net, mem| net.give_packets(queue, mem, sent)))?;
    /// ```
    ///
    /// # Errors
    /// Those of [`GuestRam::fault_in`], and the address of the page that is still missing.
    pub(crate) fn until_resident<R>(
        &self,
        mut step: impl FnMut() -> Result<R, Gpa>,
    ) -> Result<R, (Error, Gpa)> {
        loop {
            match step() {
                Ok(done) => return Ok(done),
                Err(gpa) => self.fault_in(gpa, true).map_err(|why| (why, gpa))?,
            }
        }
    }
}

impl SlotChange<'_> {
    /// Lets the change take effect. What it takes away from the guest is unmapped. Returns when no reader sees the slots
    /// of before; sleeps.
    ///
    /// # Errors
    /// `EINTR` when the calling thread is killed; nothing has changed then.
    pub(crate) fn commit(self) -> Result {
        let SlotChange { ram, new, change, block } = self;
        let old = ram.publish(new)?;
        // What is looked up from here on is looked up in the new slots.
        drop(block);
        let spare = SpareSlots::new(old.take(), change);
        *ram.spare.lock() = Some(spare);
        Ok(())
    }
}

impl SlotLookup for GuestRam {
    fn rings(&self) -> Option<&DirtyRings> {
        self.dirty_rings()
    }

    #[inline(always)]
    fn with_slots<R>(&self, access: impl FnOnce(&MemSlots) -> R) -> R {
        self.slots.read(access)
    }

    #[inline(always)]
    fn with_span<R>(&self, gpa: Gpa, access: impl FnOnce(Option<HvaSpan>) -> R) -> R {
        let before = self.hint.load(Relaxed);
        let mut hint = before;
        self.slots.read(|slots| {
            let span = slots.gpa_to_hva(gpa, &mut hint);
            if hint != before {
                self.hint.store(hint, Relaxed);
            }
            access(span)
        })
    }
}
