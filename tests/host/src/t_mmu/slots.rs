// SPDX-License-Identifier: GPL-2.0

//! Memory slots, against a reference that asks each slot for each frame.

use crate::arch::addr::{Gfn, Gpa, Hva, PAGE_SIZE};
use crate::mmu::format::PageSize;
use crate::mmu::slots::{
    ChangedSlot, GfnRange, MemSlot, MemSlots, SlotFlags, SlotLimits, SlotRequest, SpareSlots, MAX_SLOTS,
};
use kernel::alloc::{fail_none, fail_nth};
use kernel::prelude::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(crate) const HVA: u64 = 0x7f00_0000_0000;

pub(crate) fn request(slot: u32, first: u64, npages: u64) -> SlotRequest {
    SlotRequest {
        slot,
        flags: 0,
        gpa: Gpa(first * PAGE_SIZE),
        size_bytes: npages * PAGE_SIZE,
        hva: Hva(HVA + first * PAGE_SIZE),
    }
}

/// Those of a processor with 48 bits of both kinds of addresses.
pub(crate) const LIMITS: SlotLimits =
    SlotLimits { end_hva: Hva((1 << 47) - PAGE_SIZE), end_gfn: Gfn(1 << (48 - 12)) };

/// The slots after a change, as the module makes them.
pub(crate) trait Changed {
    fn with(&self, request: &SlotRequest) -> Result<(MemSlots, ChangedSlot), Error>;
}

impl Changed for MemSlots {
    fn with(&self, request: &SlotRequest) -> Result<(MemSlots, ChangedSlot), Error> {
        let change = self.plan(request, &LIMITS)?;
        let mut next = copy(self)?;
        next.apply(&change)?;
        Ok((next, change))
    }
}

fn copy(slots: &MemSlots) -> Result<MemSlots, Error> {
    let mut copy = MemSlots::room_for_change(slots.counts())?;
    copy.copy_from(slots)?;
    Ok(copy)
}

/// Changes slots in place.
fn change(slots: &mut MemSlots, request: &SlotRequest) -> Result<(), Error> {
    let change = slots.plan(request, &LIMITS)?;
    slots.apply(&change)
}

pub(crate) fn with(slots: &MemSlots, r: &SlotRequest) -> MemSlots {
    slots.with(r).unwrap().0
}

pub(crate) fn none() -> MemSlots {
    MemSlots::new().unwrap()
}

fn one_slot() -> MemSlots {
    with(&none(), &request(3, 16, 16))
}

fn refusal(slots: &MemSlots, r: &SlotRequest) -> Error {
    slots.with(r).map(|(_, change)| change).unwrap_err()
}

#[test]
fn a_created_slot_leads_to_the_host_address() {
    let slots = one_slot();

    let span = slots.gpa_to_hva(Gpa(17 * PAGE_SIZE + 5), &mut 0).unwrap();

    assert_eq!(span.hva, Hva(HVA + 17 * PAGE_SIZE + 5));
    assert_eq!(span.left, 15 * PAGE_SIZE - 5);
    assert!(span.is_writable() && span.is_plain());
}

#[test]
fn a_slot_ends_with_its_last_byte() {
    let slots = one_slot();

    assert_eq!(slots.gpa_to_hva(Gpa(32 * PAGE_SIZE - 1), &mut 0).unwrap().left, 1);
    assert_eq!(slots.gpa_to_hva(Gpa(32 * PAGE_SIZE), &mut 0), None);
    assert_eq!(slots.gpa_to_hva(Gpa(16 * PAGE_SIZE - 1), &mut 0), None);
}

#[test]
fn a_read_only_slot_is_not_writable() {
    let r = SlotRequest { flags: 2, ..request(0, 0, 1) };
    let slots = with(&none(), &r);

    assert!(!slots.gpa_to_hva(Gpa(0), &mut 0).unwrap().is_writable());
}

