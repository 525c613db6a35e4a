// SPDX-License-Identifier: GPL-2.0

//! Each rule about guest state, broken alone.

use crate::arch::segment::{SegAttr, SegReg, SegmentState};
use crate::vmx::check::{broken_rule, GuestState, TableField};

fn data(attr: u32) -> SegmentState {
    SegmentState { selector: 0x10, attr: SegAttr(attr), limit: 0xffff_ffff, base: 0 }
}

/// A 64-bit guest as Linux runs.
fn long() -> GuestState {
    let mut segs = [data(0xc093); 6];
    segs[SegReg::Cs as usize] = SegmentState { selector: 8, ..data(0xa09b) };
    GuestState {
        cr0: 0x8005_0033,
        cr3: 0x1000,
        cr4: 0x2668,
        dr7: 0x400,
        efer: 0xd01,
        pdptes: [0; 4],
        pat: 0x0007_0406_0007_0406,
        sysenter_esp: 0,
        sysenter_eip: 0,
        rip: 0xffff_ffff_8100_0000,
        rflags: 0x202,
        segs,
        ldtr: SegmentState { selector: 0, attr: SegAttr(1 << 16), limit: 0, base: 0 },
        tr: SegmentState { selector: 0x40, attr: SegAttr(0x8b), limit: 0x67, base: 0xffff_fe00_0000_3000 },
        gdt: TableField { base: 0xffff_fe00_0000_1000, limit: 0x7f },
        idt: TableField { base: 0xffff_fe00_0000_0000, limit: 0xfff },
        interruptibility: 0,
        activity: 0,
        pending_debug: 0,
        interruption: 0,
        entry: 1 << 9 | 1 << 15 | 1 << 14 | 1 << 2,
        link: u64::MAX,
        cr0_one: 0x20,
        cr4_one: 0x2000,
        unrestricted: true,
        phys_bits: 36,
    }
}

/// A guest after reset.
fn real() -> GuestState {
    let mut segs = [SegmentState { selector: 0, attr: SegAttr(0x93), limit: 0xffff, base: 0 }; 6];
    segs[SegReg::Cs as usize] =
        SegmentState { selector: 0xf000, attr: SegAttr(0x9b), limit: 0xffff, base: 0xffff_0000 };
    GuestState {
        cr0: 0x30,
        cr3: 0,
        cr4: 0x2000,
        efer: 0,
        rip: 0xfff0,
        rflags: 2,
        segs,
        ldtr: SegmentState { selector: 0, attr: SegAttr(0x82), limit: 0xffff, base: 0 },
        tr: SegmentState { selector: 0, attr: SegAttr(0x8b), limit: 0xffff, base: 0 },
        gdt: TableField { base: 0, limit: 0xffff },
        idt: TableField { base: 0, limit: 0xffff },
        entry: 1 << 15 | 1 << 14 | 1 << 2,
        ..long()
    }
}

/// In virtual-8086 mode.
fn vm86() -> GuestState {
    let seg = SegmentState { selector: 0x100, attr: SegAttr(0xf3), limit: 0xffff, base: 0x1000 };
    GuestState { cr0: 0x31, rflags: 0x2_0002, segs: [seg; 6], ..real() }
}

#[test]
fn good_states_break_no_rule() {
    assert_eq!(broken_rule(&long()), None);
    assert_eq!(broken_rule(&real()), None);
    assert_eq!(broken_rule(&vm86()), None);
    let halted = GuestState { activity: 1, ..long() };
    assert_eq!(broken_rule(&halted), None);
    assert_eq!(broken_rule(&restricted()), None);
    let stepping = GuestState { rflags: 0x102, interruptibility: 2, pending_debug: 1 << 14, ..long() };
    assert_eq!(broken_rule(&stepping), None);
}

/// As [`long`] where unrestricted guest is absent.
fn restricted() -> GuestState {
    GuestState { unrestricted: false, cr0_one: 0x8000_0021, ..long() }
}

