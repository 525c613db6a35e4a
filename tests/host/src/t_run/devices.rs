// SPDX-License-Identifier: GPL-2.0

//! Ports, configuration space, BARs and MSI-X through the handlers, as a guest finds them.

use super::world;
use crate::abi::{nr, rvmm, vm as abi};
use crate::arch::addr::AccessWidth::{self, *};
use crate::fake::abi::{AbiVcpu, AbiVm, WINDOW};
use crate::fake::backend::Stop;
use crate::fake::direct::RAM;
use crate::fake::steps::{fault, Steps, CODE};
use crate::fake::virtio::{config_read, config_write, find_msix, Device, Ring};
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{PioAccess, VmExit};
use crate::vcpu::state::{RAX, RBX, RCX, RSI};
use kernel::prelude::*;

fn ones(width: AccessWidth) -> u64 {
    width.mask()
}

/// A machine of all chips with an entropy source in slot 3, and a vCPU.
fn with_rng() -> (AbiVm, AbiVcpu, crate::host::world::Entered) {
    let (world, entered) = world();
    let vm = AbiVm::with_chips(&world, 64);
    vm.device(rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { slot: 3, flags: 0 }).unwrap();
    let vcpu = vm.vcpu(0);
    (vm, vcpu, entered)
}

#[test]
fn what_nobody_claims_reads_as_ones_behind_a_host_bridge() {
    let (_vm, mut cpu, _in) = with_rng();

    for width in [B1, B2, B4] {
        for port in [0x80, 0x2e8, 0x1ce, 0xcfb, 0xfff0] {
            assert_eq!(u64::from(cpu.inp(port, width)), ones(width), "port {port:#x}");
            assert!(cpu.out(port, width, 0).user.is_empty());
        }
        for at in [0x9000_0000, WINDOW + 0x800_0000, 0xfed0_0000] {
            assert_eq!(cpu.load(at, width), ones(width), "{at:#x}");
            assert!(cpu.mov(at, width, Some(0)).user.is_empty());
        }
    }
}

#[test]
fn without_a_host_bridge_it_is_user_spaces() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);

    let out = cpu.out(0x80, B2, 0xabcd);
    assert_eq!(out.user.len(), 1);
    let (reason, data) = out.user[0];
    assert_eq!((reason, data[0], data[1], u16::from_le_bytes([data[2], data[3]])), (2, 1, 2, 0x80));
    assert_eq!(cpu.port_data()[..2], [0xcd, 0xab]);

    cpu.answers.push_back(0xa55a);
    assert_eq!(cpu.inp(0x80, B1), 0x5a);

    let write = cpu.mov(0x9000_0010, B4, Some(0x1234_5678));
    let (reason, data) = write.user[0];
    assert_eq!(reason, 6);
    assert_eq!(u64::from_le_bytes(data[..8].try_into().unwrap()), 0x9000_0010);
    assert_eq!((&data[8..12], data[16], data[20]), (&[0x78, 0x56, 0x34, 0x12][..], 4, 1));

    cpu.answers.extend([0x1122_3344_5566_7788, 0x99]);
    let read = cpu.mov(0x9000_0010, B4, None);
    assert_eq!((read.user.len(), read.gprs[RAX]), (1, 0x5566_7788));
    assert_eq!(cpu.load(0x9000_0010, B1), 0x99);
}

#[test]
fn the_bus_is_found_and_its_bars_are_sized_and_moved() {
    let (_vm, mut cpu, _in) = with_rng();
    assert_eq!(config_read(&mut cpu, 0, 0), 0x1237_8086);
    assert_eq!(config_read(&mut cpu, 5, 0), u32::MAX);
    assert_eq!(config_read(&mut cpu, 3, 0), 0x1044_1af4);

    let bar = config_read(&mut cpu, 3, 0x10);
    config_write(&mut cpu, 3, 0x10, u32::MAX);
    let size = !config_read(&mut cpu, 3, 0x10) | 0xf;
    assert_eq!(size, 0x3fff);
    config_write(&mut cpu, 3, 0x10, bar);
    assert_eq!(cpu.load(u64::from(bar), B4), u64::from(u32::MAX), "decoding is off");
    config_write(&mut cpu, 3, 4, 2);
    assert_eq!(cpu.load(u64::from(bar) + 0x12, B2), 1, "its queues");

    let moved = WINDOW as u32 + 0x400_0000;
    config_write(&mut cpu, 3, 0x10, moved);
    assert_eq!(cpu.load(u64::from(moved) + 0x12, B2), 1);
    assert_eq!(cpu.load(u64::from(bar) + 0x12, B2), 0xffff, "nothing is left there");
    // Through the data port, a byte at a time.
    cpu.out(0xcf8, B4, 0x8000_1810);
    let bytes: Vec<u32> = (0..4).map(|i| cpu.inp(0xcfc + i, B1)).collect();
    assert_eq!(bytes, moved.to_le_bytes().map(u32::from));
}

