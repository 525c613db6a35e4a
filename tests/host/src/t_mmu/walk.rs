// SPDX-License-Identifier: GPL-2.0

//! The guest walker: one case for each rule and each bit of the error code.

use super::guest::Ram;
use crate::arch::addr::{Gpa, Gva};
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::arch::exception::{CpuException, PfError};
use crate::mmu::mem::MemError;
use crate::mmu::walk::{walk, AccessKind, AccessPrivilege, PageRights, PagingRegs, WalkAccess, WalkError};
use AccessKind::{Fetch, Read, Write};
use AccessPrivilege::{Implicit, Supervisor, User};

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;
const ALL: u64 = P | W | U;

const PF_P: u32 = PfError::PRESENT.bits();
const PF_W: u32 = PfError::WRITE.bits();
const PF_U: u32 = PfError::USER.bits();
const PF_RSVD: u32 = PfError::RSVD.bits();
const PF_I: u32 = PfError::FETCH.bits();
const PF_PK: u32 = PfError::PKEY.bits();

/// Tables lie in pages 1 to 5, the root in page 1; the page of 4 KiB mapped is page 7.
const PAGE: u64 = 0x7000;

fn legacy() -> PagingRegs {
    PagingRegs {
        cr0: Cr0::PE | Cr0::PG | Cr0::WP,
        cr3: 0x1000,
        cr4: Cr4::PSE,
        efer: Efer::empty(),
        ac: false,
        pkru: 0,
        maxphyaddr: 40,
        gib_pages: true,
        pdptes: None,
    }
}

fn pae() -> PagingRegs {
    PagingRegs { cr4: Cr4::PAE, efer: Efer::NXE, ..legacy() }
}

fn long() -> PagingRegs {
    PagingRegs { cr4: Cr4::PAE, efer: Efer::NXE | Efer::LME | Efer::LMA, ..legacy() }
}

fn long5() -> PagingRegs {
    PagingRegs { cr4: Cr4::PAE | Cr4::LA57, ..long() }
}

/// An address whose index is 1 at the root, 2 in the next table, and so on.
const GVA_LONG: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x123;
const GVA_LONG5: u64 = 1 << 48 | 2 << 39 | 3 << 30 | 4 << 21 | 5 << 12 | 0x123;
const GVA_PAE: u64 = 1 << 30 | 2 << 21 | 3 << 12 | 0x123;
const GVA_LEGACY: u64 = 1 << 22 | 2 << 12 | 0x123;

/// Where the entry for the addresses above lies in the n-th table, counted from 1.
fn at(n: u64) -> u64 {
    n * 0x1008
}

/// The tables of `levels` that lead to [`PAGE`], all rights at each level.
fn tables(levels: u64) -> Ram {
    let ram = Ram::new(16);
    for n in 1..levels {
        ram.put(at(n), ((n + 1) << 12) | ALL);
    }
    ram.put(at(levels), PAGE | ALL);
    ram
}

fn long_tables() -> Ram {
    tables(4)
}

fn pae_tables() -> Ram {
    let ram = tables(3);
    ram.put(at(1), 0x2000 | P);
    ram
}

fn legacy_tables() -> Ram {
    let ram = Ram::new(16);
    ram.put32(0x1004, 0x2000 | ALL as u32);
    ram.put32(0x2008, (PAGE | ALL) as u32);
    ram
}

fn access(kind: AccessKind, privilege: AccessPrivilege) -> WalkAccess {
    WalkAccess { kind, privilege }
}

fn translate(
    ram: &Ram,
    p: &PagingRegs,
    gva: u64,
    kind: AccessKind,
    privilege: AccessPrivilege,
) -> (Gpa, u32) {
    let t = walk(ram, p, Gva(gva), access(kind, privilege)).unwrap();
    (t.gpa, t.page_shift)
}

fn fault(ram: &Ram, p: &PagingRegs, gva: u64, kind: AccessKind, privilege: AccessPrivilege) -> u32 {
    match walk(ram, p, Gva(gva), access(kind, privilege)) {
        Err(WalkError::Fault(CpuException { error: Some(code), cr2: Some(cr2), vector })) => {
            assert_eq!((cr2, vector.0), (Gva(gva), 14));
            code
        }
        other => panic!("no fault but {other:?}"),
    }
}

fn works(ram: &Ram, p: &PagingRegs, gva: u64, kind: AccessKind, privilege: AccessPrivilege) -> bool {
    walk(ram, p, Gva(gva), access(kind, privilege)).is_ok()
}

