// SPDX-License-Identifier: GPL-2.0

//! The ioctls of the node, a VM and a vCPU: what is given comes back, and what cannot be is refused.

use super::world;
use crate::abi::{nr, rvmm, sys, vcpu as abi, vm as abi_vm};
use crate::arch::addr::AccessWidth::*;
use crate::fake::abi::AbiVm;
use crate::fake::backend::Stop;
use crate::fake::direct::RAM;
use crate::fake::steps::{Ran, Steps};
use crate::vcpu::event::GuestEvent;
use crate::vcpu::exit::{RawExit, VmExit};
use core::sync::atomic::Ordering::SeqCst;
use kernel::alloc::{fail_none, fail_nth};
use kernel::prelude::*;
use kernel::task::{current, Task, SIGNAL};

#[test]
fn the_node_says_what_there_is() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);

    assert_eq!(vm.node(nr::GET_API_VERSION, 0), Ok(12));
    assert_eq!(vm.node(nr::GET_API_VERSION, 1), Err(EINVAL));
    assert_eq!(vm.node(nr::GET_VCPU_MMAP_SIZE, 0), Ok(3 << 12));
    assert_eq!(vm.node(nr::CREATE_VM, 1), Err(EINVAL));
    assert_eq!(vm.node(0xae99, 0), Err(ENOTTY));
    assert_eq!(vm.ioctl(0xae99, 0), Err(ENOTTY));
    for cap in 0..300 {
        assert_eq!(vm.node(nr::CHECK_EXTENSION, cap), vm.ioctl(nr::CHECK_EXTENSION, cap));
    }
    let few = vm.put(&sys::Cpuid2 { nent: 1, padding: 0 });
    assert_eq!(vm.node(nr::GET_SUPPORTED_CPUID, few), Err(E2BIG));
    let many = vm.put(&sys::Cpuid2 { nent: 100, padding: 0 });
    assert_eq!(vm.node(nr::GET_SUPPORTED_CPUID, many), Ok(0));
    assert!(vm.get::<sys::Cpuid2>(many).nent > 5);
    let list = vm.put(&sys::MsrList { nmsrs: 0 });
    assert_eq!(vm.node(nr::GET_MSR_INDEX_LIST, list), Err(E2BIG));
    assert_eq!(vm.node(nr::GET_MSR_INDEX_LIST, list), Ok(0));
    assert_eq!(vm.node(nr::X86_GET_MCE_CAP_SUPPORTED, list), Ok(0));
    assert_eq!(vm.node(nr::GET_SUPPORTED_CPUID, 0xdead_0000), Err(EFAULT));
}

