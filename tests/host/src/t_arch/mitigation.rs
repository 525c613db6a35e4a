// SPDX-License-Identifier: GPL-2.0

//! What follows from what the host's kernel found.

use crate::arch::mitigation::{HostFlags, L1dFlush};

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
