// SPDX-License-Identifier: GPL-2.0

//! Every ioctl that the module knows: what it is for, and what its argument looks like.
//! scripts/tests/test_fuzz_ioctl.py sees that none is missing.

use crate::abi::{nr, rvmm};

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
    /// A slot whose log is read.
    Log,
    /// A slot and a part of its log.
    LogPart,
    /// What a debugger asks.
    Debugger,
    /// A count and GSI routes.
    Routing,
    /// An eventfd and a GSI.
    Irqfd,
    /// An eventfd and an address.
    Ioeventfd,
    /// A connection of Hyper-V's and its eventfd.
    Connection,
    /// A GSI and its level.
    Line,
    /// An MSI.
    Message,
    /// A type of device.
    NewDevice,
    /// A device's attribute.
    Attribute,
    /// An attribute of a machine's state.
    State,
    /// An attribute of the node.
    NodeAttribute,
    /// Signals that KVM_RUN blocks.
    Signals,
    /// Pages of the guest's.
    Range,
    /// A count and MSRs.
    Msrs,
    /// A count and CPUID leaves.
    Cpuid,
    /// A count, and room for as many indices.
    List,
    /// A chip's number and its state.
    Chip,
    /// A capability to be enabled.
    Capability,
    /// A zone of coalesced writes.
    Zone,
    /// A filter of MSRs.
    Filter,
    /// What machine checks there are.
    MceCap,
    /// A machine check.
    Mce,
    /// The time of a VM.
    Clock,
}