#[test]
fn an_entropy_source_fills_buffers_and_interrupts() {
    let (vm, mut cpu, _in) = with_rng();
    let device = Device::start(&mut cpu, 3, 1, 0x41, 1 << 32);
    let mut ring = Ring::new(&vm.world.process, RAM, 0);
    ring.add(&[(0x2_0000, 64, true)]);

    cpu.store(device.notify(0), B2, 0);
    let halted = cpu.exits(|s| s.rflags |= 0x200, VmExit::Hlt, &[0xf4]);

    assert_eq!(halted.events, [GuestEvent::Interrupt(0x41)]);
    assert_eq!(ring.take_used(), [(0, 64)]);
    let mut bytes = [0; 64];
    vm.world.process.read(RAM + 0x2_0000, &mut bytes, true).unwrap();
    assert_eq!(bytes[..4], [7, 8, 9, 10]);
}

#[test]
fn every_function_is_made_by_its_number_and_joins_the_bus_once() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 64);
    let asked = abi::CreateDevice { kind: rvmm::DEV_VIRTIO_RNG, fd: 0, flags: 0 };
    let fd = i64::from(vm.exchange(vm.fd, nr::CREATE_DEVICE, &asked).unwrap().fd);
    let config = |slot| {
        let addr = vm.put(&rvmm::VirtioRngConfig { slot, flags: 0 });
        let attr = abi::DeviceAttr { flags: 0, group: rvmm::GROUP_CONFIG, attr: 0, addr };
        vm.give_to(fd, nr::SET_DEVICE_ATTR, &attr)
    };

    assert_eq!(vm.on(fd, rvmm::DEV_RUN, 0), Err(ENXIO), "not there yet");
    config(3).unwrap();
    assert_eq!(config(4), Err(EBUSY));
    assert_eq!(vm.on(fd, rvmm::DEV_RUN, 0), Err(EINVAL), "no thread serves it");

    let console = rvmm::VirtioConsoleConfig { slot: 0, flags: 0, columns: 80, rows: 25, pad: 0 };
    vm.device(rvmm::DEV_VIRTIO_CONSOLE, &console).unwrap();
    let mut cpu = vm.vcpu(0);
    let ids: Vec<u32> = (1..=4).map(|slot| config_read(&mut cpu, slot, 0)).collect();
    assert_eq!(ids, [0x1043_1af4, u32::MAX, 0x1044_1af4, u32::MAX]);
}

#[test]
fn a_masked_vector_is_pending_until_it_is_unmasked() {
    let (vm, mut cpu, _in) = with_rng();
    let device = Device::start(&mut cpu, 3, 1, 0x41, 1 << 32);
    cpu.store(device.table + 12, B4, 1);
    let mut ring = Ring::new(&vm.world.process, RAM, 0);
    ring.add(&[(0x2_0000, 8, true)]);
    cpu.store(device.notify(0), B2, 0);
    assert_eq!(ring.take_used().len(), 1);
    assert_eq!(cpu.load(device.table + 0x800, B4), 1, "the pending bit");

    cpu.store(device.table + 12, B4, 0);

    let halted = cpu.exits(|s| s.rflags |= 0x200, VmExit::Hlt, &[0xf4]);
    assert_eq!(halted.events, [GuestEvent::Interrupt(0x41)]);
    assert_eq!(cpu.load(device.table + 0x800, B4), 0);
    let msix = find_msix(&mut cpu, 3);
    assert_eq!(config_read(&mut cpu, 3, msix) >> 31, 1);
}

#[test]
fn memory_of_a_ring_that_is_away_is_brought_and_that_is_nobodys_stops_the_device() {
    let (vm, mut cpu, _in) = with_rng();
    let device = Device::start(&mut cpu, 3, 1, 0x41, 1 << 32);
    let mut ring = Ring::new(&vm.world.process, RAM, 0);
    ring.add(&[(0x2_0000, 16, true)]);
    assert!(vm.world.evict(RAM, 64 * 4096));

    cpu.store(device.notify(0), B2, 0);
    assert_eq!(ring.take_used().len(), 1);

    ring.add(&[(0x7000_0000, 16, true)]);
    cpu.store(device.notify(0), B2, 0);
    assert!(ring.take_used().is_empty());
    assert_eq!(cpu.load(device.bar + 0x14, B1) & 64, 64, "it needs a reset");
}

