// SPDX-License-Identifier: GPL-2.0

//! Kicks against inline service against the worker, in random order: no kick is lost, no request is completed twice,
//! and what has an order keeps it.

use super::{for_seeds, run_all, thread, Random};
use crate::abi::vm::DeviceAttr;
use crate::abi::{nr, rvmm};
use crate::arch::addr::AccessWidth::*;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::direct::RAM;
use crate::fake::steps::Steps;
use crate::fake::virtio::{Device, Ring};
use crate::host::blkio::{DiskFile, Done, Manner};
use crate::host::netio::{StreamSocket, TapDevice, HEADER};
use crate::host::world::{locked, World};
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::VmExit;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{Task, SIGNAL};
use std::collections::HashMap;
use std::sync::Arc;

/// The vector of a device's first queue.
pub(super) const VECTOR: u8 = 0x41;
/// Where buffers are, and how far apart.
pub(super) const DATA: u64 = 0x4_0000;
pub(super) const ROOM: u64 = 0x1000;
/// Packets each way.
pub(super) const PACKETS: u64 = 24;
/// Sectors of the disks.
pub(super) const SECTORS: u64 = 64;

/// Halts until an interrupt comes, and ends it.
pub(super) fn wait_for_interrupt(cpu: &mut AbiVcpu) {
    let halted = cpu.exits(|s| s.rflags |= 0x200, VmExit::Hlt, &[0xf4]);
    assert!(matches!(halted.events[..], [GuestEvent::Interrupt(_)]), "{:?}", halted.events);
    cpu.store(0xfee0_00b0, B4, 0);
}

/// A world with a VM of 128 pages, entered by the task of CPU 0.
pub(super) fn machine() -> (Arc<World>, Vec<Arc<Task>>, AbiVm) {
    let world = World::new();
    let tasks: Vec<_> = (0..6).map(|cpu| Task::new(&world.process, cpu)).collect();
    let entered = world.enter_as(&tasks[0]);
    let vm = AbiVm::with_chips(&world, 128);
    drop(entered);
    (world, tasks, vm)
}

/// Lends a thread to a queue until a signal comes.
pub(super) fn lend(world: &World, device: i64, queue: u64) {
    let end = world.ioctl(device, rvmm::DEV_RUN, queue);
    assert!(end == Err(EINTR) || end == Err(ERESTARTSYS), "{end:?}");
}

/// How transfers go.
fn manners(random: &mut Random) -> Vec<Manner> {
    let one = |random: &mut Random| match random.below(6) {
        0 | 1 => Manner::Later,
        2 => Manner::Waits,
        3 => Manner::Short(512),
        _ => Manner::Now,
    };
    (0..64).map(|_| one(random)).chain([Manner::Now]).collect()
}

/// The file of a disk whose transfers go as `seed` says.
pub(super) fn scripted_file(seed: u64) -> Arc<DiskFile> {
    let mut random = Random::new(seed);
    let mut file = DiskFile::new((SECTORS * 512) as usize);
    file.is_nowait = random.below(4) != 0;
    file.script(&manners(&mut random));
    Arc::new(file)
}

