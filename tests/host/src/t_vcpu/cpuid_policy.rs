// SPDX-License-Identifier: GPL-2.0

//! What guests are offered on processors of both vendors.

use crate::abi::sys::CpuidEntry2;
use crate::arch::cpuid::*;
use crate::arch::cr::Xcr0;
use crate::vcpu::cpuid::{supported, CpuidInputs};
use kernel::alloc::{fail_none, fail_nth};
use proptest::prelude::*;

const fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidRegs {
    CpuidRegs { eax, ebx, ecx, edx }
}

/// A processor that has every bit of every leaf, with the given name and highest leaves.
fn greedy(name: &'static [u8; 12], basic: u32, extended: u32) -> impl Fn(u32, u32) -> CpuidRegs {
    let [b, d, c] = signature(name);
    move |leaf, sub| match (leaf, sub) {
        (0, _) => regs(basic, b, c, d),
        (0x8000_0000, _) => regs(extended, b, c, d),
        (4, 3..) => CpuidRegs::default(),
        (7, 0) => regs(2, !0, !0, !0),
        (0xd, 0) => regs(0x207, 2688, 2688, 0),
        (0xd, 2) => regs(256, 576, 0, 0),
        (0xd, 9) => regs(8, 2688, 0, 0),
        (0x8000_0008, _) => regs(0x3934, !0, !0, !0),
        _ => regs(!0, !0, !0, !0),
    }
}

fn amd() -> impl Fn(u32, u32) -> CpuidRegs {
    greedy(b"AuthenticAMD", 0x10, 0x8000_0026)
}

fn intel() -> impl Fn(u32, u32) -> CpuidRegs {
    greedy(b"GenuineIntel", 0x20, 0x8000_0008)
}

fn facts() -> CpuidInputs {
    CpuidInputs { tsc_khz: 2_400_000, ..CpuidInputs::default() }
}

fn find(list: &[CpuidEntry2], function: u32, index: u32) -> CpuidRegs {
    let mut hits = list.iter().filter(|e| e.function == function && (!e.has_index() || e.index == index));
    let hit = hits.next().unwrap_or_else(|| panic!("no leaf {function:#x}.{index}"));
    assert!(hits.next().is_none(), "leaf {function:#x}.{index} twice");
    hit.regs()
}

fn has(list: &[CpuidEntry2], function: u32) -> bool {
    list.iter().any(|e| e.function == function)
}

#[test]
fn what_is_not_virtualized_is_never_offered() {
    for host in [&amd() as &dyn Fn(u32, u32) -> CpuidRegs, &intel()] {
        let everything =
            CpuidInputs { la57: true, tsc_aux: true, spec_ctrl: true, pv: KvmFeatures::all(), ..facts() };

        let list = supported(host, &everything).unwrap();

        let (l1, l7) = (find(&list, 1, 0), find(&list, 7, 0));
        // MONITOR, DTES64, DS-CPL, VMX, SMX, EIST, TM2, xTPR, PDCM, DCA, OSXSAVE.
        assert_eq!(l1.ecx & 0x0804_c1fc, 0);
        // PSN, DS, ACPI, HTT, TM, PBE.
        assert_eq!(l1.edx & 0xb064_0000, 0);
        // SGX, HLE, RTM, PQM, MPX, PQE, PT.
        assert_eq!(l7.ebx & (1 << 2 | 1 << 4 | 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 25), 0);
        // OSPKE, WAITPKG, CET shadow stacks, SGX launch control, PKS.
        assert_eq!(l7.ecx & (1 << 4 | 1 << 5 | 1 << 7 | 1 << 30 | 1 << 31), 0);
        // User interrupts, CET indirect branches, AMX.
        assert_eq!(l7.edx & (1 << 5 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25), 0);
        // XSAVES, and no state beyond XCR0.
        assert_eq!(find(&list, 0xd, 1).eax & !7, 0);
        // MWAIT, thermal, performance counters, SVM.
        assert!(!has(&list, 5) && !has(&list, 0xa) && !has(&list, 0x8000_000a));
        assert_eq!(find(&list, 0x8000_0001, 0).ecx & (1 << 2 | 1 << 3 | 1 << 10 | 1 << 12 | 1 << 23), 0);
    }
}

#[test]
fn every_guest_sees_a_hypervisor_an_x2apic_and_the_paravirtual_interface() {
    let list = supported(amd(), &facts()).unwrap();

    let ecx = F1Ecx::from_bits_retain(find(&list, 1, 0).ecx);
    assert!(ecx.contains(F1Ecx::HYPERVISOR | F1Ecx::X2APIC | F1Ecx::TSC_DEADLINE));
    let head = find(&list, 0x4000_0000, 0);
    assert_eq!(head.eax, 0x4000_0001);
    assert_eq!((head.ebx, head.ecx, head.edx), (0x4b4d_564b, 0x564b_4d56, 0x4d));
}

#[test]
fn paravirtual_features_are_those_of_the_facts_and_none_of_the_hosts() {
    let clock = KvmFeatures::CLOCKSOURCE2 | KvmFeatures::CLOCKSOURCE_STABLE;

    let list = supported(amd(), &CpuidInputs { pv: clock, ..facts() }).unwrap();

    assert_eq!(find(&list, 0x4000_0001, 0), regs(1 << 3 | 1 << 24, 0, 0, 0));
}

