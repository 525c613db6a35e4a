// SPDX-License-Identifier: GPL-2.0

//! The devices of a VM: which it has, what is behind them, and the threads that they want.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_ioctls::{DeviceFd, VmFd};

use super::prepared::Prepared;
use crate::config::console::ConsoleDevice;
use crate::config::disk::QUEUES_MAX;
use crate::config::layout::{PCI_MMIO, PCI_MMIO_SIZE};
use crate::devices::device::{self, BlkConfig, Device, NetConfig, PciConfig, RtcConfig};
use crate::devices::net::{Net, Way};
use crate::devices::passt::Passt;
use crate::error::Error;

/// PCI device numbers on bus 0 that are free for virtio: the host bridge has 0.
pub const PCI_SLOTS: usize = 31;

/// The module's devices by what the tool does with them.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// What the tool's console is wired to.
    pub(super) console: Option<DeviceFd>,
    pub(super) power: Option<DeviceFd>,
    /// What wants a thread.
    pub(super) workers: Vec<Worker>,
    /// Kept open for the guest alone.
    pub(super) others: Vec<DeviceFd>,
    /// Programs that run as long as the machine.
    pub(super) helpers: Vec<Passt>,
}

impl Devices {
    /// What sits at fixed ports.
    pub(super) fn create_isa(&mut self, vm: &VmFd, config: &Prepared) -> Result<(), Error> {
        let rtc = RtcConfig { below_4g: config.ram.low(), above_4g: config.ram.high(), utc_offset: 0 };
        // Somebody has to read what the guest is to wait for.
        let is_read = config.has_reader && config.console == ConsoleDevice::Uart;
        let uart = device::create(vm, Device::Uart { index: 0, waits: is_read })?;
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
    pub(super) fn create_pci(&mut self, vm: &VmFd, config: &Prepared) -> Result<(), Error> {
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
            let console =
                Device::Console { slot: slot + 1, packed, waits: config.has_reader, size: config.terminal };
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

/// A thread to be lent to a device: it serves a queue inside the module.
#[derive(Debug)]
pub struct Worker {
    /// Name of the thread.
    pub name: String,
    /// The device.
    pub device: Arc<DeviceFd>,
    /// Which of its queues.
    pub queue: u32,
}
