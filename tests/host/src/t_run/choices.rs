// SPDX-License-Identifier: GPL-2.0

//! What user space chooses of a VM, and what it gets by the page of a vCPU: capabilities, MSRs of its own, registers,
//! writes that need not end KVM_RUN.

use super::world;
use crate::abi::run::{self as run_abi, offset};
use crate::abi::{caps, nr, sys, vcpu as abi, vm as abi_vm};
use crate::arch::addr::AccessWidth::*;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::steps::Steps;
use core::mem::offset_of;
use kernel::prelude::*;
use zerocopy::{FromBytes, FromZeros};

/// Exit reasons.
const IO: u32 = 2;
const RDMSR: u32 = 29;
const WRMSR: u32 = 30;

fn enable(vm: &AbiVm, cap: u32, arg: u64) -> Result<i64> {
    let mut asked = abi_vm::EnableCap::new_zeroed();
    (asked.cap, asked.args[0]) = (cap, arg);
    vm.give(nr::ENABLE_CAP, &asked)
}

#[test]
fn what_a_vm_chooses_has_limits() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let flags = abi_vm::EnableCap { cap: caps::HALT_POLL, flags: 1, args: [0; 4], pad: [0; 64] };
    assert_eq!(vm.give(nr::ENABLE_CAP, &flags), Err(EINVAL));
    for (cap, arg, answer) in [
        (caps::NR_VCPUS, 0, Err(EINVAL)),
        (caps::HALT_POLL, 1 << 32, Err(EINVAL)),
        (caps::HALT_POLL, 5_000, Ok(0)),
        (caps::DISABLE_QUIRKS, u64::MAX, Ok(0)),
        (caps::DISABLE_QUIRKS2, 1 << 40, Err(EINVAL)),
        (caps::DISABLE_QUIRKS2, 1, Ok(0)),
        (caps::X2APIC_API, 1 << 8, Err(EINVAL)),
        (caps::X2APIC_API, 3, Ok(0)),
        (caps::X86_DISABLE_EXITS, 1 << 9, Err(EINVAL)),
        (caps::X86_DISABLE_EXITS, caps::DISABLE_EXITS_PAUSE, Ok(0)),
        (caps::X86_DISABLE_EXITS, caps::DISABLE_EXITS_HLT, Ok(0)),
        (caps::MANUAL_DIRTY_LOG_PROTECT2, 2, Err(EINVAL)),
        (caps::MANUAL_DIRTY_LOG_PROTECT2, 3, Ok(0)),
        (caps::EXCEPTION_PAYLOAD, 1, Ok(0)),
        (caps::X86_TRIPLE_FAULT_EVENT, 1, Ok(0)),
        (caps::EXIT_ON_EMULATION_FAILURE, 2, Err(EINVAL)),
        (caps::EXIT_ON_EMULATION_FAILURE, 1, Ok(0)),
        (caps::X86_USER_SPACE_MSR, 1 << 7, Err(EINVAL)),
        (caps::MAX_VCPU_ID, 1025, Err(EINVAL)),
        (caps::MAX_VCPU_ID, 8, Ok(0)),
        (caps::MAX_VCPU_ID, 8, Ok(0)),
        (caps::MAX_VCPU_ID, 9, Err(EINVAL)),
    ] {
        assert_eq!(enable(&vm, cap, arg), answer, "capability {cap}, {arg:#x}");
    }
    assert_eq!(vm.ioctl(nr::SET_NR_MMU_PAGES, 63), Err(EINVAL));
    assert_eq!(vm.ioctl(nr::SET_NR_MMU_PAGES, 64), Ok(0));
    assert_eq!(vm.ioctl(nr::CREATE_VCPU, 8), Err(EINVAL));
}

