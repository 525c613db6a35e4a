// SPDX-License-Identifier: GPL-2.0

//! What a window does around entries for the host's sake and for other guests'.

use super::world;
use crate::arch::cr::Cr4;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::mitigation::HostFlags;
use crate::arch::msr::TEST_CTRL_SPLIT_LOCK;
use crate::fake::backend::Stop;
use crate::fake::direct::{Direct, Vcpu};
use crate::fake::steps::{fault, CODE, LOADS, STORES};
use crate::host::processor::registers;
use crate::host::world::{locked, World};
use crate::vcpu::backend::UnsupportedHost;
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{FaultFlags, PioAccess, VmExit};
use crate::vcpu::state::RBX;
use core::sync::atomic::Ordering::SeqCst;
use kernel::prelude::*;
use kernel::task::{current, SIGNAL};
use std::sync::{Arc, Mutex};

/// The kernel finds this about its processors, from now on.
fn find(world: &World, flags: HostFlags) {
    locked(&world.settings).host_flags = flags.bits();
}

/// Runs a vCPU whose entries end with `stops`; then its thread is signalled.
fn run_through(vcpu: &mut Vcpu, stops: Vec<Stop>) {
    let mut stops = stops.into_iter();
    vcpu.guest.run(move |entry| {
        let Some(stop) = stops.next() else {
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        };
        let (at, address) = match stop.exit {
            VmExit::GuestPageFault(f) if !f.flags.contains(FaultFlags::WRITE) => (CODE + 160, f.gpa.0),
            VmExit::GuestPageFault(f) => (CODE + 128, f.gpa.0),
            _ => (CODE + 192, 0),
        };
        (entry.state.rip, entry.state.gprs[RBX]) = (at, address);
        stop
    });
    assert_eq!(vcpu.run_once(), Err(EINTR));
    current().clear(SIGNAL);
}

/// How often the host's data is hidden in a window whose entries end with `stops`.
fn hidings(stops: Vec<Stop>) -> u64 {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    run_through(&mut vcpu, stops);
    assert_eq!(direct.backend.opened.load(SeqCst), 1, "one window");
    vcpu.guest.hidings.load(SeqCst)
}

#[test]
fn what_the_host_reads_in_a_window_is_hidden_before_the_guest_goes_on() {
    let cpuid = || Stop::insn(VmExit::Cpuid, &[0x0f, 0xa2]);
    let store = || Stop::insn(fault(0xfec0_0000, true), STORES[2]);
    let load = || Stop::insn(fault(0xfec0_0000, false), LOADS[2]);

    assert_eq!(hidings(vec![]), 0, "a window begins with that");
    assert_eq!(hidings(vec![cpuid(), cpuid()]), 0, "answered at once");
    assert_eq!(hidings(vec![store()]), 1, "a device, by the emulator");
    assert_eq!(hidings(vec![store(), load()]), 2, "each time");
    assert_eq!(hidings(vec![store(), cpuid(), cpuid()]), 1, "once for each time");
    let only_looked_at = [VmExit::Resolved, VmExit::NmiReturn, VmExit::DebugRegister];
    assert_eq!(hidings(only_looked_at.map(Stop::plain).to_vec()), 0, "registers alone");
}

#[test]
fn exits_that_lead_to_memory_are_told_from_those_of_registers() {
    use crate::arch::addr::{AccessWidth::B1, Gva};
    use crate::vcpu::exit::{CrAccess, CrKind, MsrAccess, RawExit, VirtInsn};
    let access = CrAccess { number: 4, kind: CrKind::Write };
    for exit in [
        VmExit::Pio(PioAccess::new(0x3f8, B1, false, true)),
        fault(0x5000, true),
        VmExit::Cr(access),
        VmExit::Invlpg(Some(Gva(0))),
        VmExit::Emulate,
        VmExit::Unknown(RawExit::default()),
    ] {
        assert!(exit.reads_host_data(), "{exit:?}");
    }
    for exit in [
        VmExit::Cpuid,
        VmExit::Msr(MsrAccess::Write),
        VmExit::Hlt,
        VmExit::InterruptWindow,
        VmExit::NmiReturn,
        VmExit::Resolved,
        VmExit::VirtInsn(VirtInsn::Hypercall),
        VmExit::Exception(ExceptionVector::DB, 0),
    ] {
        assert!(!exit.reads_host_data(), "{exit:?}");
    }
}