#[test]
fn without_paging_addresses_are_physical() {
    let p = PagingRegs { cr0: Cr0::PE, ..legacy() };

    let t = walk(&Ram::new(0), &p, Gva(0x1234_5678), access(Write, User)).unwrap();

    assert_eq!((t.gpa, t.rights), (Gpa(0x1234_5678), PageRights::all()));
}

#[test]
fn each_mode_finds_its_small_page() {
    let found = (Gpa(PAGE | 0x123), 12);

    assert_eq!(translate(&legacy_tables(), &legacy(), GVA_LEGACY, Read, User), found);
    assert_eq!(translate(&pae_tables(), &pae(), GVA_PAE, Read, User), found);
    assert_eq!(translate(&long_tables(), &long(), GVA_LONG, Read, User), found);
    assert_eq!(translate(&tables(5), &long5(), GVA_LONG5, Read, User), found);
}

#[test]
fn large_pages_give_more_of_the_address() {
    let ram = long_tables();
    ram.put(at(3), 0x20_0000 | ALL | PS);
    assert_eq!(translate(&ram, &long(), GVA_LONG, Read, User), (Gpa(0x20_4123), 21));

    ram.put(at(2), 0x4000_0000 | ALL | PS);
    assert_eq!(translate(&ram, &long(), GVA_LONG, Read, User), (Gpa(0x4060_4123), 30));

    let ram = pae_tables();
    ram.put(at(2), 0x20_0000 | ALL | PS);
    assert_eq!(translate(&ram, &pae(), GVA_PAE, Read, User), (Gpa(0x20_3123), 21));
}

#[test]
fn a_4_mib_page_reaches_40_bits_with_pse_36() {
    let ram = Ram::new(16);
    ram.put32(0x1004, (0x40_0000 | 0xab << 13 | ALL | PS) as u32);

    assert_eq!(translate(&ram, &legacy(), GVA_LEGACY, Read, User), (Gpa(0xab_0040_2123), 22));
}

#[test]
fn pse_36_bits_beyond_the_physical_width_are_reserved() {
    let ram = Ram::new(16);
    ram.put32(0x1004, (0x40_0000 | 1 << 17 | ALL | PS) as u32);
    let narrow = PagingRegs { maxphyaddr: 36, ..legacy() };

    assert_eq!(fault(&ram, &narrow, GVA_LEGACY, Read, Supervisor), PF_P | PF_RSVD);
    assert!(works(&ram, &legacy(), GVA_LEGACY, Read, Supervisor));
    ram.put32(0x1004, (0x40_0000 | 1 << 21 | ALL | PS) as u32);
    assert_eq!(fault(&ram, &legacy(), GVA_LEGACY, Read, Supervisor), PF_P | PF_RSVD);
}

#[test]
fn without_pse_the_large_bit_means_nothing() {
    let ram = legacy_tables();
    ram.put32(0x1004, (0x2000 | ALL | PS) as u32);
    let p = PagingRegs { cr4: Cr4::empty(), ..legacy() };

    assert_eq!(translate(&ram, &p, GVA_LEGACY, Read, User), (Gpa(PAGE | 0x123), 12));
}

#[test]
fn the_pcid_in_cr3_is_no_part_of_the_root() {
    let p = PagingRegs { cr3: 0x1abc | 1 << 63, ..long() };

    assert!(works(&long_tables(), &p, GVA_LONG, Read, User));
}

#[test]
fn pae_pointers_may_lie_at_any_32_byte_boundary() {
    let ram = pae_tables();
    ram.put(0x1fe8, 0x2000 | P);
    let p = PagingRegs { cr3: 0x1fe0 | 0x1f, ..pae() };

    assert!(works(&ram, &p, GVA_PAE, Read, User));
}

#[test]
fn pae_pointers_in_registers_count_whatever_memory_holds() {
    let ram = pae_tables();
    let loaded = PagingRegs { pdptes: Some([0, 0x2000 | P, 0, 0]), ..pae() };
    ram.put(0x1008, 0);

    assert!(works(&ram, &loaded, GVA_PAE, Read, User));
    assert_eq!(fault(&ram, &pae(), GVA_PAE, Read, User), PF_U);
    let absent = PagingRegs { pdptes: Some([0x2000 | P, 0, 0x2000 | P, 0x2000 | P]), ..pae() };
    ram.put(0x1008, 0x2000 | P);
    assert_eq!(fault(&ram, &absent, GVA_PAE, Read, User), PF_U);
}

#[test]
fn an_absent_entry_at_any_level_tells_only_the_access() {
    for n in 1..=4 {
        let ram = long_tables();
        ram.put(at(n), !P);

        assert_eq!(fault(&ram, &long(), GVA_LONG, Read, Supervisor), 0);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Write, Supervisor), PF_W);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Read, User), PF_U);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Write, Implicit), PF_W);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Fetch, User), PF_U | PF_I);
    }
}

