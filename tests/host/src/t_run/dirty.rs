// SPDX-License-Identifier: GPL-2.0

//! Dirty logs against all who write, in random order: a copy that is kept by the log alone ends as the memory does.
//!
//! Two vCPUs, devices of the module and of the host, and the walks of the guest's tables write; the host takes pages
//! away meanwhile; and somebody copies what the log says, as a migration does.

use super::{for_seeds, run_all, thread, world, Random};
use crate::abi::vm::{ClearDirtyLog, DirtyLog};
use crate::arch::addr::Gpa;
use crate::fake::backend::Stop;
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{CODE, STORES};
use crate::host::world::{locked, World};
use crate::kvm::dirty_log;
use crate::mmu::format::GuestTouch;
use crate::mmu::mem::{GuestMem, MemError};
use crate::vcpu::exit::VmExit;
use crate::vcpu::outcome::UserExit;
use crate::vcpu::state::RBX;
use kernel::prelude::*;
use kernel::task::{current, Task, SIGNAL};
use std::sync::{Arc, Mutex};
use zerocopy::IntoBytes;

/// The slot that logs: its number, frames and memory. It is a large page and a few small ones.
pub(super) const SLOT: u32 = 1;
pub(super) const FIRST: u64 = 512;
pub(super) const PAGES: u64 = 512 + 70;
pub(super) const SHOWN: u64 = 0x6000_0000;
/// Where the migrating thread has its structures.
const SCRATCH: u64 = 0x5000_0000;
const BITMAP: u64 = SCRATCH + 4096;
/// `KVM_MEM_LOG_DIRTY_PAGES` and `KVM_MEM_READONLY`.
pub(super) const LOG: u32 = 1;
const READ_ONLY: u32 = 2;

/// The pages that are written: few, so that many want the same, in several words of the log, large pages and slots'
/// ends.
const USED: [u64; 16] = [0, 1, 2, 3, 63, 64, 65, 127, 200, 511, 512, 513, 514, 575, 576, PAGES - 1];

fn some_page(random: &mut Random) -> u64 {
    USED[random.below(USED.len() as u64) as usize]
}

pub(super) fn gpa(page: u64) -> Gpa {
    Gpa((FIRST + page) * 4096 + page % 512 * 8)
}

/// A copy of the slot's used words.
pub(super) struct SlotCopy {
    direct: Direct,
    words: Vec<u64>,
}

impl SlotCopy {
    /// Nothing is copied yet.
    pub(super) fn new(direct: &Direct) -> SlotCopy {
        SlotCopy { direct: direct.clone(), words: vec![0; PAGES as usize] }
    }

    /// Copies the word of a page.
    pub(super) fn page(&mut self, page: u64) {
        let mut word = [0u8; 8];
        let at = SHOWN + page * 4096 + page % 512 * 8;
        self.direct.world.process.read(at, &mut word, true).unwrap();
        self.words[page as usize] = u64::from_le_bytes(word);
    }

    /// Copies all.
    pub(super) fn all(&mut self) {
        USED.iter().for_each(|page| self.page(*page));
    }

    /// Looks whether the memory is as the copy, of which `who` has told.
    pub(super) fn check(&self, who: &str) {
        let mut now = SlotCopy::new(&self.direct);
        now.all();
        for (page, (copied, is)) in self.words.iter().zip(&now.words).enumerate() {
            assert_eq!(copied, is, "page {page} was written, and {who} did not say so");
        }
    }
}

/// A migration: the copy, and what it does with the log.
struct Migration {
    direct: Direct,
    copy: SlotCopy,
    is_manual: bool,
}

impl Migration {
    fn new(direct: &Direct, is_manual: bool) -> Migration {
        Migration { direct: direct.clone(), copy: SlotCopy::new(direct), is_manual }
    }

    fn set_logging(&self, on: bool) {
        let flags = if on { LOG } else { 0 };
        self.direct.set_slot_with(SLOT, FIRST, PAGES, SHOWN, flags).unwrap();
    }

    /// Returns the marks, which are taken, of 64 pages in each word.
    fn marks(&self) -> Vec<u64> {
        let process = &self.direct.world.process;
        let asked = DirtyLog { slot: SLOT, padding1: 0, dirty_bitmap: BITMAP };
        process.write(SCRATCH, asked.as_bytes(), true).unwrap();
        dirty_log::get(&self.direct.vm, SCRATCH).unwrap();
        let mut words = vec![0u64; PAGES.div_ceil(64) as usize];
        process.read(BITMAP, words.as_mut_bytes(), true).unwrap();
        words
    }

