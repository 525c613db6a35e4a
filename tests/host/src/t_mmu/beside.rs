// SPDX-License-Identifier: GPL-2.0

//! Two hypervisors on one machine: no guest of either meets translations that another guest left.
//!
//! The TLBs here forget nothing by themselves, and remember who filled them. The neighbour does what KVM in
//! Linux 7.3 does with its identifiers (`svm_enable_virtualization_cpu()`, `new_asid()`, `kvm_mmu_load()`).

use crate::mmu::asid::{AsidFlush, AsidNeighbour, AsidPool, AsidTag, WindowAsids};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const OURS: u64 = 0x1000;
const THEIRS: u64 = 0x2000;

#[test]
fn a_neighbour_shows_in_what_it_leaves_in_the_processor() {
    assert_eq!(AsidNeighbour::of(true, THEIRS, OURS), AsidNeighbour::Here);
    assert_eq!(AsidNeighbour::of(true, 0, OURS), AsidNeighbour::Here);
    assert_eq!(AsidNeighbour::of(true, OURS, OURS), AsidNeighbour::Here, "it has not got so far yet");
    assert_eq!(AsidNeighbour::of(false, THEIRS, OURS), AsidNeighbour::Gone);
    assert_eq!(AsidNeighbour::of(false, 0, OURS), AsidNeighbour::Gone);
    assert_eq!(AsidNeighbour::of(false, OURS, OURS), AsidNeighbour::Absent);
}

#[test]
fn beside_a_neighbour_a_window_flushes_its_identifier_first_and_last() {
    let mut pool = AsidPool::new(0, 1, 15);
    let mut window = WindowAsids::open(&mut pool, AsidNeighbour::Here);
    let mut tag = AsidTag::default();
    assert_eq!(window.left_behind(&pool), None, "nothing was run");

    assert_eq!(window.assign(&mut pool, &mut tag), (15, AsidFlush::One));
    assert_eq!(window.assign(&mut pool, &mut tag), (15, AsidFlush::Nothing));

    assert_eq!(window.left_behind(&pool), Some(15));
}

#[test]
fn without_a_neighbour_a_vcpu_keeps_its_identifier_over_windows() {
    let mut pool = AsidPool::new(0, 1, 15);
    let mut tag = AsidTag::default();
    let mut once = |pool: &mut AsidPool, neighbour| {
        let mut window = WindowAsids::open(pool, neighbour);
        let got = window.assign(pool, &mut tag);
        assert_eq!(window.left_behind(pool), None);
        got
    };

    assert_eq!(once(&mut pool, AsidNeighbour::Gone), (1, AsidFlush::All));
    assert_eq!(once(&mut pool, AsidNeighbour::Absent), (1, AsidFlush::Nothing));
    assert_eq!(once(&mut pool, AsidNeighbour::Gone), (1, AsidFlush::All), "one came and went");
}

#[test]
fn a_flush_that_a_refused_entry_may_have_missed_comes_again() {
    let mut pool = AsidPool::new(0, 1, 15);
    let mut tag = AsidTag::default();
    for neighbour in [AsidNeighbour::Absent, AsidNeighbour::Here] {
        let mut window = WindowAsids::open(&mut pool, neighbour);
        let (_, first) = window.assign(&mut pool, &mut tag);
        window.note_refused(&mut pool);
        assert_eq!(window.assign(&mut pool, &mut tag).1, first);
        assert_ne!(first, AsidFlush::Nothing);
    }
}

/// A guest of either side.
type Owner = (bool, usize);

/// One AMD processor.
struct Svm {
    svme: bool,
    hsave: u64,
    tlb: BTreeMap<u32, BTreeSet<Owner>>,
    pool: AsidPool,
    /// The neighbour's identifiers.
    generation: u32,
    next: u32,
    flush_all: bool,
}

impl Svm {
    fn new(cpu: u32, last: u32) -> Svm {
        let pool = AsidPool::new(cpu, 1, last);
        let tlb = BTreeMap::new();
        Svm { svme: false, hsave: 0, tlb, pool, generation: 1, next: last + 1, flush_all: false }
    }

    fn flush(&mut self, asid: u32, flush: AsidFlush) {
        match flush {
            AsidFlush::Nothing => {}
            AsidFlush::One => drop(self.tlb.remove(&asid)),
            AsidFlush::All => self.tlb.clear(),
        }
    }

    /// Runs a guest. Returns whose translations it may have used beside its own.
    fn enter(&mut self, owner: Owner, asid: u32, flush: AsidFlush) -> Vec<Owner> {
        self.flush(asid, flush);
        let there = self.tlb.entry(asid).or_default();
        there.insert(owner);
        there.iter().copied().filter(|o| *o != owner).collect()
    }

    fn neighbour_comes(&mut self, last: u32) {
        if !self.svme {
            (self.svme, self.hsave) = (true, THEIRS);
            self.generation += 1;
            self.next = last + 1;
        }
    }

    fn neighbour_goes(&mut self, cleans_up: bool) {
        if self.svme {
            self.svme = false;
            if cleans_up {
                self.hsave = 0;
            }
        }
    }

