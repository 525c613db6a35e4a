// SPDX-License-Identifier: GPL-2.0

//! The ioctl request numbers, computed from the sizes of the structs as the C macros do.
//!
//! A request is the direction in bits 31:30, the struct's size in 29:16, the letter 0xAE in 15:8 and the
//! command in 7:0. Where a number serves both a VM and a vCPU, it stands here once.

use super::{sys, vcpu, vm};
use core::mem::size_of;

/// The letter of all requests.
const KVMIO: u32 = 0xae;
/// The caller's struct is read.
const WRITE: u32 = 1;
/// The caller's struct is written.
const READ: u32 = 2;

const fn request(direction: u32, command: u32, size: usize) -> u32 {
    assert!(size < 1 << 14 && command < 1 << 8);
    direction << 30 | (size as u32) << 16 | KVMIO << 8 | command
}

/// A request without a struct; its argument, if any, is a number.
const fn io(command: u32) -> u32 {
    request(0, command, 0)
}

/// A request that fills the caller's `T`.
const fn ior<T>(command: u32) -> u32 {
    request(READ, command, size_of::<T>())
}

/// A request that takes the caller's `T`.
const fn iow<T>(command: u32) -> u32 {
    request(WRITE, command, size_of::<T>())
}

/// A request that takes the caller's `T` and changes it.
const fn iowr<T>(command: u32) -> u32 {
    request(READ | WRITE, command, size_of::<T>())
}

/// Returns the size of the struct in a request number.
pub(crate) const fn size_of_request(request: u32) -> usize {
    (request >> 16 & 0x3fff) as usize
}

// Ioctls of the `/dev` node.

/// KVM_GET_API_VERSION.
pub(crate) const GET_API_VERSION: u32 = io(0x00);
/// KVM_CREATE_VM.
pub(crate) const CREATE_VM: u32 = io(0x01);
/// KVM_CHECK_EXTENSION.
pub(crate) const CHECK_EXTENSION: u32 = io(0x03);
/// KVM_GET_VCPU_MMAP_SIZE.
pub(crate) const GET_VCPU_MMAP_SIZE: u32 = io(0x04);
/// KVM_GET_MSR_INDEX_LIST.
pub(crate) const GET_MSR_INDEX_LIST: u32 = iowr::<sys::MsrList>(0x02);
/// KVM_GET_SUPPORTED_CPUID.
pub(crate) const GET_SUPPORTED_CPUID: u32 = iowr::<sys::Cpuid2>(0x05);
/// KVM_GET_EMULATED_CPUID.
pub(crate) const GET_EMULATED_CPUID: u32 = iowr::<sys::Cpuid2>(0x09);
/// KVM_GET_SUPPORTED_HV_CPUID; also a vCPU's.
pub(crate) const GET_SUPPORTED_HV_CPUID: u32 = iowr::<sys::Cpuid2>(0xc1);
/// KVM_GET_MSR_FEATURE_INDEX_LIST.
pub(crate) const GET_MSR_FEATURE_INDEX_LIST: u32 = iowr::<sys::MsrList>(0x0a);
/// KVM_X86_GET_MCE_CAP_SUPPORTED.
pub(crate) const X86_GET_MCE_CAP_SUPPORTED: u32 = ior::<u64>(0x9d);

// Ioctls of a VM: memory, vCPUs, clock.

