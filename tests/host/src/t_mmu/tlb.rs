// SPDX-License-Identifier: GPL-2.0

//! Page faults, MMU notifiers and changes of the slots at once, step by step in any order: no processor finds a page
//! that the host has taken back. The steps are those of the module's `Space` and `GuestRam`.

use super::format::NPT;
use super::slots::{none, request, Changed, HVA};
use super::table::Pool;
use crate::arch::addr::{Gfn, Hva, Pfn, PAGE_SIZE};
use crate::mmu::format::{MapRights, Npt, PageSize};
use crate::mmu::slots::{ChangedSlot, GfnRange, MemSlot, MemSlots, SlotRequest};
use crate::mmu::table::{FlushNeeded, PageTable, RangeUnmapping};
use crate::mmu::tlb::{RamChanges, RamSnapshot, TlbFlushes};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

#[test]
fn a_quiet_fault_may_map() {
    let inv = RamChanges::new();

    assert!(inv.allows(inv.snapshot()));
}

#[test]
fn nothing_may_be_mapped_while_something_changes() {
    let inv = RamChanges::new();
    inv.begin();
    inv.begin();
    inv.end();

    assert!(!inv.allows(inv.snapshot()));
    assert_eq!(inv.stable(), None);
    inv.end();
    assert!(inv.allows(inv.snapshot()));
}

/// The page may have been found while it was on its way out, so it counts when the change ends, too.
#[test]
fn what_was_looked_up_before_a_change_ended_may_not_be_mapped_after_it() {
    let inv = RamChanges::new();
    let before = inv.snapshot();
    inv.begin();
    let during = inv.snapshot();
    inv.end();

    assert!(!inv.allows(before));
    assert!(!inv.allows(during));
}

#[test]
fn a_flush_is_done_when_it_and_all_before_it_are() {
    let flushes = TlbFlushes::new();
    flushes.request();
    let first = flushes.requested();
    flushes.request();
    let second = flushes.requested();

    assert!(!flushes.is_done(first));
    flushes.note_done(second);
    flushes.note_done(first);
    assert!(flushes.is_done(first) && flushes.is_done(second));
}

const PAGES: u64 = 3;
const SLOTS: u32 = 4;

/// A vCPU in guest mode or not, with what its processor remembers.
#[derive(Default)]
struct Cpu {
    in_guest: bool,
    seen: u64,
    tlb: BTreeMap<u64, u64>,
}

/// Somebody in the middle of something. The numbers are how far he is.
enum Actor {
    Fault { gfn: u64, slot: MemSlot, snapshot: RamSnapshot, pfn: Option<u64> },
    Notifier { page: u64, step: u32, walk: Option<Unmap> },
    Change { step: u32, new: MemSlots, walk: Option<Unmap> },
}

/// What [`World::unmap_some`] goes on with.
struct Unmap {
    ranges: RangeUnmapping<std::vec::IntoIter<GfnRange>>,
    all: FlushNeeded,
    /// The generation to be flushed, and the CPUs that have not been asked to leave the guest.
    flush: Option<(u64, Vec<usize>)>,
}

struct World {
    pool: Pool,
    table: PageTable<Npt>,
    slots: Rc<MemSlots>,
    flushes: TlbFlushes,
    invalidations: RamChanges,
    notifiers: usize,
    changes: bool,
    /// What the host has at each page of the VMM.
    host: Vec<Option<u64>>,
    pages_given: u64,
    taken_back: BTreeSet<u64>,
    cpus: Vec<Cpu>,
    actors: Vec<Actor>,
}

fn slot_request(id: u32, gfn: u64, page: u64, npages: u64) -> SlotRequest {
    SlotRequest { hva: Hva(HVA + page * PAGE_SIZE), ..request(id, gfn, npages) }
}

