// SPDX-License-Identifier: GPL-2.0

//! A VM's fd: memory slots, vCPUs, interrupt controllers, clock.

use crate::abi::nr;
use crate::harness::{refused, Ctx, Test};
use crate::raw::{cpuid, ioctl, ioctl_with, Memory};
use kvm_bindings::*;
use libc::{EEXIST, EFAULT, EINVAL, ENOENT, ENOTTY, ENXIO};
use std::time::{SystemTime, UNIX_EPOCH};

pub const TESTS: &[Test] = &[
    ("vm: an unknown ioctl is refused", unknown_ioctl),
    ("vm: a vcpu number is given once", vcpu_twice),
    ("vm: a vcpu number beyond the limit is refused", vcpu_beyond),
    ("vm: the identity map has an address", identity_map),
    ("vm: a memory slot must be aligned", slot_alignment),
    ("vm: a memory slot must not wrap around", slot_wrap),
    ("vm: a memory slot must lie in user space", slot_user_space),
    ("vm: a memory slot must lie below the end of physical addresses", slot_physical),
    ("vm: memory slots must not overlap", slot_overlap),
    ("vm: a memory slot moves and goes", slot_moves),
    ("vm: a memory slot cannot change its size", slot_resize),
    ("vm: a memory slot takes known flags and numbers only", slot_flags),
    ("vm: a slot that is not there cannot be deleted", slot_absent),
    ("vm: interrupt controllers come once and before vcpus", irqchip_order),
    ("vm: the timer needs interrupt controllers and comes once", pit_order),
    ("vm: an interrupt line needs interrupt controllers", irq_line),
    ("vm: the clock goes on from where it is set", clock),
    ("vm: the clock comes with the wall clock's moment, and is set forward by it", clock_moment),
];

const PAGE: u64 = 4096;

fn unknown_ioctl(c: &Ctx) {
    refused(ioctl(&c.vm(), 0xaeff, 0), &[ENOTTY, EINVAL]);
}

fn vcpu_twice(c: &Ctx) {
    let (vm, _vcpu) = c.vcpu();

    refused(ioctl(&vm, nr::CREATE_VCPU, 0), &[EEXIST]);
}

fn vcpu_beyond(c: &Ctx) {
    let most = ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID.into()).unwrap() as u64;
    assert!(most >= 1024, "{most}");
    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    for id in [255, 256, most - 1] {
        vm.create_vcpu(id).unwrap();
        refused(ioctl(&vm, nr::CREATE_VCPU, id), &[EEXIST]);
    }
    refused(ioctl(&vm, nr::CREATE_VCPU, most), &[EINVAL]);
    for id in [1 << 20, u64::from(u32::MAX), 1 << 40] {
        refused(ioctl(&c.vm(), nr::CREATE_VCPU, id), &[EINVAL]);
    }
}

fn slot_alignment(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    let at = memory.address();

    assert_eq!(memory.set_slot_at(&vm, 0, 0, PAGE + 1, at, 0), Err(EINVAL), "size");
    assert_eq!(memory.set_slot_at(&vm, 0, 0x10, PAGE, at, 0), Err(EINVAL), "guest address");
    assert_eq!(memory.set_slot_at(&vm, 0, 0, PAGE, at + 8, 0), Err(EINVAL), "host address");
}

fn identity_map(c: &Ctx) {
    let vm = c.vm();

    ioctl_with(&vm, nr::SET_IDENTITY_MAP_ADDR, &mut 0xfffb_c000u64).unwrap();
    // 0 is KVM's own choice.
    ioctl_with(&vm, nr::SET_IDENTITY_MAP_ADDR, &mut 0u64).unwrap();
    refused(ioctl(&vm, nr::SET_IDENTITY_MAP_ADDR, 8), &[EFAULT]);
}

fn slot_wrap(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));

    assert_eq!(memory.set_slot(&vm, 0, u64::MAX - PAGE + 1, 2 * PAGE), Err(EINVAL));
    assert_eq!(memory.set_slot_at(&vm, 0, 0, PAGE, 0xffff_8000_0000_0000, 0), Err(EINVAL));
}

/// Addresses with tag bits, as linear address masking has them, are none of user space: what is unmapped is named
/// without them.
fn slot_user_space(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    let at = memory.address();
    memory.set_slot(&vm, 0, 0, PAGE).unwrap();

    for tag in [1 << 57, 1 << 61, 1 << 62, 1 << 63, 0x7e << 56] {
        assert_eq!(memory.set_slot_at(&vm, 1, 0x4000, PAGE, at | tag, 0), Err(EINVAL), "tag {tag:#x}");
        assert_eq!(memory.set_slot_at(&vm, 0, 0, 0, at | tag, 0), Err(EINVAL), "tag {tag:#x}, deletion");
    }
    // The last page of user space is nobody's, with 4 and with 5 levels.
    let end = 1 << 56;
    for (address, len) in [(end - PAGE, PAGE), (end, PAGE), (end - 4 * PAGE, 8 * PAGE), (at, 1 << 62)] {
        assert_eq!(memory.set_slot_at(&vm, 1, 0x4000, len, address, 0), Err(EINVAL), "{address:#x} {len:#x}");
    }
    assert_eq!(memory.set_slot_at(&vm, 1, 0x4000, PAGE, 0, 0), Ok(()), "nothing need be there");
    assert_eq!(memory.set_slot(&vm, 0, 0, 0), Ok(()));
}

