// SPDX-License-Identifier: GPL-2.0

//! A machine at rest: nothing moves, nothing is lost, and its time stands still.

use super::queues::{
    drive_disk, drive_net, lend, machine, scripted_file, wait_for_interrupt, PACKETS, SECTORS, VECTOR,
};
use super::{for_seeds, run_all, thread, world, Random};
use crate::abi::{nr, rvmm, vm as abi};
use crate::arch::addr::AccessWidth::*;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::direct::RAM;
use crate::fake::steps::Steps;
use crate::fake::virtio::{rings, Device, Ring};
use crate::host::blkio::{DiskFile, Manner};
use crate::host::netio::TapDevice;
use crate::host::world::World;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{current, SIGNAL};
use std::sync::Arc;

/// The frequency of the PM timer.
const PM_HZ: u64 = 3_579_545;

/// Brings a machine to rest, or lets it go on.
pub(super) fn set_rest(vm: &AbiVm, rest: u32) -> Result<i64> {
    let addr = vm.put(&rest);
    vm.give(
        nr::SET_DEVICE_ATTR,
        &abi::DeviceAttr { flags: 0, group: rvmm::GROUP_STATE, attr: rvmm::STATE_REST, addr },
    )
}

fn is_at_rest(vm: &AbiVm) -> bool {
    let addr = vm.put(&7u32);
    let attr = abi::DeviceAttr { flags: 0, group: rvmm::GROUP_STATE, attr: rvmm::STATE_REST, addr };
    vm.give(nr::GET_DEVICE_ATTR, &attr).unwrap();
    vm.get::<u32>(addr) == 1
}

/// The used rings of the first queues, which only a device writes: the driver of the test does not stop.
fn used_rings(world: &World) -> Vec<u8> {
    let mut all = vec![0; 0x1000];
    for (queue, to) in (0..2).zip(all.chunks_exact_mut(0x800)) {
        world.process.read(RAM + rings(queue) + 0x800, to, true).unwrap();
    }
    all
}

/// Brings the machine to rest now and then until `is_over`, and looks that nothing moves.
fn rest_now_and_then(
    world: &World,
    vm: &AbiVm,
    seed: u64,
    is_over: &AtomicBool,
    is_quiet: impl Fn() -> bool,
) {
    let mut random = Random::new(seed ^ 11);
    while !is_over.load(SeqCst) {
        set_rest(vm, 1).unwrap();
        assert!(is_quiet(), "something is under way");
        let before = used_rings(world);
        for _ in 0..random.below(40) {
            sched::yield_point();
        }
        assert!(is_quiet() && before == used_rings(world), "something moved");
        set_rest(vm, 0).unwrap();
        for _ in 0..random.below(200) {
            sched::yield_point();
        }
    }
}

/// A guest whose disk comes to rest at any time.
fn disk(seed: u64) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let file = scripted_file(seed);
    let disk = vm.disk(world.open_disk(&file), 4, 1, 0);
    let mut cpu = vm.vcpu(0);
    let is_over = AtomicBool::new(false);
    let (worker, over) = (tasks[1].clone(), &is_over);
    let drive = || {
        drive_disk(&world, &mut cpu, &file, seed);
        over.store(true, SeqCst);
        worker.set(SIGNAL);
    };
    let ends = || {
        let mut random = Random::new(seed ^ 7);
        while !over.load(SeqCst) || file.under_way() != 0 {
            file.end_one(random.below(64) as usize);
            sched::wait_until("transfers", || file.under_way() != 0 || over.load(SeqCst));
        }
    };
    let bodies = vec![
        thread(&world, &tasks[0], drive),
        thread(&world, &tasks[1], || lend(&world, disk, 0)),
        thread(&world, &tasks[2], ends),
        thread(&world, &tasks[3], || rest_now_and_then(&world, &vm, seed, over, || file.under_way() == 0)),
    ];
    drop(entered);
    run_all(seed, bodies);
}

#[test]
fn a_disk_comes_to_rest_and_loses_no_request() {
    for_seeds(40, disk);
}

/// The same of a network card.
fn net(seed: u64) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let tap = TapDevice::new();
    let card = vm.network_card(world.open_tap(&tap), 5, 0);
    let mut cpu = vm.vcpu(0);
    let (rx, tx) = (tasks[1].clone(), tasks[2].clone());
    let is_over = AtomicBool::new(false);
    let over = &is_over;
    let drive = || {
        drive_net(&world, &mut cpu, false, seed);
        over.store(true, SeqCst);
        rx.set(SIGNAL);
        tx.set(SIGNAL);
    };
    let deliver = || {
        let mut random = Random::new(seed ^ 5);
        for number in 0..PACKETS {
            let mut packet = number.to_le_bytes().to_vec();
            packet.resize(60, 0);
            tap.deliver(&packet);
            tap.set_room(random.below(2));
            for _ in 0..random.below(60) {
                sched::yield_point();
            }
            tap.set_room(u64::MAX);
        }
    };
    let bodies = vec![
        thread(&world, &tasks[0], drive),
        thread(&world, &tasks[1], || lend(&world, card, 0)),
        thread(&world, &tasks[2], || lend(&world, card, 1)),
        thread(&world, &tasks[3], deliver),
        thread(&world, &tasks[4], || rest_now_and_then(&world, &vm, seed, over, || true)),
    ];
    drop(entered);
    run_all(seed, bodies);
    assert_eq!(tap.take_sent().len() as u64, PACKETS);
}

#[test]
fn a_network_card_comes_to_rest_and_loses_no_packet() {
    for_seeds(30, net);
}