impl World {
    fn new() -> World {
        let mut pool = Pool::default();
        let table = PageTable::new(&mut pool, NPT).unwrap();
        let mut slots = none();
        for id in 0..SLOTS {
            slots = slots.with(&slot_request(id, 8 * u64::from(id), 0, PAGES)).unwrap().0;
        }
        World {
            pool,
            table,
            slots: Rc::new(slots),
            flushes: TlbFlushes::new(),
            invalidations: RamChanges::new(),
            notifiers: 0,
            changes: false,
            host: (1..=PAGES).map(Some).collect(),
            pages_given: PAGES,
            taken_back: BTreeSet::new(),
            cpus: (0..2).map(|_| Cpu::default()).collect(),
            actors: Vec::new(),
        }
    }

    /// A CPU enters the guest, uses a frame, or leaves.
    fn run_cpu(&mut self, cpu: usize, gfn: u64, leaves: bool) {
        let found = self.pool.processor_finds(&NPT, self.table.root(), gfn);
        let c = &mut self.cpus[cpu];
        c.in_guest = !leaves;
        if c.in_guest {
            if c.seen != self.flushes.requested() {
                c.seen = self.flushes.requested();
                c.tlb.clear();
            }
            if let Some((pfn, _)) = found {
                c.tlb.entry(gfn).or_insert(pfn);
            }
        }
    }

    fn start_fault(&mut self, gfn: u64) {
        let snapshot = self.invalidations.snapshot();
        if let Some(slot) = self.slots.lookup(Gfn(gfn), &mut 0).copied() {
            self.actors.push(Actor::Fault { gfn, slot, snapshot, pfn: None });
        }
    }

    fn start_notifier(&mut self, page: u64) {
        self.notifiers += 1;
        self.actors.push(Actor::Notifier { page, step: 0, walk: None });
    }

    fn start_change(&mut self, request: &SlotRequest) {
        if self.changes {
            return;
        }
        if let Ok((new, change)) = self.slots.with(request) {
            self.changes = true;
            self.invalidations.begin();
            let walk = match change {
                ChangedSlot::Deleted(old) | ChangedSlot::Moved { old, .. } => Some(unmap(vec![old.range()])),
                _ => None,
            };
            self.actors.push(Actor::Change { step: 0, new, walk });
        }
    }

    /// One section under the table's lock, or one CPU made to leave the guest. Returns whether all is done.
    fn unmap_some(&mut self, walk: &mut Unmap) -> bool {
        match &mut walk.flush {
            None => {
                let flush = walk.ranges.go_on(&mut self.table, &mut self.pool, 1);
                if flush.is_needed() {
                    self.flushes.request();
                }
                walk.all.join(&mut self.pool, flush);
                if walk.ranges.is_done() {
                    let generation = self.flushes.requested();
                    let is_done = self.flushes.is_done(generation);
                    let cpus = if is_done { Vec::new() } else { (0..self.cpus.len()).collect() };
                    walk.flush = Some((generation, cpus));
                }
                false
            }
            Some((generation, cpus)) => {
                if let Some(cpu) = cpus.pop() {
                    self.cpus[cpu].in_guest = false;
                    return false;
                }
                self.flushes.note_done(*generation);
                std::mem::take(&mut walk.all).release(&mut self.pool, &NPT);
                true
            }
        }
    }

    /// One step of an actor. Returns whether it goes on.
    fn step(&mut self, actor: &mut Actor) -> bool {
        match actor {
            Actor::Fault { gfn, slot, snapshot, pfn } => match *pfn {
                None => {
                    let hva = slot.hva_of(Gfn(*gfn)).unwrap();
                    *pfn = self.host[((hva.0 - HVA) / PAGE_SIZE) as usize];
                    pfn.is_some()
                }
                Some(pfn) => {
                    if self.invalidations.allows(*snapshot) {
                        let gpa = Gfn(*gfn).gpa();
                        let mapped =
                            self.table.map(&mut self.pool, gpa, Pfn(pfn), PageSize::Size4K, MapRights::all());
                        assert!(!mapped.unwrap().flush.is_needed(), "another page was mapped there");
                    }
                    false
                }
            },
            Actor::Notifier { page, step, walk } => self.step_notifier(*page, step, walk),
            Actor::Change { step, new, walk } => self.step_change(step, new, walk),
        }
    }