/// Every rule has its test: the sentences of the source are those that the tests break.
#[test]
fn every_rule_is_broken_by_a_test() {
    let source = include_str!("../../../../vmx/check.rs");
    let code: Vec<_> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let rules: Vec<_> = code.split('"').skip(1).step_by(2).collect();
    let broken = broken_here();
    let untested: Vec<_> = rules.iter().filter(|r| !broken.contains(*r)).collect();
    assert!(rules.len() > 60, "{} rules found", rules.len());
    assert!(untested.is_empty(), "{untested:#?}");
}

/// Applies the change to a good state and expects the rule whose text contains `words`.
macro_rules! breaks {
    ($($name:ident: $state:ident, $words:literal, |$s:ident| $change:expr;)*) => {
        $(
            #[test]
            fn $name() {
                let mut state = $state();
                {
                    let $s = &mut state;
                    $change;
                }
                let rule = broken_rule(&state).expect("a rule is broken");
                assert!(rule.contains($words), "{rule}");
            }
        )*

        /// The rules that the tests above break.
        fn broken_here() -> Vec<&'static str> {
            vec![$({
                let mut state = $state();
                {
                    let $s = &mut state;
                    $change;
                }
                broken_rule(&state).unwrap_or_default()
            }),*]
        }
    };
}

const CS: usize = SegReg::Cs as usize;
const SS: usize = SegReg::Ss as usize;
const DS: usize = SegReg::Ds as usize;
const FS: usize = SegReg::Fs as usize;
const GS: usize = SegReg::Gs as usize;
const BAD: u64 = 1 << 60;

