// SPDX-License-Identifier: GPL-2.0

//! The newer ways to a vCPU's state: KVM_GET_SREGS2, KVM_GET_XSAVE2, registers in the shared page, the offset of the TSC,
//! and what the node says of MSRs.

use crate::abi::{nr, run, vcpu as abi};
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::{ioctl, ioctl_with, sync_regs};
use kvm_bindings::*;
use libc::{E2BIG, EINVAL, ENXIO};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use zerocopy::FromZeros;

pub const TESTS: &[Test] = &[
    ("state: sregs2 say what sregs say", sregs2),
    ("state: sregs2 carry the directory pointers of pae paging", pdptrs),
    ("state: sregs2 without pae paging have no directory pointers", bad_sregs2),
    ("state: xsave2 says what xsave says", xsave2),
    ("state: registers come in the page after a run", sync_out),
    ("state: registers are taken from the page before a run", sync_in),
    ("state: the page takes known groups alone", sync_bad),
    ("state: the tsc's offset is an attribute", tsc_offset),
    ("state: the node has msrs that say what a processor is like", feature_msrs),
    ("state: the number of shadow pages can be limited", mmu_pages),
];

fn get_sregs2(g: &Guest) -> abi::Sregs2 {
    let mut s = abi::Sregs2::new_zeroed();
    assert_eq!(ioctl_with(&g.vcpu, nr::GET_SREGS2, &mut s), Ok(0));
    s
}

fn sregs2(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    g.enter_long_mode();
    let (new, old) = (get_sregs2(&g), g.vcpu.get_sregs().unwrap());

    assert_eq!((new.cr0, new.cr3, new.cr4, new.efer), (old.cr0, old.cr3, old.cr4, old.efer));
    assert_eq!((new.cs.selector, new.cs.l, new.apic_base), (old.cs.selector, old.cs.l, old.apic_base));
    assert_eq!((new.flags, new.pdptrs), (0, [0; 4]), "no PAE paging");
    assert_eq!(ioctl_with(&g.vcpu, nr::SET_SREGS2, &mut { new }), Ok(0));
    g.hlt();
}

/// Returns the registers of a guest with PAE paging whose tables are at 0x9000.
fn pae(g: &Guest) -> abi::Sregs2 {
    let mut s = get_sregs2(g);
    (s.cr0, s.cr3, s.cr4, s.efer) = (0x8000_0011, 0x9000, 0x20, 0);
    s
}

fn pdptrs(c: &Ctx) {
    let g = Guest::new(c, &[HLT]);
    // What memory has is not looked at.
    g.memory.write(0x9000, &[0; 32]);
    let mut s = pae(&g);
    (s.flags, s.pdptrs) = (abi::SREGS2_PDPTRS_VALID, [0xa001, 0, 0xb001, 0]);

    assert_eq!(ioctl_with(&g.vcpu, nr::SET_SREGS2, &mut s), Ok(0));

    let back = get_sregs2(&g);
    assert_eq!((back.flags, back.pdptrs), (abi::SREGS2_PDPTRS_VALID, [0xa001, 0, 0xb001, 0]));
}

fn bad_sregs2(c: &Ctx) {
    let g = Guest::new(c, &[HLT]);
    let mut s = get_sregs2(&g);
    s.flags = abi::SREGS2_PDPTRS_VALID;
    refused(ioctl_with(&g.vcpu, nr::SET_SREGS2, &mut s), &[EINVAL]);
    s.flags = 2;
    refused(ioctl_with(&g.vcpu, nr::SET_SREGS2, &mut s), &[EINVAL]);
}

fn xsave2(c: &Ctx) {
    let g = Guest::new(c, &[HLT]);
    let size = ioctl(&g.vm, nr::CHECK_EXTENSION, KVM_CAP_XSAVE2.into()).unwrap() as usize;
    assert!((4096..=16384).contains(&size), "{size}");
    let (mut new, mut old) = ([0u64; 2048], [0u64; 512]);

    assert_eq!(ioctl_with(&g.vcpu, nr::GET_XSAVE2, &mut new), Ok(0));
    assert_eq!(ioctl_with(&g.vcpu, nr::GET_XSAVE, &mut old), Ok(0));

    assert_eq!(new[..512], old);
}

fn sync_out(c: &Ctx) {
    assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_SYNC_REGS.into()), Ok(7));
    // mov eax, 7; hlt
    let mut g = Guest::new(c, &[0x66, 0xb8, 7, 0, 0, 0, HLT]);
    g.vcpu.get_kvm_run().kvm_valid_regs = run::SYNC_REGS | run::SYNC_SREGS | run::SYNC_EVENTS;

    g.hlt();

    let page = *sync_regs(g.vcpu.get_kvm_run());
    assert_eq!((page.regs.rax, page.regs.rip), (7, 0x1007));
    assert_eq!(page.sregs.cr0, g.vcpu.get_sregs().unwrap().cr0);
    assert_eq!(page.events, g.vcpu.get_vcpu_events().unwrap());
}