fn slot_physical(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    let end = 1u64 << (cpuid(0x8000_0008).eax & 0xff);

    assert_eq!(memory.set_slot(&vm, 0, end, PAGE), Err(EINVAL));
    assert_eq!(memory.set_slot(&vm, 0, end - PAGE, 2 * PAGE), Err(EINVAL));
    assert_eq!(memory.set_slot(&vm, 0, end - PAGE, PAGE), Ok(()));
    assert_eq!(memory.set_slot(&vm, 0, end, PAGE), Err(EINVAL), "move");
}

fn slot_overlap(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x8000));
    memory.set_slot(&vm, 0, 0x4000, 0x4000).unwrap();

    assert_eq!(memory.set_slot(&vm, 1, 0x4000, PAGE), Err(EEXIST));
    assert_eq!(memory.set_slot(&vm, 1, 0x3000, 2 * PAGE), Err(EEXIST));
    assert_eq!(memory.set_slot(&vm, 1, 0x8000, PAGE), Ok(()), "a neighbour is no overlap");
}

fn slot_moves(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    memory.set_slot(&vm, 3, 0, 0x4000).unwrap();

    assert_eq!(memory.set_slot(&vm, 3, 0x10_0000, 0x4000), Ok(()), "move");
    assert_eq!(memory.set_slot(&vm, 4, 0, 0x4000), Ok(()), "the old place is free");
    assert_eq!(memory.set_slot(&vm, 3, 0x10_0000, 0), Ok(()), "delete");
    assert_eq!(memory.set_slot(&vm, 5, 0x10_0000, 0x4000), Ok(()), "free again");
}

fn slot_resize(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    memory.set_slot(&vm, 0, 0, 0x2000).unwrap();

    assert_eq!(memory.set_slot(&vm, 0, 0, 0x4000), Err(EINVAL));
}

fn slot_flags(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));
    let at = memory.address();

    assert_eq!(memory.set_slot_at(&vm, 0, 0, PAGE, at, 1 << 15), Err(EINVAL), "flags");
    assert_eq!(memory.set_slot_at(&vm, 0x7fff, 0, PAGE, at, 0), Err(EINVAL), "slot");
    assert_eq!(memory.set_slot_at(&vm, 1 << 16 | 0x7fff, 0, PAGE, at, 0), Err(EINVAL), "address space");
}

fn slot_absent(c: &Ctx) {
    let (vm, memory) = (c.vm(), Memory::new(0x4000));

    assert_eq!(memory.set_slot(&vm, 7, 0, 0), Err(EINVAL));
}

fn irqchip_order(c: &Ctx) {
    let vm = c.vm();
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    refused(ioctl(&vm, nr::CREATE_IRQCHIP, 0), &[EEXIST]);

    let (vm, _vcpu) = c.vcpu();
    refused(ioctl(&vm, nr::CREATE_IRQCHIP, 0), &[EINVAL]);
}

fn pit_order(c: &Ctx) {
    let vm = c.vm();
    let mut config = kvm_pit_config::default();

    refused(ioctl_with(&vm, nr::CREATE_PIT2, &mut config), &[ENOENT]);
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    ioctl_with(&vm, nr::CREATE_PIT2, &mut config).unwrap();
    refused(ioctl_with(&vm, nr::CREATE_PIT2, &mut config), &[EEXIST]);
}

fn irq_line(c: &Ctx) {
    let vm = c.vm();
    let mut level = [4u32, 1];

    refused(ioctl_with(&vm, nr::IRQ_LINE, &mut level), &[ENXIO]);
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    ioctl_with(&vm, nr::IRQ_LINE, &mut level).unwrap();
}

fn clock(c: &Ctx) {
    let vm = c.vm();
    let second = 1_000_000_000;
    let set = kvm_clock_data { clock: 1000 * second, ..Default::default() };

    vm.set_clock(&set).unwrap();
    let first = vm.get_clock().unwrap().clock;
    let later = vm.get_clock().unwrap().clock;

    assert!((1000 * second..1060 * second).contains(&first), "{first}");
    assert!(later >= first);
}

fn clock_moment(c: &Ctx) {
    let (vm, _vcpu) = c.vcpu();
    let all = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;
    assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_ADJUST_CLOCK.into()), Ok(all as i32));
    let second = 1_000_000_000;
    let now = vm.get_clock().unwrap();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    if now.flags & KVM_CLOCK_REALTIME != 0 {
        assert_eq!(now.flags & all, all);
        assert!(wall - now.realtime < 60 * second, "{wall} against {}", now.realtime);
        assert_ne!(now.host_tsc, 0);
    }

    // What was given is taken, and what has passed since that moment is added.
    vm.set_clock(&kvm_clock_data { clock: 0, realtime: wall - 500 * second, flags: all, ..now }).unwrap();
    let later = vm.get_clock().unwrap().clock;
    assert!((500 * second..560 * second).contains(&later), "{later}");
    // A moment that has not come yet sets nothing back.
    vm.set_clock(&kvm_clock_data { clock: second, realtime: wall + 500 * second, flags: all, ..now })
        .unwrap();
    let later = vm.get_clock().unwrap().clock;
    assert!((second..60 * second).contains(&later), "{later}");
    let unknown = kvm_clock_data { flags: 1 << 9, ..now };
    assert_eq!(vm.set_clock(&unknown).map_err(|e| e.errno()), Err(EINVAL));
}