#[test]
fn the_fetch_bit_is_given_only_with_nx_or_smep() {
    let absent = Ram::new(16);
    let code = |p: &PagingRegs| fault(&absent, p, 0, Fetch, Supervisor);
    let with = |cr4, efer| PagingRegs { cr4, efer, ..legacy() };

    assert_eq!(code(&with(Cr4::empty(), Efer::empty())), 0);
    assert_eq!(code(&with(Cr4::empty(), Efer::NXE)), 0);
    assert_eq!(code(&with(Cr4::SMEP, Efer::empty())), PF_I);
    assert_eq!(code(&with(Cr4::PAE, Efer::empty())), 0);
    assert_eq!(code(&with(Cr4::PAE, Efer::NXE)), PF_I);
    assert_eq!(code(&with(Cr4::PAE | Cr4::SMEP, Efer::empty())), PF_I);
}

#[test]
fn a_supervisor_entry_at_any_level_keeps_users_out() {
    for n in 1..=4 {
        let ram = long_tables();
        ram.put(at(n), ram.entry(at(n)) & !U);

        assert_eq!(fault(&ram, &long(), GVA_LONG, Read, User), PF_P | PF_U);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Fetch, User), PF_P | PF_U | PF_I);
        assert!(works(&ram, &long(), GVA_LONG, Write, Supervisor));
    }
}

#[test]
fn a_read_only_entry_at_any_level_stops_writes_of_users_and_with_wp_of_all() {
    for n in 1..=4 {
        let ram = long_tables();
        ram.put(at(n), ram.entry(at(n)) & !W);
        let no_wp = PagingRegs { cr0: Cr0::PE | Cr0::PG, ..long() };

        assert_eq!(fault(&ram, &long(), GVA_LONG, Write, User), PF_P | PF_U | PF_W);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Write, Supervisor), PF_P | PF_W);
        assert_eq!(fault(&ram, &no_wp, GVA_LONG, Write, User), PF_P | PF_U | PF_W);
        assert!(works(&ram, &no_wp, GVA_LONG, Write, Supervisor));
        assert!(works(&ram, &long(), GVA_LONG, Read, User));
    }
}

#[test]
fn a_no_execute_entry_at_any_level_stops_fetches() {
    for n in 1..=4 {
        let ram = long_tables();
        ram.put(at(n), ram.entry(at(n)) | NX);

        assert_eq!(fault(&ram, &long(), GVA_LONG, Fetch, Supervisor), PF_P | PF_I);
        assert_eq!(fault(&ram, &long(), GVA_LONG, Fetch, User), PF_P | PF_I | PF_U);
        assert!(works(&ram, &long(), GVA_LONG, Write, User));
    }
}

#[test]
fn the_no_execute_bit_is_reserved_while_nxe_is_off() {
    for n in 1..=4 {
        let ram = long_tables();
        ram.put(at(n), ram.entry(at(n)) | NX);
        let p = PagingRegs { efer: Efer::LMA, ..long() };

        assert_eq!(fault(&ram, &p, GVA_LONG, Read, User), PF_P | PF_U | PF_RSVD);
    }
    for n in 2..=3 {
        let ram = pae_tables();
        ram.put(at(n), ram.entry(at(n)) | NX);
        let p = PagingRegs { efer: Efer::empty(), ..pae() };

        assert_eq!(fault(&ram, &p, GVA_PAE, Write, User), PF_P | PF_U | PF_W | PF_RSVD);
    }
}

#[test]
fn address_bits_beyond_the_physical_width_are_reserved() {
    for bit in 40..52 {
        for n in 1..=4 {
            let ram = long_tables();
            ram.put(at(n), ram.entry(at(n)) | 1 << bit);
            assert_eq!(fault(&ram, &long(), GVA_LONG, Read, Supervisor), PF_P | PF_RSVD);
        }
    }
    for bit in 40..63 {
        for n in 2..=3 {
            let ram = pae_tables();
            ram.put(at(n), ram.entry(at(n)) | 1 << bit);
            assert_eq!(fault(&ram, &pae(), GVA_PAE, Read, Supervisor), PF_P | PF_RSVD);
        }
    }
}

#[test]
fn bits_52_to_62_are_free_for_software_in_long_mode() {
    let ram = long_tables();
    (1..=4).for_each(|n| ram.put(at(n), ram.entry(at(n)) | 0x7ff << 52));

    assert!(works(&ram, &long(), GVA_LONG, Write, User));
}

