// SPDX-License-Identifier: GPL-2.0

//! Machine checks, and the local APIC's bit of CPUID.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::irq::report;
use crate::raw::{ioctl, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::{VcpuExit, VcpuFd};
use libc::EINVAL;

pub const TESTS: &[Test] = &[
    ("mce: the node tells what banks can do", capability),
    ("mce: banks are set up as the capability says", setup),
    ("mce: impossible banks are refused", bad_setup),
    ("mce: a corrected error is logged", corrected),
    ("mce: an uncorrected error is an exception", uncorrected),
    ("mce: an uncorrected error that the guest cannot take is a shutdown", cannot_take),
    ("mce: an impossible error is refused", bad_errors),
    ("vcpu: cpuid shows a local apic while its base register enables it", apic_bit),
];

const MCG_CAP: u32 = 0x179;
/// MCi_STATUS of bank 1; ADDR and MISC follow.
const STATUS_1: u32 = 0x405;
const VALID: u64 = 1 << 63;
const UNCORRECTED: u64 = 1 << 61;
const CONTEXT_CORRUPT: u64 = 1 << 57;

fn banks(vcpu: &VcpuFd, mut cap: u64) -> Result<i32, i32> {
    ioctl_with(vcpu, nr::X86_SETUP_MCE, &mut cap)
}

fn msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let mut list = Msrs::from_entries(&[kvm_msr_entry { index, ..Default::default() }]).unwrap();
    (vcpu.get_msrs(&mut list).unwrap() == 1).then(|| list.as_slice()[0].data)
}

fn capability(c: &Ctx) {
    let mut cap = 0;
    ioctl_with(&c.kvm, nr::X86_GET_MCE_CAP_SUPPORTED, &mut cap).unwrap();
    let (_vm, vcpu) = c.vcpu();

    assert_eq!(cap & 0xff, 0, "how many there are is for who sets them up to say");
    banks(&vcpu, cap | 4).unwrap();
    // AMD's processors have the bits from 9 on for nothing, and KVM keeps them clear there.
    assert_eq!(msr(&vcpu, MCG_CAP).map(|cap| cap & 0x1ff), Some((cap | 4) & 0x1ff));
    for bit in (8..64).filter(|bit| cap >> bit & 1 == 0 && !(16..24).contains(bit)) {
        refused(banks(&vcpu, 4 | 1 << bit), &[EINVAL]);
    }
}

fn setup(c: &Ctx) {
    let most = ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_MCE.into()).unwrap();
    assert!(most >= 10, "{most} banks");
    let (_vm, vcpu) = c.vcpu();

    banks(&vcpu, 4).unwrap();

    assert_eq!(msr(&vcpu, MCG_CAP), Some(4));
    assert_eq!(msr(&vcpu, 0x40c), Some(u64::MAX), "all errors of bank 3 are reported");
    assert_eq!(msr(&vcpu, 0x410), None, "there is no bank 4");
    banks(&vcpu, most as u64).unwrap();
    assert!(msr(&vcpu, 0x410).is_some());
}

fn bad_setup(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();

    for cap in [0, 33, 255, 10 | 1 << 63] {
        refused(banks(&vcpu, cap), &[EINVAL]);
    }
}

fn set(vcpu: &VcpuFd, e: kvm_x86_mce) -> Result<i32, i32> {
    let mut e = e;
    ioctl_with(vcpu, nr::X86_SET_MCE, &mut e)
}

fn corrected(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    banks(&vcpu, 10).unwrap();
    let e =
        kvm_x86_mce { status: VALID | 0x17, addr: 0x1234_5000, misc: 0x86, bank: 1, ..Default::default() };

    set(&vcpu, e).unwrap();

    let logged = [0, 1, 2].map(|i| msr(&vcpu, STATUS_1 + i).unwrap());
    assert_eq!(logged, [e.status, e.addr, e.misc]);
    set(&vcpu, e).unwrap();
    assert_eq!(msr(&vcpu, STATUS_1), Some(e.status | 1 << 62), "the second is an overflow");
}

fn fatal() -> kvm_x86_mce {
    let status = VALID | UNCORRECTED | CONTEXT_CORRUPT | 1 << 60;
    kvm_x86_mce { status, mcg_status: 5, bank: 1, ..Default::default() }
}

fn uncorrected(c: &Ctx) {
    let mut g = Guest::new(c, &[0xf4]);
    g.handler(18, 0x2000, &report(18));
    banks(&g.vcpu, 10).unwrap();
    let mut s = g.vcpu.get_sregs().unwrap();
    s.cr4 |= 1 << 6;
    g.vcpu.set_sregs(&s).unwrap();

    set(&g.vcpu, fatal()).unwrap();

    assert_eq!(g.out(), (0x10, 18));
    assert_eq!(msr(&g.vcpu, 0x17a), Some(5));
    assert_eq!(msr(&g.vcpu, STATUS_1), Some(fatal().status));
}

fn cannot_take(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    banks(&g.vcpu, 10).unwrap();

    set(&g.vcpu, fatal()).unwrap();

    assert!(matches!(g.exit(), VcpuExit::Shutdown));
    g.hlt();
}

fn bad_errors(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    banks(&vcpu, 10).unwrap();

    refused(set(&vcpu, kvm_x86_mce { bank: 10, ..fatal() }), &[EINVAL]);
    refused(set(&vcpu, kvm_x86_mce { status: 0, ..fatal() }), &[EINVAL]);
}

fn apic_bit(c: &Ctx) {
    // mov eax, 1; cpuid; mov eax, edx; shr eax, 8; out 0x10, al; hlt
    let code = [0x66, 0xb8, 1, 0, 0, 0, 0x0f, 0xa2, 0x66, 0x89, 0xd0, 0x66, 0xc1, 0xe8, 8, 0xe6, 0x10, HLT];
    for is_on in [true, false] {
        let mut g = Guest::with_irqchip(c, &code);
        let mut s = g.vcpu.get_sregs().unwrap();
        assert_ne!(s.apic_base & 1 << 11, 0);
        if !is_on {
            s.apic_base &= !(1 << 11);
        }
        g.vcpu.set_sregs(&s).unwrap();

        let (_, value) = g.out();

        assert_eq!(value & 2 != 0, is_on);
    }
}
