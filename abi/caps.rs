// SPDX-License-Identifier: GPL-2.0

//! Capability numbers, and what KVM_CHECK_EXTENSION answers to them.
//!
//! A capability that is not in [`answer`] is 0. An answer other than 0 promises all of it: user space
//! never checks further.

use super::vm::{CLOCK_FLAGS, MAX_IRQ_ROUTES};

macro_rules! caps {
    ($($name:ident = $nr:literal,)*) => {
        $(
            #[doc = concat!("KVM_CAP_", stringify!($name), ".")]
            pub(crate) const $name: u32 = $nr;
        )*
    };
}

caps! {
    IRQCHIP = 0,
    HLT = 1,
    MMU_SHADOW_CACHE_CONTROL = 2,
    USER_MEMORY = 3,
    SET_TSS_ADDR = 4,
    VAPIC = 6,
    EXT_CPUID = 7,
    CLOCKSOURCE = 8,
    NR_VCPUS = 9,
    NR_MEMSLOTS = 10,
    PIT = 11,
    NOP_IO_DELAY = 12,
    MP_STATE = 14,
    COALESCED_MMIO = 15,
    SYNC_MMU = 16,
    DESTROY_MEMORY_REGION_WORKS = 21,
    USER_NMI = 22,
    SET_GUEST_DEBUG = 23,
    REINJECT_CONTROL = 24,
    IRQ_ROUTING = 25,
    IRQ_INJECT_STATUS = 26,
    JOIN_MEMORY_REGIONS_WORKS = 30,
    MCE = 31,
    IRQFD = 32,
    PIT2 = 33,
    SET_BOOT_CPU_ID = 34,
    PIT_STATE2 = 35,
    IOEVENTFD = 36,
    SET_IDENTITY_MAP_ADDR = 37,
    ADJUST_CLOCK = 39,
    INTERNAL_ERROR_DATA = 40,
    VCPU_EVENTS = 41,
    HYPERV = 44,
    HYPERV_VAPIC = 45,
    HYPERV_SPIN = 46,
    INTR_SHADOW = 49,
    DEBUGREGS = 50,
    X86_ROBUST_SINGLESTEP = 51,
    ENABLE_CAP = 54,
    XSAVE = 55,
    XCRS = 56,
    TSC_CONTROL = 60,
    GET_TSC_KHZ = 61,
    MAX_VCPUS = 66,
    TSC_DEADLINE_TIMER = 72,
    SYNC_REGS = 74,
    KVMCLOCK_CTRL = 76,
    SIGNAL_MSI = 77,
    READONLY_MEM = 81,
    IRQFD_RESAMPLE = 82,
    DEVICE_CTRL = 89,
    EXT_EMUL_CPUID = 95,
    HYPERV_TIME = 96,
    ENABLE_CAP_VM = 98,
    IOEVENTFD_NO_LENGTH = 100,
    CHECK_EXTENSION_VM = 105,
    DISABLE_QUIRKS = 116,
    X86_SMM = 117,
    MULTI_ADDRESS_SPACE = 118,
    SPLIT_IRQCHIP = 121,
    IOEVENTFD_ANY_LENGTH = 122,
    HYPERV_SYNIC = 123,
    VCPU_ATTRIBUTES = 127,
    MAX_VCPU_ID = 128,
    X2APIC_API = 129,
    IMMEDIATE_EXIT = 136,
    X86_DISABLE_EXITS = 143,
    HYPERV_SYNIC2 = 148,
    HYPERV_VP_INDEX = 149,
    GET_MSR_FEATURES = 153,
    HYPERV_EVENTFD = 154,
    HYPERV_TLBFLUSH = 155,
    MSR_PLATFORM_INFO = 159,
    HYPERV_SEND_IPI = 161,
    COALESCED_PIO = 162,
    EXCEPTION_PAYLOAD = 164,
    HYPERV_CPUID = 167,
    MANUAL_DIRTY_LOG_PROTECT2 = 168,
    HALT_POLL = 182,
    X86_USER_SPACE_MSR = 188,
    X86_MSR_FILTER = 189,
    ENFORCE_PV_FEATURE_CPUID = 190,
    SYS_HYPERV_CPUID = 191,
    DIRTY_LOG_RING = 192,
    SET_GUEST_DEBUG2 = 195,
    HYPERV_ENFORCE_CPUID = 199,
    SREGS2 = 200,
    BINARY_STATS_FD = 203,
    EXIT_ON_EMULATION_FAILURE = 204,
    XSAVE2 = 208,
    SYS_ATTRIBUTES = 209,
    DISABLE_QUIRKS2 = 213,
    SYSTEM_EVENT_DATA = 215,
    X86_TRIPLE_FAULT_EVENT = 218,
    DIRTY_LOG_RING_ACQ_REL = 223,
    USER_MEMORY2 = 231,
    VM_TYPES = 235,
    PRE_FAULT_MEMORY = 236,
    X86_APIC_BUS_CYCLES_NS = 237,
}

