// SPDX-License-Identifier: GPL-2.0

//! What a guest's CPUID can be made to say of Hyper-V: KVM_GET_SUPPORTED_HV_CPUID.
//!
//! TLFS, "Feature and Interface Discovery". User space gives a vCPU what it likes of the list, in the place of KVM's own
//! leaves, which then go elsewhere.

use crate::abi::sys::CpuidEntry2;
use crate::arch::cpuid::{signature, CpuidRegs};
use crate::arch::hyperv::{
    leaf, HvFeatures, HvHints, HvPrivileges, ALLOW_KERNEL_DEBUGGING, HV_INTERFACE, NESTED_MSR_BITMAP,
};

/// As KVM's, for user space that looks who answers.
const VENDOR: [u32; 3] = signature(b"Linux KVM Hv");
/// Hyper-V of Windows Server 2016, whose functions these are: build, version.
const VERSION: [u32; 2] = [0x3839, 0x000a_0000];
/// How often a guest tries a lock before it says that it spins; as there.
const SPIN_TRIES: u32 = 0xfff;
/// The most logical processors; as there.
const LOGICAL_PROCESSORS: u32 = 64;
/// The debugger's interface: "VS#1".
const DEBUGGER_INTERFACE: u32 = u32::from_le_bytes(*b"VS#1");

/// What the list depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HvInputs {
    /// vCPUs have local APICs in the kernel.
    pub(crate) has_lapic: bool,
    /// Two CPUs of the host can share a core.
    pub(crate) shares_cores: bool,
    /// The most vCPUs.
    pub(crate) max_vcpus: u32,
}

/// Returns the leaves.
pub(crate) fn supported(inputs: &HvInputs) -> [CpuidEntry2; 10] {
    let [ebx, ecx, edx] = VENDOR;
    let eax = |eax: u32| CpuidRegs { eax, ..CpuidRegs::default() };
    let [build, version] = VERSION;
    [
        CpuidEntry2::leaf(leaf::VENDOR, CpuidRegs { eax: leaf::DEBUGGER, ebx, ecx, edx }),
        CpuidEntry2::leaf(leaf::INTERFACE, eax(HV_INTERFACE)),
        CpuidEntry2::leaf(leaf::VERSION, CpuidRegs { eax: build, ebx: version, ecx: 0, edx: 0 }),
        CpuidEntry2::leaf(leaf::FEATURES, features(inputs)),
        CpuidEntry2::leaf(leaf::HINTS, hints(inputs)),
        CpuidEntry2::leaf(
            leaf::LIMITS,
            CpuidRegs { eax: inputs.max_vcpus, ebx: LOGICAL_PROCESSORS, ecx: 0, edx: 0 },
        ),
        CpuidEntry2::leaf(leaf::DEBUGGER_VENDOR, CpuidRegs { eax: 0, ebx, ecx, edx }),
        CpuidEntry2::leaf(leaf::DEBUGGER_INTERFACE, eax(DEBUGGER_INTERFACE)),
        CpuidEntry2::leaf(leaf::DEBUGGER, eax(ALLOW_KERNEL_DEBUGGING)),
        // As KVM: said whether or not there is nested virtualization, without which it says nothing.
        CpuidEntry2::leaf(leaf::NESTED, eax(NESTED_MSR_BITMAP)),
    ]
}

fn features(inputs: &HvInputs) -> CpuidRegs {
    let privileges = HvPrivileges::VP_RUNTIME
        | HvPrivileges::TIME_REF_COUNT
        | HvPrivileges::SYNIC
        | HvPrivileges::TIMERS
        | HvPrivileges::APIC
        | HvPrivileges::HYPERCALL
        | HvPrivileges::VP_INDEX
        | HvPrivileges::RESET
        | HvPrivileges::REFERENCE_TSC
        | HvPrivileges::FREQUENCIES
        | HvPrivileges::REENLIGHTENMENT
        | HvPrivileges::TSC_INVARIANT
        | HvPrivileges::POST_MESSAGES
        | HvPrivileges::SIGNAL_EVENTS
        | HvPrivileges::DEBUGGING
        | HvPrivileges::EXTENDED_HYPERCALLS;
    let mut features = HvFeatures::XMM_INPUT
        | HvFeatures::FREQUENCY_MSRS
        | HvFeatures::EXTENDED_GVA_RANGES
        | HvFeatures::CRASH_MSRS
        | HvFeatures::GUEST_DEBUGGING
        | HvFeatures::DEBUG_MSRS;
    features.set(HvFeatures::DIRECT_TIMERS, inputs.has_lapic);
    CpuidRegs {
        eax: privileges.bits() as u32,
        ebx: (privileges.bits() >> 32) as u32,
        ecx: 0,
        edx: features.bits(),
    }
}

fn hints(inputs: &HvInputs) -> CpuidRegs {
    let mut hints = HvHints::REMOTE_FLUSH
        | HvHints::APIC_MSRS
        | HvHints::RELAXED_TIMING
        | HvHints::SPARSE_SETS
        | HvHints::NO_AUTO_EOI;
    hints.set(HvHints::CLUSTER_IPI, inputs.has_lapic);
    hints.set(HvHints::NO_CORE_SHARING, !inputs.shares_cores);
    CpuidRegs { eax: hints.bits(), ebx: SPIN_TRIES, ecx: 0, edx: 0 }
}