#[test]
fn a_machine_check_is_the_hosts_before_anything_else_happens() {
    let (world, _in) = world();
    let direct = Direct::new(&world, 16);
    let mut vcpu = direct.vcpu(0);
    let keys = 0x55;
    vcpu.guest.run(move |entry| {
        if entry.cpu.is_interrupted() || current().has(SIGNAL) {
            return Stop::plain(VmExit::HostInterrupt);
        }
        registers(|r| r.pkru = keys);
        current().set(SIGNAL);
        Stop::plain(VmExit::Exception(ExceptionVector::MC, 0))
    });

    assert_eq!(vcpu.run_once(), Err(EINTR));

    let (checks, in_force) = world.cpus[0].with(|r| (r.machine_checks, r.machine_check_pkru));
    assert_eq!(checks, 1, "once");
    assert_eq!(in_force, keys, "before guest memory could be touched");
    assert_eq!(vcpu.guest.take_delivered(), [], "the guest sees none");
}

#[test]
fn a_guest_that_follows_another_on_a_processor_does_not_follow_its_branches() {
    let barriers = |flags| {
        let (world, _in) = world();
        find(&world, flags);
        let direct = Direct::new(&world, 16);
        let mut vcpus = [direct.vcpu(0), direct.vcpu(1)];
        [0, 0, 1, 1, 0].map(|who: usize| {
            run_through(&mut vcpus[who], vec![]);
            world.cpus[0].with(|r| r.barriers)
        })
    };

    assert_eq!(barriers(HostFlags::SPECTRE_V2 | HostFlags::IBPB), [1, 1, 2, 2, 3]);
    assert_eq!(barriers(HostFlags::IBPB), [0; 5], "not needed");
}

#[test]
fn user_space_does_not_follow_a_guests_branches() {
    let (world, _in) = world();
    let mut vcpu = Direct::new(&world, 16).vcpu(0);
    let is_asked = || world.cpus[0].with(|r| core::mem::take(&mut r.barrier_on_return));
    assert!(!is_asked());

    for _ in 0..2 {
        run_through(&mut vcpu, vec![]);

        assert!(is_asked(), "each time that a guest has run");
    }
}

/// Runs a guest with two alignment checks at level 0, on a host whose kernel says `flags` and that detects split locks.
/// Returns what TEST_CTRL was at each entry, and what was delivered.
fn detection(flags: HostFlags) -> (Vec<u64>, Vec<GuestEvent>) {
    let (world, _in) = world();
    find(&world, flags);
    world.cpus[0].with(|r| r.test_ctrl = TEST_CTRL_SPLIT_LOCK | 1);
    let mut vcpu = Direct::new(&world, 16).vcpu(0);
    let (seen, mut checks) = (Arc::new(Mutex::new(Vec::new())), 2);
    let at_entry = seen.clone();
    vcpu.guest.run(move |entry| {
        if entry.cpu.is_interrupted() {
            return Stop::plain(VmExit::HostInterrupt);
        }
        locked(&at_entry).push(registers(|r| r.test_ctrl));
        if checks == 0 {
            current().set(SIGNAL);
            return Stop::plain(VmExit::HostInterrupt);
        }
        checks -= 1;
        Stop::plain(VmExit::Exception(ExceptionVector::AC, 0))
    });

    assert_eq!(vcpu.run_once(), Err(EINTR));

    assert_eq!(world.cpus[0].with(|r| r.test_ctrl), TEST_CTRL_SPLIT_LOCK | 1, "the host's again");
    let seen = locked(&seen).clone();
    (seen, vcpu.guest.take_delivered())
}

#[test]
fn a_guest_that_splits_locks_goes_on_without_their_detection() {
    const OFF: u64 = 1;
    let check = GuestEvent::from(CpuException::with_error(ExceptionVector::AC, 0));

    let (at_entry, delivered) = detection(HostFlags::SPLIT_LOCK_DETECT);
    assert_eq!(at_entry, [TEST_CTRL_SPLIT_LOCK | 1, OFF, OFF]);
    assert_eq!(delivered, [check], "without the detection it is the guest's own");

    let (at_entry, delivered) = detection(HostFlags::empty());
    assert_eq!(at_entry, [TEST_CTRL_SPLIT_LOCK | 1; 3]);
    assert_eq!(delivered, [check; 2]);
}

#[test]
fn a_host_that_takes_events_by_fred_is_refused() {
    assert_eq!(UnsupportedHost::of_cr4(Cr4::FRED.bits() | 0x6f0), Some(UnsupportedHost::Fred));
    assert_eq!(UnsupportedHost::of_cr4(!Cr4::FRED.bits()), None);
}
