// SPDX-License-Identifier: GPL-2.0

//! What CPUID answers from the list that user space gave.

use crate::abi::sys::CpuidEntry2;
use crate::arch::cpuid::*;
use crate::arch::cr::{Cr4, Xcr0};
use crate::vcpu::cpuid::CpuidTable;
use proptest::collection::vec;
use proptest::prelude::*;

const fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidRegs {
    CpuidRegs { eax, ebx, ecx, edx }
}

fn leaf0(name: &[u8; 12], last: u32) -> CpuidEntry2 {
    let [b, d, c] = signature(name);
    CpuidEntry2::leaf(0, regs(last, b, c, d))
}

fn table(name: &[u8; 12], more: &[CpuidEntry2]) -> CpuidTable {
    let mut list = more.to_vec();
    list.push(leaf0(name, 0xd));
    CpuidTable::from_entries(&list).unwrap()
}

fn xstate() -> [CpuidEntry2; 4] {
    [
        CpuidEntry2::subleaf(0xd, 0, regs(0x207, 0, 2696, 0)),
        CpuidEntry2::subleaf(0xd, 1, regs(7, 0, 0, 0)),
        CpuidEntry2::subleaf(0xd, 2, regs(256, 576, 0, 0)),
        CpuidEntry2::subleaf(0xd, 9, regs(8, 2688, 2, 0)),
    ]
}

#[test]
fn an_empty_table_answers_0() {
    assert_eq!(CpuidTable::new().query(1, 0, 0, 1), CpuidRegs::default());
    assert_eq!(CpuidTable::new().query(0x8000_0001, 7, !0, !0), CpuidRegs::default());
}

#[test]
fn a_leaf_without_subleaves_answers_whatever_ecx_is() {
    let t = table(b"AuthenticAMD", &[CpuidEntry2::leaf(2, regs(1, 2, 3, 4))]);

    assert_eq!(t.query(2, 0, 0, 1), regs(1, 2, 3, 4));
    assert_eq!(t.query(2, 77, 0, 1), regs(1, 2, 3, 4));
}

#[test]
fn a_missing_subleaf_answers_0() {
    let t = table(b"GenuineIntel", &[CpuidEntry2::subleaf(4, 1, regs(1, 2, 3, 4))]);

    assert_eq!(t.query(4, 1, 0, 1), regs(1, 2, 3, 4));
    assert_eq!(t.query(4, 0, 0, 1), CpuidRegs::default());
    assert_eq!(t.query(4, 9, 0, 1), CpuidRegs::default());
}

#[test]
fn a_leaf_out_of_range_answers_by_the_vendor() {
    let more = [
        CpuidEntry2::subleaf(0xd, 0, regs(9, 9, 9, 9)),
        CpuidEntry2::leaf(0x8000_0000, regs(0x8000_0008, 0, 0, 0)),
        CpuidEntry2::leaf(0x4000_0000, regs(0x4000_0001, 0, 0, 0)),
    ];
    let highest = |t: &CpuidTable| t.query(0xd, 0, 0, 0);

    let intel = table(b"GenuineIntel", &more);
    let amd = table(b"AuthenticAMD", &more);

    for function in [0x20, 0x8000_0009, 0x4000_0002, 0x4000_0100, u32::MAX] {
        assert_eq!(intel.query(function, 0, 0, 0), highest(&intel), "{function:#x}");
        assert_eq!(amd.query(function, 0, 0, 0), CpuidRegs::default(), "{function:#x}");
    }
    for function in [5, 0x8000_0002, 0x4000_0001] {
        assert_eq!(intel.query(function, 0, 0, 0), CpuidRegs::default(), "{function:#x} is in range");
    }
}

#[test]
fn a_topology_level_past_the_last_repeats_the_level_and_the_apic_id() {
    let t = table(b"AuthenticAMD", &[CpuidEntry2::subleaf(0xb, 0, regs(0, 1, 0x100, 3))]);

    assert_eq!(t.query(0xb, 0, 0, 1), regs(0, 1, 0x100, 3));
    assert_eq!(t.query(0xb, 5, 0, 1), regs(0, 0, 5, 3));
}