#[test]
fn registers_come_back_as_they_were_given() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    vm.ioctl(nr::CREATE_IRQCHIP, 0).unwrap();
    let cpu = vm.vcpu(0);

    let mut regs: abi::Regs = vm.ask(cpu.fd, nr::GET_REGS).unwrap();
    (regs.rax, regs.r15, regs.rip, regs.rflags) = (1, 15, 0x1234, 0x202);
    vm.give_to(cpu.fd, nr::SET_REGS, &regs).unwrap();
    let back: abi::Regs = vm.ask(cpu.fd, nr::GET_REGS).unwrap();
    assert_eq!((back.rax, back.r15, back.rip, back.rflags), (1, 15, 0x1234, 0x202));

    let mut s: abi::Sregs = vm.ask(cpu.fd, nr::GET_SREGS).unwrap();
    (s.gdt.base, s.idt.limit, s.cr2, s.cr8) = (0x1000, 0x7ff, 0x5555, 3);
    vm.give_to(cpu.fd, nr::SET_SREGS, &s).unwrap();
    let back: abi::Sregs = vm.ask(cpu.fd, nr::GET_SREGS).unwrap();
    assert_eq!((back.gdt.base, back.idt.limit, back.cr2, back.cr8), (0x1000, 0x7ff, 0x5555, 3));
    assert_eq!(vm.give_to(cpu.fd, nr::SET_SREGS, &abi::Sregs { cr8: 16, ..s }), Err(EINVAL));
    assert_eq!(vm.give_to(cpu.fd, nr::SET_SREGS, &abi::Sregs { cr4: 1 << 40, ..s }), Err(EINVAL));
    assert_eq!(vm.give_to(cpu.fd, nr::SET_SREGS, &abi::Sregs { apic_base: 1, ..s }), Err(EINVAL));

    let mut d: abi::Debugregs = vm.ask(cpu.fd, nr::GET_DEBUGREGS).unwrap();
    (d.db, d.dr7) = ([1, 2, 3, 4], 0x401);
    vm.give_to(cpu.fd, nr::SET_DEBUGREGS, &d).unwrap();
    let back: abi::Debugregs = vm.ask(cpu.fd, nr::GET_DEBUGREGS).unwrap();
    assert_eq!((back.db, back.dr7), ([1, 2, 3, 4], 0x401));
    assert_eq!(vm.give_to(cpu.fd, nr::SET_DEBUGREGS, &abi::Debugregs { dr7: 1 << 32, ..d }), Err(EINVAL));

    let mut f: abi::Fpu = vm.ask(cpu.fd, nr::GET_FPU).unwrap();
    (f.fcw, f.xmm[3][0], f.last_ip) = (0x27f, 9, 0x77);
    vm.give_to(cpu.fd, nr::SET_FPU, &f).unwrap();
    let back: abi::Fpu = vm.ask(cpu.fd, nr::GET_FPU).unwrap();
    assert_eq!((back.fcw, back.xmm[3][0], back.last_ip), (0x27f, 9, 0x77));
    let area = vm.put(&[0u8; 4096][..]);
    vm.on(cpu.fd, nr::GET_XSAVE, area).unwrap();
    vm.on(cpu.fd, nr::SET_XSAVE, area).unwrap();

    let mut x: abi::Xcrs = vm.ask(cpu.fd, nr::GET_XCRS).unwrap();
    assert_eq!((x.nr_xcrs, x.xcrs[0].value), (1, 1));
    x.xcrs[0].value = 7;
    vm.give_to(cpu.fd, nr::SET_XCRS, &x).unwrap();
    x.xcrs[0].value = 6;
    assert_eq!(vm.give_to(cpu.fd, nr::SET_XCRS, &x), Err(EINVAL));
    assert_eq!(vm.give_to(cpu.fd, nr::SET_XCRS, &abi::Xcrs { flags: 1, ..x }), Err(EINVAL));
    assert_eq!(vm.give_to(cpu.fd, nr::SET_XCRS, &abi::Xcrs { nr_xcrs: 17, ..x }), Err(EINVAL));

    for state in [0, 1, 2, 3] {
        vm.give_to(cpu.fd, nr::SET_MP_STATE, &abi::MpState { mp_state: state }).unwrap();
        assert_eq!(vm.ask::<abi::MpState>(cpu.fd, nr::GET_MP_STATE).unwrap().mp_state, state);
    }
    assert_eq!(vm.give_to(cpu.fd, nr::SET_MP_STATE, &abi::MpState { mp_state: 9 }), Err(EINVAL));

    let lapic: abi::LapicState = vm.ask(cpu.fd, nr::GET_LAPIC).unwrap();
    vm.give_to(cpu.fd, nr::SET_LAPIC, &lapic).unwrap();
    assert_eq!(vm.ask::<abi::LapicState>(cpu.fd, nr::GET_LAPIC).unwrap().regs, lapic.regs);
    assert_eq!(vm.on(cpu.fd, nr::GET_TSC_KHZ, 0), Ok(2_000_000));
    assert_eq!(vm.on(cpu.fd, nr::KVMCLOCK_CTRL, 0), Err(EINVAL));
    assert_eq!(vm.on(cpu.fd, nr::RUN, 1), Err(EINVAL));
    assert_eq!(vm.on(cpu.fd, 0xae99, 0), Err(ENOTTY));
}

