// SPDX-License-Identifier: GPL-2.0

//! Every request, before and within every kind of exit: none is lost, and the guest is not entered over one.

use super::world;
use crate::arch::addr::AccessWidth::*;
use crate::arch::exception::ExceptionVector;
use crate::chipset::pci::PciSlot;
use crate::chipset::pm;
use crate::chipset::PinLevel;
use crate::fake::backend::Stop;
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{fault, LOADS, STORES};
use crate::host::world::locked;
use crate::machine::mailbox::VcpuRequests;
use crate::machine::power::PlatformEvent;
use crate::machine::quiesce::AtRest;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{
    FaultFlags, GuestPageFault, MsrAccess, PioAccess, RawExit, SvmInsn, VirtInsn, VmExit,
};
use crate::vcpu::outcome::UserExit;
use crate::vcpu::state::{RBX, RCX};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{self, current, Task, SIGNAL};
use std::sync::{Arc, Mutex};

/// Where the clock is written.
const CLOCK_AT: u64 = 0x6000;
/// A vector that is posted, and that of the timer.
const POSTED: u8 = 0x51;
const TIMER: u8 = 0x52;
/// The one that ends a halt.
const WAKES: u8 = 0x33;

/// What can be asked of a vCPU, with what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nmi,
    TwoNmis,
    Interrupt,
    Flush,
    Init,
    Timer,
    ExtInt,
    Exit,
    Clock,
    /// These have nothing to do here; they must be taken.
    Nothing(u32),
}

const ALL: [Asked; 12] = [
    Asked::Nmi,
    Asked::TwoNmis,
    Asked::Interrupt,
    Asked::Flush,
    Asked::Init,
    Asked::Timer,
    Asked::ExtInt,
    Asked::Exit,
    Asked::Clock,
    Asked::Nothing(VcpuRequests::SERVICE.bits()),
    Asked::Nothing(VcpuRequests::EOI.bits()),
    Asked::Nothing(VcpuRequests::INLINE_SERVICE.bits()),
];

/// All kinds of exits. Bytes of no instruction: the exit is not one's.
fn exits() -> Vec<Stop> {
    let raw = RawExit { reason: 77, info1: 1, info2: 2 };
    let pio = |port, is_in| VmExit::Pio(PioAccess::new(port, B1, is_in, false));
    vec![
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2]),
        Stop::insn(VmExit::Msr(MsrAccess::Read), &[0x0f, 0x32]),
        Stop::insn(VmExit::Msr(MsrAccess::Write), &[0x0f, 0x30]),
        Stop::insn(pio(0x61, true), &[0xec]),
        Stop::insn(pio(0x43, false), &[0xee]),
        Stop::insn(pio(0x80, true), &[0xec]),
        Stop::insn(pio(0x80, false), &[0xee]),
        Stop::insn(fault(0xfee0_0020, false), LOADS[2]),
        Stop::insn(fault(0xfec0_0000, true), STORES[2]),
        Stop::insn(fault(0x8000_0000, true), STORES[2]),
        Stop::insn(fault(0x8000_0000, false), LOADS[2]),
        Stop::plain(fault(0x5000, true)),
        Stop::insn(VmExit::Hlt, &[0xf4]),
        Stop::insn(VmExit::Xsetbv, &[0x0f, 0x01, 0xd1]),
        Stop::insn(VmExit::CacheFlush, &[0x0f, 0x09]),
        Stop::insn(VmExit::Undefined, &[0x0f, 0x0b]),
        Stop::insn(VmExit::Mwait, &[0x0f, 0x01, 0xc9]),
        Stop::insn(VmExit::Exception(ExceptionVector::UD, 0), &[0x0f, 0x0b]),
        Stop::insn(VmExit::Forbidden, &[0x0f, 0x33]),
        Stop::plain(VmExit::DebugRegister),
        Stop::plain(VmExit::Exception(ExceptionVector::DB, 0)),
        Stop::plain(VmExit::Exception(ExceptionVector::AC, 0)),
        Stop::plain(VmExit::Exception(ExceptionVector::MC, 0)),
        Stop::plain(VmExit::InterruptWindow),
        Stop::plain(VmExit::NmiReturn),
        Stop::plain(VmExit::HostInterrupt),
        Stop::plain(VmExit::Resolved),
        Stop::insn(VmExit::VirtInsn(VirtInsn::Hypercall), &[0x0f, 0x01, 0xd9]),
        Stop::insn(VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Clgi)), &[0x0f, 0x01, 0xda]),
        Stop::plain(VmExit::Emulate),
        Stop::plain(VmExit::TripleFault),
        Stop::plain(VmExit::TaskSwitch),
        Stop::refused(),
        Stop::plain(VmExit::Unknown(raw)),
    ]
}