#[test]
fn each_malformed_request_is_invalid() {
    let good = request(0, 16, 16);
    let bad = [
        SlotRequest { slot: u32::from(MAX_SLOTS), ..good },
        SlotRequest { slot: 1 << 16, ..good },
        SlotRequest { flags: 4, ..good },
        SlotRequest { flags: 1 << 31, ..good },
        SlotRequest { gpa: Gpa(0x1001), ..good },
        SlotRequest { size_bytes: 0x800, ..good },
        SlotRequest { hva: Hva(HVA + 1), ..good },
        SlotRequest { gpa: Gpa(u64::MAX - 0xfff), size_bytes: 0x2000, ..good },
        SlotRequest { hva: Hva(u64::MAX - 0xfff), size_bytes: 0x2000, ..good },
        SlotRequest { hva: Hva(1 << 63), ..good },
        SlotRequest { hva: Hva(1 << 62), ..good },
        SlotRequest { hva: Hva(1 << 47), ..good },
        SlotRequest { hva: Hva(HVA | 1 << 57), ..good },
        SlotRequest { hva: Hva(LIMITS.end_hva.0 - 15 * PAGE_SIZE), ..good },
        SlotRequest { gpa: Gpa((1 << 52) - 0x1000), size_bytes: 0x2000, ..good },
        SlotRequest { gpa: Gpa((1 << 48) - 0x1000), size_bytes: 0x2000, ..good },
        SlotRequest { size_bytes: (1 << 31) * PAGE_SIZE, ..good },
    ];

    for r in bad {
        assert_eq!(refusal(&none(), &r), EINVAL, "{r:?}");
    }
}

#[test]
fn the_last_id_and_the_largest_slot_are_valid() {
    let r = SlotRequest { slot: u32::from(MAX_SLOTS) - 1, hva: Hva(0), ..request(0, 0, (1 << 31) - 1) };

    assert!(none().with(&r).is_ok());
}

#[test]
fn a_slot_may_reach_the_ends_of_both_address_spaces() {
    let last = SlotRequest { hva: Hva(LIMITS.end_hva.0 - 16 * PAGE_SIZE), ..request(0, (1 << 36) - 16, 16) };

    assert!(none().with(&last).is_ok());
    assert!(none().with(&SlotRequest { hva: Hva(0), ..request(0, 0, 16) }).is_ok());
}

/// As an invalidation never names such an address, the slot would not be found.
#[test]
fn an_address_outside_user_space_is_refused_for_a_slot_that_goes_as_well() {
    for hva in [1 << 62, HVA | 1 << 57] {
        assert_eq!(refusal(&one_slot(), &SlotRequest { hva: Hva(hva), ..request(3, 0, 0) }), EINVAL);
    }
}

#[test]
fn deleting_what_is_not_there_is_invalid() {
    assert_eq!(refusal(&one_slot(), &request(4, 16, 0)), EINVAL);
}

#[test]
fn deleting_leaves_nothing() {
    let (slots, change) = one_slot().with(&request(3, 0, 0)).unwrap();

    assert!(matches!(change, ChangedSlot::Deleted(s) if s.id == 3 && s.npages == 16));
    assert!(slots.as_slice().is_empty());
}

#[test]
fn overlapping_another_slot_is_refused_as_existing() {
    for (first, npages) in [(0, 17), (31, 1), (20, 2), (0, 100), (16, 16)] {
        assert_eq!(refusal(&one_slot(), &request(4, first, npages)), EEXIST, "{first} {npages}");
    }
    assert!(one_slot().with(&request(4, 0, 16)).is_ok());
    assert!(one_slot().with(&request(4, 32, 16)).is_ok());
}

#[test]
fn a_slot_may_move_over_its_own_old_place_but_not_over_another() {
    let slots = with(&one_slot(), &request(4, 64, 16));
    let onto = |first| SlotRequest { hva: Hva(HVA + 16 * PAGE_SIZE), ..request(3, first, 16) };

    let (moved, change) = slots.with(&onto(20)).unwrap();

    assert!(matches!(change, ChangedSlot::Moved { old, new } if old.base == Gfn(16) && new.base == Gfn(20)));
    assert!(moved.lookup(Gfn(16), &mut 0).is_none());
    assert_eq!(refusal(&slots, &onto(50)), EEXIST);
}

#[test]
fn size_host_address_and_read_only_cannot_change() {
    let good = request(3, 16, 16);

    for r in [
        SlotRequest { size_bytes: 8 * PAGE_SIZE, ..good },
        SlotRequest { hva: Hva(HVA), ..good },
        SlotRequest { flags: 2, ..good },
    ] {
        assert_eq!(refusal(&one_slot(), &r), EINVAL, "{r:?}");
    }
}

#[test]
fn dirty_logging_can_be_switched_and_the_same_again_is_no_change() {
    let on = SlotRequest { flags: 1, ..request(3, 16, 16) };

    let (slots, change) = one_slot().with(&on).unwrap();
    let (same, again) = slots.with(&on).unwrap();

    assert!(matches!(change, ChangedSlot::Flags { new, .. } if new.logs_dirty()));
    assert_eq!(again, ChangedSlot::Unchanged);
    assert_eq!(same.as_slice(), slots.as_slice());
}