fn sync_in(c: &Ctx) {
    // out 0x10, al; hlt
    let mut g = Guest::new(c, &[0xe6, 0x10, HLT]);
    let (mut regs, mut sregs) = (g.vcpu.get_regs().unwrap(), g.vcpu.get_sregs().unwrap());
    (regs.rax, sregs.cr2) = (0x5a, 0x1234_5000);
    let kvm_run = g.vcpu.get_kvm_run();
    kvm_run.kvm_dirty_regs = run::SYNC_REGS | run::SYNC_SREGS;
    (sync_regs(kvm_run).regs, sync_regs(kvm_run).sregs) = (regs, sregs);

    assert_eq!(g.out(), (0x10, 0x5a));

    assert_eq!(g.vcpu.get_kvm_run().kvm_dirty_regs, 0);
    assert_eq!(g.vcpu.get_sregs().unwrap().cr2, 0x1234_5000);
}

fn sync_bad(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    g.vcpu.get_kvm_run().kvm_valid_regs = 8;
    assert_eq!(g.vcpu.run().map(|_| ()).map_err(|e| e.errno()), Err(EINVAL));
    let kvm_run = g.vcpu.get_kvm_run();
    (kvm_run.kvm_valid_regs, kvm_run.kvm_dirty_regs) = (0, 1 << 40);
    assert_eq!(g.vcpu.run().map(|_| ()).map_err(|e| e.errno()), Err(EINVAL));
    g.vcpu.get_kvm_run().kvm_dirty_regs = 0;
    g.hlt();
}

fn tsc_offset(c: &Ctx) {
    let g = Guest::new(c, &[HLT]);
    assert_eq!(ioctl(&g.vm, nr::CHECK_EXTENSION, KVM_CAP_VCPU_ATTRIBUTES.into()), Ok(1));
    let offset = AtomicU64::new(0);
    let addr = offset.as_ptr() as u64;
    let mut attr = kvm_device_attr { addr, ..Default::default() };
    let tsc = || {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry { index: 0x10, ..Default::default() }]).unwrap();
        g.vcpu.get_msrs(&mut msrs).unwrap();
        msrs.as_slice()[0].data
    };

    assert_eq!(ioctl_with(&g.vcpu, nr::HAS_DEVICE_ATTR, &mut attr), Ok(0));
    assert_eq!(ioctl_with(&g.vcpu, nr::GET_DEVICE_ATTR, &mut attr), Ok(0));
    let (old, before) = (offset.load(SeqCst), tsc());
    offset.store(old.wrapping_add(1 << 50), SeqCst);
    assert_eq!(ioctl_with(&g.vcpu, nr::SET_DEVICE_ATTR, &mut attr), Ok(0));
    assert!(tsc() - before >= 1 << 50);
    offset.store(0, SeqCst);
    assert_eq!(ioctl_with(&g.vcpu, nr::GET_DEVICE_ATTR, &mut attr), Ok(0));
    assert_eq!(offset.load(SeqCst), old.wrapping_add(1 << 50));
    attr.attr = 77;
    refused(ioctl_with(&g.vcpu, nr::HAS_DEVICE_ATTR, &mut attr), &[ENXIO]);
}

#[repr(C)]
struct List<const N: usize> {
    count: u32,
    indices: [u32; N],
}

#[repr(C)]
struct Values<const N: usize> {
    count: u32,
    pad: u32,
    entries: [kvm_msr_entry; N],
}

fn feature_msrs(c: &Ctx) {
    assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_GET_MSR_FEATURES.into()), Ok(1));
    let mut list = List { count: 0, indices: [0; 256] };
    refused(ioctl_with(&c.kvm, nr::GET_MSR_FEATURE_INDEX_LIST, &mut list), &[E2BIG]);
    let count = list.count as usize;
    assert_ne!(count, 0);

    assert_eq!(ioctl_with(&c.kvm, nr::GET_MSR_FEATURE_INDEX_LIST, &mut list), Ok(0));

    for index in &list.indices[..count] {
        let entries = [kvm_msr_entry { index: *index, ..Default::default() }];
        let read = ioctl_with(&c.kvm, nr::GET_MSRS, &mut Values { count: 1, pad: 0, entries });
        assert_eq!(read, Ok(1), "{index:#x}");
    }
    let entries = [kvm_msr_entry { index: 0x1234_5678, ..Default::default() }];
    assert_eq!(ioctl_with(&c.kvm, nr::GET_MSRS, &mut Values { count: 1, pad: 0, entries }), Ok(0));
}

fn mmu_pages(c: &Ctx) {
    let vm = c.vm();

    refused(ioctl(&vm, nr::SET_NR_MMU_PAGES, 63), &[EINVAL]);
    assert_eq!(ioctl(&vm, nr::SET_NR_MMU_PAGES, 1000), Ok(0));
}
