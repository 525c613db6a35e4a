// SPDX-License-Identifier: GPL-2.0

//! Exit codes, by the APM's table "SVM Intercept Codes".

use crate::arch::addr::{AccessWidth, Gpa, Gva};
use crate::arch::exception::{ExceptionVector, PfError};
use crate::svm::{decode, is_refused};
use crate::vcpu::exit::{
    CrAccess, CrKind, FaultFlags, LinearFault, MsrAccess, PioAccess, RawExit, SvmInsn, VirtInsn, VmExit,
};
use proptest::prelude::*;

fn raw(reason: u64, info1: u64, info2: u64) -> RawExit {
    RawExit { reason, info1, info2 }
}

fn plain(reason: u64) -> VmExit {
    decode(raw(reason, 0, 0))
}

/// Codes that a guest's own doing causes and that are answered without the raw exit.
fn is_known(code: u64) -> bool {
    matches!(
        code,
        0x00..=0x5f | 0x60..=0x64 | 0x6f | 0x72 | 0x74 | 0x76 | 0x78..=0x7a | 0x7c | 0x7d | 0x7e | 0x7f
            | 0x80..=0x86 | 0x89..=0x8e | 0x400
    )
}

#[test]
fn every_code_has_an_answer_and_only_unlisted_ones_are_unknown() {
    for code in 0..=0xffffu64 {
        let exit = plain(code);
        assert_eq!(
            exit == VmExit::Unknown(raw(code, 0, 0)),
            !is_known(code) && code != 0x7b,
            "{code:#x}: {exit:?}"
        );
    }
}

#[test]
fn minus_one_is_a_refused_entry_in_both_widths() {
    for code in [u64::MAX, 0xffff_ffff] {
        assert_eq!(plain(code), VmExit::EntryFailed(raw(code, 0, 0)));
    }
    assert_eq!(plain(u64::MAX - 1), VmExit::Unknown(raw(u64::MAX - 1, 0, 0)), "busy is not ours");
}

#[test]
fn instructions_are_those_of_the_manual() {
    for (code, exit) in [
        (0x61, VmExit::HostInterrupt),
        (0x64, VmExit::InterruptWindow),
        (0x6f, VmExit::Forbidden),
        (0x72, VmExit::Cpuid),
        (0x74, VmExit::NmiReturn),
        (0x76, VmExit::CacheFlush),
        (0x89, VmExit::CacheFlush),
        (0x78, VmExit::Hlt),
        (0x7d, VmExit::TaskSwitch),
        (0x7f, VmExit::TripleFault),
        (0x79, VmExit::Invlpg(None)),
        (0x7a, VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Invlpga))),
        (0x80, VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Vmrun))),
        (0x81, VmExit::VirtInsn(VirtInsn::Hypercall)),
        (0x82, VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Vmload))),
        (0x86, VmExit::VirtInsn(VirtInsn::Svm(SvmInsn::Skinit))),
        (0x8a, VmExit::Mwait),
        (0x8b, VmExit::Mwait),
        (0x8c, VmExit::Mwait),
        (0x8e, VmExit::Undefined),
        (0x8d, VmExit::Xsetbv),
        (0x20, VmExit::DebugRegister),
        (0x3f, VmExit::DebugRegister),
        (0x18, VmExit::Cr(CrAccess { number: 8, kind: CrKind::Write })),
    ] {
        assert_eq!(plain(code), exit, "{code:#x}");
    }
}

#[test]
fn rdmsr_and_wrmsr_differ_in_bit_0() {
    assert_eq!(decode(raw(0x7c, 0, 0)), VmExit::Msr(MsrAccess::Read));
    assert_eq!(decode(raw(0x7c, 1, 0)), VmExit::Msr(MsrAccess::Write));
}

#[test]
fn outs_to_the_console_is_a_string_access() {
    let exit = decode(raw(0x7b, 0x03f8_0000 | 0x10 | 4, 0x1234));

    assert_eq!(exit, VmExit::Pio(PioAccess::new(0x3f8, AccessWidth::B1, false, true)));
}