/// The driver of a disk, with requests of each kind.
pub(super) fn drive_disk(world: &World, cpu: &mut AbiVcpu, file: &DiskFile, seed: u64) {
    let mut random = Random::new(seed ^ 99);
    // FLUSH is offered; indirect descriptors and event indexes are not used.
    let device = Device::start(cpu, 4, 1, VECTOR, 1 << 32 | 1 << 9);
    let mut ring = Ring::new(&world.process, RAM, 0);
    let (mut pending, mut left, mut contents) = (HashMap::new(), 20u64, HashMap::new());
    while left != 0 || !pending.is_empty() {
        while left != 0 && ring.room() >= 3 && (pending.is_empty() || random.below(3) == 0) {
            left -= 1;
            // Each request has sectors of its own, so that their order does not matter.
            let (sector, at, is_write) = (left * 2, DATA + left * ROOM, random.below(2) == 0);
            let kind = if random.below(8) == 0 { 4 } else { u32::from(is_write) };
            let mut header = kind.to_le_bytes().to_vec();
            header.extend_from_slice(&[0; 4]);
            header.extend_from_slice(&sector.to_le_bytes());
            world.process.write(RAM + at, &header, true).unwrap();
            world.process.write(RAM + at + 16, &[0xee], true).unwrap();
            let data = vec![0x80 | left as u8; 1024];
            if kind == 1 {
                world.process.write(RAM + at + 512, &data, true).unwrap();
            }
            // Some data is not where direct I/O wants it.
            let odd = u64::from(kind == 0 && random.below(6) == 0);
            let parts = match kind {
                4 => vec![(at, 16, false), (at + 16, 1, true)],
                _ => vec![(at, 16, false), (at + 512 + odd, 1024, kind == 0), (at + 16, 1, true)],
            };
            let head = ring.add(&parts);
            pending.insert(head, (kind, at, sector, odd));
            if kind == 1 {
                contents.insert(sector, data);
            }
            if random.below(3) == 0 {
                break;
            }
        }
        cpu.store(device.notify(0), B2, 0);
        wait_for_interrupt(cpu);
        for (head, len) in ring.take_used() {
            let (kind, at, sector, odd) = pending.remove(&head).expect("a request that was made");
            let mut status = [0];
            world.process.read(RAM + at + 16, &mut status, true).unwrap();
            assert_eq!(status, [0], "it went well");
            if kind == 0 {
                assert_eq!(len, 1025);
                let mut data = vec![0; 1024];
                world.process.read(RAM + at + 512 + odd, &mut data, true).unwrap();
                assert_eq!((data[0], data[1023]), (sector as u8, sector as u8 + 1));
            }
        }
    }
    for (sector, data) in contents {
        assert_eq!(file.bytes((sector * 512) as usize, 1024), data);
    }
}

/// A guest that reads and writes a disk, some requests at a time; transfers end when they like.
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
            if random.below(3) == 0 {
                file.end_one(random.below(64) as usize);
            }
            sched::wait_until("transfers", || file.under_way() != 0 || over.load(SeqCst));
        }
    };
    let bodies = vec![
        thread(&world, &tasks[0], drive),
        thread(&world, &tasks[1], || lend(&world, disk, 0)),
        thread(&world, &tasks[2], ends),
    ];
    drop(entered);
    run_all(seed, bodies);
    assert_eq!(Arc::strong_count(&file), 2, "nobody but the test and its fd holds the file");
    assert_eq!(world.process.pins(), 0);
}

#[test]
fn a_disk_completes_each_request_once() {
    for_seeds(60, disk);
}

/// Asks for a request of that kind, from that sector on, carried out like that, with that data. Returns its status and
/// length.
type Ask<'a> = &'a mut dyn FnMut(u32, u64, Manner, &[u8]) -> (u8, u32);

