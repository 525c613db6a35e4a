// SPDX-License-Identifier: GPL-2.0

//! Exit reasons, by the SDM's table "VMX Basic Exit Reasons".

use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::exception::ExceptionVector;
use crate::vcpu::exit::{
    CrAccess, CrKind, FaultFlags, GuestPageFault, MsrAccess, PioAccess, VirtInsn, VmExit, VmxInsn,
};
use crate::vmx::exit::{
    cr_write, decode, fail_reason, CrWriteExit, EntryRefusal, ExitReport, ENTRY_FAILURE, VM_FAIL,
};
use proptest::prelude::*;

fn report(reason: u64, qualification: u64) -> ExitReport {
    ExitReport { reason, qualification, ..ExitReport::default() }
}

fn plain(reason: u64) -> VmExit {
    decode(&report(reason, 0))
}

#[test]
fn instructions_are_those_of_the_manual() {
    for (reason, exit) in [
        (1, VmExit::HostInterrupt),
        (2, VmExit::TripleFault),
        (7, VmExit::InterruptWindow),
        (8, VmExit::NmiReturn),
        (9, VmExit::TaskSwitch),
        (10, VmExit::Cpuid),
        (12, VmExit::Hlt),
        (13, VmExit::CacheFlush),
        (15, VmExit::Forbidden),
        (18, VmExit::VirtInsn(VirtInsn::Hypercall)),
        (14, VmExit::Invlpg(Some(Gva(0)))),
        (19, VmExit::VirtInsn(VirtInsn::Vmx(VmxInsn::Vmclear))),
        (20, VmExit::VirtInsn(VirtInsn::Vmx(VmxInsn::Vmlaunch))),
        (27, VmExit::VirtInsn(VirtInsn::Vmx(VmxInsn::Vmxon))),
        (50, VmExit::VirtInsn(VirtInsn::Vmx(VmxInsn::Invept))),
        (59, VmExit::VirtInsn(VirtInsn::Vmx(VmxInsn::Vmfunc))),
        (29, VmExit::DebugRegister),
        (31, VmExit::Msr(MsrAccess::Read)),
        (32, VmExit::Msr(MsrAccess::Write)),
        (52, VmExit::HostInterrupt),
        (36, VmExit::Mwait),
        (39, VmExit::Mwait),
        (67, VmExit::Undefined),
        (43, VmExit::Resolved),
        (54, VmExit::CacheFlush),
        (55, VmExit::Xsetbv),
    ] {
        assert_eq!(plain(reason), exit, "reason {reason}");
    }
}

#[test]
fn refused_entries_are_told_from_exits() {
    for reason in [VM_FAIL, ENTRY_FAILURE | 33, ENTRY_FAILURE | 34, ENTRY_FAILURE | 41] {
        assert_eq!(plain(reason), VmExit::EntryFailed(report(reason, 0).raw()));
        assert_eq!(report(reason, 0).basic(), None);
    }
    assert!(matches!(plain(33), VmExit::Unknown(_)), "without bit 31 it is no entry failure");
}

#[test]
fn accesses_to_control_registers_are_told_apart() {
    let cr = |q| decode(&report(28, q));
    let access = |number, kind| VmExit::Cr(CrAccess { number, kind });
    assert_eq!(cr(0x000), access(0, CrKind::Write));
    assert_eq!(cr(0x213), access(3, CrKind::Read));
    assert_eq!(cr(0x020), access(0, CrKind::Clts));
    assert_eq!(cr(0x030), access(0, CrKind::Lmsw));
    assert_eq!(decode(&report(14, 0x7000)), VmExit::Invlpg(Some(Gva(0x7000))));
}

#[test]
fn ports_are_decoded() {
    let pio = |q| decode(&report(30, q));
    let access = |width, is_in, is_string| VmExit::Pio(PioAccess::new(0x3f8, width, is_in, is_string));
    assert_eq!(pio(0x3f8_0000), access(AccessWidth::B1, false, false));
    assert_eq!(pio(0x3f8_0009), access(AccessWidth::B2, true, false));
    assert_eq!(pio(0x3f8_0033), access(AccessWidth::B4, false, true));
    assert!(matches!(pio(0x3f8_0002), VmExit::Unknown(_)), "no access has three bytes");
}

