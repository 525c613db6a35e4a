// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: made from a prepared configuration, run until it ends, and torn down.
//!
//! A reset of the guest makes a new machine of the same parts, so nothing of the old one can survive in it.

pub mod device;
pub mod run;
pub mod stats;

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use kvm_bindings::{
    kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_pit_config,
    CpuId, KvmIrqRouting, Msrs, KVM_API_VERSION, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_IRQ_ROUTING_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_PIT_SPEAKER_DUMMY,
};
use kvm_ioctls::{Cap, DeviceFd, Kvm, VcpuFd, VmFd};
use nix::errno::Errno;
use vm_memory::GuestMemoryMmap;

use self::device::{BlkConfig, Device, NetConfig, PciConfig, RtcConfig};
use self::run::Worker;
use crate::acpi::{self, AcpiConfig};
use crate::console::ConsoleDevice;
use crate::cpu::cpuid::{personalise, Topology};
use crate::cpu::regs;
use crate::disk::{Disk, QUEUES_MAX};
use crate::error::Error;
use crate::image::FileImage;
use crate::kernel::{self, params, Initrd, Loaded};
use crate::layout::{IDENTITY_MAP, PCI_MMIO, PCI_MMIO_SIZE, TSS};
use crate::memory::RamSize;
use crate::net::{Net, Passt, Way};

/// PCI device numbers on bus 0 that are free for virtio: the host bridge has 0.
pub const PCI_SLOTS: usize = 31;

/// Everything that was checked before the first machine is made.
#[derive(Debug)]
pub struct Config {
    /// RAM.
    pub ram: RamSize,
    /// Number of processors.
    pub cpus: u32,
    /// Kernel image.
    pub kernel: (PathBuf, FileImage),
    /// Initrd image.
    pub initrd: Option<(PathBuf, FileImage)>,
    /// Command line.
    pub cmdline: String,
    /// Disks in the guest's order.
    pub disks: Vec<Disk>,
    /// Network cards in the guest's order.
    pub nets: Vec<Net>,
    /// What the console is on.
    pub console: ConsoleDevice,
    /// Columns and rows of its terminal, zeroes if not known.
    pub terminal: (u16, u16),
    /// Which of the module's own devices the machine has.
    pub devices: DeviceSet,
}

/// A choice among the module's own devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceSet {
    /// Every device.
    All,
    /// No PCI bus, and so no disks.
    Isa,
    /// None at all.
    None,
}

/// RAM with everything in it that the guest starts from. It needs no module, so bad images are found without one.
#[derive(Debug)]
pub struct Contents {
    ram: GuestMemoryMmap<()>,
    loaded: Loaded,
}

impl Contents {
    /// Allocates RAM and copies kernel, initrd, tables and parameters into it.
    ///
    /// # Errors
    /// `Kernel`, `Initrd`, `Cmdline` for images that are damaged or do not fit.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let ram = config.ram.allocate().map_err(|_| Error::Host("reserve guest memory", Errno::ENOMEM))?;
        let loaded = load_images(config, &ram)?;
        Ok(Self { ram, loaded })
    }
}

/// A VM with everything in place, not yet started. Fields drop in order: processors before the VM, RAM last.
#[derive(Debug)]
pub struct Machine {
    vcpus: Vec<VcpuFd>,
    console: Option<DeviceFd>,
    power: Option<DeviceFd>,
    workers: Vec<Worker>,
    _others: Vec<DeviceFd>,
    _helpers: Vec<Passt>,
    _vm: VmFd,
    _ram: GuestMemoryMmap<()>,
}