#[test]
fn features_wait_for_the_facts_they_need() {
    let without = supported(amd(), &CpuidInputs { hardware_paging: false, ..facts() }).unwrap();
    let with =
        supported(amd(), &CpuidInputs { la57: true, tsc_aux: true, spec_ctrl: true, ..facts() }).unwrap();

    assert_eq!(find(&without, 1, 0).ecx & F1Ecx::PCID.bits(), 0);
    assert_eq!(find(&without, 7, 0).ebx & F7Ebx::INVPCID.bits(), 0);
    assert_eq!(find(&without, 7, 0).ecx & (F7Ecx::LA57 | F7Ecx::RDPID | F7Ecx::PKU).bits(), 0);
    assert_eq!(find(&without, 0x8000_0001, 0).edx & FExtEdx::RDTSCP.bits(), 0);
    assert_eq!(find(&without, 0x8000_0008, 0).ebx & FExt8Ebx::IBPB.bits(), 0);
    assert_ne!(find(&with, 7, 0).ecx & F7Ecx::LA57.bits(), 0);
    assert_ne!(find(&with, 7, 0).ecx & F7Ecx::RDPID.bits(), 0);
    assert_ne!(find(&with, 0x8000_0001, 0).edx & FExtEdx::RDTSCP.bits(), 0);
    assert_ne!(find(&with, 0x8000_0008, 0).ebx & FExt8Ebx::IBPB.bits(), 0);
}

#[test]
fn the_controls_of_speculation_are_offered_where_they_are_switched() {
    let host = |leaf, subleaf| match (leaf, subleaf) {
        (7, 0) => regs(2, 0, 0, 0),
        (7, 2) => regs(0, 0, 0, !0),
        _ => amd()(leaf, subleaf),
    };
    let with = supported(host, &CpuidInputs { spec_ctrl: true, ..facts() }).unwrap();
    let without = supported(host, &CpuidInputs { spec_ctrl: false, ..facts() }).unwrap();

    assert_eq!(find(&with, 7, 0).eax, 2);
    assert_eq!((find(&with, 7, 2).edx, find(&without, 7, 2).edx), (0x1f, 0));
}

#[test]
fn vector_features_wait_for_their_state() {
    let sse = CpuidInputs { xcr0: Xcr0::X87 | Xcr0::SSE, ..facts() };

    let list = supported(amd(), &sse).unwrap();

    assert_eq!(find(&list, 1, 0).ecx & (F1Ecx::AVX | F1Ecx::FMA | F1Ecx::F16C).bits(), 0);
    assert_eq!(find(&list, 7, 0).ebx & (F7Ebx::AVX2 | F7Ebx::AVX512F | F7Ebx::AVX512VL).bits(), 0);
    assert_eq!(find(&list, 0xd, 0), regs(3, 576, 576, 0));
}

#[test]
fn the_xstate_leaf_tells_the_size_of_what_is_offered() {
    let list = supported(amd(), &facts()).unwrap();

    let head = find(&list, 0xd, 0);

    assert_eq!((head.eax, head.edx), (0x207, 0));
    assert_eq!(head.ecx, 2696);
    assert!(head.ecx <= 4096, "user space has a page for it");
    assert_eq!(find(&list, 0xd, 2), regs(256, 576, 0, 0));
    assert_eq!(find(&list, 7, 0).ebx & F7Ebx::AVX512F.bits(), 0, "no state for AVX-512 here");
}

#[test]
fn address_widths_end_where_the_second_level_table_ends() {
    let four = supported(amd(), &facts()).unwrap();
    let five = supported(amd(), &CpuidInputs { la57: true, max_phys_bits: 52, ..facts() }).unwrap();

    assert_eq!(find(&four, 0x8000_0008, 0).eax, 0x3030);
    assert_eq!(find(&five, 0x8000_0008, 0).eax, 0x3934);
}

#[test]
fn the_crystal_of_an_intel_guest_gives_its_tsc() {
    let list = supported(intel(), &facts()).unwrap();

    let l15 = find(&list, 0x15, 0);

    let hz = u64::from(l15.ecx) * u64::from(l15.ebx) / u64::from(l15.eax);
    assert_eq!(hz, 2_400_000_000);
    assert_eq!(find(&list, 0x16, 0).eax, 2400);
}

#[test]
fn a_processor_without_extended_leaves_or_xsave_is_left_at_that() {
    let old = |leaf, _sub| match leaf {
        0 => regs(1, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
        1 => regs(0x633, 0, !0, !0),
        _ => regs(1, 2, 3, 4),
    };

    let list = supported(old, &facts()).unwrap();

    assert!(!has(&list, 0x8000_0000) && !has(&list, 0xd));
    assert_eq!(find(&list, 1, 0).ecx & (F1Ecx::XSAVE | F1Ecx::AVX).bits(), 0);
}

#[test]
fn a_failed_allocation_is_an_error_and_nothing_else() {
    fail_nth(0);

    let result = supported(amd(), &facts());

    assert!(!fail_none());
    assert_eq!(result.unwrap_err(), kernel::error::code::ENOMEM);
}

proptest! {
    /// Whatever the host says, the list has no leaf twice, fits user space's limit, and offers no bit
    /// of the host's that is not on the lists.
    #[test]
    fn any_host_gives_a_sane_list(seed: u64, basic in 0u32..0x40, extended in 0x8000_0000u32..0x8000_0030) {
        let host = |leaf: u32, sub: u32| {
            let mix = |n: u64| {
                let x = seed ^ (u64::from(leaf) << 32 | u64::from(sub)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n;
                (x.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32
            };
            let eax = match leaf { 0 => basic, 0x8000_0000 => extended, _ => mix(1) };
            regs(eax, mix(2), mix(3), mix(4))
        };

        let list = supported(host, &facts()).unwrap();

        prop_assert!(list.len() <= 100);
        for (i, a) in list.iter().enumerate() {
            let twice = list.iter().skip(i + 1).any(|b| (a.function, a.index) == (b.function, b.index));
            prop_assert!(!twice, "{:#x}.{}", a.function, a.index);
        }
    }
}
