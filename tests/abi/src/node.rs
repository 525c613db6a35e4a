// SPDX-License-Identifier: GPL-2.0

//! The device node.

use crate::abi::{nr, rvmm};
use crate::guest::Guest;
use crate::harness::{refused, Ctx, Test};
use crate::raw::{ioctl, ioctl_with, mapped_byte};
use kvm_bindings::*;
use kvm_ioctls::VcpuExit;
use libc::{E2BIG, EINVAL, ENOTTY};

pub const TESTS: &[Test] = &[
    ("node: the api version is 12", api_version),
    ("node: commands without an argument refuse one", stray_argument),
    ("node: an unknown ioctl is refused", unknown_ioctl),
    ("node: an unknown capability is 0", unknown_capability),
    ("node: the basic capabilities are there", basic_capabilities),
    ("node: a vcpu mapping holds run, port and ring pages", mmap_size),
    ("node: a vcpu mapping begins where it is asked to and may be of any length", mmap_offset),
    ("node: an unknown type of vm is refused", unknown_vm_type),
    ("node: a list of cpuid leaves that is too short is E2BIG", short_cpuid),
    ("node: the supported cpuid has what every guest needs", supported_cpuid),
    ("node: what is emulated that the processor lacks has a list of its own", emulated_cpuid),
    ("node: a list of msrs that is too short is E2BIG and tells the length", short_msr_list),
    ("node: every msr is listed once", msr_list_unique),
];

fn api_version(c: &Ctx) {
    assert_eq!(c.kvm.get_api_version(), 12);
}

fn stray_argument(c: &Ctx) {
    refused(ioctl(&c.kvm, nr::GET_API_VERSION, 1), &[EINVAL]);
    refused(ioctl(&c.kvm, nr::GET_VCPU_MMAP_SIZE, 1), &[EINVAL]);
}

fn unknown_ioctl(c: &Ctx) {
    refused(ioctl(&c.kvm, 0xaeff, 0), &[ENOTTY, EINVAL]);
    refused(ioctl(&c.kvm, 0xad00, 0), &[ENOTTY, EINVAL]);
}

fn unknown_capability(c: &Ctx) {
    for cap in [5, 9999, u64::from(u32::MAX), rvmm::DEV_UART.into()] {
        assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, cap), Ok(0), "capability {cap:#x}");
    }
}

fn basic_capabilities(c: &Ctx) {
    let needed = [
        KVM_CAP_USER_MEMORY,
        KVM_CAP_SET_TSS_ADDR,
        KVM_CAP_EXT_CPUID,
        KVM_CAP_MP_STATE,
        KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
        KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
        KVM_CAP_VCPU_EVENTS,
        KVM_CAP_DEBUGREGS,
        KVM_CAP_XSAVE,
        KVM_CAP_IMMEDIATE_EXIT,
    ];
    for cap in needed {
        assert!(ioctl(&c.kvm, nr::CHECK_EXTENSION, cap.into()).unwrap() > 0, "capability {cap}");
    }
    let number = |cap: u32| ioctl(&c.kvm, nr::CHECK_EXTENSION, cap.into()).unwrap();
    assert!(number(KVM_CAP_NR_MEMSLOTS) >= 32);
    assert!(number(KVM_CAP_MAX_VCPUS) >= number(KVM_CAP_NR_VCPUS));
}

fn mmap_size(c: &Ctx) {
    assert!(c.kvm.get_vcpu_mmap_size().unwrap() >= 3 * 4096);
}