/// KVM_CREATE_VCPU.
pub(crate) const CREATE_VCPU: u32 = io(0x41);
/// KVM_SET_USER_MEMORY_REGION.
pub(crate) const SET_USER_MEMORY_REGION: u32 = iow::<vm::UserspaceMemoryRegion>(0x46);
/// KVM_SET_USER_MEMORY_REGION2.
pub(crate) const SET_USER_MEMORY_REGION2: u32 = iow::<vm::UserspaceMemoryRegion2>(0x49);
/// KVM_SET_TSS_ADDR.
pub(crate) const SET_TSS_ADDR: u32 = io(0x47);
/// KVM_SET_IDENTITY_MAP_ADDR.
pub(crate) const SET_IDENTITY_MAP_ADDR: u32 = iow::<u64>(0x48);
/// KVM_SET_NR_MMU_PAGES.
pub(crate) const SET_NR_MMU_PAGES: u32 = io(0x44);
/// KVM_GET_NR_MMU_PAGES.
pub(crate) const GET_NR_MMU_PAGES: u32 = io(0x45);
/// KVM_GET_DIRTY_LOG.
pub(crate) const GET_DIRTY_LOG: u32 = iow::<vm::DirtyLog>(0x42);
/// KVM_CLEAR_DIRTY_LOG.
pub(crate) const CLEAR_DIRTY_LOG: u32 = iowr::<vm::ClearDirtyLog>(0xc0);
/// KVM_RESET_DIRTY_RINGS.
pub(crate) const RESET_DIRTY_RINGS: u32 = io(0xc7);
/// KVM_ENABLE_CAP.
pub(crate) const ENABLE_CAP: u32 = iow::<vm::EnableCap>(0xa3);
/// KVM_GET_CLOCK.
pub(crate) const GET_CLOCK: u32 = ior::<vm::ClockData>(0x7c);
/// KVM_SET_CLOCK.
pub(crate) const SET_CLOCK: u32 = iow::<vm::ClockData>(0x7b);
/// KVM_HYPERV_EVENTFD.
pub(crate) const HYPERV_EVENTFD: u32 = iow::<vm::HypervEventfd>(0xbd);
/// KVM_SET_BOOT_CPU_ID.
pub(crate) const SET_BOOT_CPU_ID: u32 = io(0x78);
/// KVM_X86_SET_MSR_FILTER.
pub(crate) const X86_SET_MSR_FILTER: u32 = iow::<vm::MsrFilter>(0xc6);

// Ioctls of a VM: interrupts and devices.

/// KVM_CREATE_IRQCHIP.
pub(crate) const CREATE_IRQCHIP: u32 = io(0x60);
/// KVM_IRQ_LINE.
pub(crate) const IRQ_LINE: u32 = iow::<vm::IrqLevel>(0x61);
/// KVM_IRQ_LINE_STATUS.
pub(crate) const IRQ_LINE_STATUS: u32 = iowr::<vm::IrqLevel>(0x67);
/// KVM_GET_IRQCHIP.
pub(crate) const GET_IRQCHIP: u32 = iowr::<vm::Irqchip>(0x62);
/// KVM_SET_IRQCHIP.
pub(crate) const SET_IRQCHIP: u32 = ior::<vm::Irqchip>(0x63);
/// KVM_CREATE_PIT.
pub(crate) const CREATE_PIT: u32 = io(0x64);
/// KVM_GET_PIT.
pub(crate) const GET_PIT: u32 = iowr::<vm::PitState>(0x65);
/// KVM_SET_PIT.
pub(crate) const SET_PIT: u32 = ior::<vm::PitState>(0x66);
/// KVM_CREATE_PIT2.
pub(crate) const CREATE_PIT2: u32 = iow::<vm::PitConfig>(0x77);
/// KVM_GET_PIT2.
pub(crate) const GET_PIT2: u32 = ior::<vm::PitState2>(0x9f);
/// KVM_SET_PIT2.
pub(crate) const SET_PIT2: u32 = iow::<vm::PitState2>(0xa0);
/// KVM_REINJECT_CONTROL.
pub(crate) const REINJECT_CONTROL: u32 = io(0x71);
/// KVM_SET_GSI_ROUTING.
pub(crate) const SET_GSI_ROUTING: u32 = iow::<vm::IrqRouting>(0x6a);
/// KVM_IRQFD.
pub(crate) const IRQFD: u32 = iow::<vm::Irqfd>(0x76);
/// KVM_IOEVENTFD.
pub(crate) const IOEVENTFD: u32 = iow::<vm::Ioeventfd>(0x79);
/// KVM_SIGNAL_MSI.
pub(crate) const SIGNAL_MSI: u32 = iow::<vm::Msi>(0xa5);
/// KVM_REGISTER_COALESCED_MMIO.
pub(crate) const REGISTER_COALESCED_MMIO: u32 = iow::<vm::CoalescedMmioZone>(0x67);
/// KVM_UNREGISTER_COALESCED_MMIO.
pub(crate) const UNREGISTER_COALESCED_MMIO: u32 = iow::<vm::CoalescedMmioZone>(0x68);
/// KVM_CREATE_DEVICE.
pub(crate) const CREATE_DEVICE: u32 = iowr::<vm::CreateDevice>(0xe0);
/// KVM_SET_DEVICE_ATTR.
pub(crate) const SET_DEVICE_ATTR: u32 = iow::<vm::DeviceAttr>(0xe1);
/// KVM_GET_DEVICE_ATTR.
pub(crate) const GET_DEVICE_ATTR: u32 = iow::<vm::DeviceAttr>(0xe2);
/// KVM_HAS_DEVICE_ATTR.
pub(crate) const HAS_DEVICE_ATTR: u32 = iow::<vm::DeviceAttr>(0xe3);