#[test]
fn the_large_bit_is_reserved_where_no_such_page_exists() {
    let ram = tables(5);
    for n in 1..=2 {
        let good = ram.entry(at(n));
        ram.put(at(n), good | PS);
        assert_eq!(fault(&ram, &long5(), GVA_LONG5, Read, Supervisor), PF_P | PF_RSVD);
        ram.put(at(n), good);
    }
    ram.put(at(3), 0x4000_0000 | ALL | PS);
    assert!(works(&ram, &long5(), GVA_LONG5, Read, Supervisor));
    let no_gib = PagingRegs { gib_pages: false, ..long5() };
    assert_eq!(fault(&ram, &no_gib, GVA_LONG5, Read, Supervisor), PF_P | PF_RSVD);
}

#[test]
fn low_address_bits_of_large_pages_are_reserved() {
    let ram = long_tables();
    for (n, high) in [(3, 20), (2, 29)] {
        for bit in 13..=high {
            ram.put(at(n), ALL | PS | 1 << bit);
            assert_eq!(fault(&ram, &long(), GVA_LONG, Read, Supervisor), PF_P | PF_RSVD, "{n} {bit}");
        }
        ram.put(at(n), ALL | PS | 1 << 12);
        assert!(works(&ram, &long(), GVA_LONG, Read, Supervisor), "bit 12 is the PAT");
    }
}

#[test]
fn reserved_bits_of_pae_pointers_are_left_to_the_processor_which_took_them() {
    for bit in [1, 2, 5, 6, 7, 8, 40, 63] {
        let ram = pae_tables();
        ram.put(at(1), 0x2000 | P | 1 << bit);
        for kind in [Read, Write, Fetch] {
            assert_eq!(translate(&ram, &pae(), GVA_PAE, kind, User), (Gpa(PAGE | 0x123), 12), "bit {bit}");
        }
    }
}

#[test]
fn pae_pointers_carry_no_rights_and_get_no_accessed_bit() {
    let ram = pae_tables();

    assert!(works(&ram, &pae(), GVA_PAE, Write, User));
    assert_eq!(ram.entry(at(1)), 0x2000 | P);
}

#[test]
fn smep_stops_supervisor_fetches_from_user_pages() {
    let p = PagingRegs { cr4: long().cr4 | Cr4::SMEP, ..long() };
    let ram = long_tables();

    assert_eq!(fault(&ram, &p, GVA_LONG, Fetch, Supervisor), PF_P | PF_I);
    assert!(works(&ram, &p, GVA_LONG, Fetch, User));
    assert!(works(&ram, &p, GVA_LONG, Read, Supervisor));
    ram.put(at(3), ram.entry(at(3)) & !U);
    assert!(works(&ram, &p, GVA_LONG, Fetch, Supervisor));
}

#[test]
fn smap_stops_supervisor_data_accesses_unless_ac_is_set() {
    let p = PagingRegs { cr4: long().cr4 | Cr4::SMAP, ..long() };
    let with_ac = PagingRegs { ac: true, ..p };
    let ram = long_tables();

    assert_eq!(fault(&ram, &p, GVA_LONG, Read, Supervisor), PF_P);
    assert_eq!(fault(&ram, &p, GVA_LONG, Write, Supervisor), PF_P | PF_W);
    assert_eq!(fault(&ram, &with_ac, GVA_LONG, Read, Implicit), PF_P);
    assert!(works(&ram, &with_ac, GVA_LONG, Write, Supervisor));
    assert!(works(&ram, &p, GVA_LONG, Fetch, Supervisor));
    assert!(works(&ram, &p, GVA_LONG, Read, User));
    ram.put(at(2), ram.entry(at(2)) & !U);
    assert!(works(&ram, &with_ac, GVA_LONG, Read, Implicit));
}

#[test]
fn protection_keys_limit_data_accesses_to_user_pages() {
    let key5 = |pkru| PagingRegs { cr4: long().cr4 | Cr4::PKE, pkru, ..long() };
    let (no_access, no_write) = (key5(1 << 10), key5(2 << 10));
    let ram = long_tables();
    ram.put(at(4), PAGE | ALL | 5 << 59);

    assert_eq!(fault(&ram, &no_access, GVA_LONG, Read, User), PF_P | PF_U | PF_PK);
    assert_eq!(fault(&ram, &no_access, GVA_LONG, Read, Supervisor), PF_P | PF_PK);
    assert_eq!(fault(&ram, &no_write, GVA_LONG, Write, User), PF_P | PF_U | PF_W | PF_PK);
    assert_eq!(fault(&ram, &no_write, GVA_LONG, Write, Supervisor), PF_P | PF_W | PF_PK);
    assert!(works(&ram, &no_write, GVA_LONG, Read, User));
    assert!(works(&ram, &no_access, GVA_LONG, Fetch, User));
    assert!(works(&ram, &key5(!(3 << 10)), GVA_LONG, Write, User));

    let no_wp = PagingRegs { cr0: Cr0::PE | Cr0::PG, ..no_write };
    assert!(works(&ram, &no_wp, GVA_LONG, Write, Supervisor));
    assert!(!works(&ram, &no_wp, GVA_LONG, Write, User));
    let off = PagingRegs { cr4: long().cr4, ..no_access };
    assert!(works(&ram, &off, GVA_LONG, Write, User));
    ram.put(at(4), PAGE | P | W | 5 << 59);
    assert!(works(&ram, &no_access, GVA_LONG, Write, Supervisor), "keys are for user pages");
}

