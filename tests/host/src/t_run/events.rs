// SPDX-License-Identifier: GPL-2.0

//! Events that others post while a vCPU runs, halts and is entered in vain: each is delivered once.

use super::{for_seeds, run_all, thread, Random};
use crate::arch::addr::AccessWidth::B1;
use crate::fake::backend::{Commit, Entry, Stop};
use crate::fake::direct::Direct;
use crate::fake::steps::{fault, CODE, STORES};
use crate::host::world::{locked, World};
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::mmu::format::GuestTouch;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{MsrAccess, PioAccess, VirtInsn, VmExit};
use crate::vcpu::state::{RAX, RBX, RCX};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{current, Task, SIGNAL};
use std::sync::{Arc, Mutex};

/// The vector that ends it: that of the lowest priority, and posted last.
const LAST: u8 = 0x31;
/// Vectors that are posted, each once.
const FIRST: u8 = 0x40;

/// What the guest does next.
fn some_exit(random: &mut Random, entry: &mut Entry<'_, '_>) -> Stop {
    let port = |port, is_in| VmExit::Pio(PioAccess::new(port, B1, is_in, false));
    match random.below(12) {
        0 => Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2]),
        1 => {
            entry.state.gprs[RCX] = 0x10;
            Stop::insn(VmExit::Msr(MsrAccess::Read), &[0x0f, 0x32])
        }
        2 => {
            entry.state.gprs[RCX] = 0x174;
            Stop::insn(VmExit::Msr(MsrAccess::Write), &[0x0f, 0x30])
        }
        3 => Stop::insn(port(0x61, true), &[0xec]),
        4 => Stop::insn(port(0x80, false), &[0xee]),
        5 => Stop::insn(VmExit::VirtInsn(VirtInsn::Hypercall), &[0x0f, 0x01, 0xd9]),
        6 | 7 => {
            entry.set_interrupts(true);
            Stop::insn(VmExit::Hlt, &[0xf4])
        }
        8 => Stop::plain(VmExit::Resolved),
        9 => {
            let gpa = crate::arch::addr::Gpa(0x8000 + random.below(4) * 4096);
            match entry.memory(gpa, GuestTouch::Write, |page| page[0] = 1) {
                Ok(()) => Stop::plain(VmExit::HostInterrupt),
                Err(exit) => Stop::plain(exit),
            }
        }
        _ => Stop::plain(VmExit::HostInterrupt),
    }
}

/// A guest that takes interrupts, ends them and exits in all ways; `got` are the events that it had.
fn guest(
    seed: u64,
    spoils: bool,
    mailbox: &kernel::sync::Arc<VcpuMailbox>,
    posting: &Arc<AtomicU32>,
    got: &Arc<Mutex<Vec<GuestEvent>>>,
) -> impl FnMut(&mut Entry<'_, '_>) -> Stop {
    let (mut random, watched, busy, out) = (Random::new(seed), mailbox.clone(), posting.clone(), got.clone());
    let (mut ends, mut cut_short) = (0u32, None);
    move |entry| {
        assert!(
            !watched.has_requests() || busy.load(SeqCst) != 0 || entry.cpu.is_interrupted(),
            "the guest runs over a request that nobody kicks it for"
        );
        crate::host::processor::registers(|r| r.pkru = 0x5555_5554);
        let is_spoilt = spoils && entry.event.is_some() && random.below(4) == 0;
        let arrived = core::mem::take(&mut entry.arrived);
        for event in arrived.into_iter().chain(entry.event.filter(|_| !is_spoilt)) {
            locked(&out).push(event);
            ends += u32::from(matches!(event, GuestEvent::Interrupt(_)));
        }
        if is_spoilt {
            let cut = fault(0x9000 + random.below(4) * 4096, true);
            // What a refused entry was to deliver comes again from the local APIC; but not what was cut short before.
            let is_new = Some(entry.event) != cut_short.replace(entry.event);
            return match (is_new, random.below(2)) {
                (true, 0) => {
                    cut_short = None;
                    Stop::refused()
                }
                _ => Stop { commit: Commit::CutShort, ..Stop::plain(cut) },
            };
        }
        if ends != 0 && random.below(2) == 0 {
            // The end of interrupt, then the return.
            ends -= 1;
            entry.state.rip = CODE + 128;
            (entry.state.gprs[RBX], entry.state.gprs[RAX]) = (0xfee0_00b0, 0);
            if locked(&out).last() == Some(&GuestEvent::Interrupt(LAST)) {
                current().set(SIGNAL);
            }
            return Stop { tells_next: false, ..Stop::insn(fault(0xfee0_00b0, true), STORES[2]) };
        }
        if ends == 0 {
            entry.set_interrupts(random.below(4) != 0);
        }
        let stop = some_exit(&mut random, entry);
        if ends != 0 && stop.exit == VmExit::Hlt {
            // With its interrupts off it would halt for ever.
            entry.set_interrupts(false);
            return Stop::plain(VmExit::HostInterrupt);
        }
        stop
    }
}