proptest! {
    #[test]
    fn a_port_access_says_port_width_and_direction(
        port: u16,
        size in 0usize..3,
        is_in: bool,
        is_string: bool,
        noise in 0u64..64,
        rax: u64,
    ) {
        // REP, the address size and the segment do not matter.
        let noise = (noise & 1) << 3 | (noise >> 1) << 7;
        let info = u64::from(port) << 16 | (0x10 << size) | u64::from(is_string) << 2 | u64::from(is_in) | noise;
        let width = [AccessWidth::B1, AccessWidth::B2, AccessWidth::B4][size];

        let VmExit::Pio(a) = decode(raw(0x7b, info, 0)) else { panic!("not a port access") };

        prop_assert_eq!((a.port(), a.width(), a.is_in(), a.is_string()), (port, width, is_in, is_string));
        prop_assert_eq!((a.bytes() as usize, a.written(rax)), (width.bytes(), rax & width.mask()));
        prop_assert_eq!(a.is_plain_byte(), width == AccessWidth::B1 && !is_string);
    }

    #[test]
    fn an_access_of_no_or_several_sizes_has_one_that_a_port_can_have(info: u64) {
        let VmExit::Pio(a) = decode(raw(0x7b, info, 0)) else { panic!("not a port access") };

        prop_assert_ne!(a.width(), AccessWidth::B8);
    }

    #[test]
    fn a_nested_page_fault_says_address_and_access(gpa: u64, present: bool, write: bool, reserved: bool, fetch: bool) {
        let info = u64::from(present) | u64::from(write) << 1 | u64::from(reserved) << 3 | u64::from(fetch) << 4;

        // User does not count; of the two bits that tell where in the walk it happened, the first does.
        for noise in [0, 4, 1 << 32, 1 << 33] {
            let VmExit::GuestPageFault(fault) = decode(raw(0x400, info | noise, gpa)) else { panic!("no fault") };
            prop_assert_eq!(fault.gpa, Gpa(gpa));
            for (flag, is_set) in [
                (FaultFlags::PRESENT, present),
                (FaultFlags::WRITE, write),
                (FaultFlags::RESERVED, reserved),
                (FaultFlags::FETCH, fetch),
                (FaultFlags::FINAL, noise == 1 << 32),
            ] {
                prop_assert_eq!(fault.flags.contains(flag), is_set, "{:?}", flag);
            }
        }
    }

    #[test]
    fn an_exception_keeps_its_error_code(vector in 0u8..32, error: u32) {
        let exit = decode(raw(0x40 + u64::from(vector), u64::from(error), 0x1234));

        // A page fault exits for shadow pages' sake alone, and tells where.
        let error_code = PfError::from_bits_truncate(error);
        let expected = match ExceptionVector(vector) {
            ExceptionVector::PF => VmExit::PageFault(LinearFault { gva: Gva(0x1234), error: error_code }),
            vector => VmExit::Exception(vector, error),
        };
        prop_assert_eq!(exit, expected);
    }

    #[test]
    fn any_raw_exit_decodes(reason: u64, info1: u64, info2: u64) {
        let exit = raw(reason, info1, info2);
        if reason > 0x400 && !matches!(reason, u64::MAX | 0xffff_ffff) {
            prop_assert_eq!(decode(exit), VmExit::Unknown(exit));
        }
    }
}

#[test]
fn what_the_processor_refuses_is_an_entry_that_failed_and_nothing_else_is() {
    for code in (0..=0xffff).chain([u64::from(u32::MAX), u64::MAX, u64::MAX - 1]) {
        assert_eq!(is_refused(code), matches!(plain(code), VmExit::EntryFailed(_)), "{code:#x}");
    }
}

#[test]
fn machine_checks_are_told_from_other_exceptions() {
    assert!(plain(0x52).is_machine_check());
    assert!((0x40..=0x5f).all(|code| plain(code).is_machine_check() == (code == 0x52)));
    assert!(!plain(0x78).is_machine_check());
}

#[test]
fn host_events_and_moves_to_control_registers_are_those_of_the_manual() {
    for code in [0x60, 0x61, 0x62, 0x63, 0x7e] {
        assert_eq!(plain(code), VmExit::HostInterrupt, "{code:#x}");
    }
    for (code, number, kind) in [
        (0x00, 0, CrKind::Read),
        (0x04, 4, CrKind::Read),
        (0x10, 0, CrKind::Write),
        (0x14, 4, CrKind::Write),
        (0x1f, 15, CrKind::Write),
    ] {
        assert_eq!(plain(code), VmExit::Cr(CrAccess { number, kind }), "{code:#x}");
    }
}

#[test]
fn invlpg_tells_the_address_where_the_processor_does() {
    assert_eq!(decode(raw(0x79, 0xffff_8000_0000_1000, 0)), VmExit::Invlpg(Some(Gva(0xffff_8000_0000_1000))));
    assert_eq!(decode(raw(0x79, 0, 0)), VmExit::Invlpg(None));
}