#[test]
fn interrupt_controllers_are_chosen_once_and_before_the_first_vcpu() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    assert_eq!(enable(&vm, caps::SPLIT_IRQCHIP, 1 << 32), Err(EINVAL));
    assert_eq!(vm.ioctl(nr::SET_BOOT_CPU_ID, 1025), Err(EINVAL));
    assert_eq!(vm.ioctl(nr::SET_BOOT_CPU_ID, 1), Ok(0));
    assert_eq!(enable(&vm, caps::SPLIT_IRQCHIP, 24), Ok(0));
    assert_eq!(enable(&vm, caps::SPLIT_IRQCHIP, 24), Err(EEXIST));
    assert_eq!(vm.ioctl(nr::CREATE_IRQCHIP, 0), Err(EEXIST));
    let cpu = vm.vcpu(1);
    assert_eq!(vm.ioctl(nr::SET_BOOT_CPU_ID, 0), Err(EBUSY));
    assert_eq!(enable(&vm, caps::X86_DISABLE_EXITS, 0), Err(EINVAL));
    let base = vm.ask::<abi::Sregs>(cpu.fd, nr::GET_SREGS).unwrap().apic_base;
    assert_eq!(base >> 8 & 1, 1, "the boot processor is the one that was chosen");

    let late = vm.another(16);
    late.vcpu(0);
    assert_eq!(enable(&late, caps::SPLIT_IRQCHIP, 24), Err(EEXIST));
    // A vCPU has no capability of its own.
    assert_eq!(vm.give_to(cpu.fd, nr::ENABLE_CAP, &abi_vm::EnableCap::new_zeroed()), Err(EINVAL));
}

/// The data of an exit for an MSR: its error, why, its number and value.
fn msr_data(data: &[u8; 64]) -> (u8, u32, u32, u64) {
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    (data[0], word(8), word(12), u64::from_le_bytes(data[16..24].try_into().unwrap()))
}

