// SPDX-License-Identifier: GPL-2.0

//! Rings of dirty pages: a copy that is kept by them alone ends as the memory does, whoever writes in whatever order; and
//! no vCPU runs on whose ring has no room.

use super::dirty::{
    among_writers, gpa, guest, has_large, large, write_pages, SlotCopy, FIRST, LOG, PAGES, SHOWN, SLOT,
};
use super::{for_seeds, Random};
use crate::fake::backend::Stop;
use crate::fake::direct::{Direct, Vcpu};
use crate::host::world::World;
use crate::kvm::dirty_ring;
use crate::machine::dirty_ring::{DirtyRing, DirtyRings, MAX_BYTES};
use crate::vcpu::exit::VmExit;
use crate::vcpu::outcome::UserExit;
use kernel::prelude::*;
use kernel::sync::Arc as KernelArc;
use kernel::task::{current, Task, SIGNAL};

/// The bytes of a ring, and its entries.
const BYTES: u32 = 4096;
const ENTRIES: usize = 256;
/// How many a vCPU may fill.
const LIMIT: usize = ENTRIES - 64;
/// Flags of an entry.
const DIRTY: u64 = 1;
const HARVESTED: u64 = 2;

/// User space's side of a ring.
struct Harvest {
    ring: KernelArc<DirtyRing>,
    next: usize,
}

impl Harvest {
    fn of(vcpu: &Vcpu) -> Harvest {
        Harvest { ring: vcpu.core.dirty_ring.clone().unwrap(), next: 0 }
    }

    /// Takes note of up to `most` entries. Returns their slots and pages.
    fn take(&mut self, most: usize) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        while found.len() < most {
            let (page, at) =
                (&self.ring.pages()[self.next % ENTRIES * 16 / 4096], self.next % ENTRIES * 16 % 4096);
            let word = page.word(at);
            if word & u64::from(u32::MAX) != DIRTY {
                break;
            }
            found.push((word >> 32, page.word(at + 8)));
            page.write(at, &(word & !u64::from(u32::MAX) | HARVESTED).to_le_bytes());
            self.next += 1;
        }
        found
    }
}

fn choose(direct: &Direct) {
    dirty_ring::enable(&direct.vm, false, BYTES).unwrap();
}

fn start_logging(direct: &Direct) {
    direct.set_slot_with(SLOT, FIRST, PAGES, SHOWN, LOG).unwrap();
}

/// Harvests, resets, then copies what was harvested. Returns how much it was.
fn round(direct: &Direct, copy: &mut SlotCopy, harvests: &mut [Harvest], most: usize) -> usize {
    let found: Vec<_> = harvests.iter_mut().flat_map(|h| h.take(most)).collect();
    assert_eq!(dirty_ring::reset(&direct.vm), Ok(found.len() as i64));
    for (slot, page) in &found {
        assert_eq!(*slot, u64::from(SLOT));
        copy.page(*page);
    }
    found.len()
}

fn run_guest(vcpu: &mut Vcpu) {
    loop {
        match vcpu.run_once() {
            Err(EINTR) => return,
            Ok(Some(UserExit::DirtyRingFull)) => kernel::sched::yield_point(),
            other => panic!("{other:?}"),
        }
    }
}

fn migrate(seed: u64) {
    let world = World::new();
    let tasks: Vec<_> = (0..5).map(|cpu| Task::new(&world.process, cpu)).collect();
    let entered = world.enter_as(&tasks[0]);
    let direct = Direct::new(&world, 16);
    world.process.map(SHOWN, PAGES * 4096, true, has_large(seed));
    direct.set_slot(SLOT, FIRST, PAGES, SHOWN).unwrap();
    // Logs that begin marked are of no use to a ring.
    assert!(direct.vm.machine.ram.dirty_mode.choose([0, 3][(seed % 2) as usize]));
    choose(&direct);
    let (mut first, mut second) = (guest(&direct, 0, seed), guest(&direct, 1, seed ^ 1 << 32));
    let mut harvests = [Harvest::of(&first), Harvest::of(&second)];
    let mut copy = SlotCopy::new(&direct);
    drop(entered);
    among_writers(seed, (&direct, &tasks), [&mut first, &mut second], run_guest, || {
        let mut random = Random::new(seed ^ 0x33);
        start_logging(&direct);
        copy.all();
        for _ in 0..8 {
            round(&direct, &mut copy, &mut harvests, random.below(6) as usize);
            kernel::sched::yield_point();
        }
    });

    let _entered = world.enter_as(&tasks[0]);
    round(&direct, &mut copy, &mut harvests, usize::MAX);
    copy.check("the rings");
    assert_eq!(round(&direct, &mut copy, &mut harvests, usize::MAX), 0, "nobody has written since");
    drop((first, second, harvests, copy));
    drop(direct);
    assert_eq!(world.tables.len(), 0, "all tables are freed");
}

#[test]
fn no_write_is_missing_in_the_rings() {
    for_seeds(40, migrate);
}

