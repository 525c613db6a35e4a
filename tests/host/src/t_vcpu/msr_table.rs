// SPDX-License-Identifier: GPL-2.0

//! The table of MSRs: what exists, what is kept, what faults.

use crate::arch::addr::is_canonical;
use crate::arch::cpuid::CpuVendor;
use crate::vcpu::msr_table::*;
use proptest::prelude::*;

fn slot(index: u32) -> MsrSlot {
    match lookup(index) {
        Some(MsrPolicy::Stored(slot)) => slot,
        other => panic!("{index:#x} is {other:?}"),
    }
}

/// Reads an MSR as a guest would that owns nothing but the table.
fn read(store: &MsrStore, index: u32) -> Option<u64> {
    match lookup(index)? {
        MsrPolicy::Stored(slot) | MsrPolicy::HostSet { slot, .. } => Some(store.read(slot)),
        MsrPolicy::Fixed(value) | MsrPolicy::ReadOnly(value) => Some(value),
        MsrPolicy::State(_) | MsrPolicy::Handled(_) => None,
    }
}

#[test]
fn every_number_has_the_policy_of_its_own_row() {
    let expected = [
        (0xfe, MsrPolicy::ReadOnly(0x508)),
        (0x179, MsrPolicy::Handled(HandledMsr::McgCap)),
        (0xc001_001f, MsrPolicy::Fixed(0)),
        (0xc001_102a, MsrPolicy::Fixed(0)),
        (0x10, MsrPolicy::Handled(HandledMsr::Tsc)),
        (0x3b, MsrPolicy::Handled(HandledMsr::TscAdjust)),
        (0x6e0, MsrPolicy::Handled(HandledMsr::TscDeadline)),
        (0x830, MsrPolicy::Handled(HandledMsr::X2Apic(0x30))),
        (0xc000_0080, MsrPolicy::State(StateMsr::Efer)),
        (0x4b56_4d01, MsrPolicy::Handled(HandledMsr::KvmSystemTime)),
        (0x4b56_4d03, MsrPolicy::Handled(HandledMsr::KvmStealTime)),
        (0x12, MsrPolicy::Handled(HandledMsr::KvmSystemTime)),
    ];

    for (index, policy) in expected {
        assert_eq!(lookup(index), Some(policy), "{index:#x}");
    }
}

#[test]
fn unknown_numbers_fault() {
    let unknown =
        [0x2, 0x9e, 0x10a, 0x122, 0x210, 0x25a, 0x428, 0xda0, 0x4000_0004, 0x4b56_4d02, 0xc000_0104, !0];

    for index in unknown {
        assert_eq!(lookup(index), None, "{index:#x}");
    }
}

#[test]
fn what_is_listed_for_saving_exists() {
    for &index in INDEX_LIST {
        assert!(
            !matches!(lookup(index), None | Some(MsrPolicy::Fixed(_) | MsrPolicy::ReadOnly(_))),
            "{index:#x}"
        );
    }
}

/// Every stored MSR has a place of its own.
#[test]
fn no_two_msrs_share_a_place() {
    let mut store = MsrStore::new(CpuVendor::Amd);
    let stored: Vec<(u32, MsrSlot)> = (0..0x2000)
        .chain(0xc000_0000..0xc000_2000)
        .chain(0xc001_0000..0xc001_2000)
        .filter_map(|i| match lookup(i) {
            Some(MsrPolicy::Stored(slot) | MsrPolicy::HostSet { slot, .. }) => Some((i, slot)),
            _ => None,
        })
        .collect();

    // Zero is good for each, and is not what the one under test gets.
    for &(_, slot) in &stored {
        store.write(slot, 0).unwrap();
    }
    for &(index, slot) in &stored {
        let one = (0..64).map(|b| 1u64 << b).find(|&v| store.write(slot, v).is_ok() && store.read(slot) != 0);
        assert!(one.is_some(), "{index:#x} keeps nothing");
        let touched = stored.iter().filter(|&&(_, s)| store.read(s) != 0).count();
        assert_eq!(touched, 1, "{index:#x}");
        store.write(slot, 0).unwrap();
    }
    assert!(stored.len() > 60);
}

#[test]
fn reset_values_are_those_of_the_table() {
    let store = MsrStore::new(CpuVendor::Amd);

    assert_eq!(store.get(0x1a0), 0x1800);
    assert_eq!(read(&store, 0x8b), Some(0x0100_0065));
    assert_eq!(read(&MsrStore::new(CpuVendor::Intel), 0x8b), Some(1 << 32));
    assert_eq!(read(&store, 0xce), Some(0));
    assert_eq!(read(&store, 0xc001_1029), Some(0));
    assert_eq!(read(&store, 0x17b), Some(u64::MAX));
    assert_eq!(read(&store, 0xc001_0015), Some(0));
    assert_eq!(read(&store, 0x2ff), Some(0));
    assert_eq!(read(&store, 0x427), Some(0));
}