#[test]
fn events_that_wait_are_saved_and_restored() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    vm.ioctl(nr::CREATE_IRQCHIP, 0).unwrap();
    let mut cpu = vm.vcpu(0);
    vm.on(cpu.fd, nr::NMI, 0).unwrap();
    let mut e: abi::VcpuEvents = vm.ask(cpu.fd, nr::GET_VCPU_EVENTS).unwrap();
    assert_eq!(e.nmi_pending, 1);
    (e.exception_injected, e.exception_nr, e.exception_has_error_code) = (1, 13, 1);
    vm.give_to(cpu.fd, nr::SET_VCPU_EVENTS, &e).unwrap();
    let back: abi::VcpuEvents = vm.ask(cpu.fd, nr::GET_VCPU_EVENTS).unwrap();
    assert_eq!((back.exception_injected, back.exception_nr, back.nmi_pending), (1, 13, 1));
    for bad in [abi::VcpuEvents { flags: 1 << 20, ..e }, abi::VcpuEvents { exception_nr: 2, ..e }] {
        assert_eq!(vm.give_to(cpu.fd, nr::SET_VCPU_EVENTS, &bad), Err(EINVAL));
    }

    let events = cpu.exits(|_| {}, VmExit::CacheFlush, &[0x0f, 9]).events;

    assert!(matches!(events[0], GuestEvent::Exception { error: Some(0), .. }), "{events:?}");
    assert_eq!(events[1], GuestEvent::Nmi);
    let injected = abi::VcpuEvents { interrupt_injected: 1, interrupt_nr: 0x55, exception_injected: 0, ..e };
    vm.give_to(cpu.fd, nr::SET_VCPU_EVENTS, &injected).unwrap();
    let s: abi::Sregs = vm.ask(cpu.fd, nr::GET_SREGS).unwrap();
    assert_eq!(s.interrupt_bitmap[1], 1 << 0x15);
}

#[test]
fn a_mapping_of_a_vcpu_shows_the_pages_that_are_asked_for() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let cpu = vm.vcpu(0);
    let all = world.mmap(cpu.fd, 3 << 12).unwrap();
    let numbers = |page: usize, pages: usize| -> Vec<(u64, usize)> {
        let found = world.mmap_from(cpu.fd, page, pages << 12).unwrap();
        let number = |page: &_| all.iter().position(|(_, p)| std::sync::Arc::ptr_eq(p, page)).unwrap();
        found.iter().map(|(offset, page)| (*offset, number(page))).collect()
    };

    assert_eq!(numbers(0, 3), [(0, 0), (0x1000, 1), (0x2000, 2)]);
    assert_eq!(numbers(1, 1), [(0, 1)]);
    assert_eq!(numbers(1, 8), [(0, 1), (0x1000, 2)], "behind the last there is none");
    assert_eq!(numbers(2, 1), [(0, 2)]);
    assert_eq!(numbers(3, 1), []);
    assert_eq!(numbers(1 << 52, 1), []);
}