#[test]
fn writes_signal_eventfds_without_an_exit_to_user_space() {
    let (vm, mut cpu, _in) = with_rng();
    let (port_fd, port) = vm.world.eventfd();
    let (memory_fd, memory) = vm.world.eventfd();
    let event = |addr, len, fd, flags| abi::Ioeventfd { datamatch: 7, addr, len, fd, flags, pad: [0; 36] };
    vm.give(nr::IOEVENTFD, &event(0x500, 2, port_fd, abi::IOEVENTFD_PIO)).unwrap();
    vm.give(nr::IOEVENTFD, &event(0x9000_0000, 4, memory_fd, abi::IOEVENTFD_DATAMATCH)).unwrap();
    assert_eq!(vm.give(nr::IOEVENTFD, &event(0x500, 2, port_fd, abi::IOEVENTFD_PIO)), Err(EEXIST));

    cpu.out(0x500, B2, 1);
    cpu.out(0x500, B1, 1);
    assert_eq!(port.take(), 1, "the length counts");
    cpu.store(0x9000_0000, B4, 7);
    cpu.store(0x9000_0000, B4, 8);
    assert_eq!(memory.take(), 1, "the value counts");

    let gone =
        abi::Ioeventfd { flags: abi::IOEVENTFD_PIO | abi::IOEVENTFD_DEASSIGN, ..event(0x500, 2, port_fd, 0) };
    vm.give(nr::IOEVENTFD, &gone).unwrap();
    assert_eq!(vm.give(nr::IOEVENTFD, &gone), Err(ENOENT));
    cpu.out(0x500, B2, 1);
    assert_eq!(port.take(), 0);
}

#[test]
fn the_chips_answer_at_their_ports() {
    let (_vm, mut cpu, _in) = with_rng();
    cpu.out(0x21, B1, 0xfb);
    assert_eq!(cpu.inp(0x21, B1), 0xfb, "the controller's mask");
    cpu.out(0x70, B1, 0x0d);
    assert_eq!(cpu.inp(0x71, B1) & 0x80, 0x80, "the clock has power");
    cpu.out(0x43, B1, 0x34);
    cpu.out(0x40, B1, 0xff);
    cpu.out(0x40, B1, 0xff);
    cpu.out(0x43, B1, 0);
    let (low, high) = (cpu.inp(0x40, B1), cpu.inp(0x40, B1));
    assert!(high << 8 | low > 0xf000, "the timer counts down");
    assert_eq!(cpu.inp(0x64, B1) & 1, 0, "no key");
    assert_eq!(cpu.inp(0x3fd, B1) & 0x60, 0x60, "the transmitter is empty");
    assert_eq!(cpu.inp(0x608, B4), cpu.inp(0x608, B4) & u32::MAX);
    assert_eq!(cpu.load(0xfee0_0030, B4) & 0xff, 0x14, "the local APIC's version");
    cpu.store(0xfec0_0000, B4, 1);
    assert_eq!(cpu.load(0xfec0_0010, B4) & 0xff, 0x20, "the I/O APIC's");
}

#[test]
fn power_off_and_reset_go_to_user_space() {
    let (_vm, mut cpu, _in) = with_rng();
    let off = cpu.out(0x604, B2, 0x3400);
    let events: Vec<u32> = off.user.iter().map(|(reason, _)| *reason).collect();
    let reset = cpu.out(0xcf9, B1, 6);
    assert_eq!((events, reset.user.len()), (vec![24], 1));
    assert_eq!(reset.user[0].1[0], 2, "KVM_SYSTEM_EVENT_RESET");
}

#[test]
fn the_console_is_written_and_read() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    vm.ioctl(nr::CREATE_IRQCHIP, 0).unwrap();
    let console = vm.device(rvmm::DEV_UART, &rvmm::UartConfig { index: 0, flags: 0 }).unwrap();
    let mut cpu = vm.vcpu(0);

    for byte in b"hello" {
        cpu.out(0x3f8, B1, u32::from(*byte));
    }
    assert_eq!(world.poll(console).unwrap().0 & 1, 1);
    assert_eq!(world.read(console, 16, 0, true).unwrap(), b"hello");
    assert_eq!(world.read(console, 16, 0, true), Err(EAGAIN));

    assert_eq!(world.write(console, b"ok", true), Ok(2));
    assert_eq!(cpu.inp(0x3f8, B1), u32::from(b'o'));
    assert_eq!(cpu.inp(0x3f8, B1), u32::from(b'k'));
}