breaks! {
    cr0_without_its_fixed_bits: long, "CR0 must have", |s| s.cr0 &= !0x20;
    cr0_with_an_upper_half: long, "CR0 bits 63:32", |s| s.cr0 |= 1 << 32;
    paging_without_protection: real, "CR0.PG needs", |s| s.cr0 |= 1 << 31;
    cr4_without_its_fixed_bits: long, "CR4 must have", |s| s.cr4 &= !0x2000;
    cet_without_write_protection: long, "CR4.CET", |s| { s.cr4 |= 1 << 23; s.cr0 &= !(1 << 16) };
    long_mode_without_pae: long, "IA-32e mode guest needs", |s| s.cr4 &= !0x20;
    pcid_outside_long_mode: real, "CR4.PCIDE", |s| s.cr4 |= 1 << 17;
    cr3_beyond_memory: long, "CR3", |s| s.cr3 = 1 << 36;
    pdpte_reserved: real, "PDPTE", |s| (s.cr0, s.cr4, s.pdptes[2]) = (0x8000_0031, 0x2020, 0x1003);
    dr7_with_an_upper_half: long, "DR7", |s| s.dr7 |= 1 << 32;
    sysenter_esp_not_canonical: long, "SYSENTER_ESP", |s| s.sysenter_esp = BAD;
    sysenter_eip_not_canonical: long, "SYSENTER_EIP", |s| s.sysenter_eip = BAD;
    pat_with_an_unknown_type: long, "IA32_PAT", |s| s.pat = 2;
    efer_with_a_reserved_bit: long, "EFER must have no", |s| s.efer |= 1 << 12;
    lma_without_the_control: long, "LMA must equal the control", |s| s.efer &= !(1 << 10);
    lma_without_lme: long, "must equal LME", |s| s.efer &= !(1 << 8);
    real_mode_without_unrestricted_guest: restricted, "CR0 must have", |s| s.cr0 &= !1;
    cs_as_data_without_unrestricted_guest: restricted, "CS must be code", |s| s.segs[CS].attr = SegAttr(0xc093);
    ss_with_another_rpl_than_cs: restricted, "SS's RPL", |s| s.segs[CS].selector |= 3;
    ss_with_another_rpl_than_its_dpl: restricted, "SS's DPL must equal its RPL", |s| {
        s.segs[CS].selector |= 3;
        s.segs[SS].selector |= 3;
    };
    data_segment_with_too_high_an_rpl: restricted, "the DPLs of DS", |s| s.segs[FS].selector |= 1;
    tr_in_the_ldt: long, "TR's selector", |s| s.tr.selector |= 4;
    ldtr_in_the_ldt: real, "LDTR's selector", |s| s.ldtr.selector |= 4;
    tr_base_not_canonical: long, "TR's base", |s| s.tr.base = BAD;
    fs_base_not_canonical: long, "FS's base", |s| s.segs[FS].base = BAD;
    gs_base_not_canonical: long, "GS's base", |s| s.segs[GS].base = BAD;
    ldtr_base_not_canonical: real, "LDTR's base", |s| s.ldtr.base = BAD;
    cs_base_too_high: long, "CS's base", |s| s.segs[CS].base = 1 << 32;
    ss_base_too_high: long, "bases of SS", |s| s.segs[SS].base = 1 << 32;
    vm86_base_of_its_own: vm86, "selector times 16", |s| s.segs[DS].base = 0;
    vm86_limit_of_its_own: vm86, "64 KiB", |s| s.segs[DS].limit = 0xfffe;
    vm86_rights_of_their_own: vm86, "0xf3", |s| s.segs[DS].attr = SegAttr(0x93);
    cs_unusable: long, "CS must be usable", |s| s.segs[CS].attr.0 |= 1 << 16;
    cs_not_accessed: long, "accessed code", |s| s.segs[CS].attr.0 &= !1;
    cs_a_system_segment: long, "CS must not be a system", |s| s.segs[CS].attr.0 &= !16;
    cs_as_data_with_a_dpl: long, "CS as data", |s| s.segs[CS].attr = SegAttr(0xa0b3);
    cs_dpl_unlike_ss: long, "CS's DPL must equal", |s| s.segs[CS].attr.0 |= 3 << 5;
    conforming_cs_above_ss: long, "conforming", |s| s.segs[CS].attr = SegAttr(0xa0ff);
    cs_not_present: long, "CS must be present", |s| s.segs[CS].attr.0 &= !(1 << 7);
    cs_with_a_reserved_bit: long, "CS's access rights", |s| s.segs[CS].attr.0 |= 1 << 8;
    cs_long_and_big: long, "D/B clear", |s| s.segs[CS].attr.0 |= 1 << 14;
    cs_granular_with_a_small_limit: long, "CS's limit", |s| s.segs[CS].limit = 0xfff0;
    real_mode_with_a_dpl: real, "SS's DPL must be 0", |s| { s.segs[SS].attr.0 |= 3 << 5; s.segs[CS].attr.0 |= 3 << 5 };
    ss_read_only: long, "writable data", |s| s.segs[SS].attr.0 &= !2;
    ss_a_system_segment: long, "SS must not be a system", |s| s.segs[SS].attr.0 &= !16;
    ss_not_present: long, "SS must be present", |s| s.segs[SS].attr.0 &= !(1 << 7);
    ss_with_a_reserved_bit: long, "SS's access rights", |s| s.segs[SS].attr.0 |= 1 << 9;
    ss_bytes_with_a_big_limit: long, "SS's limit", |s| s.segs[SS].attr.0 &= !(1 << 15);
    ds_not_accessed: long, "must be accessed", |s| s.segs[DS].attr.0 &= !1;
    ds_unreadable_code: long, "readable", |s| s.segs[DS].attr.0 = (s.segs[DS].attr.0 & !15) | 9;
    ds_a_system_segment: long, "must not be system", |s| s.segs[DS].attr.0 &= !16;
    ds_not_present: long, "GS must be present", |s| s.segs[DS].attr.0 &= !(1 << 7);
    ds_with_a_reserved_bit: long, "DS to GS must have no", |s| s.segs[DS].attr.0 |= 1 << 20;
    gs_bytes_with_a_big_limit: long, "DS to GS must agree", |s| s.segs[GS].attr.0 &= !(1 << 15);
    tr_unusable: long, "TR must be usable", |s| s.tr.attr.0 |= 1 << 16;
    tr_available: long, "busy TSS", |s| s.tr.attr.0 &= !2;
    tr_16_bit_in_long_mode: long, "busy TSS", |s| s.tr.attr = SegAttr(0x83);
    tr_not_present: long, "TR must be present", |s| s.tr.attr.0 &= !(1 << 7);
    tr_with_a_reserved_bit: long, "TR's access rights", |s| s.tr.attr.0 |= 1 << 8;
    tr_bytes_with_a_big_limit: long, "TR's limit", |s| s.tr.limit = 0xf_ffff_u32 << 4;
    ldtr_of_another_type: real, "LDTR must be an LDT", |s| s.ldtr.attr = SegAttr(0x83);
    ldtr_not_present: real, "LDTR must be present", |s| s.ldtr.attr = SegAttr(0x02);
    ldtr_with_a_reserved_bit: real, "LDTR's access rights", |s| s.ldtr.attr.0 |= 1 << 8;
    ldtr_granular_with_a_small_limit: real, "LDTR's limit", |s| { s.ldtr.attr.0 |= 1 << 15; s.ldtr.limit = 7 };
    gdt_base_not_canonical: long, "GDTR's base", |s| s.gdt.base = BAD;
    idt_base_not_canonical: long, "IDTR's base", |s| s.idt.base = BAD;
    gdt_limit_too_long: long, "GDTR's limit", |s| s.gdt.limit = 0x1_0000;
    idt_limit_too_long: long, "IDTR's limit", |s| s.idt.limit = 0x1_0000;
    rip_too_long: real, "32 bits", |s| s.rip = 1 << 32;
    rip_not_canonical: long, "RIP must be canonical", |s| s.rip = BAD;
    rflags_with_a_reserved_bit: long, "RFLAGS must have no", |s| s.rflags |= 8;
    rflags_without_bit_1: long, "RFLAGS bit 1", |s| s.rflags &= !2;
    vm86_in_long_mode: vm86, "RFLAGS.VM", |s| { s.entry |= 1 << 9; s.cr0 |= 1 << 31; s.cr4 |= 0x20; s.efer = 0x500 };
    interrupt_while_they_are_off: long, "needs RFLAGS.IF", |s| { s.interruption = 0x8000_0031; s.rflags = 2 };
    activity_of_no_kind: long, "activity state", |s| s.activity = 4;
    halt_at_a_lower_level: long, "HLT", |s| {
        s.activity = 1;
        s.segs[SS].attr.0 |= 3 << 5;
        s.segs[CS].attr.0 |= 3 << 5;
    };
    halt_in_a_shadow: long, "active state", |s| { s.activity = 1; s.interruptibility = 2 };
    interruptibility_with_a_reserved_bit: long, "interruptibility", |s| s.interruptibility = 1 << 5;
    two_shadows: long, "both", |s| s.interruptibility = 3;
    sti_without_its_flag: long, "blocking by STI", |s| { s.interruptibility = 1; s.rflags = 2 };
    interrupt_in_a_shadow: long, "meet a shadow", |s| { s.interruptibility = 1; s.interruption = 0x8000_0031 };
    nmi_in_a_shadow: long, "shadow of MOV SS", |s| { s.interruptibility = 2; s.interruption = 0x8000_0202 };
    nmi_in_an_nmi: long, "blocking by NMI", |s| { s.interruptibility = 8; s.interruption = 0x8000_0202 };
    smi_blocked: long, "SMIs", |s| s.interruptibility = 4;
    pending_debug_reserved: long, "pending debug", |s| s.pending_debug = 1 << 4;
    step_forgotten_in_a_shadow: long, "single step", |s| { s.interruptibility = 2; s.rflags = 0x102 };
    step_invented_in_a_shadow: long, "single step", |s| { s.interruptibility = 2; s.pending_debug = 1 << 14 };
    a_link_pointer: long, "link pointer", |s| s.link = 0x1000;
}