/// When it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before the guest is entered.
    Before,
    /// While the guest runs, by another CPU.
    Within,
    /// After the exit, when the run loop has returned or not.
    After,
}

/// Makes the chips and the vCPU ready for what will be asked.
fn prepare(vcpu: &mut Vcpu, asked: Asked) {
    let lapic = vcpu.core.lapic.as_mut().unwrap();
    let clock = crate::chipset::lapic::TimerClock {
        now: crate::host::timer::now(),
        tsc: 0,
        ns_per_tick: vcpu.direct.vm.machine.clock.ns_per_tick,
    };
    match asked {
        Asked::Timer => {
            let _ = lapic.mmio_write(0x320, B4, u64::from(TIMER), &clock);
            let _ = lapic.mmio_write(0x3e0, B4, 0xb, &clock);
            let _ = lapic.mmio_write(0x380, B4, 1, &clock);
            vcpu.direct.world.run_to_tsc(vcpu.direct.world.tsc() + 1_000_000);
        }
        Asked::ExtInt => {
            let _ = lapic.mmio_write(0x350, B4, 0x700, &clock);
            vcpu.direct.vm.machine.interrupts.with(|bus, now, out| {
                for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xef)] {
                    bus.pio_write(port, B1, value, now, out);
                }
            });
        }
        Asked::Clock => vcpu.core.pv.system_time = CLOCK_AT | 1,
        _ => {}
    }
}

/// Asks, as another CPU does.
fn ask(vcpu: &(Direct, kernel::sync::Arc<crate::machine::mailbox::VcpuMailbox>), asked: Asked) {
    let (direct, mailbox) = vcpu;
    let other = Task::new(&direct.world.process, 1);
    let _entered = task::enter(&other);
    match asked {
        Asked::Nmi => mailbox.post_nmi(),
        Asked::TwoNmis => {
            mailbox.post_nmi();
            mailbox.post_nmi();
        }
        Asked::Interrupt => mailbox.post(POSTED, false),
        Asked::Flush => mailbox.request(VcpuRequests::TLB_FLUSH),
        Asked::Init => mailbox.request(VcpuRequests::INIT),
        Asked::Timer => mailbox.request(VcpuRequests::TIMER),
        Asked::ExtInt => {
            direct.vm.machine.interrupts.set_gsi(4, PinLevel::High);
        }
        Asked::Exit => {
            direct.vm.machine.power.note(pm::PlatformRequest::Reset);
            mailbox.request(VcpuRequests::EXIT);
        }
        Asked::Clock => mailbox.request(VcpuRequests::CLOCK),
        Asked::Nothing(bits) => mailbox.request(VcpuRequests::from_bits_retain(bits)),
    }
}

/// What was seen of a run.
#[derive(Default)]
struct Seen {
    users: Vec<UserExit>,
    events: Vec<GuestEvent>,
    has_reset: bool,
    flushes: u64,
}