#[test]
fn without_interrupt_controllers_user_space_injects() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);
    assert_eq!(vm.ioctl(nr::IRQ_LINE, vm.put(&abi_vm::IrqLevel { irq: 0, level: 1 })), Err(ENXIO));
    assert_eq!(vm.ask::<abi::LapicState>(cpu.fd, nr::GET_LAPIC).err(), Some(EINVAL));
    assert_eq!(vm.give_to(cpu.fd, nr::INTERRUPT, &abi::Interrupt { irq: 256 }), Err(EINVAL));
    vm.give_to(cpu.fd, nr::INTERRUPT, &abi::Interrupt { irq: 0x33 }).unwrap();
    assert_eq!(vm.give_to(cpu.fd, nr::INTERRUPT, &abi::Interrupt { irq: 0x33 }), Err(EEXIST));

    let done = cpu.exits(|s| s.rflags |= 0x200, VmExit::Cpuid, &[0x0f, 0xa2]);
    assert_eq!(done.events, [GuestEvent::Interrupt(0x33)]);

    // The guest halts: that is for user space, too. It wants to know when an interrupt can be taken.
    let halted = cpu.exits(|s| s.rflags &= !0x200, VmExit::Hlt, &[0xf4]);
    assert_eq!(halted.user[0].0, 5);
    cpu.set(crate::abi::run::offset::REQUEST_INTERRUPT_WINDOW, &[1]);
    let window = cpu.exits(|s| s.rflags |= 0x200, VmExit::CacheFlush, &[0x0f, 9]);
    assert_eq!(window.user[0].0, 7);
    cpu.set(crate::abi::run::offset::REQUEST_INTERRUPT_WINDOW, &[0]);
    cpu.set(crate::abi::run::offset::IMMEDIATE_EXIT, &[1]);
    assert_eq!(cpu.run(), Ran::Guest, "EINTR at once");
    cpu.set(crate::abi::run::offset::IMMEDIATE_EXIT, &[0]);
    current().set(SIGNAL);
    assert_eq!(cpu.run(), Ran::Guest);
    assert_eq!(cpu.reason(), 10, "KVM_EXIT_INTR");
    current().clear(SIGNAL);
}

#[test]
fn interrupts_are_raised_from_outside() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let mut cpu = vm.vcpu(0);
    cpu.store(0xfee0_00f0, B4, 0x1ff);
    cpu.out(0x21, B1, 0xff);
    // The I/O APIC sends GSI 5 as vector 0x45.
    for (register, value) in [(0x1a, 0x45), (0x1b, 0)] {
        cpu.store(0xfec0_0000, B4, register);
        cpu.store(0xfec0_0010, B4, value);
    }
    let takes = |cpu: &mut crate::fake::abi::AbiVcpu, vector: u8| {
        let halted = cpu.exits(|s| s.rflags |= 0x200, VmExit::Hlt, &[0xf4]);
        assert_eq!(halted.events, [GuestEvent::Interrupt(vector)]);
        cpu.store(0xfee0_00b0, B4, 0);
    };

    let line = vm.exchange(vm.fd, nr::IRQ_LINE_STATUS, &abi_vm::IrqLevel { irq: 5, level: 1 }).unwrap();
    assert!(line.irq >= 1, "it was taken");
    takes(&mut cpu, 0x45);
    vm.give(nr::IRQ_LINE, &abi_vm::IrqLevel { irq: 5, level: 0 }).unwrap();

    let msi =
        abi_vm::Msi { address_lo: 0xfee0_0000, address_hi: 0, data: 0x46, flags: 0, devid: 0, pad: [0; 12] };
    assert_eq!(vm.give(nr::SIGNAL_MSI, &msi), Ok(1));
    takes(&mut cpu, 0x46);

    let (fd, event) = world.eventfd();
    let irqfd = |fd: i32, flags| abi_vm::Irqfd { fd: fd as u32, gsi: 5, flags, resamplefd: 0, pad: [0; 16] };
    vm.give(nr::IRQFD, &irqfd(fd, 0)).unwrap();
    assert_eq!(vm.give(nr::IRQFD, &irqfd(fd, 0)), Err(EBUSY));
    assert_eq!(vm.give(nr::IRQFD, &irqfd(fd, 8)), Err(EINVAL));
    assert_eq!(vm.give(nr::IRQFD, &irqfd(99, 0)), Err(EBADF));
    event.signal();
    takes(&mut cpu, 0x45);
    // One whose line stays high until the guest ends its interrupt.
    let (level_fd, level) = world.eventfd();
    let (resample_fd, ended) = world.eventfd();
    let resampled =
        |resamplefd: i32, flags| abi_vm::Irqfd { resamplefd: resamplefd as u32, ..irqfd(level_fd, flags) };
    assert_eq!(vm.give(nr::IRQFD, &resampled(99, 2)), Err(EBADF));
    assert!(!level.is_heard());
    vm.give(nr::IRQFD, &resampled(resample_fd, 2)).unwrap();
    level.signal();
    let halted = cpu.exits(|s| s.rflags |= 0x200, VmExit::Hlt, &[0xf4]);
    assert_eq!((halted.events, ended.take()), (vec![GuestEvent::Interrupt(0x45)], 0));
    cpu.store(0xfee0_00b0, B4, 0);
    assert_eq!((ended.take(), ended.take()), (1, 0));
    vm.give(nr::IRQFD, &resampled(resample_fd, 3)).unwrap();
    assert!(!level.is_heard());
    // Routed to a message now.
    let route = abi_vm::IrqRoutingEntry {
        gsi: 5,
        kind: 2,
        flags: 0,
        pad: 0,
        u: [0xfee0_0000, 0, 0x47, 0, 0, 0, 0, 0],
    };
    let mut table = 1u32.to_le_bytes().to_vec();
    table.extend_from_slice(&[0; 4]);
    table.extend_from_slice(zerocopy::IntoBytes::as_bytes(&route));
    vm.ioctl(nr::SET_GSI_ROUTING, vm.put(&table[..])).unwrap();
    event.signal();
    takes(&mut cpu, 0x47);
    vm.give(nr::IRQFD, &irqfd(fd, 1)).unwrap();
    assert!(!event.is_heard());
    vm.give(nr::IRQFD, &irqfd(fd, 0)).unwrap();
    world.close(fd.into());
    vm.close();
    assert!(!event.is_heard(), "the VM's fd is closed");
}

