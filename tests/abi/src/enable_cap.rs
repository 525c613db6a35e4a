// SPDX-License-Identifier: GPL-2.0

//! KVM_ENABLE_CAP and what can be chosen with it.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::{ioctl, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VmFd};
use libc::{EBUSY, EINVAL};
use std::os::fd::AsRawFd;

pub const TESTS: &[Test] = &[
    ("enable_cap: what is not there, and flags, are refused", unknown),
    ("enable_cap: the highest vcpu number is chosen once", max_vcpu_id),
    ("enable_cap: the first vcpu settles the highest number", settled_vcpu_id),
    ("enable_cap: another vcpu than 0 boots", boot_cpu),
    ("enable_cap: unknown quirks are refused or ignored", quirks),
    ("enable_cap: without its quirk lint0 is masked", lint0),
    ("enable_cap: with wide apic ids a message's upper address counts", wide_ids),
    ("enable_cap: the time of polling fits 32 bits", halt_poll),
    ("enable_cap: exits are disabled before the first vcpu", disable_exits),
    ("enable_cap: an exception's payload comes and goes with the events", payload),
    ("enable_cap: without that it is in cr2 already", no_payload),
    ("enable_cap: a triple fault comes with the events", triple_fault),
];

/// Enables a capability of a VM's or a vCPU's. Returns the errno on failure.
pub fn enable(fd: &impl AsRawFd, cap: u32, arg: u64) -> Result<i32, i32> {
    let mut cap = kvm_enable_cap { cap, ..Default::default() };
    cap.args[0] = arg;
    ioctl_with(fd, nr::ENABLE_CAP, &mut cap)
}

fn answer(vm: &VmFd, cap: u32) -> i32 {
    ioctl(vm, nr::CHECK_EXTENSION, cap.into()).unwrap()
}

fn unknown(c: &Ctx) {
    let (vm, vcpu) = c.vcpu();

    for cap in [KVM_CAP_IRQCHIP, 9999, u32::MAX] {
        refused(enable(&vm, cap, 0), &[EINVAL]);
        refused(enable(&vcpu, cap, 0), &[EINVAL]);
    }
    let mut cap = kvm_enable_cap { cap: KVM_CAP_EXCEPTION_PAYLOAD, flags: 1, ..Default::default() };
    refused(ioctl_with(&vm, nr::ENABLE_CAP, &mut cap), &[EINVAL]);
    assert_eq!((answer(&vm, KVM_CAP_ENABLE_CAP), answer(&vm, KVM_CAP_ENABLE_CAP_VM)), (1, 1));
}

fn max_vcpu_id(c: &Ctx) {
    let vm = c.vm();
    let most = answer(&vm, KVM_CAP_MAX_VCPU_ID) as u64;
    refused(enable(&vm, KVM_CAP_MAX_VCPU_ID, most + 1), &[EINVAL]);

    assert_eq!(enable(&vm, KVM_CAP_MAX_VCPU_ID, 2), Ok(0));

    refused(enable(&vm, KVM_CAP_MAX_VCPU_ID, 3), &[EINVAL]);
    assert_eq!(enable(&vm, KVM_CAP_MAX_VCPU_ID, 2), Ok(0), "the same");
    refused(ioctl(&vm, nr::CREATE_VCPU, 2), &[EINVAL]);
    vm.create_vcpu(1).unwrap();
}

fn settled_vcpu_id(c: &Ctx) {
    let (vm, _vcpu) = c.vcpu();

    refused(enable(&vm, KVM_CAP_MAX_VCPU_ID, 2), &[EINVAL]);
}

fn boot_cpu(c: &Ctx) {
    let vm = c.vm();
    vm.create_irq_chip().unwrap();
    refused(ioctl(&vm, nr::SET_BOOT_CPU_ID, u64::MAX), &[EINVAL]);
    assert_eq!(ioctl(&vm, nr::SET_BOOT_CPU_ID, 1), Ok(0));
    refused(enable(&vm, KVM_CAP_MAX_VCPU_ID, 0), &[EINVAL]);

    let vcpus = [vm.create_vcpu(0).unwrap(), vm.create_vcpu(1).unwrap()];

    refused(ioctl(&vm, nr::SET_BOOT_CPU_ID, 0), &[EBUSY]);
    let states = vcpus.each_ref().map(|v| v.get_mp_state().unwrap().mp_state);
    assert_eq!(states, [KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_RUNNABLE]);
    let bases = vcpus.each_ref().map(|v| v.get_sregs().unwrap().apic_base);
    assert_eq!(bases, [0xfee0_0800, 0xfee0_0900], "the bit of the boot processor");
}

fn quirks(c: &Ctx) {
    let vm = c.vm();
    let known = answer(&vm, KVM_CAP_DISABLE_QUIRKS2) as u64;
    assert_ne!(known & u64::from(KVM_X86_QUIRK_LINT0_REENABLED), 0);

    refused(enable(&vm, KVM_CAP_DISABLE_QUIRKS2, known | 1 << 40), &[EINVAL]);
    assert_eq!(enable(&vm, KVM_CAP_DISABLE_QUIRKS2, known), Ok(0));
    assert_eq!(enable(&vm, KVM_CAP_DISABLE_QUIRKS, u64::MAX), Ok(0));
}

/// Returns LVT0 of vCPU 0.
fn lvt0(vm: &VmFd) -> u32 {
    vm.create_irq_chip().unwrap();
    let regs = vm.create_vcpu(0).unwrap().get_lapic().unwrap().regs;
    u32::from_le_bytes([0, 1, 2, 3].map(|i| regs[0x350 + i] as u8))
}