/// Runs a vCPU that exits once in this way; then it goes on for a while.
fn run(asked: Asked, when: When, stop: Stop) -> Seen {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    prepare(&mut vcpu, asked);
    vcpu.core.state.rflags |= 0x200;
    let target = (direct.clone(), vcpu.mailbox.clone());
    let was_asked = Arc::new(AtomicU32::new(0));
    let has_reset = Arc::new(Mutex::new(false));
    let (mailbox, hook) = (vcpu.mailbox.clone(), (target.clone().0, vcpu.mailbox.clone()));
    // Who halts is woken in the end by something else.
    let halts = AtomicU32::new(0);
    sched::set_idle(Some(Arc::new(move || {
        mailbox.post_nmi();
        mailbox.post(WAKES, false);
        halts.fetch_add(1, SeqCst) < 50
    })));
    let flushes = vcpu.guest.flushes.clone_value();
    let (mut entries, reset, asked_at) = (0, has_reset.clone(), was_asked.clone());
    let from = crate::fake::steps::CODE;
    vcpu.guest.run(move |entry| {
        entries += 1;
        assert!(!hook.1.has_requests(), "entry {entries} is one over a request");
        *locked(&reset) |= entry.state.rip == 0xfff0;
        if entries == 1 {
            entry.state.rip = from + if stop.insn == LOADS[2] { 160 } else { 128 };
            entry.state.gprs[RCX] = 0x174;
            if let VmExit::GuestPageFault(f) = stop.exit {
                entry.state.gprs[RBX] = f.gpa.0;
            }
            if when == When::Within {
                ask(&hook, asked);
                asked_at.store(1, SeqCst);
            }
            return stop.clone();
        }
        // Its handlers return at once.
        entry.hw.blocking.nmi = false;
        entry.set_interrupts(true);
        if entries > 8 {
            current().set(SIGNAL);
        }
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    if when == When::Before {
        ask(&target, asked);
    }
    let mut seen = Seen::default();
    for round in 0..12 {
        match vcpu.run_once() {
            Ok(Some(exit)) => {
                seen.users.push(exit);
                vcpu.core.io.complete(0);
                vcpu.core.bars = crate::vcpu::debugger::EntryBars::empty();
            }
            Ok(None) => unreachable!(),
            Err(e) if e == EINTR => {
                current().clear(SIGNAL);
                if round > 3 || when != When::After {
                    break;
                }
            }
            Err(e) => panic!("{e:?}"),
        }
        if when == When::After && was_asked.swap(1, SeqCst) == 0 {
            ask(&target, asked);
        }
    }
    assert!(!vcpu.mailbox.has_requests(), "all was taken");
    seen.events = vcpu.guest.take_delivered();
    seen.has_reset = *locked(&has_reset);
    seen.flushes = vcpu.guest.flushes.clone_value() - flushes;
    seen
}

/// Reads a counter.
trait CloneValue {
    fn clone_value(&self) -> u64;
}

impl CloneValue for core::sync::atomic::AtomicU64 {
    fn clone_value(&self) -> u64 {
        self.load(SeqCst)
    }
}

fn count(events: &[GuestEvent], event: GuestEvent) -> usize {
    events.iter().filter(|e| **e == event).count()
}

fn check(asked: Asked, when: When, stop: &Stop, seen: &Seen) {
    let what = format!("{asked:?} {when:?} {:?}: {:?} {:?}", stop.exit, seen.events, seen.users);
    let extra = usize::from(matches!(stop.exit, VmExit::Hlt));
    match asked {
        Asked::Nmi => {
            let n = count(&seen.events, GuestEvent::Nmi);
            assert!(n >= 1 && n <= 1 + extra, "{what}");
        }
        Asked::TwoNmis => assert!(count(&seen.events, GuestEvent::Nmi) >= 2, "{what}"),
        Asked::Interrupt => assert_eq!(count(&seen.events, GuestEvent::Interrupt(POSTED)), 1, "{what}"),
        Asked::Timer => assert_eq!(count(&seen.events, GuestEvent::Interrupt(TIMER)), 1, "{what}"),
        Asked::ExtInt => assert_eq!(count(&seen.events, GuestEvent::Interrupt(0x24)), 1, "{what}"),
        Asked::Flush => assert!(seen.flushes >= 1, "{what}"),
        Asked::Init => assert!(seen.has_reset, "{what}"),
        Asked::Exit => {
            let reset = UserExit::SystemEvent(PlatformEvent::Reset);
            assert_eq!(seen.users.iter().filter(|e| **e == reset).count(), 1, "{what}");
        }
        _ => {}
    }
}

#[test]
fn every_request_before_within_and_after_every_exit_is_taken() {
    for when in [When::Before, When::Within, When::After] {
        for asked in ALL {
            for stop in exits() {
                check(asked, when, &stop, &run(asked, when, stop.clone()));
            }
        }
    }
}

#[test]
fn who_asks_and_who_enters_cannot_miss_each_other() {
    for seed in 1..400 {
        let world = crate::host::world::World::new();
        let tasks = [Task::new(&world.process, 0), Task::new(&world.process, 1)];
        let entered = world.enter_as(&tasks[0]);
        let mailbox = crate::machine::mailbox::VcpuMailbox::new(0).unwrap();
        drop(entered);
        let is_asked = AtomicU32::new(0);
        let enters = || {
            let cpu = crate::host::cpu::PinnedCpu::pin();
            for _ in 0..4 {
                if !mailbox.enter_guest_mode(0) {
                    for _ in 0..4 {
                        sched::yield_point();
                    }
                    let was_asked = is_asked.load(SeqCst) != 0;
                    let kicked = world.cpus[0].is_interrupted();
                    assert!(!was_asked || kicked, "it was asked, and nobody kicks");
                }
                mailbox.leave_guest_mode();
                if mailbox.has_requests() {
                    break;
                }
            }
            drop(cpu);
        };
        let asks = || {
            mailbox.request(VcpuRequests::TLB_FLUSH);
            is_asked.store(1, SeqCst);
        };
        let bodies = vec![super::thread(&world, &tasks[0], enters), super::thread(&world, &tasks[1], asks)];
        super::run_all(seed, bodies);
    }
}

/// One asks for what is taken in the window, again and again, and then for what is taken outside only.
fn ask_while_another_is_taken(seed: u64) {
    let world = crate::host::world::World::new();
    let tasks = [Task::new(&world.process, 0), Task::new(&world.process, 1)];
    let entered = world.enter_as(&tasks[0]);
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    let (mailbox, is_asked) = (vcpu.mailbox.clone(), Arc::new(AtomicU32::new(0)));
    let (was_asked, mut late) = (is_asked.clone(), 0);
    vcpu.guest.run(move |entry| {
        late += was_asked.load(SeqCst);
        assert!(late < 4, "the guest goes on over a request that was dropped");
        entry.state.rip = crate::fake::steps::CODE + 128;
        Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2])
    });
    let asks = || {
        for _ in 0..1 + seed % 8 {
            mailbox.request(VcpuRequests::TLB_FLUSH);
        }
        direct.vm.machine.power.note(pm::PlatformRequest::Reset);
        mailbox.request(VcpuRequests::EXIT);
        is_asked.store(1, SeqCst);
    };
    let runs = || {
        let reset = UserExit::SystemEvent(PlatformEvent::Reset);
        assert_eq!(vcpu.run_once(), Ok(Some(reset)));
    };
    let bodies = vec![super::thread(&world, &tasks[0], runs), super::thread(&world, &tasks[1], asks)];
    drop(entered);
    super::run_all(seed, bodies);
}