#[test]
fn a_filter_takes_msrs_from_the_guest_and_gives_them_to_user_space() {
    const EFER: u32 = 0xc000_0080;
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut filter = abi_vm::MsrFilter::new_zeroed();
    filter.flags = 2;
    assert_eq!(vm.give(nr::X86_SET_MSR_FILTER, &filter), Err(EINVAL));
    filter.flags = abi_vm::MSR_FILTER_DEFAULT_DENY;
    assert_eq!(vm.give(nr::X86_SET_MSR_FILTER, &filter), Err(EINVAL), "it would refuse all");
    let none = vm.put(&[0u8; 8][..]);
    filter.flags = 0;
    for (flags, nmsrs) in [(4, 1), (0, 1), (3, 0x600 * 8 + 1)] {
        filter.ranges[0] = abi_vm::MsrFilterRange { flags, nmsrs, base: EFER, pad: 0, bitmap: none };
        assert_eq!(vm.give(nr::X86_SET_MSR_FILTER, &filter), Err(EINVAL), "{flags}, {nmsrs}");
    }
    filter.ranges[0] = abi_vm::MsrFilterRange { flags: 2, nmsrs: 1, base: EFER, pad: 0, bitmap: 0xdead_0000 };
    assert_eq!(vm.give(nr::X86_SET_MSR_FILTER, &filter), Err(EFAULT));

    let mut cpu = vm.vcpu(0);
    vm.give_cpuid(&cpu);
    filter.ranges[0].bitmap = none;
    vm.give(nr::X86_SET_MSR_FILTER, &filter).unwrap();
    // Writes are refused, reads are not; the next MSR is none of the filter's business.
    assert!(!cpu.wrmsr(EFER, 0));
    assert_eq!(cpu.rdmsr(EFER), Some(0));
    assert!(cpu.wrmsr(0xc000_0081, 5));

    enable(&vm, caps::X86_USER_SPACE_MSR, u64::from(run_abi::MSR_EXIT_FILTER)).unwrap();
    let asked = write_msr(&mut cpu, EFER, 0x900);
    let [(WRMSR, data)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(msr_data(&data), (0, run_abi::MSR_EXIT_FILTER, EFER, 0x900));
    assert_eq!(cpu.rdmsr(EFER), Some(0), "user space has carried out what it has");
    // What there is not is a fault as before, until that is asked for as well.
    assert!(!cpu.wrmsr(0x1234_5678, 1));
    let all = run_abi::MSR_EXIT_FILTER | run_abi::MSR_EXIT_UNKNOWN | run_abi::MSR_EXIT_INVAL;
    enable(&vm, caps::X86_USER_SPACE_MSR, u64::from(all)).unwrap();
    let asked = write_msr(&mut cpu, 0x1234_5678, 1);
    let [(WRMSR, data)] = asked[..] else { panic!("{asked:?}") };
    assert_eq!(msr_data(&data).1, run_abi::MSR_EXIT_UNKNOWN);
    let asked = read_msr(&mut cpu, 0x1234_5678);
    assert!(matches!(asked[..], [(RDMSR, _)]), "{asked:?}");
}

fn write_msr(cpu: &mut AbiVcpu, index: u32, value: u64) -> Vec<(u32, [u8; 64])> {
    use crate::vcpu::exit::{MsrAccess, VmExit};
    let set = move |s: &mut crate::vcpu::state::VcpuState| {
        (s.gprs[1], s.gprs[0], s.gprs[2]) = (index.into(), value & 0xffff_ffff, value >> 32);
    };
    cpu.exits(set, VmExit::Msr(MsrAccess::Write), &[0x0f, 0x30]).user
}

fn read_msr(cpu: &mut AbiVcpu, index: u32) -> Vec<(u32, [u8; 64])> {
    use crate::vcpu::exit::{MsrAccess, VmExit};
    let set = move |s: &mut crate::vcpu::state::VcpuState| s.gprs[1] = index.into();
    cpu.exits(set, VmExit::Msr(MsrAccess::Read), &[0x0f, 0x32]).user
}

#[test]
fn registers_come_and_go_by_the_page() {
    const REGS: usize = offset::SYNC_REGS + offset_of!(run_abi::SyncRegs, regs);
    const SREGS: usize = offset::SYNC_REGS + offset_of!(run_abi::SyncRegs, sregs);
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    vm.ioctl(nr::CREATE_IRQCHIP, 0).unwrap();
    let mut cpu = vm.vcpu(0);

    cpu.set(offset::VALID_REGS, &8u64.to_le_bytes());
    assert_eq!(vm.on(cpu.fd, nr::RUN, 0), Err(EINVAL));
    let all = run_abi::SYNC_REGS | run_abi::SYNC_SREGS | run_abi::SYNC_EVENTS;
    cpu.set(offset::VALID_REGS, &all.to_le_bytes());
    let done = cpu.out(0x80, B1, 0x5a);
    assert_eq!(done.user.len(), 1);
    let regs = abi::Regs::read_from_bytes(&cpu.word::<{ size_of::<abi::Regs>() }>(REGS)).unwrap();
    let asked: abi::Regs = vm.ask(cpu.fd, nr::GET_REGS).unwrap();
    assert_eq!((regs.rax, regs.rip), (asked.rax, asked.rip));
    let sregs = abi::Sregs::read_from_bytes(&cpu.word::<{ size_of::<abi::Sregs>() }>(SREGS)).unwrap();
    assert_eq!(sregs.cr0, vm.ask::<abi::Sregs>(cpu.fd, nr::GET_SREGS).unwrap().cr0);

    // What user space changes and says so of is there for the next entry.
    cpu.set(REGS + offset_of!(abi::Regs, rbx), &0x1234u64.to_le_bytes());
    cpu.set(SREGS + offset_of!(abi::Sregs, cr2), &0x5678u64.to_le_bytes());
    cpu.set(offset::DIRTY_REGS, &all.to_le_bytes());
    assert_eq!(cpu.out(0x80, B1, 0).gprs[3], 0x1234);
    assert_eq!(vm.ask::<abi::Sregs>(cpu.fd, nr::GET_SREGS).unwrap().cr2, 0x5678);
    assert_eq!(cpu.word::<8>(offset::DIRTY_REGS), [0; 8], "taken over once");

    // The others stay to be taken over where one cannot be.
    cpu.set(SREGS + offset_of!(abi::Sregs, cr8), &16u64.to_le_bytes());
    cpu.set(offset::DIRTY_REGS, &all.to_le_bytes());
    assert_eq!(vm.on(cpu.fd, nr::RUN, 0), Err(EINVAL));
    let left = u64::from_le_bytes(cpu.word(offset::DIRTY_REGS));
    assert_eq!(left, run_abi::SYNC_SREGS | run_abi::SYNC_EVENTS);
}

#[test]
fn writes_to_a_zone_are_gathered_until_the_ring_is_full() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    let mut cpu = vm.vcpu(0);
    let (_, ring) = world.mmap(cpu.fd, 3 << 12).unwrap().swap_remove(run_abi::COALESCED_PAGE);
    let word = |at: usize| u32::from_le_bytes(ring.lock().unwrap()[at..at + 4].try_into().unwrap());
    let zone = |addr, size, pio| abi_vm::CoalescedMmioZone { addr, size, pio };

    assert_eq!(vm.give(nr::REGISTER_COALESCED_MMIO, &zone(0, 1, 2)), Err(EINVAL));
    vm.give(nr::REGISTER_COALESCED_MMIO, &zone(0x40, 4, 1)).unwrap();
    vm.give(nr::REGISTER_COALESCED_MMIO, &zone(0xd000_0000, 0x1000, 0)).unwrap();
    assert!(cpu.out(0x42, B2, 0xbeef).user.is_empty());
    assert!(cpu.mov(0xd000_0010, B4, Some(0x1234_5678)).user.is_empty());
    assert_eq!((word(0), word(4)), (0, 2));
    let pid = kernel::task::current().process.pid;
    let counts = |n: u32| world.fdinfo(vm.fd).unwrap().contains(&format!("{pid}/0 user_exits {n}\n"));
    assert!(counts(0), "KVM_RUN has not returned for them");
    let entry = |n: usize| {
        let bytes: [u8; 24] = ring.lock().unwrap()[8 + n * 24..][..24].try_into().unwrap();
        abi_vm::CoalescedMmio::read_from_bytes(&bytes).unwrap()
    };
    let found = entry(0);
    assert_eq!((found.phys_addr, found.len, found.pio, &found.data[..2]), (0x42, 2, 1, &[0xef, 0xbe][..]));
    let found = entry(1);
    assert_eq!((found.phys_addr, found.len, found.pio), (0xd000_0010, 4, 0));
    // Reads, and writes that a zone does not hold as a whole, are told at once.
    assert_eq!(cpu.mov(0xd000_0010, B4, None).user.len(), 1);
    assert_eq!(cpu.out(0x43, B2, 0).user.len(), 1);
    assert!(counts(2));

    let mut gathered = 2;
    while cpu.out(0x40, B1, gathered).user.is_empty() {
        gathered += 1;
        assert!(gathered < 1000, "the ring takes more than it has room for");
    }
    assert_eq!(gathered, (4096 - 8) / 24 - 1);
    let last = word(4).to_le_bytes();
    ring.lock().unwrap()[..4].copy_from_slice(&last);
    assert!(cpu.out(0x40, B1, 0).user.is_empty(), "user space has read all");
    assert_eq!(word(4), 0, "the ring begins again");
    // An index of user space's own making is no place.
    ring.lock().unwrap()[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(cpu.out(0x40, B1, 0).user.len(), 1);
    ring.lock().unwrap()[..8].fill(0);

    vm.give(nr::UNREGISTER_COALESCED_MMIO, &zone(0x41, 1, 1)).unwrap();
    assert_eq!(cpu.out(0x40, B1, 0).user.first().map(|u| u.0), Some(IO));
    assert_eq!(vm.give(nr::UNREGISTER_COALESCED_MMIO, &zone(0x41, 1, 2)), Err(EINVAL));
    assert!(cpu.mov(0xd000_0010, B4, Some(1)).user.is_empty());
}

#[test]
fn the_newer_forms_of_registers_hold_the_older_ones() {
    let (world, _in) = world();
    let vm = AbiVm::new(&world, 16);
    vm.ioctl(nr::CREATE_IRQCHIP, 0).unwrap();
    let cpu = vm.vcpu(0);
    let (old, new): (abi::Sregs, abi::Sregs2) =
        (vm.ask(cpu.fd, nr::GET_SREGS).unwrap(), vm.ask(cpu.fd, nr::GET_SREGS2).unwrap());
    assert_eq!((old.cr0, old.cr4, old.efer, old.gdt.base), (new.cr0, new.cr4, new.efer, new.gdt.base));
    vm.give_to(cpu.fd, nr::SET_SREGS2, &abi::Sregs2 { cr2: 7, ..new }).unwrap();
    assert_eq!(vm.ask::<abi::Sregs>(cpu.fd, nr::GET_SREGS).unwrap().cr2, 7);
    let area = vm.put(&[0u8; 4096][..]);
    vm.on(cpu.fd, nr::GET_XSAVE2, area).unwrap();

    // Without paging an address leads to itself.
    let asked = abi::Translation { linear_address: 0x3004, ..abi::Translation::new_zeroed() };
    let found = vm.exchange(cpu.fd, nr::TRANSLATE, &asked).unwrap();
    assert_eq!((found.physical_address, found.valid, found.writeable), (0x3004, 1, 1));

    let list = vm.put(&sys::MsrList { nmsrs: 0 });
    assert_eq!(vm.node(nr::GET_MSR_FEATURE_INDEX_LIST, list), Err(E2BIG));
    assert_eq!(vm.node(nr::GET_MSR_FEATURE_INDEX_LIST, list), Ok(0));
    assert!(vm.get::<sys::MsrList>(list).nmsrs > 0);
}