#[test]
fn a_failed_allocation_is_reported_and_harms_nothing() {
    let slots = one_slot();

    for n in 0..2 {
        fail_nth(n);
        let result = slots.with(&request(4, 64, 16)).map(|(_, c)| c);

        assert!(!fail_none());
        assert_eq!(result, Err(ENOMEM));
        assert_eq!(slots.as_slice().len(), 1);
    }
}

#[test]
fn slots_without_room_for_another_stay_as_they_are() {
    let mut slots = MemSlots::with_room(4, 0).unwrap();
    // At least the room asked for.
    let error = (0..).find_map(|id| change(&mut slots, &request(id, u64::from(id), 1)).err());
    let full = slots.as_slice().to_vec();

    assert_eq!(error, Some(ENOMEM));
    assert!(full.len() >= 4);
    let elsewhere = SlotRequest { gpa: Gpa(1 << 30), ..request(3, 3, 1) };
    assert!(change(&mut slots, &elsewhere).is_ok(), "no other slot");
    assert_eq!(slots.as_slice().len(), full.len());
}

#[test]
fn a_large_page_needs_room_and_the_same_alignment_on_both_sides() {
    let slot = |base, npages, hva| MemSlot {
        id: 0,
        flags: SlotFlags::empty(),
        base: Gfn(base),
        npages,
        hva: Hva(hva * PAGE_SIZE),
    };
    let gib = 1 << 18;

    assert_eq!(slot(gib, gib, gib * 7).max_page_size(Gfn(gib + 77)), PageSize::Size1G);
    assert_eq!(slot(gib, gib, gib * 7 + 512).max_page_size(Gfn(gib + 77)), PageSize::Size2M);
    assert_eq!(slot(gib, gib, gib * 7 + 1).max_page_size(Gfn(gib + 77)), PageSize::Size4K);
    assert_eq!(slot(gib, 511, gib).max_page_size(Gfn(gib)), PageSize::Size4K);
    assert_eq!(slot(gib, 1023, gib).max_page_size(Gfn(gib + 511)), PageSize::Size2M);
    assert_eq!(slot(gib, 1023, gib).max_page_size(Gfn(gib + 512)), PageSize::Size4K);
    assert_eq!(slot(1, 1024, 513).max_page_size(Gfn(1)), PageSize::Size4K);
    assert_eq!(slot(1, 1024, 513).max_page_size(Gfn(512)), PageSize::Size2M);
}

#[test]
fn a_host_range_is_found_in_every_slot_that_shows_it() {
    let mut slots = one_slot();
    slots = with(&slots, &SlotRequest { hva: Hva(HVA + 16 * PAGE_SIZE), ..request(9, 100, 8) });

    let from = HVA + 17 * PAGE_SIZE + 1;
    let found: Vec<_> = slots.ranges_of_hva(Hva(from), Hva(from + 1)).collect();

    let frame = |gfn| GfnRange { start: Gfn(gfn), end: Gfn(gfn + 1) };
    assert_eq!(found, [frame(17), frame(101)]);
}

#[test]
fn a_copy_finds_the_same() {
    let slots = with(&one_slot(), &SlotRequest { hva: Hva(HVA + 16 * PAGE_SIZE), ..request(9, 100, 8) });
    let copy = copy(&slots).unwrap();

    let all = |slots: &MemSlots| slots.ranges_of_hva(Hva(0), LIMITS.end_hva).collect::<Vec<_>>();
    assert_eq!(all(&copy), all(&slots));
    assert_eq!(all(&slots).len(), 2);
}

#[test]
fn each_of_many_slots_is_found_once_where_they_show_the_same_and_where_not() {
    const SLOTS: u32 = 2000;
    let mut slots = MemSlots::with_room(SLOTS as usize, 0).unwrap();
    let apart = |id: u32| HVA + u64::from(id) * 4 * PAGE_SIZE;
    for id in 0..SLOTS {
        let hva = if id % 2 == 0 { HVA } else { apart(id) };
        change(&mut slots, &SlotRequest { hva: Hva(hva), ..request(id, u64::from(id), 1) }).unwrap();
    }

    let at = |hva: u64| slots.ranges_of_hva(Hva(hva), Hva(hva + 8)).count();

    assert_eq!(at(HVA), SLOTS as usize / 2);
    assert_eq!(slots.ranges_of_hva(Hva(0), LIMITS.end_hva).count(), SLOTS as usize);
    assert!((0..SLOTS).filter(|id| id % 2 == 1).all(|id| at(apart(id)) == 1));
}

pub(crate) type Model = BTreeMap<u32, (u64, u64, u64, u32)>;