#[test]
fn os_bits_follow_cr4_and_the_apic_bit_follows_its_base() {
    let more = [
        CpuidEntry2::leaf(1, regs(0, 0, F1Ecx::XSAVE.bits(), F1Edx::APIC.bits())),
        CpuidEntry2::subleaf(7, 0, regs(0, 0, (F7Ecx::PKU | F7Ecx::OSPKE).bits(), 0)),
    ];
    let mut t = table(b"AuthenticAMD", &more);
    let on = (Cr4::OSXSAVE | Cr4::PKE).bits();

    assert_eq!(t.query(1, 0, 0, 1).ecx & F1Ecx::OSXSAVE.bits(), 0);
    assert_ne!(t.query(1, 0, on, 1).ecx & F1Ecx::OSXSAVE.bits(), 0);
    assert_eq!(t.query(7, 0, 0, 1).ecx & F7Ecx::OSPKE.bits(), 0);
    assert_ne!(t.query(7, 0, on, 1).ecx & F7Ecx::OSPKE.bits(), 0);
    assert_ne!(t.query(1, 0, 0, 1).edx, 0);
    t.set_apic_enabled(false);
    assert_eq!(t.query(1, 0, 0, 1).edx, 0);
}

#[test]
fn the_bit_of_mwait_is_the_lists_until_something_else_says() {
    let monitor = F1Ecx::MONITOR.bits();
    for listed in [0, monitor] {
        let mut t = table(b"AuthenticAMD", &[CpuidEntry2::leaf(1, regs(0, 0, listed, 0))]);
        assert_eq!((t.query(1, 0, 0, 1).ecx, t.has_mwait()), (listed, listed != 0));
        for (said, bit) in [(Some(true), monitor), (Some(false), 0), (None, listed)] {
            t.set_mwait(said);
            assert_eq!((t.query(1, 0, 0, 1).ecx, t.has_mwait()), (bit, bit != 0));
        }
    }
}

#[test]
fn os_bits_stay_clear_for_features_that_the_guest_lacks() {
    let more = [CpuidEntry2::leaf(1, regs(0, 0, 0, 0)), CpuidEntry2::subleaf(7, 0, regs(0, 0, 0, 0))];
    let t = table(b"AuthenticAMD", &more);

    assert_eq!(t.query(1, 0, !0, 1).ecx, 0);
    assert_eq!(t.query(7, 0, !0, 1).ecx, 0);
}

#[test]
fn the_size_of_the_xsave_area_follows_xcr0() {
    let t = table(b"AuthenticAMD", &xstate());
    let size = |xcr0: Xcr0| (t.query(0xd, 0, 0, xcr0.bits()).ebx, t.query(0xd, 1, 0, xcr0.bits()).ebx);

    assert_eq!(size(Xcr0::X87), (576, 576));
    assert_eq!(size(Xcr0::X87 | Xcr0::SSE | Xcr0::AVX), (832, 832));
    assert_eq!(size(Xcr0::X87 | Xcr0::SSE | Xcr0::AVX | Xcr0::PKRU), (2696, 840));
    assert_eq!(t.query(0xd, 0, 0, 1).ecx, 2696, "the most stays what it was");
}

#[test]
fn the_list_is_given_back_as_it_came_and_its_first_entry_counts() {
    let list = [
        CpuidEntry2::leaf(9, regs(1, 0, 0, 0)),
        CpuidEntry2::leaf(2, regs(5, 0, 0, 0)),
        CpuidEntry2::leaf(9, regs(2, 0, 0, 0)),
    ];

    let t = CpuidTable::from_entries(&list).unwrap();

    assert_eq!(t.entries_now(0, 0).unwrap().as_slice(), &list);
    assert_eq!(t.query(9, 0, 0, 1).eax, 1);
}

#[test]
fn a_list_that_is_too_long_is_refused() {
    let list = vec![CpuidEntry2::leaf(0, regs(0, 0, 0, 0)); 257];

    assert_eq!(CpuidTable::from_entries(&list).err(), Some(kernel::error::code::E2BIG));
    assert!(CpuidTable::from_entries(&list[..256]).is_ok());
}

#[test]
fn physical_address_bits_come_from_the_leaf_that_has_them() {
    let wide = table(b"AuthenticAMD", &[CpuidEntry2::leaf(0x8000_0008, regs(0x3028, 0, 0, 0))]);

    assert_eq!(wide.phys_bits(), 40);
    assert_eq!(table(b"AuthenticAMD", &[]).phys_bits(), 36);
}

/// The first entry that matches, looked for from the start to the end.
fn by_search(list: &[CpuidEntry2], function: u32, index: u32) -> Option<CpuidRegs> {
    let leaf = list.iter().filter(|e| e.function == function);
    let first = leaf.clone().min_by_key(|e| if e.has_index() { e.index } else { 0 })?;
    if !first.has_index() {
        return Some(first.regs());
    }
    leaf.clone().find(|e| if e.has_index() { e.index == index } else { index == 0 }).map(CpuidEntry2::regs)
}