/// Opens the node and checks that it speaks the ABI and has what a run needs.
///
/// # Errors
/// `Node`, `ApiVersion`, `Lacks`.
pub fn open_node(path: &std::path::Path) -> Result<Kvm, Error> {
    let node = |errno| Error::Node(path.into(), errno);
    let c_path =
        std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| node(Errno::EINVAL))?;
    let kvm = Kvm::new_with_path(c_path).map_err(|e| node(Errno::from_raw(e.errno())))?;
    match kvm.get_api_version() {
        version if version == KVM_API_VERSION as i32 => {}
        version if version < 0 => return Err(node(Errno::ENOTTY)),
        version => return Err(Error::ApiVersion(path.into(), version)),
    }
    for (cap, name) in REQUIRED_CAPS {
        if !kvm.check_extension(cap) {
            return Err(Error::Lacks(name));
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

impl Machine {
    /// Makes a VM around `contents` and sets every processor up.
    ///
    /// # Errors
    /// `Host` for anything the module refuses.
    pub fn new(kvm: &Kvm, config: &Config, contents: Contents) -> Result<Self, Error> {
        let Contents { ram, loaded } = contents;
        let vm = kvm.create_vm().map_err(Error::host("create a VM"))?;
        prepare_vm(kvm, &vm)?;
        crate::sys::map_ram(&vm, &ram).map_err(Error::host("give memory to the VM"))?;
        let mut devices = Devices::default();
        if config.devices != DeviceSet::None {
            devices.create_isa(&vm, config)?;
        }
        if config.devices == DeviceSet::All {
            devices.create_pci(&vm, config)?;
        }
        let vcpus = create_vcpus(kvm, &vm, config, &loaded)?;
        let Devices { console, power, others, helpers, workers } = devices;
        Ok(Self { vcpus, console, power, workers, _others: others, _helpers: helpers, _vm: vm, _ram: ram })
    }
}

/// Copies kernel, initrd, tables and parameters into guest memory.
fn load_images(config: &Config, ram: &GuestMemoryMmap<()>) -> Result<Loaded, Error> {
    let boot_area = |_| Error::Host("write the boot structures", Errno::EFAULT);
    let (path, image) = &config.kernel;
    let loaded = kernel::load(image, config.ram, ram).map_err(|e| Error::Kernel(path.clone(), e))?;
    params::check_cmdline(&config.cmdline, &loaded).map_err(Error::Cmdline)?;
    let initrd: Option<Initrd> = match &config.initrd {
        None => None,
        Some((path, image)) => Some(
            kernel::load_initrd(image, &loaded, config.ram, ram)
                .map_err(|e| Error::Initrd(path.clone(), e))?,
        ),
    };
    params::write(ram, config.ram, &loaded, initrd, &config.cmdline).map_err(boot_area)?;
    regs::write_tables(ram, loaded.entry).map_err(boot_area)?;
    acpi::write(ram, AcpiConfig { cpus: config.cpus, keyboard: false }).map_err(boot_area)?;
    Ok(loaded)
}

/// Interrupt controllers and timer, which come before every processor.
fn prepare_vm(kvm: &Kvm, vm: &VmFd) -> Result<(), Error> {
    if kvm.check_extension(Cap::SetIdentityMapAddr) {
        vm.set_identity_map_address(IDENTITY_MAP).map_err(Error::host("place the identity map"))?;
    }
    if kvm.check_extension(Cap::SetTssAddr) {
        vm.set_tss_address(TSS as usize).map_err(Error::host("place the TSS"))?;
    }
    vm.create_irq_chip().map_err(Error::host("create the interrupt controllers"))?;
    let routing = KvmIrqRouting::from_entries(&pc_routes())
        .map_err(|_| Error::Host("route the interrupts", Errno::E2BIG))?;
    vm.set_gsi_routing(&routing).map_err(Error::host("route the interrupts"))?;
    let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
    vm.create_pit2(pit).map_err(Error::host("create the interval timer"))
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

/// The module's devices by what the tool does with them.
#[derive(Debug, Default)]
struct Devices {
    /// What the tool's console is wired to.
    console: Option<DeviceFd>,
    power: Option<DeviceFd>,
    /// Kept open for the guest alone.
    others: Vec<DeviceFd>,
    /// Programs that run as long as the machine.
    helpers: Vec<Passt>,
    /// What wants a thread.
    workers: Vec<Worker>,
}

impl Devices {
    /// What sits at fixed ports.
    fn create_isa(&mut self, vm: &VmFd, config: &Config) -> Result<(), Error> {
        let rtc = RtcConfig { below_4g: config.ram.low(), above_4g: config.ram.high(), utc_offset: 0 };
        let uart = device::create(vm, Device::Uart { index: 0 })?;
        match config.console {
            ConsoleDevice::Uart => self.console = Some(uart),
            // Nobody reads what the guest sends there.
            ConsoleDevice::Virtio { .. } => self.others.push(uart),
        }
        self.power = Some(device::create(vm, Device::PowerManagement)?);
        self.others.push(device::create(vm, Device::Rtc(rtc))?);
        self.others.push(device::create(vm, Device::Keyboard)?);
        Ok(())
    }

    /// The PCI bus and what is on it: the disks and the network cards in their order, then the
    /// entropy source and the console.
    fn create_pci(&mut self, vm: &VmFd, config: &Config) -> Result<(), Error> {
        let pci = PciConfig { mmio_base: PCI_MMIO, mmio_size: PCI_MMIO_SIZE };
        self.others.push(device::create(vm, Device::PciHost(pci))?);
        let mut slot = 1;
        for (index, disk) in config.disks.iter().enumerate() {
            let queues = disk.queues.map_or(config.cpus, u32::from).clamp(1, QUEUES_MAX.into()) as u16;
            let blk = BlkConfig {
                fd: disk.file.as_raw_fd(),
                read_only: disk.read_only,
                packed: disk.packed,
                serial: disk.serial.clone(),
                slot,
                queue_size: 0,
                queues,
            };
            let device = Arc::new(device::create(vm, Device::Blk(blk))?);
            for queue in 0..u32::from(queues) {
                let (name, device) = (format!("disk{index}-{queue}"), Arc::clone(&device));
                self.workers.push(Worker { name, device, queue });
            }
            slot += 1;
        }
        for (index, net) in config.nets.iter().enumerate() {
            self.create_net(vm, index, net, slot)?;
            slot += 1;
        }
        self.others.push(device::create(vm, Device::Rng { slot })?);
        if let ConsoleDevice::Virtio { packed } = config.console {
            let console = Device::Console { slot: slot + 1, packed, size: config.terminal };
            self.console = Some(device::create(vm, console)?);
        }
        Ok(())
    }
}

impl Devices {
    /// A network card, with a thread for each of its queues that carry packets.
    fn create_net(&mut self, vm: &VmFd, index: usize, net: &Net, slot: u32) -> Result<(), Error> {
        let (fds, is_stream) = match &net.way {
            Way::Taps(files) => (files.iter().map(AsRawFd::as_raw_fd).collect(), false),
            Way::Passt(arguments) => {
                let passt = Passt::start(arguments).map_err(Error::io("start passt"))?;
                let fd = passt.socket.as_raw_fd();
                self.helpers.push(passt);
                (vec![fd], true)
            }
        };
        let queues = 2 * fds.len() as u32;
        let card = NetConfig {
            fds,
            is_stream,
            packed: net.packed,
            mac: net.mac.0,
            mtu: net.mtu,
            tcp_offloads: net.tcp_offloads,
            udp_offloads: net.udp_offloads,
            slot,
        };
        let device = Arc::new(device::create(vm, Device::Net(card))?);
        for queue in 0..queues {
            let way = if queue % 2 == 0 { "rx" } else { "tx" };
            let name = format!("net{index}-{way}{}", queue / 2);
            self.workers.push(Worker { name, device: Arc::clone(&device), queue });
        }
        Ok(())
    }
}

/// Processors with their CPUID; the first also gets the state that the kernel's entry wants.
fn create_vcpus(kvm: &Kvm, vm: &VmFd, config: &Config, loaded: &Loaded) -> Result<Vec<VcpuFd>, Error> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(Error::host("read the supported CPUID"))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let mut vcpus = Vec::new();
    for id in 0..config.cpus {
        let vcpu = vm.create_vcpu(u64::from(id)).map_err(Error::host("create a virtual CPU"))?;
        let leaves = personalise(supported.as_slice(), Topology { id, cpus: config.cpus, tsc_deadline });
        let cpuid = CpuId::from_entries(&leaves).map_err(|_| Error::Host("build the CPUID", Errno::E2BIG))?;
        vcpu.set_cpuid2(&cpuid).map_err(Error::host("set the CPUID of a virtual CPU"))?;
        let msrs =
            Msrs::from_entries(&regs::msrs()).map_err(|_| Error::Host("build the MSRs", Errno::E2BIG))?;
        // How many were taken does not matter: a guest runs without either, if slower.
        vcpu.set_msrs(&msrs).map_err(Error::host("set the MSRs of a virtual CPU"))?;
        if id == 0 {
            set_boot_state(&vcpu, loaded)?;
        }
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

fn set_boot_state(vcpu: &VcpuFd, loaded: &Loaded) -> Result<(), Error> {
    let sregs = vcpu.get_sregs().map_err(Error::host("read the system registers"))?;
    vcpu.set_sregs(&regs::system(sregs, loaded.entry)).map_err(Error::host("set the system registers"))?;
    vcpu.set_regs(&regs::general(loaded.entry)).map_err(Error::host("set the registers"))?;
    vcpu.set_fpu(&regs::fpu()).map_err(Error::host("set the FPU"))?;
    let mut lapic = vcpu.get_lapic().map_err(Error::host("read the local APIC"))?;
    regs::wire_lint(&mut lapic);
    vcpu.set_lapic(&lapic).map_err(Error::host("set the local APIC"))
}
