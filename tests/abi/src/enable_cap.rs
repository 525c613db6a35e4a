// SPDX-License-Identifier: GPL-2.0

//! KVM_ENABLE_CAP and what can be chosen with it.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::report;
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
    ("enable_cap: the hypercall of another vendor is put right, or undefined", fixed_hypercall),
    ("enable_cap: mwait does nothing, or is undefined where cpuid lacks it", mwait),
    ("enable_cap: cpuid's bit of mwait follows misc_enable where that is chosen", mwait_in_cpuid),
    ("enable_cap: with wide apic ids a message's upper address counts", wide_ids),
    ("enable_cap: the time of polling fits 32 bits", halt_poll),
    ("enable_cap: exits are disabled before the first vcpu", disable_exits),
    ("enable_cap: a guest that halts without exits is not told that it can be woken", no_unhalt),
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

/// VMCALL and VMMCALL.
const CALLS: [[u8; 3]; 2] = [[0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xd9]];

/// A guest that makes a hypercall that always succeeds, by an instruction at 0x1006, and reports the answer, or 6 where
/// that is undefined.
fn caller(c: &Ctx, quirks_off: u32, call: [u8; 3]) -> Guest {
    // mov eax, 11; the call; out 0x10, al
    let code = [&[0x66, 0xb8, 11, 0, 0, 0][..], &call, &[0xe6, 0x10, HLT]].concat();
    let g = Guest::new(c, &code);
    enable(&g.vm, KVM_CAP_DISABLE_QUIRKS2, quirks_off.into()).unwrap();
    g.handler(6, 0x2000, &report(6));
    g
}

fn fixed_hypercall(c: &Ctx) {
    let made = CALLS.map(|call| {
        let mut g = caller(c, 0, call);
        assert_eq!(g.out(), (0x10, 0), "{call:x?}");
        g.memory.read::<3>(0x1006)
    });
    assert_eq!(made[0], made[1], "the one that this processor has");
    assert!(CALLS.contains(&made[0]));

    for call in CALLS {
        let mut g = caller(c, KVM_X86_QUIRK_FIX_HYPERCALL_INSN, call);
        assert_eq!(g.out(), (0x10, if call == made[0] { 0 } else { 6 }));
        assert_eq!(g.memory.read::<3>(0x1006), call);
    }
}

/// Sets the bit of MONITOR and MWAIT in the vCPU's CPUID.
fn list_mwait(c: &Ctx, g: &Guest, on: bool) {
    let mut list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let leaf = list.as_mut_slice().iter_mut().find(|e| e.function == 1).unwrap();
    leaf.ecx = leaf.ecx & !8 | u32::from(on) << 3;
    g.vcpu.set_cpuid2(&list).unwrap();
}

fn mwait(c: &Ctx) {
    // xor ecx, ecx; xor edx, edx; MONITOR or MWAIT
    for insn in [0xc8, 0xc9] {
        for (off, listed, answer) in [(0, false, 1), (0, true, 1), (1, true, 1), (1, false, 6)] {
            let code = [&[0x66, 0x31, 0xc9, 0x66, 0x31, 0xd2, 0x0f, 0x01, insn][..], &report(1)].concat();
            let mut g = Guest::new(c, &code);
            g.handler(6, 0x2000, &report(6));
            list_mwait(c, &g, listed);
            enable(&g.vm, KVM_CAP_DISABLE_QUIRKS2, (off * KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS).into())
                .unwrap();

            assert_eq!(g.out(), (0x10, answer), "{insn:#x}, quirk off {off}, listed {listed}");
        }
    }
}

fn mwait_in_cpuid(c: &Ctx) {
    // mov eax, 1; cpuid; shr ecx, 3; and cl, 1; mov al, cl; out 0x10, al
    let look =
        [0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x66, 0xc1, 0xe9, 3, 0x80, 0xe1, 1, 0x88, 0xc8, 0xe6, 0x10];
    // mov ecx, MISC_ENABLE; rdmsr; xor eax, 1 << 18; wrmsr
    let flip = [0x66, 0xb9, 0xa0, 1, 0, 0, 0x0f, 0x32, 0x66, 0x35, 0, 0, 4, 0, 0x0f, 0x30];
    for (off, answers) in [(0, [1, 1, 1]), (KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT, [0, 1, 0])] {
        let mut g = Guest::new(c, &[&look[..], &flip, &look, &flip, &look].concat());
        enable(&g.vm, KVM_CAP_DISABLE_QUIRKS2, off.into()).unwrap();
        list_mwait(c, &g, true);

        assert_eq!([g.out(), g.out(), g.out()].map(|(_, value)| value), answers);
    }
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

/// Nobody learns that such a guest has halted, so nobody can be asked to wake it.
fn no_unhalt(c: &Ctx) {
    /// KVM_FEATURE_PV_UNHALT.
    const PV_UNHALT: u32 = 1 << 7;
    for exits in [true, false] {
        let vm = c.vm();
        if !exits {
            enable(&vm, KVM_CAP_X86_DISABLE_EXITS, KVM_X86_DISABLE_EXITS_HLT.into()).unwrap();
        }
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        let features = |list: &CpuId| list.as_slice().iter().find(|e| e.function == 0x4000_0001).unwrap().eax;
        for leaf in list.as_mut_slice().iter_mut().filter(|e| e.function == 0x4000_0001) {
            leaf.eax |= PV_UNHALT;
        }
        vcpu.set_cpuid2(&list).unwrap();

        let now = features(&vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap());

        assert_eq!(now & PV_UNHALT != 0, exits);
        assert_eq!(now | PV_UNHALT, features(&list), "and nothing else");
    }
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
