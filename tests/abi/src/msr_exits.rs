// SPDX-License-Identifier: GPL-2.0

//! MSRs that user space answers, and which it lets the guest use: KVM_CAP_X86_USER_SPACE_MSR, KVM_X86_SET_MSR_FILTER.

use crate::abi::{nr, vm as abi};
use crate::enable_cap::enable;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, Ctx, Test};
use crate::raw::ioctl_with;
use kvm_bindings::*;
use kvm_ioctls::{MsrExitReason, VcpuExit};
use libc::EINVAL;

pub const TESTS: &[Test] = &[
    ("msr exits: an unknown msr is read by user space", unknown_read),
    ("msr exits: an unknown msr is written by user space", unknown_write),
    ("msr exits: user space can have the access fault", faults),
    ("msr exits: without the choice the guest faults", not_chosen),
    ("msr exits: a value that is refused exits as invalid", invalid),
    ("msr exits: a filter takes an msr from the guest", filtered),
    ("msr exits: a filter takes one that needs no exit otherwise", filtered_without_exit),
    ("msr exits: a filter is about reads or writes", one_way),
    ("msr exits: user space itself is not filtered", user_space),
    ("msr exits: filters that cannot be are refused", bad_filters),
];

const NONE: u32 = 0x1234_5678;
const STAR: u32 = 0xc000_0081;

/// mov ecx, INDEX
fn index(index: u32) -> Vec<u8> {
    [&[0xb9][..], &index.to_le_bytes()].concat()
}

/// A guest in 64-bit mode that reads (or writes 0x1122334455667788 to) an MSR and halts; #GP reports 13.
fn guest(c: &Ctx, msr: u32, is_write: bool) -> Guest {
    // mov eax, 0x55667788; mov edx, 0x11223344; wrmsr | rdmsr
    let values = [0xb8, 0x88, 0x77, 0x66, 0x55, 0xba, 0x44, 0x33, 0x22, 0x11];
    let access: &[u8] = if is_write { &[0x0f, 0x30, HLT] } else { &[0x0f, 0x32, HLT] };
    let g = Guest::new(c, &[&index(msr)[..], &values, access].concat());
    g.enter_long_mode_with(&[(13, 0x2000, 0, &[0xe6, 0x13, HLT])]);
    g
}

fn choose(g: &Guest, reasons: u32) {
    assert_eq!(enable(&g.vm, KVM_CAP_X86_USER_SPACE_MSR, reasons.into()), Ok(0));
}

/// Refuses accesses to `base` and the 63 after it but where a bit of `allowed` is set.
fn filter(g: &Guest, uses: u32, base: u32, allowed: &u64) -> Result<i32, i32> {
    let mut f = abi::MsrFilter { flags: 0, pad: 0, ranges: [EMPTY; 16] };
    f.ranges[0] = abi::MsrFilterRange {
        flags: uses,
        nmsrs: 64,
        base,
        pad: 0,
        bitmap: std::ptr::from_ref(allowed) as u64,
    };
    ioctl_with(&g.vm, nr::X86_SET_MSR_FILTER, &mut f)
}

const EMPTY: abi::MsrFilterRange = abi::MsrFilterRange { flags: 0, nmsrs: 0, base: 0, pad: 0, bitmap: 0 };
const BOTH: u32 = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;

fn unknown_read(c: &Ctx) {
    let mut g = guest(c, NONE, false);
    choose(&g, KVM_MSR_EXIT_REASON_UNKNOWN);

    match g.exit() {
        VcpuExit::X86Rdmsr(exit) => {
            assert_eq!((exit.reason, exit.index, *exit.error), (MsrExitReason::Unknown, NONE, 0));
            *exit.data = 0x8765_4321_0fed_cba9;
        }
        other => panic!("{other:?}, expected RDMSR"),
    }

    let r = g.hlt();
    assert_eq!((r.rdx, r.rax), (0x8765_4321, 0x0fed_cba9));
}

fn unknown_write(c: &Ctx) {
    let mut g = guest(c, NONE, true);
    choose(&g, KVM_MSR_EXIT_REASON_UNKNOWN);

    match g.exit() {
        VcpuExit::X86Wrmsr(exit) => {
            assert_eq!(
                (exit.reason, exit.index, exit.data),
                (MsrExitReason::Unknown, NONE, 0x1122_3344_5566_7788)
            );
        }
        other => panic!("{other:?}, expected WRMSR"),
    }
    g.hlt();
}