    fn neighbour_enters(&mut self, vcpu: usize, held: &mut (u32, u32), last: u32) -> Vec<Owner> {
        if held.0 != self.generation {
            if self.next > last {
                self.generation += 1;
                self.next = 1;
                self.flush_all = true;
            }
            *held = (self.generation, self.next);
            self.next += 1;
        }
        let flush = if std::mem::take(&mut self.flush_all) { AsidFlush::All } else { AsidFlush::Nothing };
        self.enter((true, vcpu), held.1, flush)
    }

    /// A window of ours with some entries of one vCPU, the one at `refused` refused by the processor.
    fn window(&mut self, vcpu: usize, tag: &mut AsidTag, entries: u8, refused: u8) -> Vec<Owner> {
        let neighbour = AsidNeighbour::of(self.svme, self.hsave, OURS);
        let mut window = WindowAsids::open(&mut self.pool, neighbour);
        if neighbour == AsidNeighbour::Gone {
            self.hsave = OURS;
        }
        let mut met = Vec::new();
        for i in 0..entries {
            let (asid, flush) = window.assign(&mut self.pool, tag);
            if i == refused {
                window.note_refused(&mut self.pool);
                break;
            }
            met.extend(self.enter((false, vcpu), asid, flush));
        }
        if let Some(asid) = window.left_behind(&self.pool) {
            self.flush(asid, AsidFlush::One);
        }
        met
    }
}

proptest! {
    #[test]
    fn on_amd_identifiers_are_shared_but_never_what_is_tagged_with_them(
        last in 1u32..6,
        ops in vec((0usize..2, 0usize..5, 0u8..10, 0u8..4, 0u8..6), 1..300),
    ) {
        let mut cpus = [Svm::new(0, last), Svm::new(1, last)];
        let mut tags = [AsidTag::default(); 5];
        // Generation and identifier of the neighbour's vCPUs, and where they ran last.
        let mut theirs = [((0, 0), 0usize); 5];
        for (cpu, vcpu, what, entries, refused) in ops {
            let c = &mut cpus[cpu];
            let met = match what {
                0 => { c.neighbour_comes(last); vec![] }
                1 => { c.neighbour_goes(true); vec![] }
                2 => { c.neighbour_goes(false); vec![] }
                3..=5 if c.svme => {
                    let (held, at) = &mut theirs[vcpu];
                    if *at != cpu {
                        (*at, *held) = (cpu, (0, 0));
                    }
                    c.neighbour_enters(vcpu, held, last)
                }
                _ => c.window(vcpu, &mut tags[vcpu], entries, refused),
            };
            prop_assert_eq!(met, vec![]);
        }
    }
}

/// A VM of either side: the page that is its table's root, and its vCPUs.
struct Vm {
    id: usize,
    root: usize,
    is_ours: bool,
    tags: [AsidTag; 2],
    /// On which processors the neighbour's vCPUs have flushed for it.
    flushed: [[bool; 2]; 2],
}

/// One Intel processor, with what it caches of guest-physical addresses by root, and of linear ones by VPID
/// and root.
#[derive(Default)]
struct Vmx {
    physical: BTreeMap<usize, BTreeSet<usize>>,
    combined: BTreeMap<(u32, usize), BTreeSet<(usize, usize)>>,
}

impl Vmx {
    fn invept(&mut self, root: usize) {
        self.physical.remove(&root);
        self.combined.retain(|(_, r), _| *r != root);
    }

    fn enter(&mut self, vm: usize, root: usize, vcpu: usize, vpid: u32) -> bool {
        let vms = self.physical.entry(root).or_default();
        let vcpus = self.combined.entry((vpid, root)).or_default();
        vms.insert(vm);
        vcpus.insert((vm, vcpu));
        vms.len() == 1 && vcpus.len() == 1
    }
}

proptest! {
    #[test]
    fn on_intel_the_roots_keep_guests_apart_whichever_their_vpids(
        last in 1u32..4,
        ops in vec((0usize..2, 0usize..3, 0usize..2, 0u8..8), 1..300),
    ) {
        let mut cpus = [Vmx::default(), Vmx::default()];
        let mut pools = [AsidPool::new(0, 1, last), AsidPool::new(1, 1, last)];
        // At most three VMs live, in the three pages that there are for roots.
        let mut vms: [Option<Vm>; 3] = [None, None, None];
        let mut made = 0;
        for (cpu, slot, vcpu, what) in ops {
            if what < 2 || vms[slot].is_none() {
                let tags = [AsidTag::default(); 2];
                let free = (0..3).find(|r| vms.iter().flatten().all(|v| v.root != *r)).unwrap_or(0);
                let root = vms[slot].as_ref().map_or(free, |v| v.root);
                made += 1;
                vms[slot] = Some(Vm { id: made, root, is_ours: what % 2 == 0, tags, flushed: [[false; 2]; 2] });
                continue;
            }
            let Some(vm) = vms[slot].as_mut() else { continue };
            let (vpid, flushes) = if vm.is_ours {
                let got = pools[cpu].assign(&mut vm.tags[vcpu]);
                (got.asid, got.is_new)
            } else {
                // Its VPIDs are the lowest, too; a vCPU flushes everything when it has moved.
                let moved = !vm.flushed[vcpu][cpu];
                vm.flushed[vcpu] = [cpu == 0, cpu == 1];
                (slot as u32 * 2 + vcpu as u32 + 1, moved)
            };
            if flushes {
                cpus[cpu].invept(vm.root);
            }
            prop_assert!(cpus[cpu].enter(vm.id, vm.root, vcpu, vpid));
        }
    }
}
