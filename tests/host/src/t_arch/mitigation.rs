// SPDX-License-Identifier: GPL-2.0

//! What follows from what the host's kernel found.

use crate::arch::cpuid::CpuidRegs;
use crate::arch::mitigation::{HostFlags, L1dFlush, SpecFeatures};

#[test]
fn a_barrier_between_guests_where_branches_can_be_trained() {
    let affected = HostFlags::SPECTRE_V2 | HostFlags::IBPB;
    assert!(affected.wants_guest_barrier());
    assert!(!HostFlags::SPECTRE_V2.wants_guest_barrier(), "there is none");
    assert!(!HostFlags::IBPB.wants_guest_barrier(), "not needed");
    assert!(!(affected | HostFlags::MITIGATIONS_OFF).wants_guest_barrier());
}

#[test]
fn the_l1_cache_is_flushed_where_it_can_be_read() {
    let affected = HostFlags::L1TF | HostFlags::FLUSH_L1D;
    assert_eq!(affected.l1d_flush(0), L1dFlush::Command);
    assert_eq!(HostFlags::L1TF.l1d_flush(0), L1dFlush::Lacking, "old microcode");
    assert_eq!(affected.l1d_flush(1 << 3), L1dFlush::None, "the hypervisor below does it");
    assert_eq!(HostFlags::FLUSH_L1D.l1d_flush(0), L1dFlush::None);
    assert_eq!((affected | HostFlags::MITIGATIONS_OFF).l1d_flush(0), L1dFlush::None);
}

#[test]
fn large_pages_are_not_executable_where_that_can_stop_the_machine() {
    let affected = HostFlags::ITLB_MULTIHIT;
    assert!(affected.wants_small_code(2));
    assert!(!affected.wants_small_code(0));
    assert!(!(affected | HostFlags::MITIGATIONS_OFF).wants_small_code(2));
    assert!(!HostFlags::empty().wants_small_code(2));
    assert!((HostFlags::empty()).wants_small_code(1));
}

#[test]
fn an_alignment_check_that_is_none_is_a_split_lock() {
    let detects = HostFlags::SPLIT_LOCK_DETECT;
    assert!(detects.is_split_lock(0, true, true));
    assert!(detects.is_split_lock(3, false, true));
    assert!(detects.is_split_lock(3, true, false));
    assert!(!detects.is_split_lock(3, true, true), "the guest's own");
    assert!(!HostFlags::empty().is_split_lock(0, true, true), "nobody asked for it");
}

/// The shim's `RVMM_NAME = 1 << n,` are the flags of the same names.
#[test]
fn flags_have_the_numbers_of_the_shim() {
    let header = include_str!("../../../../host/shim.h");
    let listed = header.split_once("enum rvmm_host_flag {").unwrap().1.split_once('}').unwrap().0;
    let mut seen = HostFlags::empty();
    for line in listed.lines().filter(|l| l.contains('=')) {
        let (name, value) = line.trim().trim_end_matches(',').split_once('=').unwrap();
        let shift: u32 = value.trim().strip_prefix("1 << ").unwrap().parse().unwrap();
        let name = name.trim().strip_prefix("RVMM_").unwrap();
        let flag = HostFlags::from_name(name).unwrap_or_else(|| panic!("{name} is not known"));
        assert_eq!(flag.bits(), 1 << shift, "{name}");
        seen |= flag;
    }
    assert_eq!(seen, HostFlags::all());
}

/// What SPEC_CTRL takes on a processor with these: the last basic leaf, leaf 7's EDX, its subleaf 2's EDX where there is
/// one, and EBX of leaf 0x8000_0008.
fn spec(last: u32, edx: u32, more: Option<u32>, ebx: u32) -> SpecFeatures {
    let regs = CpuidRegs::default();
    SpecFeatures::of(|leaf, subleaf| match (leaf, subleaf) {
        (0, _) => CpuidRegs { eax: last, ..regs },
        (7, 0) => CpuidRegs { eax: more.map_or(1, |_| 2), edx, ..regs },
        (7, 2) => CpuidRegs { edx: more.expect("there is one"), ..regs },
        (0x8000_0000, _) => CpuidRegs { eax: 0x8000_0008, ..regs },
        (0x8000_0008, _) => CpuidRegs { ebx, ..regs },
        _ => regs,
    })
}

#[test]
fn guests_get_each_bit_of_spec_ctrl_that_the_processor_has() {
    assert_eq!(spec(7, 0, None, 0), SpecFeatures::default());
    assert_eq!(spec(7, 1 << 26, None, 0), SpecFeatures { control: 1, barrier: true }, "IBRS");
    assert_eq!(spec(7, 1 << 27 | 1 << 31, None, 0).control, 6, "STIBP, SSBD");
    assert_eq!(spec(6, !0, Some(!0), 0), SpecFeatures::default(), "leaf 7 is another's");
    for (bit, control) in [(0, 1 << 7), (1, 3 << 3), (2, 3 << 5), (3, 1 << 8), (4, 1 << 10), (5, 0)] {
        assert_eq!(spec(7, 0, Some(1 << bit), 0).control, control, "leaf 7, subleaf 2, bit {bit}");
    }
    for (bit, control) in [(14, 1), (15, 2), (24, 4), (28, 1 << 7), (12, 0)] {
        let found = spec(7, 0, None, 1 << bit);
        assert_eq!(found, SpecFeatures { control, barrier: bit == 12 }, "leaf 0x8000_0008, bit {bit}");
    }
}
