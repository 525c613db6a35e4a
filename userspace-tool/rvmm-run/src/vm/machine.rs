// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: made from a prepared configuration, run until it ends, and torn down.
//!
//! A reset of the guest makes a new machine of the same parts, so nothing of the old one can survive in it.

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_pit_config,
    KvmIrqRouting, KVM_API_VERSION, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_IRQ_ROUTING_IRQCHIP, KVM_PIT_SPEAKER_DUMMY,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use nix::errno::Errno;
use vm_memory::GuestMemoryMmap;

use super::contents::RamContents;
use super::devices::VmDevices;
use super::firmware;
use super::prepared::PreparedRun;
use super::vcpus::create_vcpus;
use crate::config::layout::{IDENTITY_MAP, TSS};
use crate::config::DeviceSet;
use crate::error::ToolError;

/// A VM with everything in place, not yet started. Fields drop in order: processors before the VM, RAM last.
#[derive(Debug)]
pub struct GuestMachine {
    pub(super) vcpus: Vec<VcpuFd>,
    pub(super) devices: VmDevices,
    pub(super) vm: VmFd,
    pub(super) ram: GuestMemoryMmap<()>,
}

/// Opens the node and checks that it speaks the ABI and has what a run needs.
///
/// # Errors
/// `Node`, `ApiVersion`, `Lacks`.
pub fn open_node(path: &std::path::Path) -> Result<Kvm, ToolError> {
    let node = |errno| ToolError::Node(path.into(), errno);
    let c_path =
        std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| node(Errno::EINVAL))?;
    let kvm = Kvm::new_with_path(c_path).map_err(|e| node(Errno::from_raw(e.errno())))?;
    match kvm.get_api_version() {
        version if version == KVM_API_VERSION as i32 => {}
        version if version < 0 => return Err(node(Errno::ENOTTY)),
        version => return Err(ToolError::ApiVersion(path.into(), version)),
    }
    for (cap, name) in REQUIRED_CAPS {
        if !kvm.check_extension(cap) {
            return Err(ToolError::Lacks(name));
        }
    }
    Ok(kvm)
}

/// Capabilities without which no run is possible, with their names for people. A module may answer 0 for what it does not
/// have in KVM's full extent, so this asks for the least; what is refused later is reported where it happens.
pub const REQUIRED_CAPS: [(Cap, &str); 3] = [
    (Cap::UserMemory, "guest memory slots (KVM_CAP_USER_MEMORY)"),
    (Cap::Irqchip, "interrupt controllers (KVM_CAP_IRQCHIP)"),
    (Cap::ExtCpuid, "CPUID (KVM_CAP_EXT_CPUID)"),
];

impl GuestMachine {
    /// Makes a VM around `contents`, with the clock that the one before had, and sets every processor up.
    ///
    /// # Errors
    /// `Host` for anything the module refuses.
    pub fn new(
        kvm: &Kvm,
        config: &PreparedRun,
        contents: RamContents,
        utc_offset_seconds: i64,
    ) -> Result<Self, ToolError> {
        let RamContents { ram, loaded } = contents;
        let vm = kvm.create_vm().map_err(ToolError::host("create a VM"))?;
        prepare_vm(kvm, &vm)?;
        crate::sys::map_ram(&vm, &ram).map_err(ToolError::host("give memory to the VM"))?;
        let mut devices = VmDevices::default();
        if config.devices != DeviceSet::None {
            devices.create_isa(&vm, config, utc_offset_seconds)?;
        }
        if config.devices == DeviceSet::All {
            devices.create_pci(&vm, config)?;
        }
        let vcpus = create_vcpus(kvm, &vm, config, &loaded)?;
        Ok(Self { vcpus, devices, vm, ram })
    }
}

/// Interrupt controllers and timer, which come before every processor.
fn prepare_vm(kvm: &Kvm, vm: &VmFd) -> Result<(), ToolError> {
    if kvm.check_extension(Cap::SetIdentityMapAddr) {
        vm.set_identity_map_address(IDENTITY_MAP).map_err(ToolError::host("place the identity map"))?;
    }
    if kvm.check_extension(Cap::SetTssAddr) {
        vm.set_tss_address(TSS as usize).map_err(ToolError::host("place the TSS"))?;
    }
    vm.create_irq_chip().map_err(ToolError::host("create the interrupt controllers"))?;
    let routing = KvmIrqRouting::from_entries(&pc_routes())
        .map_err(|_| ToolError::Host("route the interrupts", Errno::E2BIG))?;
    vm.set_gsi_routing(&routing).map_err(ToolError::host("route the interrupts"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(ToolError::host("create the interval timer"))?;
    firmware::program(vm)
}

/// Interrupt routes of a PC: lines 0 to 15 go to the 8259 pair, all 24 to the I/O APIC's pin of the same number, but
/// line 0 to pin 2, as the MADT's override says, and line 2 to the cascade alone.
fn pc_routes() -> Vec<kvm_irq_routing_entry> {
    let route = |gsi, irqchip, pin| kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        u: kvm_irq_routing_entry__bindgen_ty_1 { irqchip: kvm_irq_routing_irqchip { irqchip, pin } },
        ..Default::default()
    };
    let master = (0..8).map(|n| route(n, KVM_IRQCHIP_PIC_MASTER, n));
    let slave = (8..16).map(|n| route(n, KVM_IRQCHIP_PIC_SLAVE, n & 7));
    let ioapic =
        (0..24).filter(|&n| n != 2).map(|n| route(n, KVM_IRQCHIP_IOAPIC, if n == 0 { 2 } else { n }));
    master.chain(slave).chain(ioapic).collect()
}
