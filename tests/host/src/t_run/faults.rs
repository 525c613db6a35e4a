// SPDX-License-Identifier: GPL-2.0

//! Second-level faults against invalidations and changes of the slots, in random order: no guest uses memory that
//! has been taken from it.

use super::{for_seeds, run_all, thread, Random};
use crate::arch::addr::Gpa;
use crate::fake::backend::Stop;
use crate::fake::direct::{Direct, RAM};
use crate::fake::steps::{CODE, STORES};
use crate::host::world::{locked, World};
use crate::mmu::format::GuestTouch;
use crate::vcpu::exit::VmExit;
use crate::vcpu::state::RBX;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{current, Task, SIGNAL};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const VCPUS: u64 = 2;
/// Pages of the slot that stays, and those of the one that comes and goes.
const FIXED: u64 = 24;
const PAGES: u64 = 8;
/// Where the second slot is, and where else.
const HERE: u64 = 32;
const THERE: u64 = 48;
/// What it can show.
const ONE: u64 = 0x6000_0000;
const OTHER: u64 = 0x6100_0000;

/// What each frame of the guest may show, and how far the guests are.
#[derive(Default)]
struct Model {
    /// More than one place for a frame while a change is under way.
    shown: Mutex<HashMap<u64, Vec<u64>>>,
    /// Touches so far.
    touches: AtomicU64,
    /// vCPUs that have ended.
    ended: AtomicU64,
}

impl Model {
    /// A change begins: what is shown now and what will be, both may be.
    fn allow(&self, gfn: u64, pages: u64, hva: u64) {
        for i in 0..pages {
            locked(&self.shown).entry(gfn + i).or_default().push(hva + i * 4096);
        }
    }

    /// The change is over: that is not shown any more.
    fn forbid(&self, gfn: u64, pages: u64, hva: u64) {
        for i in 0..pages {
            locked(&self.shown).entry(gfn + i).or_default().retain(|h| *h != hva + i * 4096);
        }
    }

    /// Waits until the guests have touched memory some more, so that changes meet what they have mapped.
    fn let_them_touch(&self, touches: u64) {
        let goal = self.touches.load(SeqCst) + touches;
        sched::wait_until("touches", || {
            self.touches.load(SeqCst) >= goal || self.ended.load(SeqCst) == VCPUS
        });
    }

    fn allows(&self, world: &World, gfn: u64, pfn: u64) -> bool {
        let places = locked(&self.shown).get(&gfn).cloned().unwrap_or_default();
        places.iter().any(|hva| world.process.pfn(*hva) == Some(pfn))
    }
}

