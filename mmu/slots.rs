// SPDX-License-Identifier: GPL-2.0

//! Memory slots: which ranges of guest physical memory the VMM backs with its own address space.
//!
//! Follows the KVM API documentation, "KVM_SET_USER_MEMORY_REGION": a slot is created, deleted
//! (size 0), moved, or has its flags changed; its size, its host address and its read-only flag
//! stay as they are. Slots never overlap in guest physical space; in the VMM's address space they
//! may. Address spaces other than 0 (system management mode) are not offered.
//!
//! [`MemSlots`] is an immutable value once it is published: a change is made to a copy, which the module then puts in its
//! place by RCU. Readers need no lock beyond their read-side section; changes are serialized by the lock of the VM's
//! configuration. What was in place before is the next copy, see [`SpareSlots`]: a VM may have tens of thousands of slots,
//! and sets them one by one.

use super::dirty::{DirtyBitmap, LoggedPage};
use super::hva_index::{copy_within_capacity, HvaIndex, HvaRanges};
use super::slot::END_GFN;
pub(crate) use super::slot::{GfnRange, HvaSpan, MemSlot, SlotFlags};
use crate::arch::addr::{Gfn, Gpa, Hva, PAGE_SHIFT, PAGE_SIZE};
use crate::arch::rule::rule;
use crate::arch::slice::count_first;
use kernel::prelude::*;
use kernel::sync::Arc;

/// How many slots a VM may have, which is also the first invalid slot id.
pub(crate) const MAX_SLOTS: u16 = 32764;

/// The most pages of one slot: a dirty bitmap's bits are counted in an `int` by the ABI.
const MAX_SLOT_PAGES: u64 = (1 << 31) - 1;

/// How many slots are looked through after each change by debug assertions.
const FEW: usize = 64;

/// Where slots may lie on this host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotLimits {
    /// The end of user space. MMU notifiers name no address beyond it, nor one with tag bits in it, so memory that a
    /// slot showed by such an address would never be taken away from the guest.
    pub(crate) end_hva: Hva,
    /// The first frame that the processor does not address.
    pub(crate) end_gfn: Gfn,
}

/// What a VMM asks for: the fields of `struct kvm_userspace_memory_region`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotRequest {
    /// Slot id, and in the upper 16 bits the address space.
    pub(crate) slot: u32,
    /// Raw flags.
    pub(crate) flags: u32,
    /// Guest physical address of the first byte.
    pub(crate) gpa: Gpa,
    /// Size in bytes; 0 deletes.
    pub(crate) size_bytes: u64,
    /// Address of the first byte in the VMM.
    pub(crate) hva: Hva,
}

/// What a request came to, so that mappings and dirty bitmaps can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangedSlot {
    /// A new slot.
    Created(MemSlot),
    /// A slot is gone: unmap its range.
    Deleted(MemSlot),
    /// A slot is elsewhere in guest memory, and may have other flags: unmap the old range.
    Moved {
        /// As it was.
        old: MemSlot,
        /// As it is.
        new: MemSlot,
    },
    /// Only the flags differ.
    Flags {
        /// As it was.
        old: MemSlot,
        /// As it is.
        new: MemSlot,
    },
    /// The request described what was there.
    Unchanged,
}

/// The log of a slot.
#[derive(Debug)]
struct SlotLog {
    id: u16,
    log: Arc<DirtyBitmap>,
}

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotPlace {
    id: u16,
    base: Gfn,
}

/// All slots of a VM at one time.
///
/// # Invariants
/// Sorted by `base`; no two overlap; ids are unique; `by_id` and `by_hva` have the same slots, `by_id` sorted by id. `logs`
/// has the logs of those that log what is written, after [`MemSlots::keep_logs`], sorted by id.
#[derive(Debug, Default)]
pub(crate) struct MemSlots {
    slots: KVVec<MemSlot>,
    by_id: KVVec<SlotPlace>,
    by_hva: HvaIndex,
    logs: KVVec<SlotLog>,
}

impl MemSlots {
    /// No slots.
    ///
    /// # Errors
    /// As [`MemSlots::with_room`].
    pub(crate) fn new() -> Result<MemSlots> {
        MemSlots::with_room(0, 0)
    }

