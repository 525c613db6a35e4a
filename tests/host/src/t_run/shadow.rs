// SPDX-License-Identifier: GPL-2.0

//! vCPUs whose processors walk shadow pages: a guest in long mode, its tables, its faults and its devices.

use crate::arch::addr::Gpa;
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::arch::exception::ExceptionVector;
use crate::fake::backend::{Entry, Stop};
use crate::fake::direct::{Direct, Vcpu, RAM};
use crate::fake::steps::{CODE, STORES};
use crate::host::world::{locked, World};
use crate::mmu::format::GuestTouch;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{CrAccess, CrKind, VmExit};
use crate::vcpu::outcome::UserExit;
use crate::vcpu::state::{RAX, RBX};
use kernel::prelude::*;
use kernel::task::{current, SIGNAL};
use std::sync::{Arc, Mutex};

/// Frames of the tables, from the root down; a second root.
const ROOT: u64 = 32;
const LEVEL3: u64 = 33;
const LEVEL2: u64 = 34;
const LEVEL1: u64 = 35;
const OTHER_ROOT: u64 = 36;
const PAGES: u64 = 64;
/// No memory is there.
const DEVICE: u64 = 0x1000_0000;
/// Present, writable, of the user, accessed, dirty.
const URW: u64 = 0x67;
/// Instructions, in the page that the guest executes from.
const INVLPG: (u64, &[u8]) = (CODE + 0x200, &[0x0f, 0x01, 0x3b]);
const TO_CR3: (u64, &[u8]) = (CODE + 0x210, &[0x0f, 0x22, 0xd8]);
const FROM_CR3: (u64, &[u8]) = (CODE + 0x220, &[0x0f, 0x20, 0xd8]);
/// MOV [EBX], EAX.
const STORE: (u64, &[u8]) = (CODE + 128, STORES[2]);

fn put(world: &World, frame: u64, index: u64, entry: u64) {
    world.process.write(RAM + frame * 4096 + index * 8, &entry.to_le_bytes(), true).unwrap();
}

/// A vCPU in long mode, whose first 2 MiB of linear addresses are the physical ones.
fn vcpu(world: &Arc<World>, direct: &Direct) -> Vcpu {
    for root in [ROOT, OTHER_ROOT] {
        put(world, root, 0, LEVEL3 << 12 | URW);
    }
    put(world, LEVEL3, 0, LEVEL2 << 12 | URW);
    put(world, LEVEL2, 0, LEVEL1 << 12 | URW);
    for gfn in 0..PAGES {
        put(world, LEVEL1, gfn, gfn << 12 | URW);
    }
    put(world, LEVEL1, 100, DEVICE | URW);
    for (at, bytes) in [INVLPG, TO_CR3, FROM_CR3] {
        world.process.write(RAM + at, bytes, true).unwrap();
    }
    let mut vcpu = direct.vcpu(0);
    let s = &mut vcpu.core.state;
    s.cr0 = (Cr0::PE | Cr0::PG | Cr0::WP | Cr0::ET).bits();
    s.cr4 = Cr4::PAE.bits();
    s.efer = (Efer::LME | Efer::LMA | Efer::NXE).bits();
    s.cr3 = ROOT << 12;
    vcpu
}

/// What a guest does next: `None`, it is done with this step.
type Step = Box<dyn FnMut(&mut Entry<'_, '_>) -> Option<Stop> + Send>;

/// Runs the steps one after the other. Returns what user space was asked for meanwhile.
fn run(vcpu: &mut Vcpu, steps: Vec<Step>) -> Vec<UserExit> {
    let (mut steps, mut entries) = (steps.into_iter(), 0);
    let mut step = steps.next();
    vcpu.guest.run(move |entry| {
        entries += 1;
        assert!(entries < 200, "the guest does not get on");
        while let Some(now) = step.as_mut() {
            if let Some(stop) = now(entry) {
                return stop;
            }
            step = steps.next();
        }
        current().set(SIGNAL);
        Stop::plain(VmExit::HostInterrupt)
    });
    let mut asked = Vec::new();
    loop {
        match vcpu.run_once() {
            Ok(Some(exit)) => {
                assert!(!exit.is_end() && asked.len() < 16, "{exit:?}");
                vcpu.core.io.complete(0x1234);
                asked.push(exit);
            }
            Err(e) if e == EINTR => break,
            other => panic!("{other:?}"),
        }
    }
    current().clear(SIGNAL);
    asked
}

/// Reads or writes, and looks which frame that leads to.
fn touch(gva: u64, touch: GuestTouch, gfn: u64) -> Step {
    Box::new(move |entry| match entry.frame(Gpa(gva), touch) {
        Ok(pfn) => {
            let expected = entry.world.process.pfn(RAM + gfn * 4096);
            assert_eq!(Some(pfn), expected, "{gva:#x} leads to frame {gfn:#x}");
            None
        }
        Err(exit) => Some(Stop::plain(exit)),
    })
}

/// Writes eight bytes, by an instruction of four where it is carried out in software.
fn store(gva: u64, value: u64) -> Step {
    let mut is_begun = false;
    Box::new(move |entry| {
        if is_begun && entry.state.rip != STORE.0 {
            return None;
        }
        is_begun = true;
        (entry.state.rip, entry.state.gprs[RBX], entry.state.gprs[RAX]) = (STORE.0, gva, value);
        match entry.write_u64(Gpa(gva), value) {
            Ok(()) => None,
            Err(exit) => Some(Stop { tells_next: false, ..Stop::insn(exit, STORE.1) }),
        }
    })
}

