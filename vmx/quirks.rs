// SPDX-License-Identifier: GPL-2.0

//! What differs between processors beside VMX itself, and what follows from it. Pure.

use super::capability::has_enlightened_vmcs;
use crate::arch::cpuid::CpuidRegs;
use crate::arch::mitigation::{HostFlags, L1dFlush};
use crate::arch::msr::{ARCH_CAPABILITIES, PEBS_ENABLE};
use x86::msr::IA32_DEBUGCTL;

/// See the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VmxQuirks {
    /// IA32_DEBUGCTL exists; an emulator may lack it.
    pub(crate) has_debugctl: bool,
    /// What is done before entries against guests that read the L1 data cache.
    pub(crate) l1d: L1dFlush,
    /// The host may use precise sampling, which writes by linear address: into the guest's memory.
    pub(crate) has_pebs: bool,
    /// Processor trace exists and cannot be on in VMX operation.
    pub(crate) stops_trace: bool,
    /// Beside another hypervisor the VMCS may not count: see [`super::capability::has_enlightened_vmcs`].
    pub(crate) is_alone: bool,
}

impl VmxQuirks {
    /// Finds them. `traces`: processor trace may be on in VMX operation; `rdmsr` reads an MSR, if it exists; `cpuid`
    /// executes that instruction.
    pub(crate) fn of(
        flags: HostFlags,
        traces: bool,
        rdmsr: impl Fn(u32) -> Option<u64>,
        cpuid: impl Fn(u32) -> CpuidRegs,
    ) -> VmxQuirks {
        VmxQuirks {
            has_debugctl: rdmsr(IA32_DEBUGCTL).is_some(),
            l1d: flags.l1d_flush(rdmsr(ARCH_CAPABILITIES).unwrap_or(0)),
            has_pebs: flags.contains(HostFlags::PEBS) && rdmsr(PEBS_ENABLE).is_some(),
            stops_trace: flags.contains(HostFlags::INTEL_PT) && !traces,
            is_alone: has_enlightened_vmcs(cpuid),
        }
    }

    /// Returns how many MSRs entries load, where the host's PEBS_ENABLE is `pebs`: an NMI of the host's sampler in the
    /// window switches sampling on again, so each entry switches it off.
    pub(crate) fn entry_loads(&self, pebs: u64) -> u64 {
        u64::from(self.has_pebs && pebs != 0)
    }
}