/// Name, number, target, shape of the argument.
pub type Row = (&'static str, u32, Target, Shape);

use Shape::*;
use Target::*;

/// Writes the rows of a table: an ioctl's number is the ABI's own, and so is its name.
macro_rules! table {
    ($($from:ident::$name:ident: $target:expr, $shape:expr;)*) => {
        &[$((stringify!($name), $from::$name, $target, $shape)),*]
    };
}

/// The ioctls.
pub const TABLE: &[Row] = table! {
    nr::GET_API_VERSION: System, Number;
    nr::CREATE_VM: System, Nothing;
    nr::CHECK_EXTENSION: System, Number;
    nr::GET_VCPU_MMAP_SIZE: System, Number;
    nr::GET_MSR_INDEX_LIST: System, List;
    nr::GET_SUPPORTED_CPUID: System, Cpuid;
    nr::GET_EMULATED_CPUID: System, Cpuid;
    nr::GET_SUPPORTED_HV_CPUID: System, Cpuid;
    nr::GET_MSR_FEATURE_INDEX_LIST: System, List;
    nr::GET_MSRS: System, Msrs;
    nr::X86_GET_MCE_CAP_SUPPORTED: System, Bytes;
    nr::GET_DEVICE_ATTR: System, NodeAttribute;
    nr::HAS_DEVICE_ATTR: System, NodeAttribute;
    nr::CHECK_EXTENSION: Vm, Number;
    nr::GET_TSC_KHZ: Vm, Number;
    nr::CREATE_VCPU: Vm, Number;
    nr::SET_USER_MEMORY_REGION: Vm, Memory;
    nr::SET_USER_MEMORY_REGION2: Vm, Memory;
    nr::SET_TSS_ADDR: Vm, Number;
    nr::SET_IDENTITY_MAP_ADDR: Vm, Bytes;
    nr::SET_NR_MMU_PAGES: Vm, Number;
    nr::GET_NR_MMU_PAGES: Vm, Number;
    nr::GET_DIRTY_LOG: Vm, Log;
    nr::CLEAR_DIRTY_LOG: Vm, LogPart;
    nr::RESET_DIRTY_RINGS: Vm, Number;
    nr::ENABLE_CAP: Vm, Capability;
    nr::GET_CLOCK: Vm, Bytes;
    nr::SET_CLOCK: Vm, Clock;
    nr::SET_BOOT_CPU_ID: Vm, Number;
    nr::X86_SET_MSR_FILTER: Vm, Filter;
    nr::CREATE_IRQCHIP: Vm, Nothing;
    nr::IRQ_LINE: Vm, Line;
    nr::IRQ_LINE_STATUS: Vm, Line;
    nr::GET_IRQCHIP: Vm, Chip;
    nr::SET_IRQCHIP: Vm, Chip;
    nr::CREATE_PIT: Vm, Number;
    nr::GET_PIT: Vm, Bytes;
    nr::SET_PIT: Vm, Change(nr::GET_PIT);
    nr::CREATE_PIT2: Vm, Bytes;
    nr::GET_PIT2: Vm, Bytes;
    nr::SET_PIT2: Vm, Change(nr::GET_PIT2);
    nr::REINJECT_CONTROL: Vm, Small;
    nr::SET_GSI_ROUTING: Vm, Routing;
    nr::IRQFD: Vm, Irqfd;
    nr::IOEVENTFD: Vm, Ioeventfd;
    nr::SIGNAL_MSI: Vm, Message;
    nr::HYPERV_EVENTFD: Vm, Connection;
    nr::REGISTER_COALESCED_MMIO: Vm, Zone;
    nr::UNREGISTER_COALESCED_MMIO: Vm, Zone;
    nr::GET_STATS_FD: Vm, Nothing;
    nr::CREATE_DEVICE: Vm, NewDevice;
    nr::SET_DEVICE_ATTR: Device, Attribute;
    nr::GET_DEVICE_ATTR: Device, Attribute;
    nr::HAS_DEVICE_ATTR: Device, Attribute;
    nr::SET_DEVICE_ATTR: Vm, State;
    nr::GET_DEVICE_ATTR: Vm, State;
    nr::HAS_DEVICE_ATTR: Vm, State;
    nr::SET_DEVICE_ATTR: Vcpu, State;
    nr::GET_DEVICE_ATTR: Vcpu, State;
    nr::HAS_DEVICE_ATTR: Vcpu, State;
    nr::ENABLE_CAP: Vcpu, Capability;
    nr::RUN: Vcpu, Nothing;
    nr::GET_REGS: Vcpu, Bytes;
    nr::SET_REGS: Vcpu, Change(nr::GET_REGS);
    nr::GET_SREGS: Vcpu, Bytes;
    nr::SET_SREGS: Vcpu, Change(nr::GET_SREGS);
    nr::GET_SREGS2: Vcpu, Bytes;
    nr::SET_SREGS2: Vcpu, Change(nr::GET_SREGS2);
    nr::TRANSLATE: Vcpu, Small;
    nr::INTERRUPT: Vcpu, Small;
    nr::GET_MSRS: Vcpu, Msrs;
    nr::SET_MSRS: Vcpu, Msrs;
    nr::SET_CPUID: Vcpu, Cpuid;
    nr::SET_CPUID2: Vcpu, Cpuid;
    nr::GET_CPUID2: Vcpu, Cpuid;
    nr::GET_SUPPORTED_HV_CPUID: Vcpu, Cpuid;
    nr::SET_SIGNAL_MASK: Vcpu, Signals;
    nr::GET_FPU: Vcpu, Bytes;
    nr::SET_FPU: Vcpu, Change(nr::GET_FPU);
    nr::GET_LAPIC: Vcpu, Bytes;
    nr::SET_LAPIC: Vcpu, Change(nr::GET_LAPIC);
    nr::TPR_ACCESS_REPORTING: Vcpu, Bytes;
    nr::SET_VAPIC_ADDR: Vcpu, Bytes;
    nr::GET_MP_STATE: Vcpu, Bytes;
    nr::SET_MP_STATE: Vcpu, Small;
    nr::NMI: Vcpu, Nothing;
    nr::SMI: Vcpu, Number;
    nr::SET_GUEST_DEBUG: Vcpu, Debugger;
    nr::X86_SETUP_MCE: Vcpu, MceCap;
    nr::X86_SET_MCE: Vcpu, Mce;
    nr::GET_VCPU_EVENTS: Vcpu, Bytes;
    nr::SET_VCPU_EVENTS: Vcpu, Change(nr::GET_VCPU_EVENTS);
    nr::GET_DEBUGREGS: Vcpu, Bytes;
    nr::SET_DEBUGREGS: Vcpu, Change(nr::GET_DEBUGREGS);
    nr::GET_XSAVE: Vcpu, Bytes;
    nr::SET_XSAVE: Vcpu, Change(nr::GET_XSAVE);
    nr::GET_XSAVE2: Vcpu, Bytes;
    nr::GET_XCRS: Vcpu, Bytes;
    nr::SET_XCRS: Vcpu, Change(nr::GET_XCRS);
    nr::SET_TSC_KHZ: Vcpu, Number;
    nr::GET_TSC_KHZ: Vcpu, Number;
    nr::KVMCLOCK_CTRL: Vcpu, Number;
    nr::GET_ONE_REG: Vcpu, Bytes;
    nr::SET_ONE_REG: Vcpu, Change(nr::GET_ONE_REG);
    nr::GET_REG_LIST: Vcpu, Bytes;
    nr::GET_NESTED_STATE: Vcpu, Bytes;
    nr::SET_NESTED_STATE: Vcpu, Change(nr::GET_NESTED_STATE);
    nr::PRE_FAULT_MEMORY: Vcpu, Range;
    nr::GET_STATS_FD: Vcpu, Nothing;
    rvmm::DEV_RUN: Device, Number;
    rvmm::GET_EXITS: Vcpu, Bytes;
};

/// Rows that never succeed: the module lacks the ioctl, or takes nothing by it from such a file. They are called all the
/// same.
pub const REFUSED: &[(&str, Target)] = &[
    ("GET_NR_MMU_PAGES", Vm),
    ("SET_CPUID", Vcpu),
    ("SMI", Vcpu),
    ("GET_ONE_REG", Vcpu),
    ("SET_ONE_REG", Vcpu),
    ("GET_REG_LIST", Vcpu),
    ("GET_NESTED_STATE", Vcpu),
    ("SET_NESTED_STATE", Vcpu),
];