#[test]
fn what_is_asked_while_something_else_is_taken_is_not_lost() {
    super::for_seeds(200, ask_while_another_is_taken);
}

#[test]
fn the_clock_is_written_when_it_is_asked_for() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    prepare(&mut vcpu, Asked::Clock);
    vcpu.guest.run(|_| {
        current().set(SIGNAL);
        Stop::plain(VmExit::HostInterrupt)
    });
    ask(&(direct.clone(), vcpu.mailbox.clone()), Asked::Clock);
    assert!(world.evict(Direct::hva(CLOCK_AT), 4096), "the page has to be brought first");

    assert_eq!(vcpu.run_once(), Err(EINTR));

    let mut version = [0; 4];
    world.process.read(Direct::hva(CLOCK_AT), &mut version, true).unwrap();
    assert_eq!(u32::from_le_bytes(version), 2);
}

#[test]
fn init_disarms_the_local_apics_timer() {
    for is_asked in [false, true] {
        let (world, _in) = world();
        let direct = Direct::new(&world, 16);
        let mut vcpu = direct.vcpu(0);
        let clock = crate::chipset::lapic::TimerClock {
            now: crate::host::timer::now(),
            tsc: 0,
            ns_per_tick: direct.vm.machine.clock.ns_per_tick,
        };
        let lapic = vcpu.core.lapic.as_mut().unwrap();
        for (register, value) in [(0x320, u32::from(TIMER)), (0x3e0, 0xb), (0x380, 10_000_000)] {
            let _ = lapic.mmio_write(register, B4, value.into(), &clock);
        }
        vcpu.core.arm_timer(&vcpu.mailbox, &direct.vm.machine.clock.time);
        vcpu.guest.run(|_| {
            current().set(SIGNAL);
            Stop::plain(VmExit::HostInterrupt)
        });
        if is_asked {
            ask(&(direct.clone(), vcpu.mailbox.clone()), Asked::Init);
        }
        assert_eq!(vcpu.run_once(), Err(EINTR));

        // Far beyond the deadline; whoever turns interrupts off and on lets timers fire.
        world.run_to_tsc(world.tsc() + 60_000_000 * crate::host::world::TICKS_PER_US);
        drop(crate::host::cpu::PinnedCpu::pin());

        assert_eq!(vcpu.mailbox.is_requested(VcpuRequests::TIMER), !is_asked);
    }
}

