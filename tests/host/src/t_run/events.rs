// SPDX-License-Identifier: GPL-2.0

//! Events that others post while a vCPU runs, halts and is entered in vain: each is delivered once.

use super::{for_seeds, run_all, thread, Random};
use crate::arch::addr::AccessWidth::B1;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::chipset::PinLevel;
use crate::fake::backend::{Commit, Entry, Stop};
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{fault, CODE, STORES};
use crate::host::world::{locked, World};
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::mmu::format::GuestTouch;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{MsrAccess, PioAccess, VirtInsn, VmExit};
use crate::vcpu::outcome::{UserExit, VmBug};
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
    let mut ends = 0u32;
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
            return match random.below(2) {
                0 => Stop::refused(),
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

/// Where the events come from that wait when the guest is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Lapic,
    Pic,
    Nmi,
}

/// Has an event wait for a vCPU. Returns what the guest is to be given.
fn let_wait(vcpu: &mut Vcpu, source: Source) -> GuestEvent {
    match source {
        Source::Lapic => {
            vcpu.mailbox.post(FIRST, false);
            GuestEvent::Interrupt(FIRST)
        }
        Source::Pic => {
            vcpu.direct.vm.machine.interrupts.with(|bus, now, out| {
                for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xef)] {
                    bus.pio_write(port, B1, value, now, out);
                }
                bus.set_gsi(4, PinLevel::High, out);
            });
            GuestEvent::Interrupt(0x24)
        }
        Source::Nmi => {
            vcpu.mailbox.post_nmi();
            GuestEvent::Nmi
        }
    }
}

/// Runs a vCPU whose first deliveries end with the exits `cuts`, and then all go well. Returns what was delivered.
fn deliver_over(vcpu: &mut Vcpu, cuts: Vec<VmExit>) -> Vec<GuestEvent> {
    let (mut cuts, mut left) = (cuts.into_iter(), 8);
    vcpu.core.state.rflags |= 0x200;
    vcpu.guest.run(move |entry| {
        if let Some(cut) = entry.event.and_then(|_| cuts.next()) {
            return Stop { commit: Commit::CutShort, ..Stop::plain(cut) };
        }
        // Its handlers return at once.
        entry.hw.blocking.nmi = false;
        entry.set_interrupts(true);
        left -= 1;
        if left == 0 {
            current().set(SIGNAL);
        }
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    assert_eq!(vcpu.run_once(), Err(EINTR));
    vcpu.guest.take_delivered()
}

#[test]
fn an_exception_in_the_delivery_of_an_event_comes_first_and_the_event_after_it() {
    let watched = |vector| VmExit::Exception(vector, 0);
    let (ac, db) = (watched(ExceptionVector::AC), watched(ExceptionVector::DB));
    let brings = fault(0x9000, true);
    for source in [Source::Lapic, Source::Pic, Source::Nmi] {
        for cuts in
            [vec![ac], vec![ac, ac], vec![brings, ac], vec![ac, brings, ac], vec![db, ac], vec![db, db]]
        {
            let (world, _in) = super::world();
            let direct = Direct::new(&world, 16);
            let mut vcpu = direct.vcpu(0);
            let event = let_wait(&mut vcpu, source);

            let got = deliver_over(&mut vcpu, cuts.clone());

            let what = format!("{source:?} {cuts:?}: {got:?}");
            assert_eq!(got.len(), 2, "{what}");
            let vectors = [ExceptionVector::AC, ExceptionVector::DB];
            let is_watched = |v: &ExceptionVector| vectors.contains(v);
            assert!(matches!(&got[0], GuestEvent::Exception { vector, .. } if is_watched(vector)), "{what}");
            assert_eq!(got[1], event, "{what}");
        }
    }
}

#[test]
fn a_machine_check_beside_an_event_in_delivery_takes_nothing_from_it() {
    let (world, _in) = super::world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    vcpu.core.interrupted = Some(GuestEvent::Interrupt(0x77));

    for _ in 0..3 {
        vcpu.core.raise(CpuException::plain(ExceptionVector::MC));
    }

    let got = deliver_over(&mut vcpu, Vec::new());
    assert_eq!(got, [CpuException::plain(ExceptionVector::MC).into(), GuestEvent::Interrupt(0x77)]);
}

#[test]
fn what_a_refused_entry_was_to_deliver_is_shown_and_comes_again() {
    for source in [Source::Lapic, Source::Pic, Source::Nmi] {
        let (world, _in) = super::world();
        let direct = Direct::new(&world, 16);
        let mut vcpu = direct.vcpu(0);
        let event = let_wait(&mut vcpu, source);
        vcpu.core.state.rflags |= 0x200;
        vcpu.guest.run(|_| Stop::refused());

        let ended = vcpu.run_once();

        assert!(matches!(ended, Ok(Some(UserExit::Bug(VmBug::EntryFailed(_))))), "{source:?}: {ended:?}");
        // What waits in the local APIC was only chosen.
        let is_shown = (source != Source::Lapic).then_some(event);
        assert_eq!(vcpu.core.interrupted, is_shown, "{source:?}");
        assert_eq!(deliver_over(&mut vcpu, Vec::new()), [event], "{source:?}");
    }
}