#[test]
fn faults_of_the_second_level_are_decoded() {
    let fault = |reason, q| decode(&ExitReport { gpa: 0xfee0_0020, ..report(reason, q) });
    let said = |flags| VmExit::GuestPageFault(GuestPageFault { gpa: Gpa(0xfee0_0020), flags });
    let of = FaultFlags::FINAL;
    assert_eq!(fault(48, 0x181), said(of));
    assert_eq!(fault(48, 0x081), said(FaultFlags::empty()));
    assert_eq!(fault(48, 0x001), said(FaultFlags::empty()));
    assert_eq!(fault(48, 0x182), said(of | FaultFlags::WRITE));
    assert_eq!(fault(48, 0x184), said(of | FaultFlags::FETCH));
    assert_eq!(fault(48, 0x1aa), said(of | FaultFlags::WRITE | FaultFlags::PRESENT));
    assert_eq!(fault(49, 0), said(FaultFlags::PRESENT | FaultFlags::RESERVED));
}

#[test]
fn an_nmi_is_the_hosts_and_an_exception_the_guests() {
    let cause = |interruption, error| decode(&ExitReport { interruption, error, ..report(0, 0) });
    assert_eq!(cause(0x8000_0202, 0), VmExit::HostInterrupt);
    assert_eq!(cause(0x8000_0b11, 0), VmExit::Exception(ExceptionVector::AC, 0));
    assert_eq!(cause(0x8000_0301, 7), VmExit::Exception(ExceptionVector::DB, 7));
}

#[test]
fn an_iret_that_faulted_masks_nmis_again() {
    let db = ExitReport { interruption: 0x8000_1301, ..report(0, 0) };
    assert!(db.has_unblocked_nmi());
    assert!(
        !ExitReport { interruption: 0x8000_1b08, ..db }.has_unblocked_nmi(),
        "undefined for a double fault"
    );
    assert!(!ExitReport { vectoring: 0x8000_0031, ..db }.has_unblocked_nmi(), "nor inside a delivery");
    assert!(report(48, 1 << 12).has_unblocked_nmi());
    assert!(!report(48, 0).has_unblocked_nmi());
    assert!(!report(10, 1 << 12).has_unblocked_nmi());
}

#[test]
fn only_moves_to_cr0_and_cr4_are_tried_again() {
    assert_eq!(cr_write(0x000), Some(CrWriteExit { number: 0, source: 0 }));
    assert_eq!(cr_write(0xf04), Some(CrWriteExit { number: 4, source: 15 }));
    for q in [0x003, 0x008, 0x010, 0x020, 0x030] {
        assert_eq!(cr_write(q), None, "{q:#x}");
    }
}

proptest! {
    #[test]
    fn every_report_has_an_answer(reason in 0u64..=0xffff_ffff, qualification: u64, gpa: u64, interruption: u32) {
        let r = ExitReport { reason, qualification, gpa, interruption, ..ExitReport::default() };
        let _ = decode(&r);
        prop_assert_eq!(matches!(decode(&r), VmExit::EntryFailed(_)), reason & ENTRY_FAILURE != 0);
        prop_assert_eq!(decode(&r), decode(&r));
    }
}

#[test]
fn an_entry_that_did_not_start_says_why() {
    assert!(fail_reason(7).contains("control field"));
    assert!(fail_reason(8).contains("host's state"));
    assert!(fail_reason(EntryRefusal::Field(0x4826).info()).contains("field of the VMCS"));
    assert!(fail_reason(EntryRefusal::Msr.info()).contains("MSR"));
    assert!(fail_reason(EntryRefusal::Flush.info()).contains("flushed"));
    assert!(fail_reason(0).contains("could not be entered"));
    assert!(fail_reason(99).contains("manual"));
}

#[test]
fn a_machine_check_is_the_hosts_in_a_guest_and_on_the_way_into_it() {
    let within = ExitReport { interruption: 0x8000_0312, ..report(0, 0) };
    assert!(decode(&within).is_machine_check());
    assert!(!within.is_machine_check(), "the exit tells of it");
    assert!(report(ENTRY_FAILURE | 41, 0).is_machine_check());
    for other in [41, ENTRY_FAILURE | 33, ENTRY_FAILURE | 34, VM_FAIL] {
        assert!(!report(other, 0).is_machine_check(), "{other:#x}");
    }
}
