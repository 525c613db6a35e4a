// SPDX-License-Identifier: GPL-2.0

//! What a guest may use of Hyper-V's interface: all of it where its CPUID names the interface, or what CPUID offers where
//! user space insists on that. Documentation of KVM's API, "KVM_CAP_HYPERV_ENFORCE_CPUID".

use crate::arch::hyperv::{
    hypercall, leaf, HvFeatures, HvHints, HvMsr, HvPrivileges, ALLOW_KERNEL_DEBUGGING, HV_INTERFACE,
};
use crate::vcpu::cpuid::CpuidTable;

/// See the module's description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HvRights {
    /// CPUID names the interface.
    pub(crate) is_present: bool,
    /// What CPUID does not offer is refused.
    pub(crate) is_enforced: bool,
    privileges: HvPrivileges,
    features: HvFeatures,
    hints: HvHints,
    /// How often the guest tries a lock before it says that it spins.
    spin_tries: u32,
    /// There is a debugger.
    has_debugger: bool,
}

impl HvRights {
    /// Returns what a CPUID table says; whether that is insisted on stays.
    pub(crate) fn with_cpuid(self, table: &CpuidTable) -> HvRights {
        let HvRights { is_enforced, .. } = self;
        if table.regs_of(leaf::INTERFACE).eax != HV_INTERFACE {
            return HvRights { is_enforced, ..HvRights::default() };
        }
        let features = table.regs_of(leaf::FEATURES);
        let hints = table.regs_of(leaf::HINTS);
        let privileges = u64::from(features.ebx) << 32 | u64::from(features.eax);
        HvRights {
            is_present: true,
            is_enforced,
            privileges: HvPrivileges::from_bits_retain(privileges),
            features: HvFeatures::from_bits_retain(features.edx),
            hints: HvHints::from_bits_retain(hints.eax),
            spin_tries: hints.ebx,
            has_debugger: table.regs_of(leaf::DEBUGGER).eax & ALLOW_KERNEL_DEBUGGING != 0,
        }
    }

    /// Returns whether the guest may use an MSR.
    pub(crate) fn allows(&self, msr: HvMsr) -> bool {
        if !self.is_enforced || !self.is_present {
            return self.is_present;
        }
        let privilege = match msr {
            HvMsr::GuestOsId | HvMsr::HypercallPage => HvPrivileges::HYPERCALL,
            HvMsr::VpRuntime => HvPrivileges::VP_RUNTIME,
            HvMsr::TimeRefCount => HvPrivileges::TIME_REF_COUNT,
            HvMsr::VpIndex => HvPrivileges::VP_INDEX,
            HvMsr::Reset => HvPrivileges::RESET,
            HvMsr::ReferenceTsc => HvPrivileges::REFERENCE_TSC,
            HvMsr::Synic(_) => HvPrivileges::SYNIC,
            HvMsr::TimerConfig(_) | HvMsr::TimerCount(_) => HvPrivileges::TIMERS,
            HvMsr::Eoi | HvMsr::Icr | HvMsr::Tpr | HvMsr::AssistPage => HvPrivileges::APIC,
            HvMsr::TscFrequency | HvMsr::ApicFrequency => HvPrivileges::FREQUENCIES,
            HvMsr::Reenlightenment | HvMsr::TscEmulationControl | HvMsr::TscEmulationStatus => {
                HvPrivileges::REENLIGHTENMENT
            }
            HvMsr::TscInvariantControl => HvPrivileges::TSC_INVARIANT,
            HvMsr::CrashParameter(_) | HvMsr::CrashControl => {
                return self.features.contains(HvFeatures::CRASH_MSRS)
            }
            HvMsr::Debugger(_) => return self.features.contains(HvFeatures::DEBUG_MSRS),
        };
        self.privileges.contains(privilege)
    }

    /// Returns whether the guest may make a hypercall.
    pub(crate) fn allows_call(&self, code: u16) -> bool {
        if !self.is_enforced {
            return true;
        }
        let has = |hints: HvHints| self.hints.contains(hints);
        match code {
            hypercall::LONG_SPIN_WAIT => !matches!(self.spin_tries, 0 | u32::MAX),
            hypercall::POST_MESSAGE => self.privileges.contains(HvPrivileges::POST_MESSAGES),
            hypercall::SIGNAL_EVENT => self.privileges.contains(HvPrivileges::SIGNAL_EVENTS),
            // Where there is no debugger, there are no such calls, which is another answer.
            hypercall::POST_DEBUG_DATA..=hypercall::RESET_DEBUG_SESSION => {
                !self.has_debugger || self.privileges.contains(HvPrivileges::DEBUGGING)
            }
            hypercall::FLUSH_SPACE | hypercall::FLUSH_LIST => has(HvHints::REMOTE_FLUSH),
            hypercall::FLUSH_SPACE_EX | hypercall::FLUSH_LIST_EX => {
                has(HvHints::REMOTE_FLUSH | HvHints::SPARSE_SETS)
            }
            hypercall::SEND_IPI => has(HvHints::CLUSTER_IPI),
            hypercall::SEND_IPI_EX => has(HvHints::CLUSTER_IPI | HvHints::SPARSE_SETS),
            hypercall::QUERY_CAPABILITIES..=hypercall::LAST_EXTENDED => {
                self.privileges.contains(HvPrivileges::EXTENDED_HYPERCALLS)
            }
            _ => true,
        }
    }

    /// Returns whether hypercalls may have input in XMM registers.
    pub(crate) fn allows_xmm_input(&self) -> bool {
        !self.is_enforced || self.features.contains(HvFeatures::XMM_INPUT)
    }

    /// Returns whether timers may raise a vector instead of sending a message.
    pub(crate) fn allows_direct_timers(&self) -> bool {
        !self.is_enforced || self.features.contains(HvFeatures::DIRECT_TIMERS)
    }

    /// Returns whether CPUID shows the debugger.
    pub(crate) fn has_debugger(&self) -> bool {
        self.has_debugger
    }

    /// Returns whether it is for the guest to have CPUID say that the TSC's frequency is constant.
    pub(crate) fn controls_invariant_tsc(&self) -> bool {
        self.privileges.contains(HvPrivileges::TSC_INVARIANT)
    }
}