#[test]
fn chips_give_their_state_and_take_it() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    assert_eq!(vm.ioctl(nr::CREATE_IRQCHIP, 0), Err(EEXIST));
    for chip in 0..3 {
        let state: abi_vm::Irqchip =
            vm.exchange(vm.fd, nr::GET_IRQCHIP, &abi_vm::Irqchip::with_state(chip, &[0u8; 0])).unwrap();
        vm.give(nr::SET_IRQCHIP, &state).unwrap();
        let again: abi_vm::Irqchip =
            vm.exchange(vm.fd, nr::GET_IRQCHIP, &abi_vm::Irqchip::with_state(chip, &[0u8; 0])).unwrap();
        assert_eq!(again.chip, state.chip);
    }
    let none = abi_vm::Irqchip::with_state(3, &[0u8; 0]);
    assert_eq!(vm.give(nr::GET_IRQCHIP, &none), Err(EINVAL));
    assert_eq!(vm.give(nr::SET_IRQCHIP, &none), Err(EINVAL));
    let pit: abi_vm::PitState2 = vm.ask(vm.fd, nr::GET_PIT2).unwrap();
    vm.give(nr::SET_PIT2, &pit).unwrap();
    let flags = abi_vm::PIT_FLAGS_HPET_LEGACY | abi_vm::PIT_FLAGS_SPEAKER_DATA_ON;
    vm.give(nr::SET_PIT2, &abi_vm::PitState2 { flags: flags | 8, ..pit }).unwrap();
    let got: abi_vm::PitState2 = vm.ask(vm.fd, nr::GET_PIT2).unwrap();
    assert_eq!(got.flags, flags, "those that nobody knows are not kept");
    vm.give(nr::SET_PIT2, &pit).unwrap();
    let pit: abi_vm::PitState = vm.ask(vm.fd, nr::GET_PIT).unwrap();
    vm.give(nr::SET_PIT, &pit).unwrap();
    vm.give(nr::REINJECT_CONTROL, &abi_vm::ReinjectControl { pit_reinject: 1, reserved: [0; 31] }).unwrap();
    let clock: abi_vm::ClockData = vm.ask(vm.fd, nr::GET_CLOCK).unwrap();
    vm.give(nr::SET_CLOCK, &abi_vm::ClockData { flags: 0, clock: clock.clock + 1_000_000_000, ..clock })
        .unwrap();
    let later: abi_vm::ClockData = vm.ask(vm.fd, nr::GET_CLOCK).unwrap();
    assert!(later.clock >= clock.clock + 1_000_000_000);
    assert_eq!(vm.give(nr::SET_CLOCK, &abi_vm::ClockData { flags: 1 << 9, ..clock }), Err(EINVAL));
    vm.ioctl(nr::SET_TSS_ADDR, 0).unwrap();
    vm.give(nr::SET_IDENTITY_MAP_ADDR, &0u64).unwrap();
}

