// SPDX-License-Identifier: GPL-2.0

//! Which values control registers take, by the SDM's "Control Registers" and "MOV—Move to/from Control
//! Registers" and the APM's "System-Control Registers".

use crate::arch::cpuid::CpuidRegs;
use crate::arch::cr::{BadCr, CrRules, CrState};

const PE: u64 = 1;
const ET: u64 = 1 << 4;
const WP: u64 = 1 << 16;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
const PSE: u64 = 1 << 4;
const PAE: u64 = 1 << 5;
const MCE: u64 = 1 << 6;
const PGE: u64 = 1 << 7;
const UMIP: u64 = 1 << 11;
const LA57: u64 = 1 << 12;
const VMXE: u64 = 1 << 13;
const FSGSBASE: u64 = 1 << 16;
const PCIDE: u64 = 1 << 17;
const OSXSAVE: u64 = 1 << 18;
const SMEP: u64 = 1 << 20;
const SMAP: u64 = 1 << 21;
const PKE: u64 = 1 << 22;
const CET: u64 = 1 << 23;
const PKS: u64 = 1 << 24;
const FRED: u64 = 1 << 32;
const SCE: u64 = 1;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const NXE: u64 = 1 << 11;

/// Everything that CPUID can offer, with 40 bits of physical address.
fn all() -> CrRules {
    CrRules::of_cpuid(|leaf| match leaf {
        0x8000_0008 => CpuidRegs { eax: 40, ..CpuidRegs::default() },
        _ => CpuidRegs { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX },
    })
}

/// 64-bit code.
fn long() -> CrState {
    CrState { cr0: PG | WP | ET | PE, cr3: 0x1000, cr4: PAE | PGE, efer: LMA | LME | SCE, cs_long: true }
}

/// 32-bit code with PAE paging.
fn pae() -> CrState {
    CrState { efer: 0, cs_long: false, ..long() }
}

/// 32-bit code without paging, after which long mode would follow.
fn unpaged() -> CrState {
    CrState { cr0: ET | PE, cr3: 0x1000, cr4: PAE, efer: LME, cs_long: false }
}

#[test]
fn cr4_takes_what_cpuid_offers() {
    let ebx = |bit: u32| CpuidRegs { ebx: 1 << bit, ..CpuidRegs::default() };
    let ecx = |bit: u32| CpuidRegs { ecx: 1 << bit, ..CpuidRegs::default() };
    let offers = [
        (PCIDE, 1, ecx(17)),
        (OSXSAVE, 1, ecx(26)),
        (FSGSBASE, 7, ebx(0)),
        (SMEP, 7, ebx(7)),
        (SMAP, 7, ebx(20)),
        (UMIP, 7, ecx(2)),
        (PKE, 7, ecx(3)),
    ];
    let now = CrState { cr3: 0, ..long() };
    for (bit, leaf, regs) in offers {
        let without = CrRules::of_cpuid(|_| CpuidRegs::default());
        let with = CrRules::of_cpuid(|l| if l == leaf { regs } else { CpuidRegs::default() });
        assert_eq!(without.check_cr4(&now, now.cr4 | bit), Err(BadCr), "{bit:#x}");
        assert_eq!(with.check_cr4(&now, now.cr4 | bit).unwrap().state.cr4, now.cr4 | bit);
        assert_eq!(with.cr4_bits(), without.cr4_bits() | bit);
    }
}

#[test]
fn cr4_never_takes_what_nobody_switches() {
    for bit in [VMXE, LA57, CET, PKS, FRED, 1 << 14, 1 << 15, 1 << 19, 1 << 25, 1 << 28, 1 << 63] {
        assert_eq!(all().check_cr4(&long(), long().cr4 | bit), Err(BadCr), "{bit:#x}");
    }
}

#[test]
fn machine_checks_and_old_features_need_no_cpuid() {
    let none = CrRules::WITHOUT_CPUID;
    for bit in [MCE, PSE, PGE, 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 9, 1 << 10] {
        assert!(none.check_cr4(&unpaged(), PAE | bit).is_ok(), "{bit:#x}");
    }
    assert_eq!(none, CrRules::of_cpuid(|_| CpuidRegs::default()));
}