    fn clear(&self, first_page: u64, num_pages: u64) {
        let dirty_bitmap = BITMAP + first_page / 8;
        let asked = ClearDirtyLog { slot: SLOT, num_pages: num_pages as u32, first_page, dirty_bitmap };
        self.direct.world.process.write(SCRATCH, asked.as_bytes(), true).unwrap();
        dirty_log::clear(&self.direct.vm, SCRATCH).unwrap();
    }

    /// Copies what the log says. `random`: clears the log in pieces, and not all of it.
    fn round(&mut self, random: Option<&mut Random>) {
        let words = self.marks();
        let mut taken = vec![true; words.len()];
        match random {
            Some(random) if self.is_manual => {
                for (i, taken) in taken.iter_mut().enumerate() {
                    *taken = random.below(3) != 0;
                    let first = i as u64 * 64;
                    if *taken {
                        self.clear(first, (PAGES - first).min(64));
                    }
                }
            }
            None if self.is_manual => self.clear(0, PAGES),
            _ => {}
        }
        for (i, (word, taken)) in words.iter().zip(taken).enumerate() {
            for bit in (0..64).filter(|bit| taken && word >> bit & 1 != 0) {
                self.copy.page(i as u64 * 64 + bit);
            }
        }
    }

    fn run(&mut self, seed: u64) {
        let mut random = Random::new(seed ^ 0x33);
        for _ in 0..8 {
            if random.below(4) == 0 {
                self.set_logging(false);
                self.set_logging(true);
                self.copy.all();
            } else {
                self.round(Some(&mut random));
            }
            kernel::sched::yield_point();
        }
    }
}