#[test]
fn a_read_marks_all_entries_accessed_and_a_write_marks_the_leaf_dirty() {
    let ram = long_tables();
    translate(&ram, &long(), GVA_LONG, Read, User);
    assert!((1..=4).all(|n| ram.entry(at(n)) & (A | D) == A));

    translate(&ram, &long(), GVA_LONG, Write, User);
    assert!((1..=3).all(|n| ram.entry(at(n)) & D == 0));
    assert_eq!(ram.entry(at(4)), PAGE | ALL | A | D);

    let ram = legacy_tables();
    translate(&ram, &legacy(), GVA_LEGACY, Write, User);
    assert_eq!(ram.entry(0x1000) >> 32, 0x2000 | ALL | A);
    assert_eq!(ram.entry(0x2008), PAGE | ALL | A | D);
}

#[test]
fn a_fault_leaves_the_tables_as_they_were() {
    let ram = long_tables();
    ram.put(at(4), PAGE | P | U);
    let before = ram.bytes.borrow().clone();

    fault(&ram, &long(), GVA_LONG, Write, User);

    assert_eq!(*ram.bytes.borrow(), before);
}

#[test]
fn tables_in_read_only_memory_can_be_used() {
    let ram = Ram { read_only: true, ..long_tables() };

    assert_eq!(translate(&ram, &long(), GVA_LONG, Write, User).0, Gpa(PAGE | 0x123));
}

#[test]
fn memory_errors_are_passed_on() {
    let absent = MemError::NotResident(Gpa(at(1)));
    let ram = Ram { update_error: Some(absent), ..long_tables() };
    assert_eq!(walk(&ram, &long(), Gva(GVA_LONG), access(Read, User)), Err(WalkError::Mem(absent)));
}

#[test]
fn a_table_in_no_memory_is_an_absent_entry() {
    let p = PagingRegs { cr3: 0x99_0000, ..long() };
    assert_eq!(fault(&long_tables(), &p, GVA_LONG, Write, User), PF_W | PF_U);

    let ram = long_tables();
    ram.put(at(3), 0x99_0000 | ALL);
    assert_eq!(fault(&ram, &long(), GVA_LONG, Fetch, Supervisor), PF_I);
}

#[test]
fn linear_addresses_outside_long_mode_have_32_bits() {
    let high = |gva: u64| gva | 0xffff_fff7 << 32;
    let found = (Gpa(PAGE | 0x123), 12);
    assert_eq!(translate(&legacy_tables(), &legacy(), high(GVA_LEGACY), Read, User), found);
    assert_eq!(translate(&pae_tables(), &pae(), high(GVA_PAE), Read, User), found);
    let p = PagingRegs { cr0: Cr0::PE, ..legacy() };
    assert_eq!(translate(&Ram::new(0), &p, high(0x1234_5678), Write, User), (Gpa(0x1234_5678), 12));

    let absent = walk(&Ram::new(16), &pae(), Gva(high(GVA_PAE)), access(Read, User));
    assert!(matches!(absent, Err(WalkError::Fault(CpuException { cr2: Some(Gva(GVA_PAE)), .. }))));
}

#[test]
fn a_walk_that_lost_a_race_starts_again() {
    let ram = long_tables();
    ram.interference.set(3);

    assert_eq!(translate(&ram, &long(), GVA_LONG, Write, User).0, Gpa(PAGE | 0x123));
    assert!((1..=4).all(|n| ram.entry(at(n)) & A != 0));
}

#[test]
fn a_guest_that_never_stops_changing_its_tables_does_not_hold_the_host() {
    let ram = long_tables();
    ram.interference.set(u32::MAX);

    assert_eq!(walk(&ram, &long(), Gva(GVA_LONG), access(Read, User)), Err(WalkError::Busy));
}