/// [`X2APIC_API`]: APIC ids are 32 bits wide in MSIs and in KVM_GET_LAPIC.
pub(crate) const X2APIC_API_USE_32BIT_IDS: u64 = 1 << 0;
/// [`X2APIC_API`]: the destination 0xff of MSIs means no local APIC in x2APIC mode but that of this id.
pub(crate) const X2APIC_API_DISABLE_BROADCAST_QUIRK: u64 = 1 << 1;
/// [`X2APIC_API`]: what can be chosen. The guest is never offered to end interrupts at the I/O APIC alone.
pub(crate) const X2APIC_API_FLAGS: u64 = X2APIC_API_USE_32BIT_IDS | X2APIC_API_DISABLE_BROADCAST_QUIRK;
/// [`X86_DISABLE_EXITS`]: HLT does not exit.
pub(crate) const DISABLE_EXITS_HLT: u64 = 1 << 1;
/// [`X86_DISABLE_EXITS`]: PAUSE does not exit.
pub(crate) const DISABLE_EXITS_PAUSE: u64 = 1 << 2;
/// [`X86_DISABLE_EXITS`]: what can be chosen. Guests are offered no MWAIT, and residency counters of no C-state.
pub(crate) const DISABLE_EXITS: u64 = DISABLE_EXITS_HLT | DISABLE_EXITS_PAUSE;

/// What the module has, as far as a capability depends on it. All false and 0 is a module that can do
/// nothing but say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CapInputs {
    /// vCPUs, registers, memory slots and KVM_RUN: tier 0.
    pub(crate) run: bool,
    /// CPUs of the host that are online: the recommended number of vCPUs.
    pub(crate) host_cpus: u32,
    /// The most vCPUs of a VM.
    pub(crate) max_vcpus: u32,
    /// The most memory slots of a VM.
    pub(crate) max_memslots: u32,
    /// Banks of machine-check registers.
    pub(crate) mce_banks: u32,
    /// Local APIC, I/O APIC and PICs, with routing and KVM_IRQ_LINE.
    pub(crate) irqchip: bool,
    /// A local APIC without the others.
    pub(crate) split_irqchip: bool,
    /// KVM_ENABLE_CAP, with what needs no device.
    pub(crate) enable_cap: bool,
    /// KVM's quirks that can be turned off, `KVM_X86_QUIRK_*`.
    pub(crate) quirks: u32,
    /// The PIT.
    pub(crate) pit: bool,
    /// KVM_IRQFD.
    pub(crate) irqfd: bool,
    /// KVM_IRQFD with a resamplefd.
    pub(crate) irqfd_resample: bool,
    /// KVM_IOEVENTFD, any length.
    pub(crate) ioeventfd: bool,
    /// KVM_GET_CLOCK and KVM_SET_CLOCK, and the paravirtual clock.
    pub(crate) clock: bool,
    /// KVM_SET_USER_MEMORY_REGION2.
    pub(crate) memory_region2: bool,
    /// Memory slots that the guest cannot write.
    pub(crate) readonly_mem: bool,
    /// What can be chosen of dirty logs that are cleared by hand; 0: nothing.
    pub(crate) manual_dirty_log: u32,
    /// The most bytes of a ring of dirty pages, 0 without them.
    pub(crate) dirty_ring: u32,
    /// KVM_GET_XCRS: the host has XSAVE.
    pub(crate) xcrs: bool,
    /// KVM_CREATE_DEVICE and the attributes of devices.
    pub(crate) devices: bool,
    /// The frequency of the TSC can be set for each vCPU.
    pub(crate) tsc_scaling: bool,
    /// KVM_GET_SREGS2 and KVM_SET_SREGS2.
    pub(crate) sregs2: bool,
    /// Registers in the shared page.
    pub(crate) sync_regs: bool,
    /// The flags of KVM_SET_GUEST_DEBUG; 0 without it.
    pub(crate) guest_debug: u32,
    /// KVM_GET_MSR_FEATURE_INDEX_LIST, and KVM_GET_MSRS on the node.
    pub(crate) msr_features: bool,
    /// KVM_GET_STATS_FD, on VMs and vCPUs.
    pub(crate) stats: bool,
    /// Nanoseconds of a period of the local APICs' input clock.
    pub(crate) apic_bus_ns: u32,
    /// Hyper-V's interface.
    pub(crate) hyperv: bool,
    /// Page of the mapping that holds the coalesced ring, 0 without it.
    pub(crate) coalesced_page: u32,
}