// Ioctls of a vCPU.

/// KVM_RUN.
pub(crate) const RUN: u32 = io(0x80);
/// KVM_GET_REGS.
pub(crate) const GET_REGS: u32 = ior::<vcpu::Regs>(0x81);
/// KVM_SET_REGS.
pub(crate) const SET_REGS: u32 = iow::<vcpu::Regs>(0x82);
/// KVM_GET_SREGS.
pub(crate) const GET_SREGS: u32 = ior::<vcpu::Sregs>(0x83);
/// KVM_SET_SREGS.
pub(crate) const SET_SREGS: u32 = iow::<vcpu::Sregs>(0x84);
/// KVM_GET_SREGS2.
pub(crate) const GET_SREGS2: u32 = ior::<vcpu::Sregs2>(0xcc);
/// KVM_SET_SREGS2.
pub(crate) const SET_SREGS2: u32 = iow::<vcpu::Sregs2>(0xcd);
/// KVM_TRANSLATE.
pub(crate) const TRANSLATE: u32 = iowr::<vcpu::Translation>(0x85);
/// KVM_INTERRUPT.
pub(crate) const INTERRUPT: u32 = iow::<vcpu::Interrupt>(0x86);
/// KVM_GET_MSRS.
pub(crate) const GET_MSRS: u32 = iowr::<vcpu::Msrs>(0x88);
/// KVM_SET_MSRS.
pub(crate) const SET_MSRS: u32 = iow::<vcpu::Msrs>(0x89);
/// KVM_SET_CPUID.
pub(crate) const SET_CPUID: u32 = iow::<sys::Cpuid2>(0x8a);
/// KVM_SET_CPUID2.
pub(crate) const SET_CPUID2: u32 = iow::<sys::Cpuid2>(0x90);
/// KVM_GET_CPUID2.
pub(crate) const GET_CPUID2: u32 = iowr::<sys::Cpuid2>(0x91);
/// KVM_SET_SIGNAL_MASK.
pub(crate) const SET_SIGNAL_MASK: u32 = iow::<vcpu::SignalMask>(0x8b);
/// KVM_GET_FPU.
pub(crate) const GET_FPU: u32 = ior::<vcpu::Fpu>(0x8c);
/// KVM_SET_FPU.
pub(crate) const SET_FPU: u32 = iow::<vcpu::Fpu>(0x8d);
/// KVM_GET_LAPIC.
pub(crate) const GET_LAPIC: u32 = ior::<vcpu::LapicState>(0x8e);
/// KVM_SET_LAPIC.
pub(crate) const SET_LAPIC: u32 = iow::<vcpu::LapicState>(0x8f);
/// KVM_TPR_ACCESS_REPORTING.
pub(crate) const TPR_ACCESS_REPORTING: u32 = iowr::<vcpu::TprAccessCtl>(0x92);
/// KVM_SET_VAPIC_ADDR.
pub(crate) const SET_VAPIC_ADDR: u32 = iow::<vcpu::VapicAddr>(0x93);
/// KVM_GET_MP_STATE.
pub(crate) const GET_MP_STATE: u32 = ior::<vcpu::MpState>(0x98);
/// KVM_SET_MP_STATE.
pub(crate) const SET_MP_STATE: u32 = iow::<vcpu::MpState>(0x99);
/// KVM_NMI.
pub(crate) const NMI: u32 = io(0x9a);
/// KVM_SMI.
pub(crate) const SMI: u32 = io(0xb7);
/// KVM_SET_GUEST_DEBUG.
pub(crate) const SET_GUEST_DEBUG: u32 = iow::<vcpu::GuestDebug>(0x9b);
/// KVM_X86_SETUP_MCE.
pub(crate) const X86_SETUP_MCE: u32 = iow::<u64>(0x9c);
/// KVM_X86_SET_MCE.
pub(crate) const X86_SET_MCE: u32 = iow::<vcpu::X86Mce>(0x9e);
/// KVM_GET_VCPU_EVENTS.
pub(crate) const GET_VCPU_EVENTS: u32 = ior::<vcpu::VcpuEvents>(0x9f);
/// KVM_SET_VCPU_EVENTS.
pub(crate) const SET_VCPU_EVENTS: u32 = iow::<vcpu::VcpuEvents>(0xa0);
/// KVM_GET_DEBUGREGS.
pub(crate) const GET_DEBUGREGS: u32 = ior::<vcpu::Debugregs>(0xa1);
/// KVM_SET_DEBUGREGS.
pub(crate) const SET_DEBUGREGS: u32 = iow::<vcpu::Debugregs>(0xa2);
/// KVM_GET_XSAVE.
pub(crate) const GET_XSAVE: u32 = ior::<vcpu::Xsave>(0xa4);
/// KVM_SET_XSAVE.
pub(crate) const SET_XSAVE: u32 = iow::<vcpu::Xsave>(0xa5);
/// KVM_GET_XSAVE2.
pub(crate) const GET_XSAVE2: u32 = ior::<vcpu::Xsave>(0xcf);
/// KVM_GET_XCRS.
pub(crate) const GET_XCRS: u32 = ior::<vcpu::Xcrs>(0xa6);
/// KVM_SET_XCRS.
pub(crate) const SET_XCRS: u32 = iow::<vcpu::Xcrs>(0xa7);
/// KVM_SET_TSC_KHZ.
pub(crate) const SET_TSC_KHZ: u32 = io(0xa2);
/// KVM_GET_TSC_KHZ.
pub(crate) const GET_TSC_KHZ: u32 = io(0xa3);
/// KVM_KVMCLOCK_CTRL.
pub(crate) const KVMCLOCK_CTRL: u32 = io(0xad);
/// KVM_GET_ONE_REG.
pub(crate) const GET_ONE_REG: u32 = iow::<[u64; 2]>(0xab);
/// KVM_SET_ONE_REG.
pub(crate) const SET_ONE_REG: u32 = iow::<[u64; 2]>(0xac);
/// KVM_GET_REG_LIST.
pub(crate) const GET_REG_LIST: u32 = iowr::<u64>(0xb0);
/// KVM_GET_NESTED_STATE.
pub(crate) const GET_NESTED_STATE: u32 = iowr::<[u8; 128]>(0xbe);
/// KVM_SET_NESTED_STATE.
pub(crate) const SET_NESTED_STATE: u32 = iow::<[u8; 128]>(0xbf);
/// KVM_PRE_FAULT_MEMORY.
pub(crate) const PRE_FAULT_MEMORY: u32 = iowr::<vcpu::PreFaultMemory>(0xd5);
/// KVM_GET_STATS_FD.
pub(crate) const GET_STATS_FD: u32 = io(0xce);