#[test]
fn pae_stays_on_in_long_mode() {
    assert_eq!(all().check_cr4(&long(), PGE), Err(BadCr));
    assert!(all().check_cr4(&unpaged(), 0).is_ok());
}

#[test]
fn pcids_need_long_mode_and_start_at_0() {
    assert!(all().check_cr4(&long(), PAE | PCIDE).is_ok());
    assert_eq!(all().check_cr4(&pae(), PAE | PCIDE), Err(BadCr));
    let with_pcid = CrState { cr3: 0x1001, ..long() };
    assert_eq!(all().check_cr4(&with_pcid, PAE | PCIDE), Err(BadCr));
    let on = CrState { cr4: PAE | PCIDE, ..with_pcid };
    assert!(all().check_cr4(&on, PAE | PCIDE | PGE).is_ok(), "it is on already");
    assert!(all().check_cr4(&on, PAE).is_ok());
}

#[test]
fn cr0_ignores_reserved_bits_below_32_and_refuses_those_above() {
    let now = long();
    assert_eq!(all().check_cr0(&now, now.cr0 | 0x40).unwrap().state.cr0, now.cr0);
    assert_eq!(all().check_cr0(&now, now.cr0 & !ET).unwrap().state.cr0, now.cr0, "ET is always 1");
    assert_eq!(all().check_cr0(&now, now.cr0 | 1 << 32), Err(BadCr));
}

#[test]
fn bits_of_cr0_agree() {
    let now = unpaged();
    assert_eq!(all().check_cr0(&now, NW | PE), Err(BadCr));
    assert!(all().check_cr0(&now, NW | CD | PE).is_ok());
    assert_eq!(all().check_cr0(&now, PG), Err(BadCr));
}

#[test]
fn long_mode_starts_with_paging_and_needs_pae_and_code_that_is_not_64_bit() {
    let on = all().check_cr0(&unpaged(), PG | PE).unwrap();
    assert_eq!(on.state.efer, LME | LMA);
    assert!(!on.loads_pdptes);
    assert_eq!(all().check_cr0(&CrState { cr4: 0, ..unpaged() }, PG | PE), Err(BadCr));
    assert_eq!(all().check_cr0(&CrState { cs_long: true, ..unpaged() }, PG | PE), Err(BadCr));
}

#[test]
fn paging_ends_neither_in_64_bit_code_nor_with_pcids() {
    let compatibility = CrState { cs_long: false, ..long() };
    let off = all().check_cr0(&compatibility, PE).unwrap();
    assert_eq!(off.state.efer & LMA, 0);
    assert_eq!(all().check_cr0(&long(), PE), Err(BadCr));
    assert_eq!(all().check_cr0(&CrState { cr4: PAE | PCIDE, ..compatibility }, PE), Err(BadCr));
}

#[test]
fn directory_pointers_are_loaded_where_pae_paging_says_so() {
    let rules = all();
    let loads = |write: Result<crate::arch::cr::CrWrite, BadCr>| write.unwrap().loads_pdptes;
    let protected = CrState { efer: 0, ..unpaged() };
    assert!(loads(rules.check_cr0(&protected, PG | PE)), "paging on");
    assert!(loads(rules.check_cr0(&pae(), pae().cr0 | CD)));
    assert!(!loads(rules.check_cr0(&pae(), pae().cr0 ^ WP)));
    assert!(loads(rules.check_cr3(&pae(), 0x2000)));
    assert!(loads(rules.check_cr3(&pae(), pae().cr3)), "always");
    assert!(!loads(rules.check_cr3(&long(), 0x2000)));
    assert!(loads(rules.check_cr4(&pae(), PAE)), "PGE off");
    for bit in [PSE, SMEP] {
        assert!(loads(rules.check_cr4(&pae(), pae().cr4 | bit)), "{bit:#x}");
    }
    assert!(!loads(rules.check_cr4(&pae(), pae().cr4 | UMIP)));
    assert!(loads(rules.check_cr4(&CrState { cr4: 0, ..pae() }, PAE)), "from 32-bit paging");
    assert_eq!(CrState { cr3: 0x1_2345_6fff, ..pae() }.pdpt(), 0x2345_6fe0);
}