#[test]
fn a_rep_outs_goes_to_user_space_in_one_exit() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 64);
    let mut cpu = vm.vcpu(0);
    // 64-bit mode, with tables that show the first 2 MiB where they are.
    let sregs = |vm: &AbiVm, cpu: &AbiVcpu| {
        let mut s: crate::abi::vcpu::Sregs = vm.ask(cpu.fd, nr::GET_SREGS).unwrap();
        (s.cr0, s.cr3, s.cr4, s.efer, s.cs.l, s.cs.db) = (0x8000_0011, 0x3_0000, 0x20, 0x500, 1, 0);
        s
    };
    for (at, entry) in [(0x3_0000, 0x3_1023u64), (0x3_1000, 0x3_2023), (0x3_2000, 0xa3)] {
        world.process.write(RAM + at, &entry.to_le_bytes(), true).unwrap();
    }
    world.process.write(RAM + CODE + 256, &[0xf3, 0x6e], true).unwrap();
    world.process.write(RAM + 0x2_0000, b"a message of 24 bytes...", true).unwrap();
    let s = sregs(&vm, &cpu);
    assert_eq!(vm.give_to(cpu.fd, nr::SET_SREGS, &s), Err(EINVAL), "CPUID does not offer it");
    vm.give_cpuid(&cpu);
    vm.give_to(cpu.fd, nr::SET_SREGS, &s).unwrap();

    let done = cpu.step(
        |s| {
            s.rip = CODE + 256;
            (s.gprs[RSI], s.gprs[RCX]) = (0x2_0000, 24);
        },
        |_| {
            let access = PioAccess::new(0x80, B1, false, true);
            Some(Stop { tells_next: false, ..Stop::insn(VmExit::Pio(access), &[0xf3, 0x6e]) })
        },
    );

    assert_eq!(done.user.len(), 1, "{:?}", done.user);
    assert_eq!(done.user[0].1[4..8], 24u32.to_le_bytes());
    assert_eq!(cpu.port_data()[..24], *b"a message of 24 bytes...");
    assert_eq!((done.gprs[RSI], done.gprs[RCX], done.rip), (0x2_0018, 0, CODE + 258));
}

#[test]
fn sixty_four_bit_code_is_known_after_it_was_seen() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 64);
    let mut cpu = vm.vcpu(0);
    let mut s: crate::abi::vcpu::Sregs = vm.ask(cpu.fd, nr::GET_SREGS).unwrap();
    (s.cr0, s.cr3, s.cr4, s.efer, s.cs.l, s.cs.db) = (0x8000_0011, 0x3_0000, 0x20, 0x500, 1, 0);
    for (at, entry) in [
        (0x3_0000u64, 0x3_1023u64),
        (0x3_1000, 0x3_2023),
        (0x3_1018, 0x3_3023),
        (0x3_2000, 0xa3),
        (0x3_3fb8, 0xfee0_00a3),
        (0x3_3fb0, 0xfec0_00a3),
    ] {
        world.process.write(RAM + at, &entry.to_le_bytes(), true).unwrap();
    }
    vm.give_cpuid(&cpu);
    vm.give_to(cpu.fd, nr::SET_SREGS, &s).unwrap();
    cpu.guest.tells_context.store(true, core::sync::atomic::Ordering::SeqCst);
    let reads = |cpu: &mut AbiVcpu, at: u64| {
        cpu.step(
            move |s| (s.rip, s.gprs[RBX]) = (CODE + 160, at),
            move |_| Some(Stop { tells_next: false, ..Stop::insn(fault(at, false), &[0x8b, 0x03]) }),
        )
    };

    for _ in 0..4 {
        assert_eq!(reads(&mut cpu, 0xfee0_0030).gprs[RAX] & 0xff, 0x14);
        // The same instruction at the same place, by the address it has now.
        assert_eq!(reads(&mut cpu, 0xfee0_0020).gprs[RAX], 0);
    }
    // Another instruction is put there: what was known is not true any more.
    world.process.write(RAM + CODE + 160, &[0x8a, 0x03], true).unwrap();
    let byte = cpu.step(
        |s| (s.rip, s.gprs[RBX], s.gprs[RAX]) = (CODE + 160, 0xfee0_0030, 0x1122_3344),
        |_| Some(Stop { tells_next: false, ..Stop::insn(fault(0xfee0_0030, false), &[0x8a, 0x03]) }),
    );
    assert_eq!(byte.gprs[RAX], 0x1122_3314);
}
