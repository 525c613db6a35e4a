// SPDX-License-Identifier: GPL-2.0

//! What of the host's a guest would meet in registers that VMRUN does not switch, and what is done about it. Pure.

use super::features::has_xss;
use crate::arch::cpuid::CpuidRegs;
use crate::arch::mitigation::HostFlags;
use crate::arch::msr::{BP_CFG, BP_SPEC_REDUCE, XSS};
use x86::msr::IA32_DEBUGCTL;

/// What differs between hosts beside SVM itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SvmQuirks {
    /// The host's IA32_XSS, which never changes; 0 where there is none. XSAVES and XRSTORS cannot be made to exit,
    /// and by it they would reach the host's supervisor state, shadow stacks above all.
    pub(crate) xss: u64,
    /// The host may have bus locks trap in DEBUGCTL.
    pub(crate) has_bus_lock_detect: bool,
    /// The host keeps guests from training its returns by a bit of BP_CFG.
    pub(crate) reduces_speculation: bool,
}

/// What was taken away, to be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HiddenMsrs {
    xss: u64,
    debugctl: u64,
}

impl SvmQuirks {
    /// Finds them; `cpuid` executes that instruction, `rdmsr` reads an MSR that exists.
    pub(crate) fn of(
        flags: HostFlags,
        cpuid: impl Fn(u32, u32) -> CpuidRegs,
        rdmsr: impl Fn(u32) -> u64,
    ) -> SvmQuirks {
        SvmQuirks {
            xss: if has_xss(cpuid) { rdmsr(XSS) } else { 0 },
            has_bus_lock_detect: flags.contains(HostFlags::BUS_LOCK_DETECT),
            reduces_speculation: flags.contains(HostFlags::BP_SPEC_REDUCE),
        }
    }

    /// Returns whether there is nothing to hide.
    pub(crate) fn are_none(&self) -> bool {
        self.xss == 0 && !self.has_bus_lock_detect && !self.reduces_speculation
    }

    /// Takes away what a guest would meet. `rdmsr` and `wrmsr` are those of the processor: only IA32_XSS and DEBUGCTL
    /// are written, and those with 0, and BP_CFG with one bit more.
    pub(crate) fn hide(&self, rdmsr: impl Fn(u32) -> u64, mut wrmsr: impl FnMut(u32, u64)) -> HiddenMsrs {
        let debugctl = if self.has_bus_lock_detect { rdmsr(IA32_DEBUGCTL) } else { 0 };
        if self.xss != 0 {
            wrmsr(XSS, 0);
        }
        if debugctl != 0 {
            wrmsr(IA32_DEBUGCTL, 0);
        }
        if self.reduces_speculation {
            let config = rdmsr(BP_CFG);
            if config & BP_SPEC_REDUCE == 0 {
                // It stays set, since what the guest trained outlives the window; a loaded KVM clears it with its last
                // VM.
                wrmsr(BP_CFG, config | BP_SPEC_REDUCE);
            }
        }
        HiddenMsrs { xss: self.xss, debugctl }
    }
}

impl HiddenMsrs {
    /// Puts back what [`SvmQuirks::hide`] took away.
    pub(crate) fn show(self, mut wrmsr: impl FnMut(u32, u64)) {
        if self.xss != 0 {
            wrmsr(XSS, self.xss);
        }
        if self.debugctl != 0 {
            wrmsr(IA32_DEBUGCTL, self.debugctl);
        }
    }
}