fn faults(c: &Ctx) {
    for is_write in [false, true] {
        let mut g = guest(c, NONE, is_write);
        choose(&g, KVM_MSR_EXIT_REASON_UNKNOWN);

        match g.exit() {
            VcpuExit::X86Rdmsr(exit) => *exit.error = 1,
            VcpuExit::X86Wrmsr(exit) => *exit.error = 1,
            other => panic!("{other:?}, expected an MSR"),
        }

        assert_eq!(g.out().0, 0x13);
    }
}

fn not_chosen(c: &Ctx) {
    let mut g = guest(c, NONE, false);
    choose(&g, KVM_MSR_EXIT_REASON_FILTER | KVM_MSR_EXIT_REASON_INVAL);

    assert_eq!(g.out().0, 0x13);
    refused(enable(&g.vm, KVM_CAP_X86_USER_SPACE_MSR, 8), &[EINVAL]);
}

fn invalid(c: &Ctx) {
    // PAT takes memory types alone.
    let mut g = guest(c, 0x277, true);
    choose(&g, KVM_MSR_EXIT_REASON_INVAL);

    match g.exit() {
        VcpuExit::X86Wrmsr(exit) => assert_eq!((exit.reason, exit.index), (MsrExitReason::Inval, 0x277)),
        other => panic!("{other:?}, expected WRMSR"),
    }
}

fn filtered(c: &Ctx) {
    // TSC.
    let mut g = guest(c, 0x10, false);
    choose(&g, KVM_MSR_EXIT_REASON_FILTER);
    assert_eq!(filter(&g, BOTH, 0, &!(1 << 0x10)), Ok(0));

    match g.exit() {
        VcpuExit::X86Rdmsr(exit) => {
            assert_eq!((exit.reason, exit.index), (MsrExitReason::Filter, 0x10));
            *exit.data = 7;
        }
        other => panic!("{other:?}, expected RDMSR"),
    }
    assert_eq!(g.hlt().rax, 7);
}

fn filtered_without_exit(c: &Ctx) {
    let mut g = guest(c, STAR, true);
    choose(&g, KVM_MSR_EXIT_REASON_FILTER);
    assert_eq!(filter(&g, BOTH, 0xc000_0080, &!2), Ok(0));

    assert!(matches!(g.exit(), VcpuExit::X86Wrmsr(exit) if exit.index == STAR));
    g.hlt();
}

fn one_way(c: &Ctx) {
    let mut g = guest(c, STAR, true);
    choose(&g, KVM_MSR_EXIT_REASON_FILTER);
    assert_eq!(filter(&g, KVM_MSR_FILTER_READ, 0xc000_0080, &!2), Ok(0));

    g.hlt();
}

fn user_space(c: &Ctx) {
    let g = guest(c, STAR, true);
    assert_eq!(filter(&g, BOTH, 0xc000_0080, &0), Ok(0));

    let entry = kvm_msr_entry { index: STAR, data: 0x1234, ..Default::default() };
    let mut msrs = Msrs::from_entries(&[entry]).unwrap();
    assert_eq!(g.vcpu.set_msrs(&msrs).unwrap(), 1);
    assert_eq!(g.vcpu.get_msrs(&mut msrs).unwrap(), 1);
    assert_eq!(msrs.as_slice()[0].data, 0x1234);
}

fn bad_filters(c: &Ctx) {
    let g = guest(c, STAR, true);
    let set = |flags, range| {
        let mut f = abi::MsrFilter { flags, pad: 0, ranges: [EMPTY; 16] };
        f.ranges[3] = range;
        ioctl_with(&g.vm, nr::X86_SET_MSR_FILTER, &mut f)
    };
    let bits = [u64::MAX; 4];
    let bitmap = bits.as_ptr() as u64;

    refused(set(1, EMPTY), &[EINVAL]);
    refused(set(2, EMPTY), &[EINVAL]);
    assert_eq!(set(0, EMPTY), Ok(0));
    for (flags, nmsrs) in [(0, 1), (4, 1), (3, 0x600 * 8 + 1), (3, u32::MAX)] {
        refused(set(0, abi::MsrFilterRange { flags, nmsrs, base: 0, pad: 0, bitmap }), &[EINVAL]);
    }
    assert_eq!(set(1, abi::MsrFilterRange { flags: 3, nmsrs: 256, base: 0, pad: 0, bitmap }), Ok(0));
}