/// A disk with a worker, for requests one by one.
fn one_by_one(test: impl FnOnce(Ask<'_>, &DiskFile) + Send) {
    one_by_one_on(DiskFile::new((SECTORS * 512) as usize), 0, |_, _| panic!("nothing is told"), test);
}

/// The same, with what user space does when it is told of a failure.
fn one_by_one_on(
    file: DiskFile,
    flags: u32,
    told: impl Fn(i64, &DiskFile) + Sync,
    test: impl FnOnce(Ask<'_>, &DiskFile) + Send,
) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let file = Arc::new(file);
    let disk = vm.disk(world.open_disk(&file), 4, 1, flags);
    let mut cpu = vm.vcpu(0);
    let worker = tasks[1].clone();
    let drive = || {
        // FLUSH, DISCARD and WRITE_ZEROES.
        let device = Device::start(&mut cpu, 4, 1, VECTOR, 1 << 32 | 1 << 9 | 1 << 13 | 1 << 14);
        let mut ring = Ring::new(&world.process, RAM, 0);
        let mut ask = |kind: u32, sector: u64, manner: Manner, data: &[u8]| {
            file.script(&[manner]);
            let mut header = kind.to_le_bytes().to_vec();
            header.extend_from_slice(&[0; 4]);
            header.extend_from_slice(&sector.to_le_bytes());
            world.process.write(RAM + DATA, &header, true).unwrap();
            world.process.write(RAM + DATA + 16, &[0xee], true).unwrap();
            world.process.write(RAM + DATA + 512, data, true).unwrap();
            let to_guest = matches!(kind, 0 | 8);
            let mut parts =
                vec![(DATA, 16, false), (DATA + 512, data.len() as u32, to_guest), (DATA + 16, 1, true)];
            parts.retain(|p| p.1 != 0);
            ring.add(&parts);
            cpu.store(device.notify(0), B2, 0);
            wait_for_interrupt(&mut cpu);
            let used = ring.take_used();
            assert_eq!(used.len(), 1);
            let mut status = [0];
            world.process.read(RAM + DATA + 16, &mut status, true).unwrap();
            (status[0], used[0].1)
        };
        test(&mut ask, &file);
        worker.set(SIGNAL);
    };
    let serve = || loop {
        match world.ioctl(disk, rvmm::DEV_RUN, 0) {
            Ok(errno) => told(errno, &file),
            end => return assert!(end == Err(EINTR) || end == Err(ERESTARTSYS), "{end:?}"),
        }
    };
    let bodies = vec![thread(&world, &tasks[0], drive), thread(&world, &tasks[1], serve)];
    drop(entered);
    run_all(1, bodies);
}

/// A range of DISCARD and WRITE_ZEROES.
fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    let mut all = sector.to_le_bytes().to_vec();
    all.extend_from_slice(&count.to_le_bytes());
    all.extend_from_slice(&flags.to_le_bytes());
    all
}

#[test]
fn each_kind_of_request_reaches_the_file_and_what_fails_says_so() {
    one_by_one(|ask, file| {
        assert_eq!(ask(1, 2, Manner::Now, &[7; 512]), (0, 1));
        assert_eq!(file.take_done(), [Done::Write(1024, 512, false)]);
        assert_eq!(ask(0, 2, Manner::Now, &[0; 512]), (0, 513));
        assert_eq!(ask(4, 0, Manner::Now, &[]), (0, 1));
        assert!(file.take_done().contains(&Done::Sync));
        assert_eq!(ask(8, 0, Manner::Now, &[0; 20]), (0, 21));
        assert_eq!(ask(11, 0, Manner::Now, &range(4, 2, 0)), (0, 1));
        assert_eq!(ask(13, 0, Manner::Now, &range(6, 1, 1)), (0, 1));
        let done = file.take_done();
        assert_eq!(done, [Done::Clear(2048, 1024, true), Done::Clear(3072, 512, true)]);
        for manner in [Manner::Fails(5), Manner::Fails(28)] {
            assert_eq!(ask(1, 2, manner, &[7; 512]).0, 1, "VIRTIO_BLK_S_IOERR");
            assert_eq!(ask(0, 2, manner, &[7; 512]).0, 1);
            assert_eq!(ask(4, 0, manner, &[]).0, 1);
        }
        // What direct I/O does not take is copied.
        assert_eq!(ask(0, 3, Manner::Short(100), &[0; 512]).0, 0);
        assert_eq!(ask(1, SECTORS, Manner::Now, &[0; 512]).0, 1, "beyond the end");
        assert_eq!(ask(99, 0, Manner::Now, &[0; 512]).0, 2, "VIRTIO_BLK_S_UNSUPP");
    });
}

#[test]
fn a_file_that_is_interrupted_without_a_signal_has_failed() {
    let told = |errno, _: &DiskFile| assert_eq!(errno, 5);
    one_by_one_on(DiskFile::new((SECTORS * 512) as usize), rvmm::BLK_TELLS_FAILURES, told, |ask, _| {
        // EINTR and ERESTARTSYS.
        for errno in [4, 512] {
            assert_eq!(ask(1, 2, Manner::Fails(errno), &[7; 512]).0, 1, "VIRTIO_BLK_S_IOERR");
            assert_eq!(ask(0, 2, Manner::Fails(errno), &[7; 512]).0, 1);
        }
        assert_eq!(ask(1, 2, Manner::Now, &[7; 512]).0, 0, "it goes on");
    });
}