/// An instruction of one exit.
fn exits((rip, insn): (u64, &'static [u8]), exit: VmExit, reg: usize, value: u64) -> Step {
    let mut is_begun = false;
    Box::new(move |entry| {
        if is_begun {
            assert_eq!(entry.state.rip, rip + insn.len() as u64, "it is done");
            return None;
        }
        is_begun = true;
        (entry.state.rip, entry.state.gprs[reg]) = (rip, value);
        Some(Stop { tells_next: false, ..Stop::insn(exit, insn) })
    })
}

fn cr3_write(root: u64) -> Step {
    exits(TO_CR3, VmExit::Cr(CrAccess { number: 3, kind: CrKind::Write }), RAX, root << 12)
}

fn invlpg(gva: u64) -> Step {
    exits(INVLPG, VmExit::Invlpg(None), RBX, gva)
}

/// An access that faults for the guest, with that error code.
fn faults(gva: u64, how: GuestTouch, error: u32) -> Step {
    Box::new(move |entry| {
        if let Some(event) = entry.event {
            assert_eq!(event, GuestEvent::Exception { vector: ExceptionVector::PF, error: Some(error) });
            assert_eq!(entry.hw.regs.cr2, gva);
            return None;
        }
        match entry.frame(Gpa(gva), how) {
            Ok(pfn) => panic!("{gva:#x} leads to {pfn:#x}"),
            Err(exit) => Some(Stop::plain(exit)),
        }
    })
}

fn in_world(test: impl FnOnce(&Arc<World>, &mut Vcpu)) {
    let world = World::new();
    let _in = world.enter(0);
    let direct = Direct::shadow(&world, PAGES);
    let mut vcpu = vcpu(&world, &direct);
    test(&world, &mut vcpu);
    assert_eq!(world.process.pins(), 0, "no page is held");
    drop((vcpu, direct));
    assert_eq!(world.tables.len(), 0, "all tables are freed");
}

#[test]
fn memory_is_shown_as_the_guests_tables_say() {
    in_world(|_, vcpu| {
        let steps = vec![
            touch(0x5000, GuestTouch::Write, 5),
            touch(0x6000, GuestTouch::Read, 6),
            touch(CODE, GuestTouch::Fetch, CODE >> 12),
            faults(0x40_0000, GuestTouch::Read, 0),
            touch(0x6000, GuestTouch::Write, 6),
        ];
        assert_eq!(run(vcpu, steps), []);
    });
}

#[test]
fn the_guest_reads_its_own_cr3_and_loads_another() {
    in_world(|world, vcpu| {
        put(world, OTHER_ROOT, 0, 0);
        let seen = Arc::new(Mutex::new(0));
        let out = seen.clone();
        let steps = vec![
            touch(0x5000, GuestTouch::Write, 5),
            // As QEMU has it: of CR0.
            exits(FROM_CR3, VmExit::Cr(CrAccess { number: 0, kind: CrKind::Read }), RAX, 0),
            Box::new(move |entry: &mut Entry<'_, '_>| {
                *locked(&out) = entry.state.gprs[RAX];
                None
            }),
            cr3_write(OTHER_ROOT),
            faults(0x5000, GuestTouch::Read, 0),
        ];
        assert_eq!(run(vcpu, steps), []);
        assert_eq!(*locked(&seen), ROOT << 12);
    });
}

#[test]
fn the_guest_edits_its_tables() {
    in_world(|_, vcpu| {
        let steps = vec![
            touch(0x5000, GuestTouch::Read, 5),
            // Of level 1: without exits, and in force after the flush.
            store((LEVEL1 << 12) + 5 * 8, 9 << 12 | URW),
            invlpg(0x5000),
            touch(0x5000, GuestTouch::Write, 9),
            // Of level 2, in software: what was absent is there at once.
            store((LEVEL2 << 12) + 8, LEVEL1 << 12 | URW),
            touch(0x20_7000, GuestTouch::Write, 7),
            store((LEVEL1 << 12) + 7 * 8, 11 << 12 | URW),
            cr3_write(ROOT),
            touch(0x20_7000, GuestTouch::Write, 11),
        ];
        assert_eq!(run(vcpu, steps), []);
    });
}

#[test]
fn a_device_is_found_behind_the_guests_tables() {
    in_world(|_, vcpu| {
        let mmio = || -> Step {
            let mut is_begun = false;
            Box::new(move |entry| {
                if is_begun && entry.state.rip != STORE.0 {
                    return None;
                }
                is_begun = true;
                (entry.state.rip, entry.state.gprs[RBX], entry.state.gprs[RAX]) =
                    (STORE.0, (100 << 12) + 0x10, 0x55);
                let Err(exit) = entry.frame(Gpa((100 << 12) + 0x10), GuestTouch::Write) else {
                    panic!("a device is no memory");
                };
                Some(Stop { tells_next: false, ..Stop::insn(exit, STORE.1) })
            })
        };
        let asked = run(vcpu, vec![mmio(), mmio()]);

        let write =
            UserExit::Mmio { gpa: Gpa(DEVICE + 0x10), data: 0x55u64.to_le_bytes(), len: 4, is_write: true };
        assert_eq!(asked, [write, write]);
    });
}

#[test]
fn what_the_host_takes_is_found_again() {
    in_world(|world, vcpu| {
        run(vcpu, vec![touch(0x5000, GuestTouch::Write, 5), touch(0x6000, GuestTouch::Write, 6)]);
        // The guest's tables, too.
        world.evict(RAM, PAGES * 4096);
        run(vcpu, vec![touch(0x5000, GuestTouch::Write, 5), touch(0x6000, GuestTouch::Read, 6)]);
    });
}
