// SPDX-License-Identifier: GPL-2.0

//! Every ioctl that the module knows: its name and number, what it is for, and what its argument looks like.
//! scripts/tests/test_fuzz_ioctl.py compares the list with the module's own.

/// What kind of file an ioctl is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The node.
    System,
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
    /// A device.
    Device,
}

/// What an argument looks like where it is nearly right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// 0.
    Nothing,
    /// A number.
    Number,
    /// A structure of any bytes.
    Bytes,
    /// A structure that begins with a small number.
    Small,
    /// What this ioctl reads, changed.
    Change(u32),
    /// A memory slot.
    Memory,
    /// A count and GSI routes.
    Routing,
    /// An eventfd and a GSI.
    Irqfd,
    /// An eventfd and an address.
    Ioeventfd,
    /// A GSI and its level.
    Line,
    /// An MSI.
    Message,
    /// A type of device.
    NewDevice,
    /// A device's attribute.
    Attribute,
    /// A count and MSRs.
    Msrs,
    /// A count and CPUID leaves, or indices.
    Cpuid,
    /// A chip's number and its state.
    Chip,
}

/// Name, number, target, shape of the argument.
pub type Row = (&'static str, u32, Target, Shape);

use Shape::*;
use Target::*;

/// The ioctls.
#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    ("GET_API_VERSION", 0x0000_ae00, System, Number),
    ("CREATE_VM", 0x0000_ae01, System, Nothing),
    ("CHECK_EXTENSION", 0x0000_ae03, System, Number),
    ("GET_VCPU_MMAP_SIZE", 0x0000_ae04, System, Number),
    ("GET_MSR_INDEX_LIST", 0xc004_ae02, System, Cpuid),
    ("GET_SUPPORTED_CPUID", 0xc008_ae05, System, Cpuid),
    ("GET_EMULATED_CPUID", 0xc008_ae09, System, Cpuid),
    ("GET_MSR_FEATURE_INDEX_LIST", 0xc004_ae0a, System, Cpuid),
    ("X86_GET_MCE_CAP_SUPPORTED", 0x8008_ae9d, System, Bytes),
    ("CREATE_VCPU", 0x0000_ae41, Vm, Number),
    ("SET_USER_MEMORY_REGION", 0x4020_ae46, Vm, Memory),
    ("SET_USER_MEMORY_REGION2", 0x40a0_ae49, Vm, Memory),
    ("SET_TSS_ADDR", 0x0000_ae47, Vm, Number),
    ("SET_IDENTITY_MAP_ADDR", 0x4008_ae48, Vm, Bytes),
    ("SET_NR_MMU_PAGES", 0x0000_ae44, Vm, Number),
    ("GET_NR_MMU_PAGES", 0x0000_ae45, Vm, Number),
    ("GET_DIRTY_LOG", 0x4010_ae42, Vm, Bytes),
    ("CLEAR_DIRTY_LOG", 0xc018_aec0, Vm, Bytes),
    ("RESET_DIRTY_RINGS", 0x0000_aec7, Vm, Number),
    ("ENABLE_CAP", 0x4068_aea3, Vm, Bytes),
    ("GET_CLOCK", 0x8030_ae7c, Vm, Bytes),
    ("SET_CLOCK", 0x4030_ae7b, Vm, Change(0x8030_ae7c)),
    ("SET_BOOT_CPU_ID", 0x0000_ae78, Vm, Number),
    ("X86_SET_MSR_FILTER", 0x4188_aec6, Vm, Bytes),
    ("CREATE_IRQCHIP", 0x0000_ae60, Vm, Nothing),
    ("IRQ_LINE", 0x4008_ae61, Vm, Line),
    ("IRQ_LINE_STATUS", 0xc008_ae67, Vm, Line),
    ("GET_IRQCHIP", 0xc208_ae62, Vm, Chip),
    ("SET_IRQCHIP", 0x8208_ae63, Vm, Chip),
    ("CREATE_PIT", 0x0000_ae64, Vm, Number),
    ("GET_PIT", 0xc048_ae65, Vm, Bytes),
    ("SET_PIT", 0x8048_ae66, Vm, Change(0xc048_ae65)),
    ("CREATE_PIT2", 0x4040_ae77, Vm, Bytes),
    ("GET_PIT2", 0x8070_ae9f, Vm, Bytes),
    ("SET_PIT2", 0x4070_aea0, Vm, Change(0x8070_ae9f)),
    ("REINJECT_CONTROL", 0x0000_ae71, Vm, Small),
    ("SET_GSI_ROUTING", 0x4008_ae6a, Vm, Routing),
    ("IRQFD", 0x4020_ae76, Vm, Irqfd),
    ("IOEVENTFD", 0x4040_ae79, Vm, Ioeventfd),
    ("SIGNAL_MSI", 0x4020_aea5, Vm, Message),
    ("REGISTER_COALESCED_MMIO", 0x4010_ae67, Vm, Bytes),
    ("UNREGISTER_COALESCED_MMIO", 0x4010_ae68, Vm, Bytes),
    ("CREATE_DEVICE", 0xc00c_aee0, Vm, NewDevice),
    ("SET_DEVICE_ATTR", 0x4018_aee1, Device, Attribute),
    ("GET_DEVICE_ATTR", 0x4018_aee2, Device, Attribute),
    ("HAS_DEVICE_ATTR", 0x4018_aee3, Device, Attribute),
    ("RUN", 0x0000_ae80, Vcpu, Nothing),
    ("GET_REGS", 0x8090_ae81, Vcpu, Bytes),
    ("SET_REGS", 0x4090_ae82, Vcpu, Change(0x8090_ae81)),
    ("GET_SREGS", 0x8138_ae83, Vcpu, Bytes),
    ("SET_SREGS", 0x4138_ae84, Vcpu, Change(0x8138_ae83)),
    ("GET_SREGS2", 0x8140_aecc, Vcpu, Bytes),
    ("SET_SREGS2", 0x4140_aecd, Vcpu, Change(0x8140_aecc)),
    ("TRANSLATE", 0xc018_ae85, Vcpu, Bytes),
    ("INTERRUPT", 0x4004_ae86, Vcpu, Small),
    ("GET_MSRS", 0xc008_ae88, Vcpu, Msrs),
    ("SET_MSRS", 0x4008_ae89, Vcpu, Msrs),
    ("SET_CPUID", 0x4008_ae8a, Vcpu, Cpuid),
    ("SET_CPUID2", 0x4008_ae90, Vcpu, Cpuid),
    ("GET_CPUID2", 0xc008_ae91, Vcpu, Cpuid),
    ("SET_SIGNAL_MASK", 0x4004_ae8b, Vcpu, Bytes),
    ("GET_FPU", 0x81a0_ae8c, Vcpu, Bytes),
    ("SET_FPU", 0x41a0_ae8d, Vcpu, Change(0x81a0_ae8c)),
    ("GET_LAPIC", 0x8400_ae8e, Vcpu, Bytes),
    ("SET_LAPIC", 0x4400_ae8f, Vcpu, Change(0x8400_ae8e)),
    ("TPR_ACCESS_REPORTING", 0xc028_ae92, Vcpu, Bytes),
    ("SET_VAPIC_ADDR", 0x4008_ae93, Vcpu, Bytes),
    ("GET_MP_STATE", 0x8004_ae98, Vcpu, Bytes),
    ("SET_MP_STATE", 0x4004_ae99, Vcpu, Small),
    ("NMI", 0x0000_ae9a, Vcpu, Nothing),
    ("SMI", 0x0000_aeb7, Vcpu, Number),
    ("SET_GUEST_DEBUG", 0x4048_ae9b, Vcpu, Bytes),
    ("X86_SETUP_MCE", 0x4008_ae9c, Vcpu, Bytes),
    ("X86_SET_MCE", 0x4040_ae9e, Vcpu, Bytes),
    ("GET_VCPU_EVENTS", 0x8040_ae9f, Vcpu, Bytes),
    ("SET_VCPU_EVENTS", 0x4040_aea0, Vcpu, Change(0x8040_ae9f)),
    ("GET_DEBUGREGS", 0x8080_aea1, Vcpu, Bytes),
    ("SET_DEBUGREGS", 0x4080_aea2, Vcpu, Change(0x8080_aea1)),
    ("GET_XSAVE", 0x9000_aea4, Vcpu, Bytes),
    ("SET_XSAVE", 0x5000_aea5, Vcpu, Change(0x9000_aea4)),
    ("GET_XSAVE2", 0x9000_aecf, Vcpu, Bytes),
    ("GET_XCRS", 0x8188_aea6, Vcpu, Bytes),
    ("SET_XCRS", 0x4188_aea7, Vcpu, Change(0x8188_aea6)),
    ("SET_TSC_KHZ", 0x0000_aea2, Vcpu, Number),
    ("GET_TSC_KHZ", 0x0000_aea3, Vcpu, Number),
    ("KVMCLOCK_CTRL", 0x0000_aead, Vcpu, Number),
    ("GET_ONE_REG", 0x4010_aeab, Vcpu, Bytes),
    ("SET_ONE_REG", 0x4010_aeac, Vcpu, Change(0x4010_aeab)),
    ("GET_REG_LIST", 0xc008_aeb0, Vcpu, Bytes),
    ("GET_NESTED_STATE", 0xc080_aebe, Vcpu, Bytes),
    ("SET_NESTED_STATE", 0x4080_aebf, Vcpu, Change(0xc080_aebe)),
    ("GET_STATS_FD", 0x0000_aece, Vcpu, Nothing),
    ("DEV_RUN", 0x0000_aef0, Device, Number),
    ("GET_EXITS", 0x8808_aef1, Vcpu, Bytes),
];
