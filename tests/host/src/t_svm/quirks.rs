// SPDX-License-Identifier: GPL-2.0

//! What of the host's is hidden from guests beside what VMRUN switches.

use crate::arch::cpuid::CpuidRegs;
use crate::arch::mitigation::HostFlags;
use crate::arch::msr::{BP_CFG, BP_SPEC_REDUCE, XSS};
use crate::svm::quirks::SvmQuirks;
use std::cell::RefCell;
use std::collections::BTreeMap;
use x86::msr::IA32_DEBUGCTL;

/// A host that uses shadow stacks, and traps bus locks.
const MSRS: [(u32, u64); 3] = [(XSS, 0x1800), (IA32_DEBUGCTL, 4), (BP_CFG, 0x20)];

fn quirks(flags: HostFlags, has_xsaves: bool) -> SvmQuirks {
    let regs = |eax, ecx| CpuidRegs { eax, ebx: 0, ecx, edx: 0 };
    let cpuid = |leaf, subleaf| match (leaf, subleaf) {
        (0, _) => regs(0xd, 0),
        (1, _) => regs(0, 1 << 27),
        (0xd, 1) => regs(if has_xsaves { 0xf } else { 0x7 }, 0),
        _ => regs(0, 0),
    };
    SvmQuirks::of(flags, cpuid, |msr| BTreeMap::from(MSRS)[&msr])
}

#[test]
fn quirks_follow_from_what_the_kernel_found_and_uses() {
    assert!(quirks(HostFlags::empty(), false).are_none());
    assert_eq!(quirks(HostFlags::empty(), true), SvmQuirks { xss: 0x1800, ..SvmQuirks::default() });
    assert!(quirks(HostFlags::BP_SPEC_REDUCE, false).reduces_speculation);
    assert!(quirks(HostFlags::BUS_LOCK_DETECT, false).has_bus_lock_detect);
    let others = HostFlags::all() - HostFlags::BP_SPEC_REDUCE - HostFlags::BUS_LOCK_DETECT;
    assert!(quirks(others, false).are_none());
}

#[test]
fn what_a_guest_would_meet_is_hidden_and_put_back() {
    let msrs = RefCell::new(BTreeMap::from(MSRS));
    let read = |msr: u32| msrs.borrow()[&msr];
    let write = |msr: u32, value: u64| {
        msrs.borrow_mut().insert(msr, value);
    };

    let hidden = quirks(HostFlags::all(), true).hide(read, write);

    assert_eq!((read(XSS), read(IA32_DEBUGCTL), read(BP_CFG)), (0, 0, 0x20 | BP_SPEC_REDUCE));
    hidden.show(write);
    assert_eq!((read(XSS), read(IA32_DEBUGCTL)), (0x1800, 4));
    assert_eq!(read(BP_CFG), 0x20 | BP_SPEC_REDUCE, "what the guest trained outlives the window");
}

#[test]
fn where_nothing_is_used_nothing_is_written() {
    let write = |msr: u32, _| panic!("{msr:#x} is written");
    quirks(HostFlags::empty(), false).hide(|_| 0, write).show(write);
    let is_set = |_: u32| BP_SPEC_REDUCE;
    quirks(HostFlags::BP_SPEC_REDUCE, false).hide(is_set, write).show(write);
}
