// SPDX-License-Identifier: GPL-2.0

//! Controls from capability MSRs.

use crate::arch::cpuid::{signature, CpuidRegs};
use crate::vmx::capability::{
    adjust, agree, has_enlightened_vmcs, is_allowed, EptVpid, ExitControls, PrimaryControls,
    SecondaryControls, VmEntryControls, VmxMsrs, VmxSetup,
};
use proptest::prelude::*;

/// A capability MSR: bits that must be 1, bits that may be 1.
fn msr(must: u32, may: u32) -> u64 {
    u64::from(may) << 32 | u64::from(must)
}

/// The i7-3770K's, as the SDM's defaults and the features of its generation make them.
pub(super) fn ivy_bridge() -> VmxMsrs {
    VmxMsrs {
        basic: 1 << 55 | 6 << 50 | 1 << 32 | 0x10,
        pin: msr(0x16, 0x7f),
        primary: msr(0x0400_6172, 0xfff9_fffe),
        secondary: msr(0, 0x0000_18ff),
        exit: msr(0x0003_6dfb, 0x007f_ffff),
        entry: msr(0x0000_11fb, 0x0000_ffff),
        ept_vpid: 0xf01_0613_4141,
        misc: 0x0005_01c5,
        cr0_fixed0: 0x8000_0021,
        cr4_fixed0: 0x2000,
    }
}

/// A Core 2's of 2008: neither EPT nor VPIDs, no EFER of the guest's own, no timer, and the plain form of these MSRs, in
/// which accesses to CR3 must exit.
pub(super) fn core2() -> VmxMsrs {
    VmxMsrs {
        basic: 0x005a_0800_0000_000d,
        pin: msr(0x16, 0x3f),
        primary: msr(0x0401_e172, 0xf7f9_fffe),
        secondary: msr(0, 0x41),
        exit: msr(0x0003_6dff, 0x0003_ffff),
        entry: msr(0x0000_11ff, 0x0000_3fff),
        ept_vpid: 0,
        misc: 0x0004_03c0,
        cr0_fixed0: 0x8000_0021,
        cr4_fixed0: 0x2000,
    }
}

#[test]
fn an_ivy_bridge_gets_what_guests_need() {
    let s = VmxSetup::new(&ivy_bridge(), true).unwrap();
    assert_eq!(s.revision, 0x10);
    let primary = PrimaryControls::from_bits_retain(s.primary);
    assert!(primary.contains(
        PrimaryControls::HLT
            | PrimaryControls::MSR_BITMAP
            | PrimaryControls::TPR_SHADOW
            | PrimaryControls::SECONDARY
    ));
    assert!(!primary.intersects(
        PrimaryControls::INTERRUPT_WINDOW | PrimaryControls::NMI_WINDOW | PrimaryControls::CR3_LOAD
    ));
    let secondary = SecondaryControls::from_bits_retain(s.secondary);
    assert!(secondary
        .contains(SecondaryControls::EPT | SecondaryControls::UNRESTRICTED_GUEST | SecondaryControls::VPID));
    assert!(ExitControls::from_bits_retain(s.exit).contains(ExitControls::HOST_64 | ExitControls::LOAD_EFER));
    assert!(!ExitControls::from_bits_retain(s.exit).contains(ExitControls::ACKNOWLEDGE));
    assert!(VmEntryControls::from_bits_retain(s.entry).contains(VmEntryControls::LOAD_EFER));
    assert!(!VmEntryControls::from_bits_retain(s.entry).contains(VmEntryControls::GUEST_64));
    assert_eq!(s.cr0_one, 0x20, "NE stays fixed, PE and PG do not");
    assert_eq!(s.cr4_one, 0x2000);
    assert!(s.has_vpid());
    assert!(!s.ept_vpid.contains(EptVpid::ACCESSED_DIRTY));
}

#[test]
fn the_preemption_timer_counts_in_its_own_rate() {
    let s = VmxSetup::new(&ivy_bridge(), true).unwrap();
    assert_eq!(s.longest_run(3_500_000, 0x202), Some(35_000_000 >> 5));
    assert_eq!(s.longest_run(1, 2), Some(1), "never 0, which exits at once");
    let slow = VmxSetup { timer_rate: 0, ..s };
    assert_eq!(slow.longest_run(u32::MAX, 0x202), Some(u32::MAX), "the longest there is");
}

#[test]
fn a_guest_with_interrupts_off_runs_shorter_in_one_window() {
    let s = VmxSetup::new(&ivy_bridge(), true).unwrap();
    assert_eq!(s.longest_run(3_500_000, 2), Some(3_500_000 >> 5));
}