#[test]
fn what_the_host_fails_is_told_to_user_space_and_the_guest() {
    let told = AtomicUsize::new(0);
    let count = |errno, _: &DiskFile| {
        assert!(errno == 28 || errno == 5, "{errno}");
        told.fetch_add(1, SeqCst);
    };
    one_by_one_on(DiskFile::new((SECTORS * 512) as usize), rvmm::BLK_TELLS_FAILURES, count, |ask, _| {
        assert_eq!(ask(1, 2, Manner::Fails(28), &[7; 512]).0, 1);
        assert_eq!(ask(4, 0, Manner::Fails(5), &[]).0, 1);
        assert_eq!(ask(1, 2, Manner::Now, &[7; 512]).0, 0, "it goes on");
    });
    assert_eq!(told.load(SeqCst), 2);
}

#[test]
fn what_the_host_fails_can_be_tried_again_before_the_guest_is_told() {
    let flags = rvmm::BLK_TELLS_FAILURES | rvmm::BLK_HOLDS_FAILED;
    let times = AtomicUsize::new(0);
    let make_room = |errno, file: &DiskFile| {
        assert_eq!(errno, 28);
        // It fails once more, then there is room.
        if times.fetch_add(1, SeqCst) % 2 == 1 {
            file.script(&[Manner::Now]);
        }
    };
    one_by_one_on(DiskFile::new((SECTORS * 512) as usize), flags, make_room, |ask, file| {
        assert_eq!(ask(1, 2, Manner::Fails(28), &[7; 512]).0, 0);
        assert_eq!(file.bytes(1024, 512), [7; 512]);
        assert_eq!(ask(4, 0, Manner::Fails(28), &[]).0, 0);
        assert_eq!(ask(1, SECTORS, Manner::Now, &[0; 512]).0, 1, "the guest's own fault is answered");
    });
    assert_eq!(times.load(SeqCst), 4);
}

#[test]
fn zeroes_are_written_where_the_file_cannot_do_it_otherwise() {
    let mut file = DiskFile::new((SECTORS * 512) as usize);
    file.clears = false;
    one_by_one_on(
        file,
        0,
        |_, _| {},
        |ask, file| {
            for unmap in [0, 1] {
                assert_eq!(ask(13, 6, Manner::Now, &range(6, 2, unmap)).0, 0);
                assert_eq!(file.take_done(), [Done::Write(3072, 1024, false)]);
            }
            assert_eq!(file.bytes(3072, 1024), [0; 1024]);
            assert_eq!(ask(11, 0, Manner::Now, &range(8, 1, 0)).0, 2, "VIRTIO_BLK_S_UNSUPP");
        },
    );
}

#[test]
fn a_file_that_has_grown_is_a_larger_disk() {
    let (world, tasks, vm) = machine();
    let _entered = world.enter_as(&tasks[0]);
    let file = Arc::new(DiskFile::new((SECTORS * 512) as usize));
    let disk = vm.disk(world.open_disk(&file), 4, 1, 0);
    let mut cpu = vm.vcpu(0);
    let device = Device::start(&mut cpu, 4, 1, VECTOR, 1 << 32);
    let look = || {
        let attr =
            DeviceAttr { flags: 0, group: rvmm::GROUP_COMMAND, attr: rvmm::COMMAND_LOOK_AT_SIZE, addr: 0 };
        vm.give_to(disk, nr::SET_DEVICE_ATTR, &attr)
    };

    file.resize((SECTORS * 256) as usize);
    look().unwrap();
    assert_eq!(cpu.load(device.bar + 0x2000, B4), SECTORS, "a shorter one stays as it is");
    file.resize((SECTORS * 1024) as usize);
    look().unwrap();
    assert_eq!(cpu.load(device.bar + 0x2000, B4), SECTORS * 2);
    wait_for_interrupt(&mut cpu);
}