#[test]
fn a_machine_keeps_its_shape_once_it_has_run() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    let rng = rvmm::VirtioRngConfig { slot: 3, flags: 0 };
    assert_eq!(vm.device(rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { slot: 32, flags: 0 }), Err(EINVAL));
    assert_eq!(vm.device(rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { flags: 2, ..rng }), Err(EINVAL));
    let fd = vm.device(rvmm::DEV_VIRTIO_RNG, &rng).unwrap();
    assert_eq!(vm.device(rvmm::DEV_VIRTIO_RNG, &rng), Err(EEXIST));
    assert_eq!(vm.device(rvmm::DEV_UART, &rvmm::UartConfig { index: 0, flags: 0 }), Err(EBUSY));
    assert_eq!(vm.device(rvmm::DEV_UART, &rvmm::UartConfig { index: 1, flags: 0 }), Err(EINVAL));
    assert_eq!(vm.device(0x1234, &rng), Err(ENODEV));
    assert_eq!(vm.on(fd, rvmm::DEV_RUN, 0), Err(EINVAL));
    assert_eq!(vm.on(fd, 0xae99, 0), Err(ENOTTY));
    assert_eq!(world.read(fd, 1, 0, true), Err(EINVAL));
    let attr = |group, attr| abi_vm::DeviceAttr { flags: 0, group, attr, addr: 0 };
    assert_eq!(vm.give_to(fd, nr::HAS_DEVICE_ATTR, &attr(0, 0)), Ok(0));
    assert_eq!(vm.give_to(fd, nr::HAS_DEVICE_ATTR, &attr(9, 0)), Err(ENXIO));
    assert_eq!(vm.give_to(fd, nr::GET_DEVICE_ATTR, &attr(0, 0)), Err(EPERM));
    assert_eq!(vm.give_to(fd, nr::SET_DEVICE_ATTR, &attr(9, 0)), Err(ENXIO));
    let test = abi_vm::CreateDevice { kind: rvmm::DEV_UART, fd: 0, flags: abi_vm::CREATE_DEVICE_TEST };
    assert_eq!(vm.give(nr::CREATE_DEVICE, &test), Ok(0));
    let mut cpu = vm.vcpu(0);
    assert_eq!(vm.ioctl(nr::CREATE_VCPU, 0), Err(EEXIST));
    assert_eq!(vm.ioctl(nr::CREATE_VCPU, 1024), Err(EINVAL));

    cpu.cpuid(0, 0);

    assert_eq!(vm.device(rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { slot: 9, flags: 0 }), Err(EBUSY));
    world.files.is_full.store(true, SeqCst);
    assert_eq!(vm.ioctl(nr::CREATE_VCPU, 1), Err(EMFILE));
}

