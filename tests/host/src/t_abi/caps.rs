// SPDX-License-Identifier: GPL-2.0

//! Capability numbers and answers.

use crate::abi::caps::{self, answer, CapInputs};

/// (name, ours, the header's).
const NUMBERS: &[(&str, u32, u32)] = &[
    ("IRQCHIP", caps::IRQCHIP, kvm_bindings::KVM_CAP_IRQCHIP),
    ("HLT", caps::HLT, kvm_bindings::KVM_CAP_HLT),
    ("USER_MEMORY", caps::USER_MEMORY, kvm_bindings::KVM_CAP_USER_MEMORY),
    ("SET_TSS_ADDR", caps::SET_TSS_ADDR, kvm_bindings::KVM_CAP_SET_TSS_ADDR),
    ("VAPIC", caps::VAPIC, kvm_bindings::KVM_CAP_VAPIC),
    ("EXT_CPUID", caps::EXT_CPUID, kvm_bindings::KVM_CAP_EXT_CPUID),
    ("CLOCKSOURCE", caps::CLOCKSOURCE, kvm_bindings::KVM_CAP_CLOCKSOURCE),
    ("NR_VCPUS", caps::NR_VCPUS, kvm_bindings::KVM_CAP_NR_VCPUS),
    ("NR_MEMSLOTS", caps::NR_MEMSLOTS, kvm_bindings::KVM_CAP_NR_MEMSLOTS),
    ("PIT", caps::PIT, kvm_bindings::KVM_CAP_PIT),
    ("NOP_IO_DELAY", caps::NOP_IO_DELAY, kvm_bindings::KVM_CAP_NOP_IO_DELAY),
    ("MP_STATE", caps::MP_STATE, kvm_bindings::KVM_CAP_MP_STATE),
    ("COALESCED_MMIO", caps::COALESCED_MMIO, kvm_bindings::KVM_CAP_COALESCED_MMIO),
    ("SYNC_MMU", caps::SYNC_MMU, kvm_bindings::KVM_CAP_SYNC_MMU),
    (
        "DESTROY_MEMORY_REGION_WORKS",
        caps::DESTROY_MEMORY_REGION_WORKS,
        kvm_bindings::KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
    ),
    ("USER_NMI", caps::USER_NMI, kvm_bindings::KVM_CAP_USER_NMI),
    ("SET_GUEST_DEBUG", caps::SET_GUEST_DEBUG, kvm_bindings::KVM_CAP_SET_GUEST_DEBUG),
    ("REINJECT_CONTROL", caps::REINJECT_CONTROL, kvm_bindings::KVM_CAP_REINJECT_CONTROL),
    ("IRQ_ROUTING", caps::IRQ_ROUTING, kvm_bindings::KVM_CAP_IRQ_ROUTING),
    ("IRQ_INJECT_STATUS", caps::IRQ_INJECT_STATUS, kvm_bindings::KVM_CAP_IRQ_INJECT_STATUS),
    (
        "JOIN_MEMORY_REGIONS_WORKS",
        caps::JOIN_MEMORY_REGIONS_WORKS,
        kvm_bindings::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
    ),
    ("MCE", caps::MCE, kvm_bindings::KVM_CAP_MCE),
    ("EXT_EMUL_CPUID", caps::EXT_EMUL_CPUID, kvm_bindings::KVM_CAP_EXT_EMUL_CPUID),
    ("IRQFD", caps::IRQFD, kvm_bindings::KVM_CAP_IRQFD),
    ("PIT2", caps::PIT2, kvm_bindings::KVM_CAP_PIT2),
    ("SET_BOOT_CPU_ID", caps::SET_BOOT_CPU_ID, kvm_bindings::KVM_CAP_SET_BOOT_CPU_ID),
    ("PIT_STATE2", caps::PIT_STATE2, kvm_bindings::KVM_CAP_PIT_STATE2),
    ("IOEVENTFD", caps::IOEVENTFD, kvm_bindings::KVM_CAP_IOEVENTFD),
    ("SET_IDENTITY_MAP_ADDR", caps::SET_IDENTITY_MAP_ADDR, kvm_bindings::KVM_CAP_SET_IDENTITY_MAP_ADDR),
    ("ADJUST_CLOCK", caps::ADJUST_CLOCK, kvm_bindings::KVM_CAP_ADJUST_CLOCK),
    ("INTERNAL_ERROR_DATA", caps::INTERNAL_ERROR_DATA, kvm_bindings::KVM_CAP_INTERNAL_ERROR_DATA),
    ("VCPU_EVENTS", caps::VCPU_EVENTS, kvm_bindings::KVM_CAP_VCPU_EVENTS),
    ("INTR_SHADOW", caps::INTR_SHADOW, kvm_bindings::KVM_CAP_INTR_SHADOW),
    ("DEBUGREGS", caps::DEBUGREGS, kvm_bindings::KVM_CAP_DEBUGREGS),
    ("X86_ROBUST_SINGLESTEP", caps::X86_ROBUST_SINGLESTEP, kvm_bindings::KVM_CAP_X86_ROBUST_SINGLESTEP),
    ("ENABLE_CAP", caps::ENABLE_CAP, kvm_bindings::KVM_CAP_ENABLE_CAP),
    ("XSAVE", caps::XSAVE, kvm_bindings::KVM_CAP_XSAVE),
    ("XCRS", caps::XCRS, kvm_bindings::KVM_CAP_XCRS),
    ("TSC_CONTROL", caps::TSC_CONTROL, kvm_bindings::KVM_CAP_TSC_CONTROL),
    ("GET_TSC_KHZ", caps::GET_TSC_KHZ, kvm_bindings::KVM_CAP_GET_TSC_KHZ),
    ("MAX_VCPUS", caps::MAX_VCPUS, kvm_bindings::KVM_CAP_MAX_VCPUS),
    ("TSC_DEADLINE_TIMER", caps::TSC_DEADLINE_TIMER, kvm_bindings::KVM_CAP_TSC_DEADLINE_TIMER),
    ("SYNC_REGS", caps::SYNC_REGS, kvm_bindings::KVM_CAP_SYNC_REGS),
    ("KVMCLOCK_CTRL", caps::KVMCLOCK_CTRL, kvm_bindings::KVM_CAP_KVMCLOCK_CTRL),
    ("SIGNAL_MSI", caps::SIGNAL_MSI, kvm_bindings::KVM_CAP_SIGNAL_MSI),
    ("READONLY_MEM", caps::READONLY_MEM, kvm_bindings::KVM_CAP_READONLY_MEM),
    ("IRQFD_RESAMPLE", caps::IRQFD_RESAMPLE, kvm_bindings::KVM_CAP_IRQFD_RESAMPLE),
    ("DEVICE_CTRL", caps::DEVICE_CTRL, kvm_bindings::KVM_CAP_DEVICE_CTRL),
    ("ENABLE_CAP_VM", caps::ENABLE_CAP_VM, kvm_bindings::KVM_CAP_ENABLE_CAP_VM),
    ("IOEVENTFD_NO_LENGTH", caps::IOEVENTFD_NO_LENGTH, kvm_bindings::KVM_CAP_IOEVENTFD_NO_LENGTH),
    ("CHECK_EXTENSION_VM", caps::CHECK_EXTENSION_VM, kvm_bindings::KVM_CAP_CHECK_EXTENSION_VM),
    ("DISABLE_QUIRKS", caps::DISABLE_QUIRKS, kvm_bindings::KVM_CAP_DISABLE_QUIRKS),
    ("DISABLE_QUIRKS2", caps::DISABLE_QUIRKS2, kvm_bindings::KVM_CAP_DISABLE_QUIRKS2),
    ("X86_DISABLE_EXITS", caps::X86_DISABLE_EXITS, kvm_bindings::KVM_CAP_X86_DISABLE_EXITS),
    ("HALT_POLL", caps::HALT_POLL, kvm_bindings::KVM_CAP_HALT_POLL),
    (
        "EXIT_ON_EMULATION_FAILURE",
        caps::EXIT_ON_EMULATION_FAILURE,
        kvm_bindings::KVM_CAP_EXIT_ON_EMULATION_FAILURE,
    ),
    ("COALESCED_PIO", caps::COALESCED_PIO, kvm_bindings::KVM_CAP_COALESCED_PIO),
    ("VCPU_ATTRIBUTES", caps::VCPU_ATTRIBUTES, kvm_bindings::KVM_CAP_VCPU_ATTRIBUTES),
    (
        "MMU_SHADOW_CACHE_CONTROL",
        caps::MMU_SHADOW_CACHE_CONTROL,
        kvm_bindings::KVM_CAP_MMU_SHADOW_CACHE_CONTROL,
    ),
    ("X86_SMM", caps::X86_SMM, kvm_bindings::KVM_CAP_X86_SMM),
    ("MULTI_ADDRESS_SPACE", caps::MULTI_ADDRESS_SPACE, kvm_bindings::KVM_CAP_MULTI_ADDRESS_SPACE),
    ("SPLIT_IRQCHIP", caps::SPLIT_IRQCHIP, kvm_bindings::KVM_CAP_SPLIT_IRQCHIP),
    ("IOEVENTFD_ANY_LENGTH", caps::IOEVENTFD_ANY_LENGTH, kvm_bindings::KVM_CAP_IOEVENTFD_ANY_LENGTH),
    ("MAX_VCPU_ID", caps::MAX_VCPU_ID, kvm_bindings::KVM_CAP_MAX_VCPU_ID),
    ("X2APIC_API", caps::X2APIC_API, kvm_bindings::KVM_CAP_X2APIC_API),
    ("IMMEDIATE_EXIT", caps::IMMEDIATE_EXIT, kvm_bindings::KVM_CAP_IMMEDIATE_EXIT),
    ("GET_MSR_FEATURES", caps::GET_MSR_FEATURES, kvm_bindings::KVM_CAP_GET_MSR_FEATURES),
    ("EXCEPTION_PAYLOAD", caps::EXCEPTION_PAYLOAD, kvm_bindings::KVM_CAP_EXCEPTION_PAYLOAD),
    (
        "MANUAL_DIRTY_LOG_PROTECT2",
        caps::MANUAL_DIRTY_LOG_PROTECT2,
        kvm_bindings::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    ),
    ("X86_USER_SPACE_MSR", caps::X86_USER_SPACE_MSR, kvm_bindings::KVM_CAP_X86_USER_SPACE_MSR),
    ("X86_MSR_FILTER", caps::X86_MSR_FILTER, kvm_bindings::KVM_CAP_X86_MSR_FILTER),
    ("SET_GUEST_DEBUG2", caps::SET_GUEST_DEBUG2, kvm_bindings::KVM_CAP_SET_GUEST_DEBUG2),
    ("SREGS2", caps::SREGS2, kvm_bindings::KVM_CAP_SREGS2),
    ("BINARY_STATS_FD", caps::BINARY_STATS_FD, kvm_bindings::KVM_CAP_BINARY_STATS_FD),
    ("XSAVE2", caps::XSAVE2, kvm_bindings::KVM_CAP_XSAVE2),
    ("SYS_ATTRIBUTES", caps::SYS_ATTRIBUTES, kvm_bindings::KVM_CAP_SYS_ATTRIBUTES),
    ("SYSTEM_EVENT_DATA", caps::SYSTEM_EVENT_DATA, kvm_bindings::KVM_CAP_SYSTEM_EVENT_DATA),
    ("X86_TRIPLE_FAULT_EVENT", caps::X86_TRIPLE_FAULT_EVENT, kvm_bindings::KVM_CAP_X86_TRIPLE_FAULT_EVENT),
    ("USER_MEMORY2", caps::USER_MEMORY2, kvm_bindings::KVM_CAP_USER_MEMORY2),
    ("VM_TYPES", caps::VM_TYPES, kvm_bindings::KVM_CAP_VM_TYPES),
    ("PRE_FAULT_MEMORY", caps::PRE_FAULT_MEMORY, kvm_bindings::KVM_CAP_PRE_FAULT_MEMORY),
    ("MSR_PLATFORM_INFO", caps::MSR_PLATFORM_INFO, kvm_bindings::KVM_CAP_MSR_PLATFORM_INFO),
    (
        "ENFORCE_PV_FEATURE_CPUID",
        caps::ENFORCE_PV_FEATURE_CPUID,
        kvm_bindings::KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
    ),
    ("DIRTY_LOG_RING", caps::DIRTY_LOG_RING, kvm_bindings::KVM_CAP_DIRTY_LOG_RING),
    ("DIRTY_LOG_RING_ACQ_REL", caps::DIRTY_LOG_RING_ACQ_REL, kvm_bindings::KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
    ("HYPERV", caps::HYPERV, kvm_bindings::KVM_CAP_HYPERV),
    ("HYPERV_VAPIC", caps::HYPERV_VAPIC, kvm_bindings::KVM_CAP_HYPERV_VAPIC),
    ("HYPERV_SPIN", caps::HYPERV_SPIN, kvm_bindings::KVM_CAP_HYPERV_SPIN),
    ("HYPERV_TIME", caps::HYPERV_TIME, kvm_bindings::KVM_CAP_HYPERV_TIME),
    ("HYPERV_SYNIC", caps::HYPERV_SYNIC, kvm_bindings::KVM_CAP_HYPERV_SYNIC),
    ("HYPERV_SYNIC2", caps::HYPERV_SYNIC2, kvm_bindings::KVM_CAP_HYPERV_SYNIC2),
    ("HYPERV_VP_INDEX", caps::HYPERV_VP_INDEX, kvm_bindings::KVM_CAP_HYPERV_VP_INDEX),
    ("HYPERV_EVENTFD", caps::HYPERV_EVENTFD, kvm_bindings::KVM_CAP_HYPERV_EVENTFD),
    ("HYPERV_TLBFLUSH", caps::HYPERV_TLBFLUSH, kvm_bindings::KVM_CAP_HYPERV_TLBFLUSH),
    ("HYPERV_SEND_IPI", caps::HYPERV_SEND_IPI, kvm_bindings::KVM_CAP_HYPERV_SEND_IPI),
    ("HYPERV_CPUID", caps::HYPERV_CPUID, kvm_bindings::KVM_CAP_HYPERV_CPUID),
    ("SYS_HYPERV_CPUID", caps::SYS_HYPERV_CPUID, kvm_bindings::KVM_CAP_SYS_HYPERV_CPUID),
    ("HYPERV_ENFORCE_CPUID", caps::HYPERV_ENFORCE_CPUID, kvm_bindings::KVM_CAP_HYPERV_ENFORCE_CPUID),
    ("X86_APIC_BUS_CYCLES_NS", caps::X86_APIC_BUS_CYCLES_NS, kvm_bindings::KVM_CAP_X86_APIC_BUS_CYCLES_NS),
];

fn full() -> CapInputs {
    CapInputs {
        run: true,
        host_cpus: 8,
        max_vcpus: 64,
        max_memslots: 512,
        mce_banks: 32,
        irqchip: true,
        split_irqchip: true,
        enable_cap: true,
        quirks: 0xf5,
        pit: true,
        irqfd: true,
        irqfd_resample: true,
        ioeventfd: true,
        clock: true,
        memory_region2: true,
        readonly_mem: true,
        manual_dirty_log: 3,
        dirty_ring: 1 << 20,
        xcrs: true,
        devices: true,
        tsc_scaling: true,
        sregs2: true,
        sync_regs: true,
        msr_features: true,
        stats: true,
        guest_debug: 7,
        apic_bus_ns: 1,
        hyperv: true,
        coalesced_page: 2,
    }
}

#[test]
fn capabilities_have_the_numbers_of_the_header() {
    for &(name, ours, header) in NUMBERS {
        assert_eq!(ours, header, "{name}");
    }
}

#[test]
fn a_module_that_can_nothing_answers_0_to_everything() {
    for cap in 0..1000 {
        assert_eq!(answer(cap, &CapInputs::default()), 0, "capability {cap}");
    }
}

#[test]
fn unknown_and_huge_numbers_answer_0() {
    for cap in [5, 17, 250, 0x7276_0000, 1 << 32, (1 << 32) + 3, u64::MAX] {
        assert_eq!(answer(cap, &full()), 0, "capability {cap:#x}");
    }
}

/// The capabilities without which QEMU does not start, found by taking each away.
#[test]
fn a_complete_module_has_what_qemu_needs() {
    for cap in [3, 4, 7, 14, 21, 25, 30, 31, 36, 37, 39, 40, 41, 50, 51, 55, 77, 122, 0, 32, 33, 35] {
        assert!(answer(cap, &full()) > 0, "capability {cap}");
    }
}

#[test]
fn numbers_are_answered_as_numbers() {
    let inputs = CapInputs { host_cpus: 128, ..full() };

    assert_eq!(answer(caps::NR_VCPUS.into(), &full()), 8);
    assert_eq!(answer(caps::NR_VCPUS.into(), &inputs), 64, "never more than the most");
    assert_eq!(answer(caps::MAX_VCPUS.into(), &full()), 64);
    assert_eq!(answer(caps::NR_MEMSLOTS.into(), &full()), 512);
    assert_eq!(answer(caps::IRQ_ROUTING.into(), &full()), 4096);
    assert_eq!(answer(caps::X2APIC_API.into(), &full()), 3);
    assert_eq!(answer(caps::DISABLE_QUIRKS2.into(), &full()), 0xf5);
    assert_eq!(answer(caps::NR_MEMSLOTS.into(), &CapInputs { max_memslots: u32::MAX, ..full() }), i32::MAX);
}