/// A vCPU that touches memory at random, and looks where it got to.
fn guest(direct: &Direct, model: &Arc<Model>, id: u32, seed: u64) -> crate::fake::direct::Vcpu {
    let vcpu = direct.vcpu(id);
    let (mut random, model, mut left, mut entries) = (Random::new(seed), model.clone(), 400, 0u32);
    vcpu.guest.run(move |entry| {
        entries += 1;
        entry.state.rip = CODE + 128;
        // The host's tick, which RCU waits for.
        if entries % 6 == 0 {
            return Stop::plain(VmExit::HostInterrupt);
        }
        // Now and then it runs for so long that much happens meanwhile; then it stays in the slot that stays, for a
        // touch of what is not there ends the entry.
        let is_long = random.below(4) == 0;
        for _ in 0..if is_long { 100 } else { 8 } {
            assert!(entries < 20_000, "the guest does not get on");
            if left <= 0 {
                current().set(SIGNAL);
                return Stop::plain(VmExit::HostInterrupt);
            }
            let gfn = match random.below(3) {
                _ if is_long => 8 + random.below(FIXED - 8),
                0 => 8 + random.below(FIXED - 8),
                1 => HERE + random.below(PAGES),
                _ => THERE + random.below(PAGES),
            };
            let touch = if random.below(2) == 0 { GuestTouch::Write } else { GuestTouch::Read };
            entry.state.gprs[RBX] = gfn * 4096;
            let world = entry.world.clone();
            match entry.frame(Gpa(gfn * 4096), touch) {
                Ok(pfn) => {
                    left -= 1;
                    model.touches.fetch_add(1, SeqCst);
                    assert!(model.allows(&world, gfn, pfn), "frame {gfn:#x} shows {pfn:#x}");
                    if touch == GuestTouch::Write {
                        world.process.note_written(pfn);
                    }
                }
                Err(exit) => return Stop { tells_next: false, ..Stop::insn(exit, STORES[2]) },
            }
        }
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    vcpu
}

fn run_guest(model: &Model, vcpu: &mut crate::fake::direct::Vcpu) {
    loop {
        match vcpu.run_once() {
            Ok(Some(exit)) => {
                assert!(matches!(exit, crate::vcpu::outcome::UserExit::Mmio { .. }), "{exit:?}");
                vcpu.core.io.complete(0);
            }
            Ok(None) => unreachable!(),
            Err(e) if e == EINTR => break,
            // The page has been unmapped.
            Err(e) if e == EFAULT => {}
            Err(e) => panic!("{e:?}"),
        }
    }
    model.ended.fetch_add(1, SeqCst);
}

/// Changes the second slot.
fn change_slots(direct: &Direct, model: &Model, seed: u64) {
    let mut random = Random::new(seed ^ 0x55);
    let mut now = None;
    for _ in 0..10 {
        model.let_them_touch(random.below(30));
        let next = match random.below(4) {
            0 => None,
            1 => Some((HERE, ONE)),
            2 => Some((THERE, ONE)),
            _ => Some((HERE, OTHER)),
        };
        // What a slot shows stays: to show something else it is deleted first.
        let keeps = matches!((now, next), (Some((_, a)), Some((_, b))) if a == b);
        if let Some((gfn, hva)) = now.filter(|_| !keeps) {
            direct.set_slot(1, 0, 0, 0).unwrap();
            model.forbid(gfn, PAGES, hva);
            now = None;
        }
        if let Some((gfn, hva)) = next.filter(|n| Some(*n) != now) {
            model.allow(gfn, PAGES, hva);
            direct.set_slot(1, gfn, PAGES, hva).unwrap();
            if let Some((gfn, hva)) = now {
                model.forbid(gfn, PAGES, hva);
            }
        }
        now = next;
    }
}

/// Takes pages away, for a while or for good.
fn invalidate(world: &World, model: &Model, seed: u64) {
    let mut random = Random::new(seed ^ 0xaa);
    for _ in 0..20 {
        model.let_them_touch(random.below(20));
        let (base, pages) = match random.below(3) {
            0 => (RAM, FIXED),
            1 => (ONE, PAGES),
            _ => (OTHER, PAGES),
        };
        let first = random.below(pages);
        let count = 1 + random.below((pages - first).min(4));
        let hva = base + first * 4096;
        if random.below(4) == 0 {
            world.write_back(hva, count * 4096);
        } else if random.below(5) == 0 && base != RAM {
            world.unmap(hva, count * 4096);
            world.process.map(hva, count * 4096, true, false);
        } else {
            world.evict(hva, count * 4096);
        }
        sched::yield_point();
    }
}

fn interleave(seed: u64, make: impl Fn(&Arc<World>, u64) -> Direct) {
    let world = World::new();
    let tasks: Vec<_> = (0..5).map(|cpu| Task::new(&world.process, cpu)).collect();
    let entered = world.enter_as(&tasks[0]);
    let direct = make(&world, FIXED);
    let model = Arc::new(Model::default());
    model.allow(0, FIXED, RAM);
    for base in [ONE, OTHER] {
        world.process.map(base, PAGES * 4096, true, false);
    }
    let (mut first, mut second) =
        (guest(&direct, &model, 0, seed), guest(&direct, &model, 1, seed ^ 1 << 32));
    let bodies = vec![
        thread(&world, &tasks[0], || run_guest(&model, &mut first)),
        thread(&world, &tasks[1], || run_guest(&model, &mut second)),
        thread(&world, &tasks[2], || change_slots(&direct, &model, seed)),
        thread(&world, &tasks[3], || invalidate(&world, &model, seed)),
        thread(&world, &tasks[4], || invalidate(&world, &model, seed ^ 1 << 33)),
    ];
    drop(entered);
    run_all(seed, bodies);

    let _entered = world.enter_as(&tasks[0]);
    assert!(direct.vm.machine.ram.stable_sequence().is_some(), "each change that began has ended");
    assert_eq!(world.process.pins(), 0, "no page is held");
    drop((first, second));
    drop(direct);
    assert_eq!(world.tables.len(), 0, "all tables are freed");
}

#[test]
fn no_guest_uses_memory_that_was_taken_from_it() {
    for_seeds(20, |seed| interleave(seed, Direct::new));
}

#[test]
fn nor_does_one_whose_processors_walk_shadow_pages() {
    for_seeds(20, |seed| interleave(seed, Direct::shadow));
}

#[test]
fn large_pages_of_the_host_are_large_ones_of_the_guest_until_they_are_split() {
    let world = World::new();
    let _in = world.enter(0);
    let settings = crate::machine::settings::ModuleSettings { nx_huge_pages: 0, ..crate::fake::settings() };
    let direct = Direct::with(&world, 16, settings);
    let large = 0x4000_0000;
    world.process.map(large, 4 << 20, true, true);
    direct.set_slot(1, 512, 1024, large).unwrap();
    world.process.populate(large, 4 << 20);
    let mut vcpu = direct.vcpu(0);
    let faults = Arc::new(Mutex::new(0));
    let count = faults.clone();
    let mut next = 0;
    vcpu.guest.run(move |entry| {
        while next < 1024 {
            match entry.frame(Gpa((512 + next) * 4096), GuestTouch::Write) {
                Ok(pfn) => assert_eq!(entry.world.process.pfn(large + next * 4096), Some(pfn)),
                Err(exit) => {
                    *locked(&count) += 1;
                    return Stop::plain(exit);
                }
            }
            next += 1;
        }
        current().set(SIGNAL);
        Stop::plain(VmExit::HostInterrupt)
    });

    assert_eq!(vcpu.run_once(), Err(EINTR));
    assert_eq!(*locked(&faults), 2, "one for each large page");

    world.evict(large, 4096);
    world.notifiers.release();
    assert!(world.tables.len() >= 1);
}