/// Does what the ABI's text says, frame by frame.
pub(crate) fn reference(model: &mut Model, r: (u32, u64, u64, u64, u32)) -> Result<(), Error> {
    let (id, first, npages, hva, flags) = r;
    let old = model.get(&id).copied();
    if npages == 0 {
        return model.remove(&id).map(|_| ()).ok_or(EINVAL);
    }
    if let Some((_, n, h, f)) = old {
        if n != npages || h != hva || (f ^ flags) & 2 != 0 {
            return Err(EINVAL);
        }
    }
    let taken = |gfn: u64| model.iter().any(|(&i, s)| i != id && (s.0..s.0 + s.1).contains(&gfn));
    if (first..first + npages).any(taken) {
        return Err(EEXIST);
    }
    model.insert(id, (first, npages, hva, flags));
    Ok(())
}

proptest! {
    /// Whatever is asked for, the outcome and each frame's host address are the reference's.
    #[test]
    fn slots_agree_with_the_reference(
        ops in vec((0u32..6, 0u64..48, 0u64..12, 0u64..3, 0u32..4), 1..60),
        hint in any::<usize>(),
    ) {
        let (mut slots, mut spare) = (KBox::new(none(), GFP_KERNEL).unwrap(), None);
        let mut model = Model::new();
        let mut hint = hint;
        for (id, first, npages, h, flags) in ops {
            // A few host addresses only, so that modifications are often allowed.
            let hva = HVA + h * 8 * PAGE_SIZE;
            let r = SlotRequest { flags, hva: Hva(hva), ..request(id, first, npages) };

            let expected = reference(&mut model, (id, first, npages, hva, flags));
            let result = slots.plan(&r, &LIMITS);

            prop_assert_eq!(result.as_ref().map(|_| ()).map_err(|e| *e), expected);
            if let Ok(change) = result {
                let usable = spare.take().filter(|spare: &SpareSlots| spare.suits(slots.counts()));
                let mut next = match usable {
                    Some(spare) => spare.catch_up(&slots).unwrap(),
                    None => KBox::new(copy(&slots).unwrap(), GFP_KERNEL).unwrap(),
                };
                next.apply(&change).unwrap();
                next.keep_logs(&change, false).unwrap();
                spare = Some(SpareSlots::new(core::mem::replace(&mut slots, next), change));
            }
            prop_assert_eq!(slots.check(), Ok(()));
            for id in 0..6 {
                prop_assert_eq!(slots.log_of(id as u16).is_some(), model.get(&id).is_some_and(|s| s.3 & 1 != 0));
            }
            prop_assert!(slots.as_slice().windows(2).all(|w| w[0].range().end <= w[1].base));
            for gfn in 0..64 {
                let found = slots.gpa_to_hva(Gpa(gfn * PAGE_SIZE), &mut hint);
                let want = model.values().find(|s| (s.0..s.0 + s.1).contains(&gfn));
                prop_assert_eq!(
                    found.map(|f| (f.hva.0, f.left, f.is_writable())),
                    want.map(|s| (s.2 + (gfn - s.0) * PAGE_SIZE, (s.0 + s.1 - gfn) * PAGE_SIZE, s.3 & 2 == 0))
                );
            }
        }
    }

    /// A frame is in a notifier's ranges exactly if one of its bytes is in the host range.
    #[test]
    fn host_ranges_agree_with_the_reference(
        places in vec((0u64..8, 1u64..8), 1..8),
        gone in vec(0u32..8, 0..4),
        start in 0u64..20 * PAGE_SIZE,
        len in 0u64..8 * PAGE_SIZE,
    ) {
        let mut slots = none();
        for (i, (h, npages)) in places.iter().enumerate() {
            let r = SlotRequest { hva: Hva(HVA + h * PAGE_SIZE), ..request(i as u32, i as u64 * 16, *npages) };
            slots = with(&slots, &r);
        }
        for id in gone {
            slots = slots.with(&request(id, 0, 0)).map_or(slots, |(next, _)| next);
        }
        let (from, to) = (HVA + start, HVA + start + len);

        let found: Vec<_> = slots.ranges_of_hva(Hva(from), Hva(to)).collect();

        for gfn in 0..128 {
            let hva = slots.lookup(Gfn(gfn), &mut 0).and_then(|s| s.hva_of(Gfn(gfn)));
            let hit = hva.is_some_and(|h| h.0 < to && from < h.0 + PAGE_SIZE && from < to);
            prop_assert_eq!(found.iter().filter(|r| r.contains(Gfn(gfn))).count(), usize::from(hit), "gfn {}", gfn);
        }
        prop_assert_eq!(slots.shows_hva(Hva(from), Hva(to)), !found.is_empty());
    }
}