    /// No slots, with room for `slots`, of which `logs` log what is written.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn with_room(slots: usize, logs: usize) -> Result<MemSlots> {
        let by_hva = HvaIndex::with_room(slots)?;
        let by_id = KVVec::with_capacity(slots, GFP_KERNEL_ACCOUNT)?;
        let logs = KVVec::with_capacity(logs, GFP_KERNEL_ACCOUNT)?;
        Ok(MemSlots { slots: KVVec::with_capacity(slots, GFP_KERNEL_ACCOUNT)?, by_id, by_hva, logs })
    }

    /// No slots, with room for those that there are here and some more.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn room_for_change((slots, logs): (usize, usize)) -> Result<MemSlots> {
        // So much that few of many changes need more.
        MemSlots::with_room(slots.saturating_add(slots / 2).saturating_add(1), logs.saturating_add(1))
    }

    /// Returns whether there is room for so many and one more, and not far too much.
    fn suits(&self, (slots, logs): (usize, usize)) -> bool {
        let room = self.slots.capacity();
        room > slots && room / 4 <= slots.saturating_add(FEW) && self.logs.capacity() > logs
    }

    /// Returns how many slots there are, and how many of them log what is written.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.slots.len(), self.logs.len())
    }

    /// Takes over all of `other`, into none with room for them.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room; does not allocate.
    pub(crate) fn copy_from(&mut self, other: &MemSlots) -> Result {
        copy_within_capacity(&mut self.slots, &other.slots)?;
        copy_within_capacity(&mut self.by_id, &other.by_id)?;
        self.by_hva.copy_from(&other.by_hva)?;
        debug_assert!(self.slots.len() > FEW || self.check() == Ok(()));
        self.copy_logs(other)
    }

    fn copy_logs(&mut self, other: &MemSlots) -> Result {
        for SlotLog { id, log } in &other.logs {
            self.logs.push_within_capacity(SlotLog { id: *id, log: log.clone() })?;
        }
        Ok(())
    }

    /// Makes the log of a slot that begins to log, for whose change this is, and drops that of one that ends to. A slot
    /// that moves keeps it. `all`: a new log begins with all pages marked. There is room for one more log.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn keep_logs(&mut self, change: &ChangedSlot, all: bool) -> Result {
        let (id, now) = match change {
            ChangedSlot::Deleted(old) => (old.id, None),
            ChangedSlot::Created(new) | ChangedSlot::Moved { new, .. } | ChangedSlot::Flags { new, .. } => {
                (new.id, Some(new).filter(|new| new.logs_dirty()))
            }
            ChangedSlot::Unchanged => return Ok(()),
        };
        let at = self.log_position(id);
        let is_there = self.logs.get(at).is_some_and(|l| l.id == id);
        match now {
            Some(new) if !is_there => {
                let log = Arc::new(DirtyBitmap::new(new.npages, all)?, GFP_KERNEL_ACCOUNT)?;
                self.logs.insert_within_capacity(at, SlotLog { id, log }).map_err(|_| ENOMEM)
            }
            None if is_there => self.logs.remove(at).map(drop).map_err(|_| EINVAL),
            _ => Ok(()),
        }
    }

    fn log_position(&self, id: u16) -> usize {
        count_first(self.logs.len(), |i| self.logs.get(i).is_some_and(|l| l.id < id))
    }

    /// Returns the slot numbered `id` and its log, if it has one.
    pub(crate) fn log_of(&self, id: u16) -> Option<(MemSlot, Arc<DirtyBitmap>)> {
        let log = self.logs.get(self.log_position(id)).filter(|l| l.id == id)?;
        Some((*self.by_id(id)?, log.log.clone()))
    }

    /// Returns whether any slot logs what is written.
    #[inline(always)]
    pub(crate) fn has_logs(&self) -> bool {
        !self.logs.is_empty()
    }

    /// Returns where a page of a slot is logged; `None`: it is not.
    pub(crate) fn logged_page(&self, slot: &MemSlot, gfn: Gfn) -> Option<LoggedPage<'_>> {
        let log = self.logs.get(self.log_position(slot.id)).filter(|l| l.id == slot.id)?;
        Some(LoggedPage { slot: slot.id, log: &log.log, page: gfn.0.wrapping_sub(slot.base.0) })
    }

    /// Returns the slots in the order of their guest addresses.
    pub(crate) fn as_slice(&self) -> &[MemSlot] {
        &self.slots
    }

    /// Returns the slot numbered `id`.
    pub(crate) fn by_id(&self, id: u16) -> Option<&MemSlot> {
        let place = self.by_id.get(self.id_position(id)).filter(|place| place.id == id)?;
        self.slots.get(self.position(place.base))
    }

    fn id_position(&self, id: u16) -> usize {
        count_first(self.by_id.len(), |i| self.by_id.get(i).is_some_and(|place| place.id < id))
    }

    /// Makes a change that was planned for the same slots.
    ///
    /// # Errors
    /// `ENOMEM` where there is no room for another slot; nothing has changed then.
    pub(crate) fn apply(&mut self, change: &ChangedSlot) -> Result {
        let (remove, insert) = match change {
            ChangedSlot::Created(new) => (None, Some(new)),
            ChangedSlot::Deleted(old) => (Some(old), None),
            ChangedSlot::Moved { old, new } | ChangedSlot::Flags { old, new } => (Some(old), Some(new)),
            ChangedSlot::Unchanged => return Ok(()),
        };
        // Before anything is taken out, so that an error leaves all as it was.
        if insert.is_some() && remove.is_none() && self.slots.len() >= self.slots.capacity() {
            return Err(ENOMEM);
        }
        if let Some(old) = remove {
            self.slots.remove(self.position(old.base)).map_err(|_| EINVAL)?;
            self.by_id.remove(self.id_position(old.id)).map_err(|_| EINVAL)?;
        }
        if let Some(new) = insert {
            let at = self.position(new.base);
            self.slots.insert_within_capacity(at, *new).map_err(|_| ENOMEM)?;
            let (at, place) = (self.id_position(new.id), SlotPlace { id: new.id, base: new.base });
            self.by_id.insert_within_capacity(at, place).map_err(|_| ENOMEM)?;
        }
        self.by_hva.replace(remove, insert)?;
        // Of many slots it would make a change take as long as all before it.
        debug_assert!(self.slots.len() > FEW || self.check() == Ok(()));
        Ok(())
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let apart = |two: &[MemSlot]| matches!(two, [a, b] if a.range().end <= b.base);
        rule(self.slots.windows(2).all(apart), "slots are sorted and do not overlap")?;
        let in_order = |two: &[SlotPlace]| matches!(two, [a, b] if a.id < b.id);
        rule(self.by_id.windows(2).all(in_order), "ids are unique, and sorted")?;
        let found = self.slots.iter().all(|s| self.by_id(s.id) == Some(s));
        rule(found && self.by_id.len() == self.slots.len(), "each slot has its id")?;
        self.slots.iter().try_for_each(MemSlot::check)?;
        rule(self.slots.iter().all(|s| self.by_hva.has(s)), "the index has all slots")?;
        self.by_hva.check(self.slots.len())
    }

    /// Returns how many slots lie before `base`.
    fn position(&self, base: Gfn) -> usize {
        count_first(self.slots.len(), |i| self.slots.get(i).is_some_and(|s| s.base < base))
    }

    /// Decides what `request` means and whether it may be done.
    ///
    /// # Errors
    /// `EINVAL` for a request that is malformed, deletes nothing, or changes what cannot be changed; `EEXIST` when it would
    /// overlap another slot.
    pub(crate) fn plan(&self, request: &SlotRequest, limits: &SlotLimits) -> Result<ChangedSlot> {
        // Address spaces other than 0 are in the upper bits, and do not fit.
        let id = u16::try_from(request.slot)?;
        let flags = SlotFlags::from_bits(request.flags).ok_or(EINVAL)?;
        let unaligned = (request.size_bytes | request.gpa.0 | request.hva.0) & (PAGE_SIZE - 1) != 0;
        let gpa_end = request.gpa.checked_add(request.size_bytes).ok_or(EINVAL)?;
        let hva_end = request.hva.checked_add(request.size_bytes).ok_or(EINVAL)?;
        if id >= MAX_SLOTS || unaligned || hva_end > limits.end_hva {
            return Err(EINVAL);
        }
        let old = self.by_id(id).copied();
        let npages = request.size_bytes >> PAGE_SHIFT;
        if npages == 0 {
            return old.map(ChangedSlot::Deleted).ok_or(EINVAL);
        }
        if npages > MAX_SLOT_PAGES {
            return Err(EINVAL);
        }
        let new = MemSlot { id, flags, base: request.gpa.gfn(), npages, hva: request.hva };
        let change = match old {
            None => ChangedSlot::Created(new),
            Some(old) => Self::modification(old, new)?,
        };
        let places = matches!(change, ChangedSlot::Created(_) | ChangedSlot::Moved { .. });
        if places && self.overlaps_other(&new) {
            return Err(EEXIST);
        }
        if places && gpa_end.gfn() > limits.end_gfn.min(Gfn(END_GFN)) {
            return Err(EINVAL);
        }
        Ok(change)
    }

    /// Tells how `new` differs from `old`, of the same id.
    fn modification(old: MemSlot, new: MemSlot) -> Result<ChangedSlot> {
        if old.hva != new.hva || old.npages != new.npages || old.is_writable() != new.is_writable() {
            return Err(EINVAL);
        }
        Ok(if old.base != new.base {
            ChangedSlot::Moved { old, new }
        } else if old.flags != new.flags {
            ChangedSlot::Flags { old, new }
        } else {
            ChangedSlot::Unchanged
        })
    }

    fn overlaps_other(&self, new: &MemSlot) -> bool {
        // It can only be one of those beside it. One of these may be the slot itself, elsewhere.
        let at = self.position(new.base);
        let beside = self.slots.get(at.saturating_sub(2)..).unwrap_or_default().iter().take(4);
        beside.filter(|s| s.id != new.id).any(|s| s.range().overlaps(new.range()))
    }

    /// Returns the slot that holds `gfn`: at once where `hint`, the caller's last hit, still fits;
    /// else by binary search. `hint` may hold anything, and is updated on success.
    pub(crate) fn lookup(&self, gfn: Gfn, hint: &mut usize) -> Option<&MemSlot> {
        if let Some(slot) = self.slots.get(*hint).filter(|s| s.range().contains(gfn)) {
            return Some(slot);
        }
        let index = count_first(self.slots.len(), |i| self.slots.get(i).is_some_and(|s| s.base <= gfn))
            .checked_sub(1)?;
        let slot = self.slots.get(index).filter(|s| s.range().contains(gfn))?;
        *hint = index;
        Some(slot)
    }

    /// Finds the memory behind `gpa`; `hint` as in [`MemSlots::lookup`].
    #[inline(always)]
    pub(crate) fn gpa_to_hva(&self, gpa: Gpa, hint: &mut usize) -> Option<HvaSpan> {
        let near = self.slots.get(*hint).and_then(|slot| slot.span(gpa));
        near.or_else(|| self.find_span(gpa, hint))
    }

    #[inline(never)]
    fn find_span(&self, gpa: Gpa, hint: &mut usize) -> Option<HvaSpan> {
        self.lookup(gpa.gfn(), hint)?.span(gpa)
    }

    /// Returns the guest frames that have a byte in `start..end` of the VMM's address space, one
    /// range for each slot concerned: what an MMU notifier must take away.
    pub(crate) fn ranges_of_hva(&self, start: Hva, end: Hva) -> HvaRanges<'_> {
        self.by_hva.ranges(start, end)
    }

    /// Returns whether a slot shows a byte of `start..end` of the VMM's address space.
    pub(crate) fn shows_hva(&self, start: Hva, end: Hva) -> bool {
        self.by_hva.is_shown(start, end)
    }
}

/// The slots before the last change, and what it changed: made anew from them, a copy of the present ones costs what that
/// change did.
#[derive(Debug)]
pub(crate) struct SpareSlots {
    slots: KBox<MemSlots>,
    behind: ChangedSlot,
}

impl SpareSlots {
    /// Keeps `slots`, after which came `behind`.
    pub(crate) fn new(mut slots: KBox<MemSlots>, behind: ChangedSlot) -> SpareSlots {
        // Those of slots that are gone are not kept.
        slots.logs.clear();
        SpareSlots { slots, behind }
    }

    /// Returns whether the slots can be made a copy with room for one more of those that have these
    /// [`counts`](MemSlots::counts).
    pub(crate) fn suits(&self, counts: (usize, usize)) -> bool {
        self.slots.suits(counts)
    }

    /// Makes a copy of `now`, the present slots, which these suit.
    ///
    /// # Errors
    /// `ENOMEM` where they do not; does not allocate.
    pub(crate) fn catch_up(self, now: &MemSlots) -> Result<KBox<MemSlots>> {
        let SpareSlots { mut slots, behind } = self;
        slots.apply(&behind)?;
        slots.copy_logs(now)?;
        Ok(slots)
    }
}