#[test]
fn memory_type_ranges_take_memory_types_only() {
    let mut store = MsrStore::new(CpuVendor::Amd);

    assert_eq!(store.write(slot(0x2ff), 0xc06), Ok(()));
    assert_eq!(store.read(slot(0x2ff)), 0xc06);
    assert_eq!(store.write(slot(0x2ff), 0xc02), Err(MsrRefused), "type 2 is reserved");
    assert_eq!(store.write(slot(0x2ff), 1 << 12), Err(MsrRefused), "bit 12 is reserved");
    assert_eq!(store.read(slot(0x2ff)), 0xc06, "a refused write changes nothing");
    assert_eq!(store.write(slot(0x250), 0x0606_0606_0606_0606), Ok(()));
    assert_eq!(store.write(slot(0x250), 0x0606_0306_0606_0606), Err(MsrRefused));
    assert_eq!(store.write(slot(0x200), 0xc000_0000), Ok(()));
    assert_eq!(store.write(slot(0x200), 0xc000_0007), Err(MsrRefused));
    assert_eq!(store.write(slot(0x201), 0x000f_ffff_c000_0800), Ok(()));
    assert_eq!(store.write(slot(0x201), 0x000f_ffff_c000_0801), Err(MsrRefused));
}

#[test]
fn hwcr_drops_the_switches_of_old_processors_and_refuses_the_rest() {
    let mut store = MsrStore::new(CpuVendor::Amd);
    let hwcr = slot(0xc001_0015);

    assert_eq!(store.write(hwcr, 1 << 18 | 1 << 3 | 1 << 8), Ok(()));
    assert_eq!(store.read(hwcr), 1 << 18);
    assert_eq!(store.write(hwcr, 1 << 35), Err(MsrRefused));
}

/// What Linux 7.x reads or writes during boot without a check that would catch a fault.
#[test]
fn linux_finds_what_it_touches_unguarded() {
    let touched = [
        0x1b,
        0x10,
        0x8b,
        0xfe,
        0x174,
        0x175,
        0x176,
        0x179,
        0x17a,
        0x1a0,
        0x1d9,
        0x277,
        0x2ff,
        0x250,
        0x26f,
        0x400,
        0xc000_0080,
        0xc000_0081,
        0xc000_0082,
        0xc000_0083,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc001_0010,
        0xc001_0015,
        0xc001_001f,
        0xc001_0055,
        0xc001_1021,
        0xc001_1022,
        0xc001_1029,
        0xc001_102a,
    ];

    for index in touched {
        assert!(lookup(index).is_some(), "{index:#x}");
    }
}

#[test]
fn addresses_must_be_canonical_and_page_attributes_types() {
    assert!(StateMsr::Lstar.accepts(0xffff_8000_0000_0000, 48));
    assert!(!StateMsr::Lstar.accepts(0x0000_8000_0000_0000, 48));
    assert!(StateMsr::Lstar.accepts(0x0000_8000_0000_0000, 57));
    assert!(!StateMsr::KernelGsBase.accepts(1 << 62, 57));
    assert!(StateMsr::Pat.accepts(0x0007_0406_0007_0406, 48));
    assert!(!StateMsr::Pat.accepts(0x0007_0406_0007_0402, 48));
    assert!(!StateMsr::Efer.accepts(1 << 1, 48));
    assert!(!StateMsr::Sfmask.accepts(1 << 32, 48));
}

proptest! {
    /// An address is canonical exactly when some 48-bit value extends to it.
    #[test]
    fn canonical_is_sign_extension(a: u64) {
        let extended = ((a << 16) as i64 >> 16) as u64;

        prop_assert!(is_canonical(extended, 48));
        prop_assert_eq!(is_canonical(a, 48), a == extended);
    }

    /// What is remembered is what a look-up gives.
    #[test]
    fn recent_msrs_are_those_of_the_table(indices in proptest::collection::vec(
        prop_oneof![0u32..0x20, 0x174u32..0x27a, 0x400u32..0x410, 0x6e0u32..0x6e1, 0x800u32..0x840,
                    0xc000_0080u32..0xc000_0084, any::<u32>()], 1..200)) {
        let mut recent = RecentMsrs::new().unwrap();
        for index in indices {
            prop_assert_eq!(recent.lookup(index), lookup(index), "{:#x}", index);
        }
    }

    /// All bytes are types of memory, or the value is refused.
    #[test]
    fn memory_types_are_looked_at_byte_by_byte(bytes in prop_oneof![
        any::<[u8; 8]>(), any::<u8>().prop_map(|b| [b; 8]), proptest::array::uniform8(0u8..8)]) {
        let mut store = MsrStore::new(CpuVendor::Amd);
        let Some(MsrPolicy::Stored(slot)) = lookup(0x250) else { panic!("MTRRfix64K_00000 is stored") };
        let legal = bytes.iter().all(|b| matches!(b, 0 | 1 | 4 | 5 | 6));
        prop_assert_eq!(store.write(slot, u64::from_le_bytes(bytes)).is_ok(), legal);
    }

    /// No number and no value does more than keep, drop or refuse; what is kept reads back.
    #[test]
    fn a_write_that_is_taken_reads_back(index in prop_oneof![0u32..0x2000, 0xc001_0000u32..0xc001_2000], value: u64) {
        let mut store = MsrStore::new(CpuVendor::Amd);
        if let Some(MsrPolicy::Stored(slot)) = lookup(index) {
            let before = store.read(slot);
            match store.write(slot, value) {
                Ok(()) => prop_assert_eq!(store.read(slot) & !value, 0),
                Err(MsrRefused) => prop_assert_eq!(store.read(slot), before),
            }
        }
    }
}