/// Three threads post vectors and NMIs to a vCPU, which exits in all ways and halts. `spoils`: some entries fail, and
/// some deliveries are cut short.
fn post_to_a_running_vcpu(seed: u64, spoils: bool) {
    let world = World::new();
    let task = Task::new(&world.process, 0);
    let entered = world.enter_as(&task);
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    // The guest ends interrupts in memory, or could; and it has protection keys of its own.
    vcpu.core.pv.set_eoi(0x7001);
    world.process.populate(Direct::hva(0x7000), 4096);
    let mailbox = vcpu.mailbox.clone();
    let posting = Arc::new(AtomicU32::new(0));
    let left = Arc::new(AtomicU32::new(3));
    let got = Arc::new(Mutex::new(Vec::new()));

    vcpu.guest.run(guest(seed, spoils, &mailbox, &posting, &got));
    let seen = got.clone();
    let mut bodies = vec![thread(&world, &task, || loop {
        // Nothing will ever wake it: say what it has got.
        let (seen, asked) = (seen.clone(), mailbox.clone());
        sched::set_idle(Some(Arc::new(move || {
            std::eprintln!("got {:?}, asked: {}", locked(&seen), asked.has_requests());
            false
        })));
        match vcpu.run_once() {
            Ok(Some(_)) => {
                vcpu.core.io.complete(0);
            }
            Ok(None) => unreachable!(),
            Err(e) if e == EINTR => break,
            Err(e) => panic!("{e:?}"),
        }
    })];
    for poster in 0..3u8 {
        let (mailbox, posting, left) = (mailbox.clone(), posting.clone(), left.clone());
        let task = Task::new(&world.process, 1 + u32::from(poster));
        let post = move |what: &dyn Fn()| {
            posting.fetch_add(1, SeqCst);
            what();
            posting.fetch_sub(1, SeqCst);
        };
        bodies.push(thread(&world, &task, move || {
            let mut random = Random::new(seed ^ u64::from(poster) << 40);
            for i in 0..8 {
                for _ in 0..random.below(40) {
                    sched::yield_point();
                }
                post(&|| mailbox.post(FIRST + 8 * poster + i, false));
                match random.below(4) {
                    0 => post(&|| mailbox.request(VcpuRequests::TLB_FLUSH)),
                    1 => post(&|| mailbox.request(VcpuRequests::SERVICE)),
                    _ => {}
                }
            }
            if left.fetch_sub(1, SeqCst) == 1 {
                post(&|| mailbox.post(LAST, false));
            }
        }));
    }
    drop(entered);
    run_all(seed, bodies);

    let mut vectors: Vec<u8> = locked(&got)
        .iter()
        .filter_map(|e| if let GuestEvent::Interrupt(v) = e { Some(*v) } else { None })
        .collect();
    assert_eq!(vectors.last(), Some(&LAST));
    vectors.sort_unstable();
    let all: Vec<u8> = core::iter::once(LAST).chain(FIRST..FIRST + 24).collect();
    assert_eq!(vectors, all, "each vector comes once");
}

#[test]
fn what_is_posted_to_a_running_vcpu_is_delivered_once() {
    for_seeds(60, |seed| post_to_a_running_vcpu(seed, false));
}

#[test]
fn an_interrupt_is_accepted_only_with_an_entry_that_took_place() {
    for_seeds(60, |seed| post_to_a_running_vcpu(seed, true));
}