#[test]
fn a_page_comes_once_until_it_is_reset() {
    let (_world, _in, direct, _, faults) = large();
    choose(&direct);
    let mut vcpu = direct.vcpu(1);
    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    let mut harvest = Harvest::of(&vcpu);

    assert_eq!(write_pages(&mut vcpu, &faults, 0..100), 100);
    assert_eq!(write_pages(&mut vcpu, &faults, 0..100), 0, "they are in the ring");
    assert_eq!(harvest.take(40), (0..40).map(|page| (u64::from(SLOT), page)).collect::<Vec<_>>());
    assert_eq!(write_pages(&mut vcpu, &faults, 0..100), 0, "what is harvested is written until it is reset");
    assert_eq!(dirty_ring::reset(&direct.vm), Ok(40));
    assert_eq!(dirty_ring::reset(&direct.vm), Ok(0), "once");
    assert_eq!(write_pages(&mut vcpu, &faults, 0..100), 40);
    let pages: Vec<_> = harvest.take(usize::MAX).into_iter().map(|(_, page)| page).collect();
    assert_eq!(pages, (40..100).chain(0..40).collect::<Vec<_>>());
}

#[test]
fn a_vcpu_whose_ring_is_full_leaves_until_it_is_reset() {
    let (_world, _in, direct, ..) = large();
    choose(&direct);
    let mut vcpu = direct.vcpu(1);
    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    let mut harvest = Harvest::of(&vcpu);
    let mut pages = 0..300u64;
    let mut next = None;
    vcpu.guest.run(move |entry| loop {
        let Some(page) = next.take().or_else(|| pages.next()) else {
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        };
        if let Err(exit) = entry.write_u64(gpa(page), page) {
            next = Some(page);
            return Stop::plain(exit);
        }
    });

    for _ in 0..2 {
        assert!(matches!(vcpu.run_once(), Ok(Some(UserExit::DirtyRingFull))));
    }
    assert_eq!(harvest.take(1).len(), 1);
    assert!(matches!(vcpu.run_once(), Ok(Some(UserExit::DirtyRingFull))), "harvested is not reset");
    assert_eq!(dirty_ring::reset(&direct.vm), Ok(1));
    assert!(matches!(vcpu.run_once(), Ok(Some(UserExit::DirtyRingFull))), "one more");
    assert_eq!(harvest.take(usize::MAX).len(), LIMIT);
    assert_eq!(dirty_ring::reset(&direct.vm), Ok(LIMIT as i64));
    assert_eq!(vcpu.run_once(), Err(EINTR));
    // That which it was about to write comes again.
    assert_eq!(harvest.take(usize::MAX).len(), 300 - LIMIT);
}

#[test]
fn what_user_space_writes_into_its_ring_harms_nobody_else() {
    let (_world, _in, direct, _, faults) = large();
    choose(&direct);
    let mut vcpu = direct.vcpu(1);
    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    assert_eq!(write_pages(&mut vcpu, &faults, 0..6), 6);
    let ring = vcpu.core.dirty_ring.clone().unwrap();
    let page = &ring.pages()[0];

    // All entries of the ring are harvested, it says, of slots and pages that are none.
    for entry in 0..ENTRIES {
        let odd = [
            (9u64, 0u64),
            (1 << 16 | u64::from(SLOT), 1),
            (u64::from(SLOT), 512),
            (u64::from(SLOT), u64::MAX),
        ];
        let (slot, number) = odd[entry % 4];
        page.write(entry * 16, &(slot << 32 | HARVESTED).to_le_bytes());
        page.write(entry * 16 + 8, &number.to_le_bytes());
    }

    assert_eq!(dirty_ring::reset(&direct.vm), Ok(6), "no more than were put in");
    assert_eq!(write_pages(&mut vcpu, &faults, 0..6), 0, "and none of those");
    assert_eq!(write_pages(&mut vcpu, &faults, 6..8), 2);
}

#[test]
fn rings_have_sizes_and_are_chosen_once_and_before_vcpus() {
    let (_world, _in, direct, _vcpu, _) = large();

    for bytes in [0, 2048, 4096 + 16, 3 * 4096] {
        assert_eq!(dirty_ring::enable(&direct.vm, false, bytes), Err(EINVAL), "{bytes}");
    }
    assert_eq!(dirty_ring::enable(&direct.vm, false, 2 * MAX_BYTES), Err(E2BIG));
    assert_eq!(dirty_ring::enable(&direct.vm, true, BYTES), Err(EINVAL));
    assert_eq!(dirty_ring::reset(&direct.vm), Err(EINVAL));
    assert_eq!(dirty_ring::enable(&direct.vm, false, MAX_BYTES), Ok(()));
    assert_eq!(dirty_ring::enable(&direct.vm, false, BYTES), Err(EINVAL));
    assert_eq!(dirty_ring::reset(&direct.vm), Ok(0));
    assert!(DirtyRings::new(MAX_BYTES).unwrap().get(0).is_none());
}