/// The driver of a network card, which sends packets and takes those that come.
pub(super) fn drive_net(world: &World, cpu: &mut AbiVcpu, is_stream: bool, seed: u64) {
    let mut random = Random::new(seed ^ 3);
    let device = Device::start(cpu, 5, 2, VECTOR, 1 << 32 | 1 << 5);
    let mut receive = Ring::new(&world.process, RAM, 0);
    let mut transmit = Ring::new(&world.process, RAM, 1);
    for i in 0..8 {
        receive.add(&[(DATA + i * ROOM, 2048, true)]);
    }
    cpu.store(device.notify(0), B2, 0);
    let (mut sent, mut done, mut received) = (0, 0, 0u64);
    let mut next_room = 8;
    let mut rooms: Vec<u64> = (0..8).collect();
    while done < PACKETS || received < PACKETS {
        // At first one at a time, so that the vCPU comes to serve the queue.
        let most = if sent < 12 { 1 } else { PACKETS };
        while sent < PACKETS && sent - done < most && transmit.room() != 0 && random.below(3) != 0 {
            let at = DATA + (20 + sent) * ROOM;
            let mut packet = vec![0; HEADER];
            packet.extend_from_slice(&sent.to_le_bytes());
            // Large ones go alone, and wait for room.
            let is_large = !is_stream && random.below(3) == 0;
            packet.resize(HEADER + if is_large { 2_500 } else { 60 }, 0);
            world.process.write(RAM + at, &packet, true).unwrap();
            transmit.add(&[(at, packet.len() as u32, false)]);
            sent += 1;
        }
        cpu.store(device.notify(1), B2, 1);
        done += transmit.take_used().len() as u64;
        for (_, len) in receive.take_used() {
            let at = DATA + rooms.remove(0) * ROOM;
            let mut number = [0; 8];
            world.process.read(RAM + at + HEADER as u64, &mut number, true).unwrap();
            assert_eq!(u64::from_le_bytes(number), received, "packets come in order, each once");
            assert_eq!(len as usize, HEADER + 60);
            received += 1;
            let again = next_room % 16;
            next_room += 1;
            rooms.push(again);
            receive.add(&[(DATA + again * ROOM, 2048, true)]);
        }
        cpu.store(device.notify(0), B2, 0);
        let all_sent = sent == PACKETS || sent - done >= most || transmit.room() == 0;
        if all_sent && (done < sent || received < PACKETS) {
            wait_for_interrupt(cpu);
        }
    }
}

/// Sends packets through a tap or a stream; each has its number in it.
fn net(seed: u64, is_stream: bool) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let (tap, stream) = (TapDevice::new(), StreamSocket::new());
    let fd = if is_stream { world.open_stream(&stream) } else { world.open_tap(&tap) };
    let card = vm.network_card(fd, 5, if is_stream { rvmm::NET_STREAM } else { 0 });
    let mut cpu = vm.vcpu(0);
    let (rx, tx) = (tasks[1].clone(), tasks[2].clone());
    let drive = || {
        drive_net(&world, &mut cpu, is_stream, seed);
        rx.set(SIGNAL);
        tx.set(SIGNAL);
    };
    let deliver = || {
        let mut random = Random::new(seed ^ 5);
        for number in 0..PACKETS {
            let mut packet = number.to_le_bytes().to_vec();
            packet.resize(60, 0);
            if is_stream {
                let mut framed = 60u32.to_be_bytes().to_vec();
                framed.extend_from_slice(&packet);
                let cut = random.below(framed.len() as u64) as usize;
                stream.deliver(&framed[..cut]);
                stream.deliver(&framed[cut..]);
            } else {
                tap.deliver(&packet);
            }
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
    ];
    drop(entered);
    run_all(seed, bodies);

    let numbers: Vec<u64> = if is_stream {
        let bytes = stream.take_sent();
        bytes.chunks(64).map(|frame| u64::from_le_bytes(frame[4..12].try_into().unwrap())).collect()
    } else {
        let packets = tap.take_sent();
        packets.iter().map(|p| u64::from_le_bytes(p[HEADER..HEADER + 8].try_into().unwrap())).collect()
    };
    assert_eq!(numbers, (0..PACKETS).collect::<Vec<_>>(), "packets go in order, each once");
}