#[test]
fn the_timer_goes_on_over_exits_where_there_is_one() {
    let saves = |pin, exit| {
        let s = VmxSetup::new(&VmxMsrs { pin, exit, ..ivy_bridge() }, true).unwrap();
        (
            s.longest_run(1, 0).is_some(),
            ExitControls::from_bits_retain(s.exit).contains(ExitControls::SAVE_TIMER),
        )
    };
    let (pin, exit) = (ivy_bridge().pin, ivy_bridge().exit);
    assert_eq!(saves(pin, exit), (true, true));
    assert_eq!(saves(pin, msr(0x0003_6dfb, 0x003f_ffff)), (true, false));
    assert_eq!(saves(msr(0x16, 0x3f), exit), (false, false), "an entry would fail");
}

#[test]
fn a_processor_without_vpid_runs_without() {
    let mut m = ivy_bridge();
    m.secondary = msr(0, 0x18ff & !(1 << 5));
    m.ept_vpid &= 0xffff_ffff;
    assert!(!VmxSetup::new(&m, true).unwrap().has_vpid());
}

#[test]
fn a_processor_without_unrestricted_guest_enters_paged_guests_only() {
    let s = VmxSetup::new(&VmxMsrs { secondary: msr(0, 0x187f), ..ivy_bridge() }, true).unwrap();
    assert!(!s.is_unrestricted());
    assert_eq!(s.cr0_one, 0x8000_0021);
    assert!(VmxSetup::new(&ivy_bridge(), true).unwrap().is_unrestricted());
}

#[test]
fn the_firmware_must_have_locked_vmx_on() {
    assert!(is_allowed(0x5));
    assert!(is_allowed(0xff07), "more may be on");
    assert!(!is_allowed(0x1), "locked off");
    assert!(!is_allowed(0x4), "not locked: VMXON faults");
    assert!(!is_allowed(0x3), "inside SMX only");
    assert!(!is_allowed(0));
}

#[test]
fn cpus_that_differ_in_any_capability_do_not_agree() {
    let mut common = None;
    assert!(agree(&mut common, ivy_bridge()));
    assert!(agree(&mut common, ivy_bridge()));
    assert!(!agree(&mut common, VmxMsrs { ept_vpid: 0, ..ivy_bridge() }));
    assert!(!agree(&mut common, VmxMsrs { basic: 0x11, ..ivy_bridge() }));
    assert!(agree(&mut common, ivy_bridge()));
}

#[test]
fn what_is_missing_is_named() {
    let without = |change: &dyn Fn(&mut VmxMsrs)| {
        let mut m = ivy_bridge();
        change(&mut m);
        VmxSetup::new(&m, true).unwrap_err()
    };
    assert!(without(&|m| m.pin = msr(0x16, 0x5f)).contains("NMI"));
    assert!(without(&|m| m.primary = msr(0x0400_6172, 0x7ff9_fffe)).contains("secondary"));
    assert!(without(&|m| m.primary = msr(0x0400_6172, 0xffd9_fffe)).contains("TPR"));
    assert!(without(&|m| m.primary = msr(0x0408_6172, 0xfff9_fffe)).contains("CR8"));
    assert!(without(&|m| m.exit = msr(0x0003_edfb, 0x007f_ffff)).contains("pending"));
    assert!(without(&|m| m.exit = msr(0x0003_6dfb, 0x007f_fdff)).contains("64-bit host"));
    assert!(without(&|m| m.entry = msr(0x0000_11fb, 0x0000_fffb)).contains("debug registers"));
}

/// Whether guests have EPT by this setup, which then has all that goes with it, or nothing.
fn has_ept(s: &VmxSetup) -> bool {
    let has = s.has_ept();
    let exit = ExitControls::from_bits_retain(s.exit);
    let entry = VmEntryControls::from_bits_retain(s.entry);
    assert_eq!(exit.contains(ExitControls::LOAD_EFER | ExitControls::SAVE_PAT), has);
    assert_eq!(exit.intersects(ExitControls::LOAD_EFER | ExitControls::SAVE_EFER), has);
    assert_eq!(exit.intersects(ExitControls::LOAD_PAT | ExitControls::SAVE_PAT), has);
    assert_eq!(entry.intersects(VmEntryControls::LOAD_EFER | VmEntryControls::LOAD_PAT), has);
    let linear = PrimaryControls::CR3_LOAD | PrimaryControls::CR3_STORE | PrimaryControls::INVLPG;
    assert_eq!(PrimaryControls::from_bits_retain(s.primary).contains(linear), !has);
    assert_eq!(PrimaryControls::from_bits_retain(s.primary).intersects(linear), !has);
    if !has {
        let other =
            SecondaryControls::VPID | SecondaryControls::INVPCID | SecondaryControls::UNRESTRICTED_GUEST;
        assert!(!SecondaryControls::from_bits_retain(s.secondary).intersects(other));
        assert!(!s.is_unrestricted() && !s.has_vpid());
        assert_eq!(s.cr0_one & 0x8000_0001, 0x8000_0001);
        assert_eq!(s.ept_vpid, EptVpid::empty());
    }
    has
}