fn lint0(c: &Ctx) {
    assert_eq!(lvt0(&c.vm()), 0x700);

    let vm = c.vm();
    enable(&vm, KVM_CAP_DISABLE_QUIRKS2, KVM_X86_QUIRK_LINT0_REENABLED.into()).unwrap();

    assert_eq!(lvt0(&vm), 0x1_0000);
}

fn wide_ids(c: &Ctx) {
    let g = Guest::with_irqchip(c, &[HLT]);
    crate::irq::enable_lapic(&g);
    let send = |address_hi| {
        let mut msi = kvm_msi { address_lo: 0xfee0_0000, address_hi, data: 0x41, ..Default::default() };
        ioctl_with(&g.vm, nr::SIGNAL_MSI, &mut msi)
    };
    assert_eq!(send(0xff), Ok(1), "not looked at");
    refused(enable(&g.vm, KVM_CAP_X2APIC_API, 1 << 40), &[EINVAL]);

    let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    assert_eq!(enable(&g.vm, KVM_CAP_X2APIC_API, flags.into()), Ok(0));

    refused(send(0xff), &[EINVAL]);
    assert_eq!(send(0), Ok(1));
    assert_ne!(send(0x100), Ok(1), "nobody has that number");
}

fn halt_poll(c: &Ctx) {
    let vm = c.vm();

    assert_eq!(answer(&vm, KVM_CAP_HALT_POLL), 1);
    assert_eq!(enable(&vm, KVM_CAP_HALT_POLL, 0), Ok(0));
    assert_eq!(enable(&vm, KVM_CAP_HALT_POLL, 1000), Ok(0));
    refused(enable(&vm, KVM_CAP_HALT_POLL, 1 << 32), &[EINVAL]);
}

fn disable_exits(c: &Ctx) {
    let (vm, _vcpu) = c.vcpu();
    let offered = answer(&vm, KVM_CAP_X86_DISABLE_EXITS) as u64;
    assert_ne!(offered & u64::from(KVM_X86_DISABLE_EXITS_PAUSE), 0);
    refused(enable(&vm, KVM_CAP_X86_DISABLE_EXITS, offered), &[EINVAL]);

    let vm = c.vm();
    refused(enable(&vm, KVM_CAP_X86_DISABLE_EXITS, 1 << 40), &[EINVAL]);
    assert_eq!(enable(&vm, KVM_CAP_X86_DISABLE_EXITS, offered), Ok(0));
}

/// A guest whose handler of #PF reports, with such an exception on its way.
fn faulting(c: &Ctx, has_payload: bool) -> Guest {
    // hlt; the handler: out 0x14, al
    let g = Guest::new(c, &[HLT]);
    g.enter_long_mode_with(&[(14, 0x2000, 0, &[0xe6, 0x14, HLT])]);
    if has_payload {
        enable(&g.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1).unwrap();
    }
    g
}

fn payload(c: &Ctx) {
    let mut g = faulting(c, true);
    let mut e = g.vcpu.get_vcpu_events().unwrap();
    assert_ne!(e.flags & KVM_VCPUEVENT_VALID_PAYLOAD, 0);
    (e.exception.pending, e.exception.injected) = (1, 1);
    (e.exception.nr, e.exception.has_error_code, e.exception.error_code) = (14, 1, 2);
    (e.exception_has_payload, e.exception_payload) = (1, 0x1234_5000);
    g.vcpu.set_vcpu_events(&e).unwrap();

    let back = g.vcpu.get_vcpu_events().unwrap();
    assert_eq!((back.exception.pending, back.exception.injected), (1, 0));
    assert_eq!((back.exception_has_payload, back.exception_payload), (1, 0x1234_5000));
    assert_eq!(g.vcpu.get_sregs().unwrap().cr2, 0, "not yet");

    assert_eq!(g.out().0, 0x14);

    assert_eq!(g.vcpu.get_sregs().unwrap().cr2, 0x1234_5000);
}

fn no_payload(c: &Ctx) {
    let mut g = faulting(c, false);
    let mut e = g.vcpu.get_vcpu_events().unwrap();
    assert_eq!(e.flags & KVM_VCPUEVENT_VALID_PAYLOAD, 0);
    (e.exception.injected, e.exception.nr) = (1, 14);
    (e.exception.has_error_code, e.exception.error_code) = (1, 2);
    e.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
    assert_eq!(g.vcpu.set_vcpu_events(&e).map_err(|e| e.errno()), Err(EINVAL));
    e.flags &= !KVM_VCPUEVENT_VALID_PAYLOAD;
    g.vcpu.set_vcpu_events(&e).unwrap();

    assert_eq!(g.vcpu.get_vcpu_events().unwrap().exception.injected, 1);
    assert_eq!(g.out().0, 0x14);
}

fn triple_fault(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    enable(&g.vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1).unwrap();
    let mut e = g.vcpu.get_vcpu_events().unwrap();
    assert_ne!(e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 0);
    e.triple_fault.pending = 1;
    g.vcpu.set_vcpu_events(&e).unwrap();
    assert_eq!(g.vcpu.get_vcpu_events().unwrap().triple_fault.pending, 1);

    assert!(matches!(g.exit(), VcpuExit::Shutdown));

    assert_eq!(g.vcpu.get_vcpu_events().unwrap().triple_fault.pending, 0);
    g.hlt();
}