/// A tap takes nothing for a moment, while a vCPU that serves its queue sends one packet and then another.
fn full_tap(seed: u64) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let tap = TapDevice::new();
    let card = vm.network_card(world.open_tap(&tap), 5, 0);
    let mut cpu = vm.vcpu(0);
    const SENT: u64 = 12;
    let drive = || {
        let device = Device::start(&mut cpu, 5, 2, VECTOR, 1 << 32 | 1 << 5);
        let mut transmit = Ring::new(&world.process, RAM, 1);
        // One by one, from which the worker learns to leave them to the vCPU; the last ones find no room, which only
        // what is too large to wait with others asks for.
        let send = |cpu: &mut AbiVcpu, transmit: &mut Ring, number: u64| {
            let at = DATA + number * ROOM;
            let mut packet = vec![0; HEADER];
            packet.extend_from_slice(&number.to_le_bytes());
            packet.resize(HEADER + 2_500, 0);
            world.process.write(RAM + at, &packet, true).unwrap();
            transmit.add(&[(at, packet.len() as u32, false)]);
            cpu.store(device.notify(1), B2, 1);
        };
        let mut done = 0;
        for number in 0..SENT - 2 {
            send(&mut cpu, &mut transmit, number);
            while done <= number {
                wait_for_interrupt(&mut cpu);
                done += transmit.take_used().len() as u64;
            }
        }
        tap.set_room(0);
        // The worker has been woken by the time of the second, and has not run.
        sched::undisturbed(|| {
            send(&mut cpu, &mut transmit, SENT - 2);
            send(&mut cpu, &mut transmit, SENT - 1);
        });
        tap.set_room(u64::MAX);
        for _ in 0..100_000 {
            done += transmit.take_used().len() as u64;
            if done == SENT {
                break;
            }
            sched::yield_point();
        }
        assert_eq!(done, SENT, "a packet is lost with what was left to the worker");
        tasks[1].set(SIGNAL);
    };
    let bodies = vec![thread(&world, &tasks[0], drive), thread(&world, &tasks[1], || lend(&world, card, 1))];
    drop(entered);
    run_all(seed, bodies);

    let number = |p: &Vec<u8>| u64::from_le_bytes(p[HEADER..HEADER + 8].try_into().unwrap());
    let numbers: Vec<u64> = tap.take_sent().iter().map(number).collect();
    assert_eq!(numbers, (0..SENT).collect::<Vec<_>>(), "packets go in order, each once");
}

/// A tap that has packets all the time when a driver starts, which takes what TUNSETOFFLOAD calls `offloads`.
fn flooded_tap(seed: u64, features: u64, offloads: u32) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let tap = TapDevice::new();
    let card = vm.network_card(world.open_tap(&tap), 5, rvmm::NET_OFFLOADS);
    let mut cpu = vm.vcpu(0);
    for number in 0..8u8 {
        tap.deliver(&[number; 60]);
    }
    let drive = || {
        let device = Device::start(&mut cpu, 5, 2, VECTOR, 1 << 32 | 1 << 5 | features);
        let mut receive = Ring::new(&world.process, RAM, 0);
        for i in 0..8 {
            receive.add(&[(DATA + i * ROOM, 2048, true)]);
        }
        cpu.store(device.notify(0), B2, 0);
        let mut received = 0;
        while received < 8 {
            wait_for_interrupt(&mut cpu);
            received += receive.take_used().len();
        }
        tasks[1].set(SIGNAL);
    };
    let bodies = vec![thread(&world, &tasks[0], drive), thread(&world, &tasks[1], || lend(&world, card, 0))];
    drop(entered);
    run_all(seed, bodies);

    assert_eq!(*locked(&tap.taken_with), [offloads; 8], "seed {seed}");
}