    fn step_notifier(&mut self, page: u64, step: &mut u32, walk: &mut Option<Unmap>) -> bool {
        let start = HVA + page * PAGE_SIZE;
        let shows = self.slots.shows_hva(Hva(start), Hva(start + PAGE_SIZE));
        match *step {
            0 => {
                if shows {
                    self.invalidations.begin();
                    *walk =
                        Some(unmap(self.slots.ranges_of_hva(Hva(start), Hva(start + PAGE_SIZE)).collect()));
                }
            }
            1 => {
                if walk.as_mut().is_some_and(|walk| !self.unmap_some(walk)) {
                    return true;
                }
            }
            2 => {
                if let Some(pfn) = self.host[page as usize].take() {
                    self.taken_back.insert(pfn);
                }
            }
            _ => {
                self.pages_given += 1;
                self.host[page as usize] = Some(self.pages_given);
                if shows {
                    self.invalidations.end();
                }
                self.notifiers -= 1;
                return false;
            }
        }
        *step += 1;
        true
    }

    fn step_change(&mut self, step: &mut u32, new: &mut MemSlots, walk: &mut Option<Unmap>) -> bool {
        match *step {
            0 => {
                if walk.as_mut().is_some_and(|walk| !self.unmap_some(walk)) {
                    return true;
                }
            }
            1 => {
                if self.notifiers != 0 {
                    return true;
                }
                self.slots = Rc::new(std::mem::replace(new, none()));
            }
            _ => {
                self.invalidations.end();
                self.changes = false;
                return false;
            }
        }
        *step += 1;
        true
    }

    fn check(&self) {
        for gfn in 0..8 * u64::from(SLOTS) {
            if let Some((pfn, _)) = self.pool.processor_finds(&NPT, self.table.root(), gfn) {
                assert!(!self.taken_back.contains(&pfn), "frame {gfn} is mapped to a page taken back");
            }
        }
        for cpu in self.cpus.iter().filter(|cpu| cpu.in_guest) {
            assert!(cpu.tlb.values().all(|pfn| !self.taken_back.contains(pfn)), "a CPU remembers a page");
        }
    }
}

fn unmap(ranges: Vec<GfnRange>) -> Unmap {
    Unmap { ranges: RangeUnmapping::new(ranges.into_iter()), all: FlushNeeded::default(), flush: None }
}

/// What happens next: something begins, or somebody goes on.
#[derive(Clone, Debug)]
enum Event {
    Cpu(usize, u64, bool),
    Fault(u64),
    Notifier(u64),
    Change(u32, u64, u64),
    Step(usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    let gfn = || (0..u64::from(SLOTS), 0..PAGES).prop_map(|(slot, page)| 8 * slot + page);
    prop_oneof![
        4 => (0..2usize, gfn(), any::<bool>()).prop_map(|(cpu, gfn, leaves)| Event::Cpu(cpu, gfn, leaves)),
        3 => gfn().prop_map(Event::Fault),
        1 => (0..PAGES).prop_map(Event::Notifier),
        1 => (0..SLOTS, 0..u64::from(SLOTS), 0u64..=1).prop_map(|(id, at, n)| Event::Change(id, 8 * at, n * PAGES)),
        12 => any::<usize>().prop_map(Event::Step),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_processor_finds_a_page_that_the_host_has_taken_back(events in vec(any_event(), 1..200)) {
        let mut world = World::new();
        for event in events {
            match event {
                Event::Cpu(cpu, gfn, leaves) => world.run_cpu(cpu, gfn, leaves),
                Event::Fault(gfn) => world.start_fault(gfn),
                Event::Notifier(page) => world.start_notifier(page),
                Event::Change(id, gfn, npages) => world.start_change(&slot_request(id, gfn, 0, npages)),
                Event::Step(who) if !world.actors.is_empty() => {
                    let at = who % world.actors.len();
                    let mut actor = world.actors.swap_remove(at);
                    if world.step(&mut actor) {
                        world.actors.push(actor);
                    }
                }
                Event::Step(_) => {}
            }
            world.check();
        }
    }
}