fn mmap_offset(c: &Ctx) {
    // mov al, 0x5a; out 0x80, al: the byte is at the start of the second page.
    let mut g = Guest::new(c, &[0xb0, 0x5a, 0xe6, 0x80]);
    assert!(matches!(g.exit(), VcpuExit::IoOut(0x80, [0x5a])));
    let byte = |page, pages: usize, at| mapped_byte(&g.vcpu, (page, pages * 4096), at);
    // exit_reason.
    let reason = Some(KVM_EXIT_IO as u8);

    assert_eq!((byte(0, 3, 8), byte(0, 3, 4096)), (reason, Some(0x5a)));
    assert_eq!(byte(0, 1, 8), reason);
    assert_eq!((byte(1, 1, 0), byte(1, 2, 0)), (Some(0x5a), Some(0x5a)), "the page of ports");
    assert_eq!(byte(2, 1, 0), Some(0), "the ring");
    // Two pages more than there are, and what is nowhere near them.
    assert_eq!((byte(0, 5, 8), byte(0, 5, 4 * 4096)), (reason, None));
    assert_eq!((byte(64, 1, 0), byte(1 << 40, 1, 0)), (None, None));
}

fn unknown_vm_type(c: &Ctx) {
    refused(ioctl(&c.kvm, nr::CREATE_VM, 0x7fff_ffff), &[EINVAL]);
}

/// A list with room for one entry.
#[repr(C)]
struct ShortCpuid {
    nent: u32,
    padding: u32,
    entry: [u32; 10],
}

fn short_cpuid(c: &Ctx) {
    let mut list = ShortCpuid { nent: 1, padding: 0, entry: [0; 10] };

    refused(ioctl_with(&c.kvm, nr::GET_SUPPORTED_CPUID, &mut list), &[E2BIG]);
}

fn supported_cpuid(c: &Ctx) {
    let list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let leaf = |function| {
        let found = list.as_slice().iter().find(|e| e.function == function);
        *found.unwrap_or_else(|| panic!("no leaf {function:#x}"))
    };

    assert!(leaf(0).eax >= 1);
    assert_ne!(leaf(1).ecx & 1 << 31, 0, "a hypervisor is present");
    assert_ne!(leaf(1).edx & 1 << 9, 0, "a local APIC is present");
    assert_ne!(leaf(0x8000_0001).edx & 1 << 29, 0, "long mode");
    assert!(leaf(0x8000_0008).eax & 0xff >= 36, "physical address bits");
    let signature = leaf(0x4000_0000);
    assert_eq!((signature.ebx, signature.ecx, signature.edx), (0x4b4d_564b, 0x564b_4d56, 0x4d));
    // Where the processor has XSAVE.
    if leaf(1).ecx & 1 << 26 != 0 {
        assert!(leaf(0xd).ecx <= 4096, "KVM_GET_XSAVE gives a page");
    }
}

fn emulated_cpuid(c: &Ctx) {
    assert_eq!(ioctl(&c.kvm, nr::CHECK_EXTENSION, KVM_CAP_EXT_EMUL_CPUID.into()), Ok(1));
    let list = c.kvm.get_emulated_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
    let leaves = list.as_slice();
    assert_eq!((leaves[0].function, leaves[0].ebx), (0, 0), "nobody's name");
    assert!(leaves.iter().all(|leaf| leaf.function <= leaves[0].eax));

    let mut none = kvm_cpuid2::default();
    refused(ioctl_with(&c.kvm, nr::GET_EMULATED_CPUID, &mut none), &[E2BIG]);
    // A list of one entry, the last word of which is not 0.
    let mut list = [0u32; 12];
    (list[0], list[11]) = (1, 1);
    refused(ioctl_with(&c.kvm, nr::GET_EMULATED_CPUID, &mut list), &[EINVAL]);
}

fn short_msr_list(c: &Ctx) {
    let mut list = 0u32;

    refused(ioctl_with(&c.kvm, nr::GET_MSR_INDEX_LIST, &mut list), &[E2BIG]);

    assert!(list > 5, "{list} MSRs");
}

fn msr_list_unique(c: &Ctx) {
    let list = c.kvm.get_msr_index_list().unwrap();
    let mut sorted = list.as_slice().to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), list.as_slice().len());
}