#[test]
fn bugs_are_told_with_what_the_processor_said() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);
    let raw = RawExit { reason: 0x55, info1: 1, info2: 2 };
    let mut tell = |stop: Stop| {
        cpu.guest.run(move |_| stop.clone());
        assert!(matches!(cpu.run(), Ran::User(_)));
        (cpu.reason(), u64::from_le_bytes(cpu.word(40)))
    };

    assert_eq!(tell(Stop::plain(VmExit::Unknown(raw))).0, 17);
    assert_eq!(tell(Stop::plain(VmExit::TripleFault)).0, 8);
    assert_eq!(tell(Stop::refused()).0, 9);
    let records = vm.put(&[0u8; 4096][..]);
    assert_eq!(vm.on(cpu.fd, rvmm::GET_EXITS, records), Ok(0));
    assert_eq!(vm.get::<rvmm::ExitsHeader>(records).count, 3);
    assert!(!kernel::print::take_log().is_empty());
    let stats = vm.on(cpu.fd, nr::GET_STATS_FD, 0).unwrap();
    let all = world.read(stats, 1 << 16, 0, false).unwrap();
    assert_eq!(world.read(stats, 8, all.len() as u64 - 8, false).unwrap(), all[all.len() - 8..]);
    assert_eq!(vm.on(stats, nr::RUN, 0), Err(ENOTTY));
    assert_eq!(all[24..72].iter().position(|b| *b == 0), Some("kvm-42/vcpu-0".len()), "{:?}", &all[24..72]);
    let stats = vm.ioctl(nr::GET_STATS_FD, 0).unwrap();
    vm.close();
    let all = world.read(stats, 1 << 16, 0, false).unwrap();
    assert_eq!(all.len(), 24 + 48 + 2 * (64 + 8), "it outlives the VM's fd");
}

#[test]
fn machine_checks_are_set_and_raised() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let cpu = vm.vcpu(0);
    vm.give_to(cpu.fd, nr::X86_SETUP_MCE, &(1u64 << 8 | 4)).unwrap();
    assert_eq!(vm.give_to(cpu.fd, nr::X86_SETUP_MCE, &(1u64 << 8 | 99)), Err(EINVAL));
    let mut mce: abi::X86Mce = zerocopy::FromZeros::new_zeroed();
    (mce.status, mce.bank) = (1 << 63 | 1 << 61, 1);
    vm.give_to(cpu.fd, nr::X86_SET_MCE, &mce).unwrap();
    mce.bank = 77;
    assert_eq!(vm.give_to(cpu.fd, nr::X86_SET_MCE, &mce), Err(EINVAL));
}

#[test]
fn memory_slots_are_checked_and_another_process_has_none() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    assert_eq!(vm.set_memory(0, 0, 4096, RAM), Err(EINVAL), "a slot does not change its size");
    assert_eq!(vm.set_memory(1, 0, 4096, RAM), Err(EEXIST));
    assert_eq!(vm.set_memory(1, 1, 4096, RAM), Err(EINVAL));
    vm.set_memory(1, 0x10_0000, 4096, RAM).unwrap();
    vm.set_memory(1, 0, 0, 0).unwrap();
    let cpu = vm.vcpu(0);
    let other = crate::host::world::World::new();
    let stranger = Task::new(&other.process, 0);
    let arg = vm.put(&0u64);
    let _entered = world.enter_as(&stranger);
    assert_eq!(world.ioctl(cpu.fd, nr::RUN, 0), Err(EIO));
    assert_eq!(world.ioctl(vm.fd, nr::SET_USER_MEMORY_REGION, arg), Err(EFAULT));
}

#[test]
fn running_out_of_memory_is_an_error_and_nothing_is_lost() {
    let (world, _in) = world();
    let vm = AbiVm::with_chips(&world, 16);
    for n in 0.. {
        fail_nth(n);
        let made = vm.ioctl(nr::CREATE_VCPU, 1);
        if fail_none() {
            break;
        }
        assert_eq!(made, Err(ENOMEM), "allocation {n}");
        assert!(n < 100);
    }
    let (fds, other) = (world.eventfd().0, AbiVm::new(&world, 16));
    for n in 0.. {
        fail_nth(n);
        let made = sys_create(&other);
        if fail_none() {
            break;
        }
        assert_eq!(made, Err(ENOMEM), "allocation {n}");
        assert!(n < 100);
    }
    let _ = fds;
}

fn sys_create(vm: &AbiVm) -> Result<i64> {
    vm.node(nr::CREATE_VM, 0)
}