proptest! {
    /// What is remembered is what a look-up gives, whatever the vCPU's state is by then.
    #[test]
    fn what_is_remembered_is_what_is_looked_up(
        asked in vec((prop_oneof![0u32..0x10, 0x4000_0000u32..0x4000_0003, 0x8000_0000u32..0x8000_0009], 0u32..3,
                      any::<u64>(), any::<bool>()), 1..100),
        vendor in prop_oneof![Just(b"AuthenticAMD"), Just(b"GenuineIntel")],
    ) {
        let mut list = xstate().to_vec();
        list.push(CpuidEntry2::leaf(1, regs(1, 2, !0, !0)));
        list.push(CpuidEntry2::leaf(5, regs(5, 5, 5, 5)));
        list.push(CpuidEntry2::subleaf(7, 0, regs(0, 0, !0, 0)));
        list.push(CpuidEntry2::leaf(0x8000_0000, regs(0x8000_0008, 0, 0, 0)));
        list.push(CpuidEntry2::leaf(0x8000_0008, regs(0x3028, 0, 0, 0)));
        let mut t = table(vendor, &list);
        for (function, index, state, apic) in asked {
            t.set_apic_enabled(apic);
            let answer = t.query(function, index, state, state >> 7 & 0x207);
            if let Some(recalled) = t.recall(function, index) {
                prop_assert_eq!(*recalled, answer);
            }
            t.remember(function, index, answer);
        }
    }

    /// The sorted look-up finds what a search of the whole list finds.
    #[test]
    fn look_up_equals_search(
        list in vec((0x20u32..0x28, 0u32..4, any::<bool>(), any::<u32>()), 0..60),
        function in 0x20u32..0x28,
        index in 0u32..5,
    ) {
        let list: Vec<_> = list
            .into_iter()
            .map(|(f, i, indexed, eax)| match indexed {
                true => CpuidEntry2::subleaf(f, i, regs(eax, 0, 0, 0)),
                false => CpuidEntry2::leaf(f, regs(eax, 0, 0, 0)),
            })
            .collect();
        let mut with_vendor = list.clone();
        with_vendor.push(leaf0(b"AuthenticAMD", 1));

        let t = CpuidTable::from_entries(&with_vendor).unwrap();

        let expected = by_search(&list, function, index).unwrap_or_default();
        prop_assert_eq!(t.query(function, index, 0, 1), expected);
    }
}

#[test]
fn once_the_guest_runs_only_a_list_that_says_the_same_can_replace_the_own_one() {
    let with =
        |ecx, edx| vec![CpuidEntry2::leaf(1, regs(0, 0, ecx, edx)), CpuidEntry2::leaf(2, regs(1, 2, 3, 4))];
    let made = |list: &[CpuidEntry2]| CpuidTable::from_entries(list).unwrap();
    let (xsave, osxsave) = (1 << 26, 1 << 27);
    let own = made(&with(xsave, 1 << 9));

    assert!(made(&with(xsave, 1 << 9)).could_replace(&own, 0, 1));
    assert!(
        made(&with(xsave | osxsave, 1 << 9)).could_replace(&own, 0, 1),
        "it follows CR4, whatever the list says"
    );
    assert!(!made(&with(xsave | 1, 1 << 9)).could_replace(&own, 0, 1));
    assert!(!made(&with(xsave, 1 << 9)[..1]).could_replace(&own, 0, 1), "a leaf less");
    let mut own = own;
    own.set_apic_enabled(false);
    assert!(made(&with(xsave, 1 << 9)).could_replace(&own, 0, 1), "the local APIC's bit follows its MSR");
}

#[test]
fn paravirtual_features_stand_behind_the_signature_wherever_it_is() {
    let name = |base, name: &[u8; 12]| {
        let word = |i: usize| u32::from_le_bytes(name[i..i + 4].try_into().unwrap());
        CpuidEntry2::leaf(base, regs(base + 1, word(0), word(4), word(8)))
    };
    let features = |base| CpuidEntry2::leaf(base, regs(1 << 3, 0, 0, 0));
    let offered = |list: &[CpuidEntry2]| CpuidTable::from_entries(list).unwrap().pv_features();
    let (hyperv, kvm) = (*b"Microsoft Hv", *b"KVMKVMKVM\0\0\0");

    assert_eq!(offered(&[name(0x4000_0000, &kvm), features(0x4000_0001)]), KvmFeatures::CLOCKSOURCE2);
    let behind = [name(0x4000_0000, &hyperv), name(0x4000_0100, &kvm), features(0x4000_0101)];
    assert_eq!(offered(&behind), KvmFeatures::CLOCKSOURCE2);
    assert_eq!(offered(&[name(0x4000_0000, &hyperv), features(0x4000_0001)]), KvmFeatures::empty());
}