#[test]
fn a_cpu_that_cannot_run_guests_is_no_place_for_a_vcpu() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    locked(&direct.backend.unusable).push(0);

    assert_eq!(vcpu.run_once(), Err(ENODEV));
    assert_eq!(vcpu.guest.entries.clone_value(), 0);
}

#[test]
fn all_that_a_window_switches_is_switched_back() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    let host = |r: &mut crate::host::processor::Registers| {
        (r.dr, r.dr7, r.tsc_aux, r.spec_ctrl, r.xcr0) = ([1, 2, 3, 4], 0x401, 5, 1, 0x207);
    };
    world.cpus[0].with(host);
    let before = world.cpus[0].with(|r| r.clone());
    (vcpu.core.tsc_aux, vcpu.core.spec_ctrl, vcpu.core.dr) = (9, 4, [7; 4]);
    vcpu.core.state.dr7 |= 1;
    vcpu.core.state.mark(crate::vcpu::state::StateGroups::DEBUG);
    vcpu.guest.run(|entry| {
        let mut guest = crate::host::processor::registers(|r| r.clone());
        assert_eq!((guest.dr, guest.tsc_aux, guest.spec_ctrl), ([7; 4], 9, 5));
        assert!(guest.has_guest_fpu && entry.hw.has_debug_registers);
        guest.pkru = 0x55;
        guest.dr[0] = 8;
        crate::host::processor::registers(|r| *r = guest);
        current().set(SIGNAL);
        Stop::plain(VmExit::HostInterrupt)
    });

    assert_eq!(vcpu.run_once(), Err(EINTR));

    let mut after = world.cpus[0].with(|r| r.clone());
    assert!(core::mem::take(&mut after.barrier_on_return));
    assert_eq!(after, before);
    assert_eq!(vcpu.core.dr, [8, 7, 7, 7], "the guest's own are kept");
    assert_eq!(direct.backend.windows.clone_value(), 0);
}

#[test]
fn extended_state_that_the_processor_refuses_ends_the_vcpu_before_an_entry() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    vcpu.fpu.is_refused = true;

    let exit = vcpu.run_once().unwrap();

    assert_eq!(exit, Some(UserExit::Bug(crate::vcpu::outcome::VmBug::ExtendedState)));
    assert_eq!(vcpu.guest.entries.clone_value(), 0);
}

#[test]
fn a_fault_that_the_processor_calls_reserved_is_a_bug_of_ours() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    vcpu.guest.run(|_| {
        let VmExit::GuestPageFault(f) = fault(0x3000, true) else { unreachable!() };
        let flags = f.flags | FaultFlags::RESERVED;
        Stop::plain(VmExit::GuestPageFault(GuestPageFault { flags, ..f }))
    });

    let exit = vcpu.run_once().unwrap();

    assert!(matches!(exit, Some(UserExit::Bug(crate::vcpu::outcome::VmBug::UnknownExit(_)))), "{exit:?}");
}

#[test]
fn a_machine_without_vcpu_0_has_its_queues_served_all_the_same() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let vcpu = direct.vcpu(3);
    let machine = &direct.vm.machine;

    machine.pci.request_service(&machine.interrupts, PciSlot::new(4).unwrap());

    assert_eq!(vcpu.mailbox.take_requests(VcpuRequests::all()), VcpuRequests::SERVICE);
    drop(AtRest::new(machine).unwrap());
    assert!(vcpu.mailbox.is_requested(VcpuRequests::SERVICE));
}