/// Nanoseconds of the machine's time, by its PM timer.
fn machine_ns(cpu: &mut AbiVcpu) -> u64 {
    u64::from(cpu.inp(0x608, B4)) * 1_000_000_000 / PM_HZ
}

#[test]
fn time_stands_still_at_rest_and_timers_go_on_from_there() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 64);
    let mut cpu = vm.vcpu(0);
    // One shot, divided by 1: 20 ms.
    cpu.store(0xfee0_00f0, B4, 0x1ff);
    cpu.store(0xfee0_0320, B4, u64::from(VECTOR));
    cpu.store(0xfee0_03e0, B4, 0xb);
    cpu.store(0xfee0_0380, B4, 20_000_000);
    let began = machine_ns(&mut cpu);
    world.advance(5_000_000);

    set_rest(&vm, 1).unwrap();
    assert!(is_at_rest(&vm));
    world.advance(1_000_000_000);
    set_rest(&vm, 0).unwrap();

    assert!(!is_at_rest(&vm));
    let gone = machine_ns(&mut cpu) - began;
    assert!((5_000_000..6_000_000).contains(&gone), "{gone} ns");
    let left = cpu.load(0xfee0_0390, B4);
    assert!((14_000_000..=15_000_000).contains(&left), "{left} ns are left");
    wait_for_interrupt(&mut cpu);
    let gone = machine_ns(&mut cpu) - began;
    assert!((20_000_000..21_000_000).contains(&gone), "{gone} ns");
}

#[test]
fn a_rest_that_a_signal_ends_is_undone() {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let file = Arc::new(DiskFile::new((SECTORS * 512) as usize));
    file.script(&[Manner::Later]);
    let disk = vm.disk(world.open_disk(&file), 4, 1, 0);
    let mut cpu = vm.vcpu(0);
    let resting = tasks[2].clone();
    let drive = || {
        let device = Device::start(&mut cpu, 4, 1, VECTOR, 1 << 32);
        let mut ring = Ring::new(&world.process, RAM, 0);
        let at = super::queues::DATA;
        world.process.write(RAM + at, &[0; 16], true).unwrap();
        ring.add(&[(at, 16, false), (at + 512, 512, true), (at + 16, 1, true)]);
        cpu.store(device.notify(0), B2, 0);
        wait_for_interrupt(&mut cpu);
        assert_eq!(ring.take_used(), [(0, 513)]);
        tasks[1].set(SIGNAL);
    };
    let rest = || {
        sched::wait_until("the transfer", || file.under_way() == 1);
        // It does not end, so that the machine cannot come to rest.
        assert_eq!(set_rest(&vm, 1), Err(EINTR));
        current().clear(SIGNAL);
        assert!(!is_at_rest(&vm));
        assert!(file.end_one(0));
    };
    // Whoever drives the disk may stand at the gate by then.
    let signal = || {
        sched::wait_until("the transfer", || file.under_way() == 1);
        resting.set(SIGNAL);
    };
    let bodies = vec![
        thread(&world, &tasks[0], drive),
        thread(&world, &tasks[1], || lend(&world, disk, 0)),
        thread(&world, &tasks[2], rest),
        thread(&world, &tasks[3], signal),
    ];
    drop(entered);
    run_all(3, bodies);
}

#[test]
fn a_vcpu_waits_while_its_machine_is_at_rest_and_a_signal_ends_that() {
    for_seeds(20, |seed| {
        let (world, tasks, vm) = machine();
        let entered = world.enter_as(&tasks[0]);
        let mut cpu = vm.vcpu(0);
        let steps = AtomicU64::new(0);
        set_rest(&vm, 1).unwrap();
        current().set(SIGNAL);
        assert_eq!(vm.on(cpu.fd, nr::RUN, 0), Err(EINTR));
        current().clear(SIGNAL);
        // As before it was at rest.
        cpu.set(crate::abi::run::offset::IMMEDIATE_EXIT, &[1]);
        assert_eq!(vm.on(cpu.fd, nr::RUN, 0), Err(EINTR));
        cpu.set(crate::abi::run::offset::IMMEDIATE_EXIT, &[0]);
        let drive = || {
            cpu.inp(0x61, B1);
            steps.store(1, SeqCst);
        };
        let rest = || {
            for _ in 0..200 {
                sched::yield_point();
            }
            assert_eq!(steps.load(SeqCst), 0);
            set_rest(&vm, 0).unwrap();
        };
        let bodies = vec![thread(&world, &tasks[0], drive), thread(&world, &tasks[1], rest)];
        drop(entered);
        run_all(seed, bodies);
        assert_eq!(steps.load(SeqCst), 1);
    });
}

#[test]
fn attributes_that_are_none_are_refused() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let addr = vm.put(&1u32);
    let attr = |flags, group, attr| abi::DeviceAttr { flags, group, attr, addr };
    for bad in [attr(1, rvmm::GROUP_STATE, 0), attr(0, 0, 0), attr(0, rvmm::GROUP_STATE, 99)] {
        for cmd in [nr::HAS_DEVICE_ATTR, nr::GET_DEVICE_ATTR, nr::SET_DEVICE_ATTR] {
            assert_eq!(vm.give(cmd, &bad), Err(ENXIO));
        }
    }
    assert_eq!(vm.give(nr::HAS_DEVICE_ATTR, &attr(0, rvmm::GROUP_STATE, rvmm::STATE_REST)), Ok(0));
    assert_eq!(set_rest(&vm, 2), Err(EINVAL));
    // Twice is once.
    assert_eq!(
        (set_rest(&vm, 1), set_rest(&vm, 1), set_rest(&vm, 0), set_rest(&vm, 0)),
        (Ok(0), Ok(0), Ok(0), Ok(0))
    );
}