#[test]
fn a_tap_knows_what_a_driver_takes_before_the_driver_gets_a_packet() {
    for_seeds(10, |seed| flooded_tap(seed, 0, 0));
    // GUEST_CSUM, GUEST_TSO4; TUN_F_CSUM, TUN_F_TSO4.
    for_seeds(10, |seed| flooded_tap(seed, 1 << 1 | 1 << 7, 1 | 2));
}

#[test]
fn what_a_vcpu_left_to_the_worker_goes_before_what_it_is_asked_next() {
    for_seeds(10, full_tap);
}

#[test]
fn a_tap_carries_each_packet_once_and_in_order() {
    for_seeds(40, |seed| net(seed, false));
}

#[test]
fn a_stream_carries_each_packet_once_and_in_order() {
    for_seeds(30, |seed| net(seed, true));
}

/// A guest writes to a virtio console and echoes what comes; another thread reads and writes.
fn console(seed: u64) {
    let (world, tasks, vm) = machine();
    let entered = world.enter_as(&tasks[0]);
    let config =
        rvmm::VirtioConsoleConfig { slot: 6, flags: rvmm::CONSOLE_WAITS, columns: 80, rows: 25, pad: 0 };
    let fd = vm.device(rvmm::DEV_VIRTIO_CONSOLE, &config).unwrap();
    let mut cpu = vm.vcpu(0);
    const BYTES: usize = 400;
    let drive = || {
        let device = Device::start(&mut cpu, 6, 2, VECTOR, 1 << 32);
        let mut input = Ring::new(&world.process, RAM, 0);
        let mut output = Ring::new(&world.process, RAM, 1);
        for i in 0..4 {
            input.add(&[(DATA + i * ROOM, 32, true)]);
        }
        cpu.store(device.notify(0), B2, 0);
        let (mut echoed, mut next, mut out) = (0usize, 0u64, 0u64);
        while echoed < BYTES {
            let mut idle = true;
            for (_, len) in input.take_used() {
                idle = false;
                let at = DATA + next % 4 * ROOM;
                next += 1;
                let mut bytes = vec![0; len as usize];
                world.process.read(RAM + at, &mut bytes, true).unwrap();
                let to = DATA + (8 + out % 16) * ROOM;
                world.process.write(RAM + to, &bytes, true).unwrap();
                while output.room() == 0 {
                    if output.take_used().is_empty() {
                        wait_for_interrupt(&mut cpu);
                    }
                }
                output.add(&[(to, len, false)]);
                out += 1;
                cpu.store(device.notify(1), B2, 1);
                echoed += len as usize;
                input.add(&[(at, 32, true)]);
                cpu.store(device.notify(0), B2, 0);
            }
            output.take_used();
            if idle {
                wait_for_interrupt(&mut cpu);
            }
        }
        while output.room() < 16 {
            if output.take_used().is_empty() {
                wait_for_interrupt(&mut cpu);
            }
        }
    };
    let message: Vec<u8> = (0..BYTES).map(|i| i as u8).collect();
    let write = || {
        let mut random = Random::new(seed);
        let mut left = &message[..];
        while !left.is_empty() {
            let n = left.len().min(1 + random.below(50) as usize);
            let written = world.write(fd, &left[..n], false).unwrap();
            left = &left[written..];
        }
    };
    let read = || {
        let mut back = Vec::new();
        while back.len() < BYTES {
            back.extend(world.read(fd, 64, 0, false).unwrap());
        }
        assert_eq!(back, message);
    };
    let bodies = vec![
        thread(&world, &tasks[0], drive),
        thread(&world, &tasks[1], write),
        thread(&world, &tasks[2], read),
    ];
    drop(entered);
    run_all(seed, bodies);
}

#[test]
fn a_console_carries_each_byte_both_ways() {
    for_seeds(30, console);
}