#[test]
fn directory_pointers_that_are_present_have_no_reserved_bit() {
    let is_good = |e: u64| all().are_pdptes(&[0, 0, 0, e]);
    assert!(is_good(0x12_3456_7001));
    assert!(is_good(0xff_ffff_f001 | 0xe18));
    assert!(is_good(0x1fe), "absent");
    for bit in [1u64, 2, 5, 6, 7, 8, 40, 52, 63] {
        assert!(!is_good(1 | 1 << bit), "{bit}");
    }
}

#[test]
fn cr3_names_an_address_and_may_say_that_translations_stay() {
    assert!(all().check_cr3(&long(), 0xff_ffff_f000).is_ok());
    assert_eq!(all().check_cr3(&long(), 1 << 40), Err(BadCr));
    assert_eq!(all().check_cr3(&long(), 1 << 63 | 0x1000), Err(BadCr));
    let pcids = CrState { cr4: PAE | PCIDE, ..long() };
    assert_eq!(all().check_cr3(&pcids, 1 << 63 | 0x1005).unwrap().state.cr3, 0x1005);
}

#[test]
fn efer_takes_what_cpuid_offers_and_keeps_lma() {
    let none = CrRules::WITHOUT_CPUID;
    let now = CrState { efer: 0, cr0: PE, ..unpaged() };
    for bits in [LME, LMA, NXE] {
        assert_eq!(none.check_efer(&now, bits), Err(BadCr), "{bits:#x}");
        assert!(all().check_efer(&now, bits).is_ok(), "{bits:#x}");
    }
    assert_eq!(all().check_efer(&now, LME | LMA | SCE).unwrap().state.efer, LME | SCE);
    assert_eq!(all().check_efer(&long(), LME | NXE).unwrap().state.efer, LME | NXE | LMA);
    assert_eq!(all().check_efer(&long(), NXE), Err(BadCr), "LME stays while paging is on");
}

#[test]
fn efer_never_takes_what_nobody_switches() {
    // SVME, LMSLE, FFXSR, TCE, automatic IBRS, and bits that nobody has.
    for bit in [12, 13, 14, 15, 21, 1, 9, 16, 63] {
        assert_eq!(all().check_efer(&unpaged(), unpaged().efer | 1 << bit), Err(BadCr), "{bit}");
    }
}

#[test]
fn user_space_sets_states_that_processors_can_be_in() {
    assert!(all().allows(&long()));
    assert!(all().allows(&pae()));
    assert!(all().allows(&unpaged()));
    assert!(all().allows(&CrState::default()));
    for (what, state) in [
        ("paging without protection", CrState { cr0: PG, efer: 0, ..unpaged() }),
        ("NW without CD", CrState { cr0: NW | PE, ..unpaged() }),
        ("long mode without PAE", CrState { cr4: 0, ..long() }),
        ("long mode without LMA", CrState { efer: LME, ..long() }),
        ("LMA without paging", CrState { efer: LME | LMA, ..unpaged() }),
        ("64-bit code without long mode", CrState { cs_long: true, ..unpaged() }),
        ("CR3 beyond the physical address", CrState { cr3: 1 << 40, ..long() }),
        ("upper half of CR0", CrState { cr0: long().cr0 | 1 << 32, ..long() }),
        ("CR4 that is not offered", CrState { cr4: PAE | VMXE, ..long() }),
        ("EFER that is not offered", CrState { efer: LME | 1 << 14, ..unpaged() }),
    ] {
        assert!(!all().allows(&state), "{what}");
    }
    assert!(!CrRules::WITHOUT_CPUID.allows(&long()), "no long mode");
}
