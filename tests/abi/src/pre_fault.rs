// SPDX-License-Identifier: GPL-2.0

//! Mapping memory before the guest touches it: KVM_PRE_FAULT_MEMORY.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, skip, Ctx, Test};
use crate::raw::{ioctl, ioctl_with, Memory};
use crate::stats;
use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use libc::{EFAULT, EINVAL, ENOENT};

pub const TESTS: &[Test] = &[
    ("pre_fault: memory is mapped before the guest runs", mapped),
    ("pre_fault: what is left of a range is told", left_over),
    ("pre_fault: where there is no memory nothing is mapped", no_memory),
    ("pre_fault: impossible ranges are refused", bad_ranges),
];

/// Maps a range. Returns what is left of it, or the errno.
fn pre_fault(vcpu: &VcpuFd, gpa: u64, size: u64) -> Result<(u64, u64), i32> {
    let mut range = kvm_pre_fault_memory { gpa, size, ..Default::default() };
    ioctl_with(vcpu, nr::PRE_FAULT_MEMORY, &mut range)?;
    Ok((range.gpa, range.size))
}

fn needs_it(c: &Ctx) {
    match ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_PRE_FAULT_MEMORY.into()) {
        Ok(1) => {}
        Ok(0) if c.is_stock() => skip("without nested paging KVM does not offer it"),
        other => panic!("{other:?}"),
    }
}

fn mapped(c: &Ctx) {
    needs_it(c);
    // out 0x10, al; hlt
    let mut g = Guest::new(c, &[0xe6, 0x10, HLT]);

    assert_eq!(pre_fault(&g.vcpu, 0, 0x1_0000), Ok((0x1_0000, 0)));
    assert_eq!(pre_fault(&g.vcpu, 0x1000, 0x1000), Ok((0x2000, 0)), "once more");

    let counters = stats::file_of(&g.vcpu);
    let faults = stats::value(&counters, "pf_taken");
    assert_eq!(g.out().0, 0x10);
    assert_eq!(stats::value(&counters, "pf_taken"), faults, "its code is there");
    g.hlt();
}

fn left_over(c: &Ctx) {
    needs_it(c);
    let g = Guest::new(c, &[HLT]);

    assert_eq!(pre_fault(&g.vcpu, 0x8000, 0x1_0000), Ok((0x1_0000, 0x8000)), "as far as there is memory");
}

fn no_memory(c: &Ctx) {
    needs_it(c);
    let g = Guest::new(c, &[HLT]);
    refused(pre_fault(&g.vcpu, 0x1_0000, 0x1000).map(|_| 0), &[ENOENT]);
    refused(pre_fault(&g.vcpu, 1 << 40, 0x1000).map(|_| 0), &[ENOENT]);
    let mut range = kvm_pre_fault_memory { gpa: 0x1_0000, size: 0x1000, ..Default::default() };
    refused(ioctl_with(&g.vcpu, nr::PRE_FAULT_MEMORY, &mut range), &[ENOENT]);
    assert_eq!((range.gpa, range.size), (0x1_0000, 0x1000));

    // A slot behind which the process has no memory.
    let memory = Memory::new(0x1000);
    memory.set_slot_at(&g.vm, 1, 0x10_0000, 0x1000, 0x7fff_0000_0000, 0).unwrap();
    refused(pre_fault(&g.vcpu, 0x10_0000, 0x1000).map(|_| 0), &[EFAULT]);
}

fn bad_ranges(c: &Ctx) {
    needs_it(c);
    let g = Guest::new(c, &[HLT]);
    for (gpa, size) in [(0, 0), (1, 0x1000), (0, 0x1001), (u64::MAX << 12, 0x2000), (0, 1 << 11)] {
        refused(pre_fault(&g.vcpu, gpa, size).map(|_| 0), &[EINVAL]);
    }
    let mut flags = kvm_pre_fault_memory { size: 0x1000, flags: 1, ..Default::default() };
    refused(ioctl_with(&g.vcpu, nr::PRE_FAULT_MEMORY, &mut flags), &[EINVAL]);
}