/// A vCPU that writes and reads.
pub(super) fn guest(direct: &Direct, id: u32, seed: u64) -> Vcpu {
    let vcpu = direct.vcpu(id);
    let (mut random, mut left, mut entries) = (Random::new(seed), 100, 0u32);
    vcpu.guest.run(move |entry| {
        entries += 1;
        entry.state.rip = CODE + 128;
        // The host's tick, which RCU waits for.
        if entries % 6 == 0 {
            return Stop::plain(VmExit::HostInterrupt);
        }
        let touches = if random.below(4) == 0 { 60 } else { 6 };
        for _ in 0..touches {
            assert!(entries < 20_000, "the guest does not get on");
            if left <= 0 {
                current().set(SIGNAL);
                return Stop::plain(VmExit::HostInterrupt);
            }
            let at = gpa(some_page(&mut random));
            entry.state.gprs[RBX] = at.0;
            let done = match random.below(3) {
                0 => entry.read_u64(at).map(drop),
                _ => entry.write_u64(at, random.next()),
            };
            match done {
                Ok(()) => left -= 1,
                Err(exit) => return Stop { tells_next: false, ..Stop::insn(exit, STORES[2]) },
            }
        }
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    vcpu
}

fn run_guest(vcpu: &mut Vcpu) {
    assert_eq!(vcpu.run_once(), Err(EINTR));
}

/// Writes as the module's devices do, as the walker of the guest's tables does, and as the host's devices do.
fn devices(direct: &Direct, seed: u64) {
    let mut random = Random::new(seed ^ 0x77);
    let ram = &*direct.vm.machine.ram;
    for _ in 0..40 {
        let (at, value) = (gpa(some_page(&mut random)), random.next());
        loop {
            let done = match random.below(4) {
                0 => ram.write(at, &value.to_le_bytes()),
                1 => ram.read_obj::<u64>(at).and_then(|old| ram.cmpxchg(at, 8, old, value)).map(drop),
                2 => {
                    let pinned = crate::host::cpu::PinnedCpu::pin();
                    ram.pinned(&pinned).write_obj(at, &value)
                }
                _ => {
                    let hva = SHOWN + (at.0 - FIRST * 4096);
                    direct.world.process.write(hva, &value.to_le_bytes(), true).unwrap();
                    ram.note_written([(Gpa(at.0 & !7), 8)].into_iter());
                    Ok(())
                }
            };
            match done {
                Ok(()) => break,
                Err(MemError::NotResident(at)) => ram.fault_in(at, true).unwrap(),
                Err(e) => panic!("{e:?}"),
            }
        }
    }
}

fn take_away(world: &World, seed: u64, is_large: bool) {
    let mut random = Random::new(seed ^ 0xaa);
    for _ in 0..15 {
        let hva = SHOWN + some_page(&mut random) * 4096;
        // The stand-in's large pages come and go as a whole.
        if !is_large && random.below(2) == 0 {
            world.evict(hva, 4096);
        } else {
            world.write_back(hva, 4096);
        }
        kernel::sched::yield_point();
    }
}

/// Runs `migration` beside two vCPUs that `run` runs, devices, and a host that takes pages away.
pub(super) fn among_writers(
    seed: u64,
    (direct, tasks): (&Direct, &[Arc<Task>]),
    [first, second]: [&mut Vcpu; 2],
    run: impl Fn(&mut Vcpu) + Sync,
    migration: impl FnOnce() + Send,
) {
    let world = &direct.world;
    let bodies = vec![
        thread(world, &tasks[0], || run(first)),
        thread(world, &tasks[1], || run(second)),
        thread(world, &tasks[2], || devices(direct, seed)),
        thread(world, &tasks[3], migration),
        thread(world, &tasks[4], || take_away(world, seed, has_large(seed))),
    ];
    run_all(seed, bodies);
}

/// Returns whether the host has a large page there.
pub(super) fn has_large(seed: u64) -> bool {
    seed % 3 == 0
}

fn migrate(seed: u64) {
    let world = World::new();
    let tasks: Vec<_> = (0..5).map(|cpu| Task::new(&world.process, cpu)).collect();
    let entered = world.enter_as(&tasks[0]);
    let settings = crate::machine::settings::ModuleSettings {
        nx_huge_pages: (seed % 2) as u8,
        ..crate::fake::settings()
    };
    let direct = Direct::with(&world, 16, settings);
    world.process.map(SHOWN, PAGES * 4096, true, has_large(seed));
    world.process.map(SCRATCH, 0x4000, true, false);
    direct.set_slot(SLOT, FIRST, PAGES, SHOWN).unwrap();
    let options = [0, 1, 3][(seed / 2 % 3) as usize];
    assert!(direct.vm.machine.ram.dirty_mode.choose(options));
    let mut migration = Migration::new(&direct, options != 0);
    let (mut first, mut second) = (guest(&direct, 0, seed), guest(&direct, 1, seed ^ 1 << 32));
    drop(entered);
    among_writers(seed, (&direct, &tasks), [&mut first, &mut second], run_guest, || {
        migration.set_logging(true);
        migration.copy.all();
        migration.run(seed);
    });

    let _entered = world.enter_as(&tasks[0]);
    migration.round(None);
    migration.copy.check("the log");
    assert!(migration.marks().iter().all(|word| *word == 0), "nobody has written since");
    drop((first, second, migration));
    drop(direct);
    assert_eq!(world.tables.len(), 0, "all tables are freed");
}

#[test]
fn no_write_is_missing_in_the_log() {
    for_seeds(40, migrate);
}

/// Makes a VM with a slot of one large page and one that writes to its pages in turn. Returns how many faults
/// there were since the last time.
pub(super) fn large() -> (Arc<World>, crate::host::world::Entered, Direct, Vcpu, Arc<Mutex<u64>>) {
    let (world, entered) = world();
    let settings = crate::machine::settings::ModuleSettings { nx_huge_pages: 0, ..crate::fake::settings() };
    let direct = Direct::with(&world, 16, settings);
    world.process.map(SHOWN, 512 * 4096, true, true);
    world.process.populate(SHOWN, 512 * 4096);
    direct.set_slot(SLOT, FIRST, 512, SHOWN).unwrap();
    let vcpu = direct.vcpu(0);
    let faults = Arc::new(Mutex::new(0));
    (world, entered, direct, vcpu, faults)
}

pub(super) fn write_pages(vcpu: &mut Vcpu, faults: &Arc<Mutex<u64>>, pages: core::ops::Range<u64>) -> u64 {
    let (mut pages, count, mut next) = (pages, faults.clone(), None);
    *locked(faults) = 0;
    current().clear(SIGNAL);
    vcpu.guest.run(move |entry| loop {
        let Some(page) = next.take().or_else(|| pages.next()) else {
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        };
        if let Err(exit) = entry.write_u64(gpa(page), page) {
            next = Some(page);
            *locked(&count) += 1;
            return Stop::plain(exit);
        }
    });
    assert_eq!(vcpu.run_once(), Err(EINTR));
    let count = *locked(faults);
    count
}

#[test]
fn large_pages_are_split_while_a_slot_logs_and_come_back_after() {
    let (world, _in, direct, mut vcpu, faults) = large();
    assert_eq!(write_pages(&mut vcpu, &faults, 0..512), 1, "a large page");

    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    assert_eq!(write_pages(&mut vcpu, &faults, 0..100), 100, "each page by itself");
    assert_eq!(write_pages(&mut vcpu, &faults, 0..100), 0, "once");

    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, 0).unwrap();
    assert_eq!(write_pages(&mut vcpu, &faults, 0..512), 1, "a large page again");
    drop(world);
}

#[test]
fn a_page_faults_again_after_its_mark_was_taken_and_no_other_does() {
    let (world, _in, direct, mut vcpu, faults) = large();
    world.process.map(SCRATCH, 0x4000, true, false);
    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    assert!(direct.vm.machine.ram.dirty_mode.choose(1));
    let migration = Migration { is_manual: true, ..Migration::new(&direct, true) };
    assert_eq!(write_pages(&mut vcpu, &faults, 0..200), 200);

    let asked = DirtyLog { slot: SLOT, padding1: 0, dirty_bitmap: BITMAP };
    world.process.write(SCRATCH, asked.as_bytes(), true).unwrap();
    dirty_log::get(&direct.vm, SCRATCH).unwrap();
    assert_eq!(write_pages(&mut vcpu, &faults, 0..200), 0, "to look takes nothing");
    // Of the second word every other page.
    world.process.write(BITMAP + 8, &0x5555_5555_5555_5555u64.to_le_bytes(), true).unwrap();
    migration.clear(64, 64);
    assert_eq!(write_pages(&mut vcpu, &faults, 0..200), 32, "those that were cleared");
}

#[test]
fn the_first_clearing_splits_a_large_page_of_a_log_that_began_marked() {
    let (world, _in, direct, mut vcpu, faults) = large();
    world.process.map(SCRATCH, 0x4000, true, false);
    assert!(direct.vm.machine.ram.dirty_mode.choose(3));
    assert_eq!(write_pages(&mut vcpu, &faults, 0..512), 1);
    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    let migration = Migration::new(&direct, true);
    assert_eq!(write_pages(&mut vcpu, &faults, 0..512), 0, "all is marked");

    world.process.write(BITMAP, &u64::MAX.to_le_bytes(), true).unwrap();
    migration.clear(0, 64);
    assert_eq!(write_pages(&mut vcpu, &faults, 0..512), 512, "each page by itself");
    world.process.write(BITMAP, &1u64.to_le_bytes(), true).unwrap();
    migration.clear(0, 64);
    assert_eq!(write_pages(&mut vcpu, &faults, 0..512), 1);
}

#[test]
fn a_write_to_a_read_only_slot_is_an_access_to_a_device() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    world.process.map(SHOWN, 4 * 4096, true, false);
    direct.set_slot_with(SLOT, FIRST, 4, SHOWN, READ_ONLY).unwrap();
    let mut vcpu = direct.vcpu(0);
    let at = Gpa(FIRST * 4096 + 16);
    world.process.write(SHOWN + 16, &0x1234u64.to_le_bytes(), true).unwrap();
    let mut has_read = false;
    vcpu.guest.run(move |entry| {
        entry.state.rip = CODE + 128;
        entry.state.gprs[RBX] = at.0;
        if !has_read {
            match entry.read_u64(at) {
                Ok(value) => {
                    assert_eq!(value, 0x1234);
                    has_read = true;
                }
                Err(exit) => return Stop::plain(exit),
            }
        }
        match entry.memory(at, GuestTouch::Write, |_| ()) {
            Ok(()) => panic!("the guest writes to it"),
            Err(exit) => Stop { tells_next: false, ..Stop::insn(exit, STORES[2]) },
        }
    });

    let exit = vcpu.run_once().unwrap().unwrap();
    assert!(matches!(exit, UserExit::Mmio { gpa, len: 4, is_write: true, .. } if gpa == at), "{exit:?}");
    let ram = &*direct.vm.machine.ram;
    assert_eq!(ram.write(at, &[1]), Err(MemError::NoSlot(at)));
    assert_eq!(ram.cmpxchg(at, 8, 0x1234, 1), Err(MemError::NoSlot(at)));
    assert_eq!(ram.read_obj::<u64>(at), Ok(0x1234));
}

#[test]
fn marks_that_user_space_cannot_be_told_of_stay() {
    let (world, _in, direct, mut vcpu, faults) = large();
    world.process.map(SCRATCH, 0x4000, true, false);
    direct.set_slot_with(SLOT, FIRST, 512, SHOWN, LOG).unwrap();
    let migration = Migration::new(&direct, false);
    assert_eq!(write_pages(&mut vcpu, &faults, 60..70), 10);

    // Of the bitmap's 64 bytes the first half is there, and the rest lies behind the end.
    let asked = DirtyLog { slot: SLOT, padding1: 0, dirty_bitmap: SCRATCH + 0x4000 - 32 };
    world.process.write(SCRATCH, asked.as_bytes(), true).unwrap();
    assert_eq!(dirty_log::get(&direct.vm, SCRATCH), Err(EFAULT));
    assert_eq!(write_pages(&mut vcpu, &faults, 60..70), 10, "none of them can be written without a mark");

    assert_eq!(migration.marks()[..3], [0xf << 60, 0x3f, 0], "all of them are marked still");
    assert!(migration.marks().iter().all(|word| *word == 0), "once");
}