/// Returns what KVM_CHECK_EXTENSION answers for capability `cap`; 0 for all that is unknown.
pub(crate) fn answer(cap: u64, inputs: &CapInputs) -> i32 {
    let Ok(cap) = u32::try_from(cap) else { return 0 };
    match cap {
        NR_VCPUS => number(inputs.host_cpus.min(inputs.max_vcpus)),
        MAX_VCPUS | MAX_VCPU_ID => number(inputs.max_vcpus),
        NR_MEMSLOTS => number(inputs.max_memslots),
        MCE => number(inputs.mce_banks),
        IRQ_ROUTING if has_lapic(inputs) => number(MAX_IRQ_ROUTES),
        ADJUST_CLOCK if inputs.clock => number(CLOCK_FLAGS),
        COALESCED_MMIO => number(inputs.coalesced_page),
        SET_GUEST_DEBUG2 => number(inputs.guest_debug),
        MANUAL_DIRTY_LOG_PROTECT2 => number(inputs.manual_dirty_log),
        DIRTY_LOG_RING | DIRTY_LOG_RING_ACQ_REL => number(inputs.dirty_ring),
        X86_APIC_BUS_CYCLES_NS if has_lapic(inputs) => number(inputs.apic_bus_ns),
        X2APIC_API if has_lapic(inputs) => X2APIC_API_FLAGS as i32,
        DISABLE_QUIRKS2 => number(inputs.quirks),
        X86_DISABLE_EXITS if inputs.enable_cap => DISABLE_EXITS as i32,
        // The least that there is: no guest has more state than fits.
        XSAVE2 if inputs.run => 4096,
        // All sets that kvm_run has room for: registers, system registers, events.
        SYNC_REGS if inputs.sync_regs => 7,
        // A bit for each type: there is KVM_X86_DEFAULT_VM, which is 0.
        VM_TYPES if inputs.run => 1,
        _ => i32::from(is_present(cap, inputs)),
    }
}

fn has_lapic(inputs: &CapInputs) -> bool {
    inputs.irqchip || inputs.split_irqchip
}

fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Returns whether a capability is there that is answered by yes or no.
fn is_present(cap: u32, inputs: &CapInputs) -> bool {
    match cap {
        USER_MEMORY | EXT_CPUID | MP_STATE | SET_TSS_ADDR | SET_IDENTITY_MAP_ADDR => inputs.run,
        DESTROY_MEMORY_REGION_WORKS | JOIN_MEMORY_REGIONS_WORKS | SYNC_MMU => inputs.run,
        PRE_FAULT_MEMORY | INTERNAL_ERROR_DATA | VCPU_EVENTS | INTR_SHADOW | DEBUGREGS => inputs.run,
        X86_ROBUST_SINGLESTEP | XSAVE | GET_TSC_KHZ | IMMEDIATE_EXIT => inputs.run,
        CHECK_EXTENSION_VM | USER_NMI | SYSTEM_EVENT_DATA | EXT_EMUL_CPUID => inputs.run,
        HLT | IRQCHIP | IRQ_INJECT_STATUS => inputs.irqchip,
        SPLIT_IRQCHIP => inputs.split_irqchip,
        SIGNAL_MSI | TSC_DEADLINE_TIMER | VAPIC => has_lapic(inputs),
        ENABLE_CAP | ENABLE_CAP_VM | DISABLE_QUIRKS | EXCEPTION_PAYLOAD => inputs.enable_cap,
        X86_TRIPLE_FAULT_EVENT | HALT_POLL | EXIT_ON_EMULATION_FAILURE => inputs.enable_cap,
        SET_BOOT_CPU_ID => has_lapic(inputs),
        X86_USER_SPACE_MSR | X86_MSR_FILTER => inputs.enable_cap,
        MSR_PLATFORM_INFO | ENFORCE_PV_FEATURE_CPUID => inputs.enable_cap,
        PIT | PIT2 | PIT_STATE2 | REINJECT_CONTROL => inputs.pit,
        IRQFD => inputs.irqfd,
        IRQFD_RESAMPLE => inputs.irqfd_resample,
        IOEVENTFD | IOEVENTFD_NO_LENGTH | IOEVENTFD_ANY_LENGTH => inputs.ioeventfd,
        CLOCKSOURCE | KVMCLOCK_CTRL | NOP_IO_DELAY => inputs.clock,
        USER_MEMORY2 => inputs.memory_region2,
        READONLY_MEM => inputs.readonly_mem,
        XCRS => inputs.xcrs,
        DEVICE_CTRL => inputs.devices,
        TSC_CONTROL => inputs.tsc_scaling,
        SREGS2 => inputs.sregs2,
        VCPU_ATTRIBUTES | SYS_ATTRIBUTES | MMU_SHADOW_CACHE_CONTROL => inputs.run,
        HYPERV | HYPERV_VAPIC | HYPERV_SPIN | HYPERV_TIME | HYPERV_VP_INDEX => inputs.hyperv,
        HYPERV_CPUID | SYS_HYPERV_CPUID | HYPERV_ENFORCE_CPUID => inputs.hyperv,
        HYPERV_EVENTFD | HYPERV_TLBFLUSH | HYPERV_SEND_IPI => inputs.hyperv,
        HYPERV_SYNIC | HYPERV_SYNIC2 => inputs.hyperv,
        GET_MSR_FEATURES => inputs.msr_features,
        BINARY_STATS_FD => inputs.stats,
        COALESCED_PIO => inputs.coalesced_page != 0,
        SET_GUEST_DEBUG => inputs.guest_debug != 0,
        _ => false,
    }
}