#[test]
fn guests_have_ept_where_all_that_goes_with_it_is_there_and_it_is_wanted() {
    let with = |change: &dyn Fn(&mut VmxMsrs)| {
        let mut m = ivy_bridge();
        change(&mut m);
        assert!(!has_ept(&VmxSetup::new(&m, false).unwrap()), "not wanted");
        has_ept(&VmxSetup::new(&m, true).unwrap())
    };
    assert!(with(&|_| {}));
    assert!(!with(&|m| m.secondary = msr(0, 0x18fd)), "no EPT");
    assert!(!with(&|m| m.ept_vpid &= !(1 << 6)), "none of 4 levels");
    assert!(!with(&|m| m.ept_vpid &= !(1 << 20)), "no INVEPT");
    assert!(!with(&|m| m.primary = msr(0x0401_e172, 0xfff9_fffe)), "each load of CR3 exits");
    assert!(!with(&|m| m.exit = msr(0x0003_6dfb, 0x005f_ffff)), "exits load no EFER");
    assert!(!with(&|m| m.entry = msr(0x0000_11fb, 0x0000_7fff)), "nor do entries");
    assert!(!has_ept(&VmxSetup::new(&core2(), true).unwrap()));
}

proptest! {
    #[test]
    fn adjusted_controls_obey_both_halves(must: u32, more: u32, need: u32, want: u32) {
        let may = must | more;
        match adjust(msr(must, may), need, want) {
            Ok(bits) => {
                prop_assert_eq!(bits & !may, 0, "only what is allowed");
                prop_assert_eq!(bits & must, must, "all that is demanded");
                prop_assert_eq!(bits & need, need, "all that is needed");
                prop_assert_eq!(bits & want & may, want & may, "all of the wish that can be");
                prop_assert_eq!(bits & !(must | need | want), 0, "and nothing else");
            }
            Err(missing) => prop_assert_eq!(missing, need & !may),
        }
    }
}

#[test]
fn enclave_instructions_exit_where_they_can() {
    assert!(!VmxSetup::new(&ivy_bridge(), true).unwrap().has_encls());
    let with = VmxMsrs { secondary: ivy_bridge().secondary | 1 << (32 + 15), ..ivy_bridge() };
    assert!(VmxSetup::new(&with, true).unwrap().has_encls());
}

#[test]
fn tracing_in_vmx_operation_is_told_by_a_bit() {
    assert!(!VmxSetup::new(&ivy_bridge(), true).unwrap().traces);
    let with = VmxMsrs { misc: ivy_bridge().misc | 1 << 14, ..ivy_bridge() };
    assert!(VmxSetup::new(&with, true).unwrap().traces);
}

#[test]
fn an_enlightened_vmcs_is_one_of_hyper_v_that_has_versions_of_it() {
    let host = |name: &'static [u8; 12], last: u32, versions: u32, is_guest: bool| {
        move |leaf| {
            let [ebx, ecx, edx] = signature(name);
            match leaf {
                1 => CpuidRegs { ecx: u32::from(is_guest) << 31, ..CpuidRegs::default() },
                0x4000_0000 => CpuidRegs { eax: last, ebx, ecx, edx },
                0x4000_000a => CpuidRegs { eax: versions, ..CpuidRegs::default() },
                _ => CpuidRegs::default(),
            }
        }
    };
    assert!(has_enlightened_vmcs(host(b"Microsoft Hv", 0x4000_000a, 0x101, true)));
    assert!(!has_enlightened_vmcs(host(b"Microsoft Hv", 0x4000_000a, 0, true)));
    assert!(!has_enlightened_vmcs(host(b"Microsoft Hv", 0x4000_0009, 0x101, true)));
    assert!(!has_enlightened_vmcs(host(b"Microsoft Hv", 0x4000_000a, 0x101, false)));
    assert!(!has_enlightened_vmcs(host(b"KVMKVMKVM\0\0\0", 0x4000_000a, 0x101, true)));
}
