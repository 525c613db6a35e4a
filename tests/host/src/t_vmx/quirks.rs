// SPDX-License-Identifier: GPL-2.0

//! What differs between processors beside VMX itself.

use crate::arch::cpuid::CpuidRegs;
use crate::arch::mitigation::{HostFlags, L1dFlush};
use crate::arch::msr::{ARCH_CAPABILITIES, PEBS_ENABLE};
use crate::vmx::quirks::VmxQuirks;
use x86::msr::IA32_DEBUGCTL;

fn quirks(flags: HostFlags, traces: bool, msrs: &[u32]) -> VmxQuirks {
    let zero = CpuidRegs { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    VmxQuirks::of(flags, traces, |msr| msrs.contains(&msr).then_some(1 << 3), |_| zero)
}

#[test]
fn precise_sampling_goes_off_where_the_host_uses_it() {
    let found = quirks(HostFlags::PEBS, true, &[PEBS_ENABLE]);
    assert!(found.has_pebs);
    assert_eq!((found.entry_loads(0), found.entry_loads(1)), (0, 1), "an NMI may switch it on again");
    for other in [quirks(HostFlags::PEBS, true, &[]), quirks(HostFlags::empty(), true, &[PEBS_ENABLE])] {
        assert!(!other.has_pebs);
        assert_eq!(other.entry_loads(1), 0);
    }
}

#[test]
fn tracing_stops_where_it_cannot_go_on() {
    assert!(quirks(HostFlags::INTEL_PT, false, &[]).stops_trace);
    assert!(!quirks(HostFlags::INTEL_PT, true, &[]).stops_trace);
    assert!(!quirks(HostFlags::empty(), false, &[]).stops_trace);
}

#[test]
fn the_l1_cache_is_flushed_unless_the_hypervisor_below_does_it() {
    let affected = HostFlags::L1TF | HostFlags::FLUSH_L1D;
    assert_eq!(quirks(affected, true, &[]).l1d, L1dFlush::Command);
    assert_eq!(quirks(affected, true, &[ARCH_CAPABILITIES]).l1d, L1dFlush::None);
}

#[test]
fn debugctl_is_switched_where_it_exists() {
    assert!(quirks(HostFlags::empty(), true, &[IA32_DEBUGCTL]).has_debugctl);
    assert!(!quirks(HostFlags::empty(), true, &[]).has_debugctl);
}
