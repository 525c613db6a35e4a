// SPDX-License-Identifier: GPL-2.0

//! Writes that go into a ring instead of ending KVM_RUN: KVM_REGISTER_COALESCED_MMIO.

use crate::abi::{nr, run};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::{ioctl, ioctl_with, Ring};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::EINVAL;

pub const TESTS: &[Test] = &[
    ("coalesced: writes to a zone of memory gather in the ring", memory),
    ("coalesced: writes to a zone of ports gather in the ring", ports),
    ("coalesced: what a zone does not hold whole exits", edges),
    ("coalesced: reads exit", reads),
    ("coalesced: a full ring exits", full),
    ("coalesced: a zone that is taken back exits", unregistered),
    ("coalesced: a zone is of memory or of ports", kinds),
    ("coalesced: all vcpus have the same ring", one_ring),
];

/// Where the guest writes: its DS begins here.
const AT: u64 = 0x2_0000;

fn zone(g: &Guest, request: u32, addr: u64, size: u32, pio: u32) -> Result<i32, i32> {
    let zone = kvm_coalesced_mmio_zone {
        addr,
        size,
        __bindgen_anon_1: kvm_coalesced_mmio_zone__bindgen_ty_1 { pio },
    };
    ioctl_with(&g.vm, request, &mut { zone })
}

fn register(g: &Guest, addr: u64, size: u32, pio: u32) {
    assert_eq!(zone(g, nr::REGISTER_COALESCED_MMIO, addr, size, pio), Ok(0));
}

/// mov dword [at], value
fn store(at: u16, value: u32) -> Vec<u8> {
    crate::apic::store(at, value)
}

fn guest(c: &Ctx, code: &[&[u8]]) -> (Guest, Ring) {
    let page = ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO.into()).unwrap();
    assert_eq!(page as usize, run::COALESCED_PAGE);
    let g = Guest::new(c, &code.concat());
    let mut s = g.vcpu.get_sregs().unwrap();
    s.ds.base = AT;
    g.vcpu.set_sregs(&s).unwrap();
    let ring = Ring::of(&g.vcpu);
    (g, ring)
}

fn memory(c: &Ctx) {
    // mov byte [0x11], 0x5a
    let (mut g, ring) = guest(c, &[&store(0x10, 0x1234_5678), &[0xc6, 0x06, 0x11, 0, 0x5a], &[HLT]]);
    register(&g, AT, 0x1000, 0);

    g.hlt();

    assert_eq!(ring.take(), Some((AT + 0x10, 4, 0, 0x1234_5678)));
    assert_eq!(ring.take(), Some((AT + 0x11, 1, 0, 0x5a)));
    assert_eq!(ring.take(), None);
}

fn ports(c: &Ctx) {
    assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_COALESCED_PIO.into()), Ok(1));
    // mov ax, 0x1234; out 0x20, ax; out 0x21, al; hlt
    let (mut g, ring) = guest(c, &[&[0xb8, 0x34, 0x12, 0xe7, 0x20, 0xe6, 0x21, HLT]]);
    register(&g, 0x20, 2, 1);

    g.hlt();

    assert_eq!(ring.take(), Some((0x20, 2, 1, 0x1234)));
    assert_eq!(ring.take(), Some((0x21, 1, 1, 0x34)));
}

fn edges(c: &Ctx) {
    let (mut g, ring) = guest(c, &[&store(0xe, 1), &store(0x1e, 2), &store(0x10, 3), &[HLT]]);
    register(&g, AT + 0x10, 0x10, 0);

    for at in [0xe, 0x1e] {
        assert!(matches!(g.exit(), VcpuExit::MmioWrite(gpa, _) if gpa == AT + at));
    }
    g.hlt();
    assert_eq!(ring.take(), Some((AT + 0x10, 4, 0, 3)));
}

fn reads(c: &Ctx) {
    // mov al, [0x10]
    let (mut g, ring) = guest(c, &[&[0xa0, 0x10, 0], &[HLT]]);
    register(&g, AT, 0x1000, 0);

    assert!(matches!(g.exit(), VcpuExit::MmioRead(..)));
    g.hlt();
    assert_eq!(ring.take(), None);
}

fn full(c: &Ctx) {
    // mov cx, 200; again: mov byte [0], cl; loop again; hlt
    let (mut g, ring) = guest(c, &[&[0xb9, 200, 0, 0x88, 0x0e, 0, 0, 0xe2, 0xfa, HLT]]);
    register(&g, AT, 0x1000, 0);

    // The ring has room for 170, of which one stays free.
    match g.exit() {
        VcpuExit::MmioWrite(gpa, data) => assert_eq!((gpa, data[0]), (AT, 200 - 169)),
        other => panic!("{other:?}, expected a write"),
    }
    for n in 0..169 {
        assert_eq!(ring.take(), Some((AT, 1, 0, 200 - n)));
    }
    g.hlt();
    for n in 170..200 {
        assert_eq!(ring.take(), Some((AT, 1, 0, 200 - n)));
    }
    assert_eq!(ring.take(), None);
}

fn unregistered(c: &Ctx) {
    let (mut g, ring) = guest(c, &[&store(0, 1), &store(0, 2), &[HLT]]);
    register(&g, AT, 0x1000, 0);
    assert_eq!(zone(&g, nr::UNREGISTER_COALESCED_MMIO, AT + 0x8000, 4, 0), Ok(0), "no such zone");
    assert_eq!(zone(&g, nr::UNREGISTER_COALESCED_MMIO, AT, 0x1000, 0), Ok(0));

    assert!(matches!(g.exit(), VcpuExit::MmioWrite(..)));
    assert_eq!(ring.take(), None);
}

fn kinds(c: &Ctx) {
    let (g, _ring) = guest(c, &[&[HLT]]);

    refused(zone(&g, nr::REGISTER_COALESCED_MMIO, AT, 0x1000, 2), &[EINVAL]);
    refused(zone(&g, nr::UNREGISTER_COALESCED_MMIO, AT, 0x1000, 2), &[EINVAL]);
}

fn one_ring(c: &Ctx) {
    let (mut g, _ring) = guest(c, &[&store(0x10, 7), &[HLT]]);
    register(&g, AT, 0x1000, 0);
    let other = g.vm.create_vcpu(1).unwrap();
    let ring = Ring::of(&other);

    g.hlt();

    assert_eq!(ring.take(), Some((AT + 0x10, 4, 0, 7)));
}
