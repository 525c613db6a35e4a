// SPDX-License-Identifier: GPL-2.0

//! Request numbers, as the C macros of linux/kvm.h give them.

use crate::abi::{nr, rvmm};

/// (name, ours, the number that a C compiler printed from the header).
const NUMBERS: &[(&str, u32, u32)] = &[
    ("GET_API_VERSION", nr::GET_API_VERSION, 0x0000ae00),
    ("CREATE_VM", nr::CREATE_VM, 0x0000ae01),
    ("CHECK_EXTENSION", nr::CHECK_EXTENSION, 0x0000ae03),
    ("GET_VCPU_MMAP_SIZE", nr::GET_VCPU_MMAP_SIZE, 0x0000ae04),
    ("GET_MSR_INDEX_LIST", nr::GET_MSR_INDEX_LIST, 0xc004ae02),
    ("GET_SUPPORTED_CPUID", nr::GET_SUPPORTED_CPUID, 0xc008ae05),
    ("GET_EMULATED_CPUID", nr::GET_EMULATED_CPUID, 0xc008ae09),
    ("GET_SUPPORTED_HV_CPUID", nr::GET_SUPPORTED_HV_CPUID, 0xc008aec1),
    ("HYPERV_EVENTFD", nr::HYPERV_EVENTFD, 0x4018aebd),
    ("GET_MSR_FEATURE_INDEX_LIST", nr::GET_MSR_FEATURE_INDEX_LIST, 0xc004ae0a),
    ("X86_GET_MCE_CAP_SUPPORTED", nr::X86_GET_MCE_CAP_SUPPORTED, 0x8008ae9d),
    ("CREATE_VCPU", nr::CREATE_VCPU, 0x0000ae41),
    ("SET_USER_MEMORY_REGION", nr::SET_USER_MEMORY_REGION, 0x4020ae46),
    ("SET_USER_MEMORY_REGION2", nr::SET_USER_MEMORY_REGION2, 0x40a0ae49),
    ("SET_TSS_ADDR", nr::SET_TSS_ADDR, 0x0000ae47),
    ("SET_IDENTITY_MAP_ADDR", nr::SET_IDENTITY_MAP_ADDR, 0x4008ae48),
    ("SET_NR_MMU_PAGES", nr::SET_NR_MMU_PAGES, 0x0000ae44),
    ("GET_NR_MMU_PAGES", nr::GET_NR_MMU_PAGES, 0x0000ae45),
    ("GET_DIRTY_LOG", nr::GET_DIRTY_LOG, 0x4010ae42),
    ("CLEAR_DIRTY_LOG", nr::CLEAR_DIRTY_LOG, 0xc018aec0),
    ("RESET_DIRTY_RINGS", nr::RESET_DIRTY_RINGS, 0x0000aec7),
    ("ENABLE_CAP", nr::ENABLE_CAP, 0x4068aea3),
    ("GET_CLOCK", nr::GET_CLOCK, 0x8030ae7c),
    ("SET_CLOCK", nr::SET_CLOCK, 0x4030ae7b),
    ("SET_BOOT_CPU_ID", nr::SET_BOOT_CPU_ID, 0x0000ae78),
    ("X86_SET_MSR_FILTER", nr::X86_SET_MSR_FILTER, 0x4188aec6),
    ("CREATE_IRQCHIP", nr::CREATE_IRQCHIP, 0x0000ae60),
    ("IRQ_LINE", nr::IRQ_LINE, 0x4008ae61),
    ("IRQ_LINE_STATUS", nr::IRQ_LINE_STATUS, 0xc008ae67),
    ("GET_IRQCHIP", nr::GET_IRQCHIP, 0xc208ae62),
    ("SET_IRQCHIP", nr::SET_IRQCHIP, 0x8208ae63),
    ("CREATE_PIT", nr::CREATE_PIT, 0x0000ae64),
    ("GET_PIT", nr::GET_PIT, 0xc048ae65),
    ("SET_PIT", nr::SET_PIT, 0x8048ae66),
    ("CREATE_PIT2", nr::CREATE_PIT2, 0x4040ae77),
    ("GET_PIT2", nr::GET_PIT2, 0x8070ae9f),
    ("SET_PIT2", nr::SET_PIT2, 0x4070aea0),
    ("REINJECT_CONTROL", nr::REINJECT_CONTROL, 0x0000ae71),
    ("SET_GSI_ROUTING", nr::SET_GSI_ROUTING, 0x4008ae6a),
    ("IRQFD", nr::IRQFD, 0x4020ae76),
    ("IOEVENTFD", nr::IOEVENTFD, 0x4040ae79),
    ("SIGNAL_MSI", nr::SIGNAL_MSI, 0x4020aea5),
    ("REGISTER_COALESCED_MMIO", nr::REGISTER_COALESCED_MMIO, 0x4010ae67),
    ("UNREGISTER_COALESCED_MMIO", nr::UNREGISTER_COALESCED_MMIO, 0x4010ae68),
    ("CREATE_DEVICE", nr::CREATE_DEVICE, 0xc00caee0),
    ("SET_DEVICE_ATTR", nr::SET_DEVICE_ATTR, 0x4018aee1),
    ("GET_DEVICE_ATTR", nr::GET_DEVICE_ATTR, 0x4018aee2),
    ("HAS_DEVICE_ATTR", nr::HAS_DEVICE_ATTR, 0x4018aee3),
    ("RUN", nr::RUN, 0x0000ae80),
    ("GET_REGS", nr::GET_REGS, 0x8090ae81),
    ("SET_REGS", nr::SET_REGS, 0x4090ae82),
    ("GET_SREGS", nr::GET_SREGS, 0x8138ae83),
    ("SET_SREGS", nr::SET_SREGS, 0x4138ae84),
    ("GET_SREGS2", nr::GET_SREGS2, 0x8140aecc),
    ("SET_SREGS2", nr::SET_SREGS2, 0x4140aecd),
    ("TRANSLATE", nr::TRANSLATE, 0xc018ae85),
    ("INTERRUPT", nr::INTERRUPT, 0x4004ae86),
    ("GET_MSRS", nr::GET_MSRS, 0xc008ae88),
    ("SET_MSRS", nr::SET_MSRS, 0x4008ae89),
    ("SET_CPUID", nr::SET_CPUID, 0x4008ae8a),
    ("SET_CPUID2", nr::SET_CPUID2, 0x4008ae90),
    ("GET_CPUID2", nr::GET_CPUID2, 0xc008ae91),
    ("SET_SIGNAL_MASK", nr::SET_SIGNAL_MASK, 0x4004ae8b),
    ("GET_FPU", nr::GET_FPU, 0x81a0ae8c),
    ("SET_FPU", nr::SET_FPU, 0x41a0ae8d),
    ("GET_LAPIC", nr::GET_LAPIC, 0x8400ae8e),
    ("SET_LAPIC", nr::SET_LAPIC, 0x4400ae8f),
    ("TPR_ACCESS_REPORTING", nr::TPR_ACCESS_REPORTING, 0xc028ae92),
    ("SET_VAPIC_ADDR", nr::SET_VAPIC_ADDR, 0x4008ae93),
    ("GET_MP_STATE", nr::GET_MP_STATE, 0x8004ae98),
    ("SET_MP_STATE", nr::SET_MP_STATE, 0x4004ae99),
    ("NMI", nr::NMI, 0x0000ae9a),
    ("SMI", nr::SMI, 0x0000aeb7),
    ("SET_GUEST_DEBUG", nr::SET_GUEST_DEBUG, 0x4048ae9b),
    ("X86_SETUP_MCE", nr::X86_SETUP_MCE, 0x4008ae9c),
    ("X86_SET_MCE", nr::X86_SET_MCE, 0x4040ae9e),
    ("GET_VCPU_EVENTS", nr::GET_VCPU_EVENTS, 0x8040ae9f),
    ("SET_VCPU_EVENTS", nr::SET_VCPU_EVENTS, 0x4040aea0),
    ("GET_DEBUGREGS", nr::GET_DEBUGREGS, 0x8080aea1),
    ("SET_DEBUGREGS", nr::SET_DEBUGREGS, 0x4080aea2),
    ("GET_XSAVE", nr::GET_XSAVE, 0x9000aea4),
    ("SET_XSAVE", nr::SET_XSAVE, 0x5000aea5),
    ("GET_XSAVE2", nr::GET_XSAVE2, 0x9000aecf),
    ("GET_XCRS", nr::GET_XCRS, 0x8188aea6),
    ("SET_XCRS", nr::SET_XCRS, 0x4188aea7),
    ("SET_TSC_KHZ", nr::SET_TSC_KHZ, 0x0000aea2),
    ("GET_TSC_KHZ", nr::GET_TSC_KHZ, 0x0000aea3),
    ("KVMCLOCK_CTRL", nr::KVMCLOCK_CTRL, 0x0000aead),
    ("GET_ONE_REG", nr::GET_ONE_REG, 0x4010aeab),
    ("SET_ONE_REG", nr::SET_ONE_REG, 0x4010aeac),
    ("GET_REG_LIST", nr::GET_REG_LIST, 0xc008aeb0),
    ("GET_NESTED_STATE", nr::GET_NESTED_STATE, 0xc080aebe),
    ("SET_NESTED_STATE", nr::SET_NESTED_STATE, 0x4080aebf),
    ("PRE_FAULT_MEMORY", nr::PRE_FAULT_MEMORY, 0xc040aed5),
    ("GET_STATS_FD", nr::GET_STATS_FD, 0x0000aece),
];

#[test]
fn requests_have_the_numbers_of_the_header() {
    for &(name, ours, header) in NUMBERS {
        assert_eq!(ours, header, "{name}: {ours:#010x} is not {header:#010x}");
    }
}

#[test]
fn a_request_tells_the_size_of_its_struct() {
    assert_eq!(nr::size_of_request(nr::GET_REGS), 144);
    assert_eq!(nr::size_of_request(nr::GET_XSAVE), 4096);
    assert_eq!(nr::size_of_request(nr::RUN), 0);
}

#[test]
fn the_request_of_rvmm_is_one_without_a_struct() {
    assert_eq!(rvmm::DEV_RUN, 0xae << 8 | 0xf0);
    assert!(NUMBERS.iter().all(|&(_, ours, _)| ours & 0xffff != rvmm::DEV_RUN));
}
