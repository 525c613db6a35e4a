// SPDX-License-Identifier: GPL-2.0

//! KVM_CAP_DIRTY_LOG_RING: the pages that a guest writes come to a ring of its vCPU's.

use crate::abi::nr;
use crate::enable_cap::enable;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::memory::{with_slot, AT, LOG, PAGE, SLOT};
use crate::raw::{ioctl, ioctl_with, DirtyRing, Memory};
use kvm_bindings::*;
use libc::{E2BIG, EINVAL, ENXIO, EPERM, MAP_PRIVATE, MAP_SHARED, PROT_EXEC, PROT_READ, PROT_WRITE};

pub const TESTS: &[Test] = &[
    ("dirty ring: its size is chosen once, and before vcpus", sizes),
    ("dirty ring: it is mapped to be shared, and not to be executed", mappings),
    ("dirty ring: a page that the guest writes comes once until it is reset", once),
    ("dirty ring: a vcpu whose ring is full does not run until it is reset", full),
    ("dirty ring: what software writes for the guest comes too", emulated),
];

const BYTES: usize = 4096;

fn reset(g: &Guest) -> i32 {
    ioctl(&g.vm, nr::RESET_DIRTY_RINGS, 0).unwrap()
}

/// A guest in 64-bit mode with a ring, and a slot of `pages` pages at [`AT`] that logs.
fn guest(c: &Ctx, code: &[u8], pages: u64) -> (Guest, Memory, DirtyRing) {
    let vm = c.vm();
    assert_eq!(enable(&vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, BYTES as u64), Ok(0));
    let vcpu = vm.create_vcpu(0).unwrap();
    let ring = DirtyRing::of(&vcpu, BYTES);
    let (g, memory) = with_slot(Guest::of(c, vm, vcpu, code), pages, LOG);
    (g, memory, ring)
}

fn sizes(c: &Ctx) {
    let (vm, _vcpu) = c.vcpu();
    for cap in [KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL] {
        assert_eq!(ioctl(&vm, nr::CHECK_EXTENSION, cap.into()), Ok(16 * 65536));
    }
    refused(enable(&vm, KVM_CAP_DIRTY_LOG_RING, 4096), &[EINVAL]);
    refused(ioctl(&vm, nr::RESET_DIRTY_RINGS, 0), &[EINVAL]);

    let vm = c.vm();
    for size in [0, 16, 2048, 3 * 4096] {
        refused(enable(&vm, KVM_CAP_DIRTY_LOG_RING, size), &[EINVAL]);
    }
    refused(enable(&vm, KVM_CAP_DIRTY_LOG_RING, 32 * 65536), &[E2BIG]);
    assert_eq!(enable(&vm, KVM_CAP_DIRTY_LOG_RING, 8192), Ok(0));
    refused(enable(&vm, KVM_CAP_DIRTY_LOG_RING, 8192), &[EINVAL]);
    assert_eq!(ioctl(&vm, nr::RESET_DIRTY_RINGS, 0), Ok(0));
    let (mut asked, mut clear) = (kvm_dirty_log::default(), kvm_clear_dirty_log::default());
    refused(ioctl_with(&vm, nr::GET_DIRTY_LOG, &mut asked), &[ENXIO]);
    refused(ioctl_with(&vm, nr::CLEAR_DIRTY_LOG, &mut clear), &[ENXIO]);
}

fn mappings(c: &Ctx) {
    let (g, ..) = guest(c, &[HLT], 1);
    let map = |prot, flags| DirtyRing::map(&g.vcpu, BYTES, prot, flags).map(drop);

    assert_eq!(map(PROT_READ | PROT_WRITE, MAP_PRIVATE), Err(EINVAL));
    // Where the kernel has not refused it itself.
    assert!(matches!(map(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED), Err(EINVAL | EPERM)));
    assert_eq!(map(PROT_READ, MAP_SHARED), Ok(()));
}

/// mov [rbx], al; add rbx, 0x1000; loop back; hlt
const STORES: [u8; 12] = [0x88, 0x03, 0x48, 0x81, 0xc3, 0, 0x10, 0, 0, 0xe2, 0xf5, HLT];

/// Sets the guest off to write to `count` pages from `page` on.
fn begin(g: &Guest, page: u64, count: u64) {
    let r = g.vcpu.get_regs().unwrap();
    g.vcpu.set_regs(&kvm_regs { rip: 0x1000, rbx: AT + page * PAGE, rcx: count, ..r }).unwrap();
}

fn harvest(ring: &mut DirtyRing) -> Vec<u64> {
    std::iter::from_fn(|| ring.harvest())
        .map(|(slot, page)| {
            assert_eq!(slot, SLOT.into());
            page
        })
        .collect()
}

fn once(c: &Ctx) {
    let (mut g, _memory, mut ring) = guest(c, &STORES, 70);
    begin(&g, 3, 5);
    g.hlt();
    begin(&g, 3, 5);
    g.hlt();

    assert_eq!(harvest(&mut ring), [3, 4, 5, 6, 7]);
    assert_eq!((reset(&g), reset(&g)), (5, 0));
    begin(&g, 69, 1);
    g.hlt();
    begin(&g, 7, 1);
    g.hlt();
    assert_eq!(harvest(&mut ring), [69, 7]);
    assert_eq!(harvest(&mut ring), []);
}

fn full(c: &Ctx) {
    let (mut g, _memory, mut ring) = guest(c, &STORES, 300);
    begin(&g, 0, 300);
    let (mut pages, mut exits) = (Vec::new(), 0);

    loop {
        let _ = g.vcpu.run();
        let reason = g.vcpu.get_kvm_run().exit_reason;
        if reason == KVM_EXIT_HLT {
            break;
        }
        assert_eq!(reason, KVM_EXIT_DIRTY_RING_FULL);
        exits += 1;
        let found = harvest(&mut ring);
        assert!(found.len() <= BYTES / 16, "{} entries", found.len());
        let _ = g.vcpu.run();
        assert_eq!(g.vcpu.get_kvm_run().exit_reason, KVM_EXIT_DIRTY_RING_FULL, "not reset yet");
        assert_eq!(reset(&g), found.len() as i32);
        pages.extend(found);
    }

    pages.extend(harvest(&mut ring));
    pages.dedup();
    assert_eq!(pages, (0..300).collect::<Vec<_>>());
    assert_eq!(exits, 1);
}

fn emulated(c: &Ctx) {
    // mov edi, 0x21ffe; mov dx, 0x60; mov ecx, 4; rep insb; hlt
    let code = [0xbf, 0xfe, 0x1f, 2, 0, 0x66, 0xba, 0x60, 0, 0xb9, 4, 0, 0, 0, 0xf3, 0x6c, HLT];
    let (mut g, _memory, mut ring) = guest(c, &code, 4);
    loop {
        match g.exit() {
            kvm_ioctls::VcpuExit::IoIn(0x60, data) => data.fill(0x5a),
            kvm_ioctls::VcpuExit::Hlt => break,
            other => panic!("{other:?}, expected IN"),
        }
    }

    let mut pages = harvest(&mut ring);
    pages.dedup();
    assert_eq!(pages, [1, 2]);
}
