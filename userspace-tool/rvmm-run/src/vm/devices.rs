// SPDX-License-Identifier: GPL-2.0

//! The devices of a VM: which it has, what is behind them, and the threads that they want.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_ioctls::{DeviceFd, VmFd};

use super::device_types::{self, flags};
use super::disks::RunningDisk;
use super::prepared::PreparedRun;
use crate::abi::rvmm as abi;
use crate::config::console::ConsoleDevice;
use crate::config::disk::OnDiskError;
use crate::config::layout::{PCI_MMIO, PCI_MMIO_SIZE};
use crate::devices::disk::OpenDisk;
use crate::devices::net::{NetBackend, OpenNet};
use crate::devices::passt::PasstProcess;
use crate::error::ToolError;

/// PCI device numbers on bus 0 that are free for virtio: the host bridge has 0.
pub const PCI_SLOTS: usize = 31;

/// The module's devices by what the tool does with them.
#[derive(Debug, Default)]
pub(super) struct VmDevices {
    /// What the tool's console is wired to.
    pub(super) console: Option<DeviceFd>,
    pub(super) power: Option<DeviceFd>,
    pub(super) rtc: Option<DeviceFd>,
    /// What wants a thread.
    pub(super) workers: Vec<QueueWorker>,
    /// The disks in their order.
    pub(super) disks: Vec<Arc<RunningDisk>>,
    /// Kept open for the guest alone.
    pub(super) others: Vec<DeviceFd>,
    /// Programs that run as long as the machine.
    pub(super) helpers: Vec<PasstProcess>,
}

impl VmDevices {
    /// What sits at fixed ports. The clock is `utc_offset_seconds` ahead of UTC.
    pub(super) fn create_isa(
        &mut self,
        vm: &VmFd,
        config: &PreparedRun,
        utc_offset_seconds: i64,
    ) -> Result<(), ToolError> {
        // Somebody has to read what the guest is to wait for.
        let is_read = config.has_reader && config.console == ConsoleDevice::Uart;
        let uart = abi::UartConfig { index: 0, flags: flags(&[(abi::UART_WAITS, is_read)]) };
        let uart = device_types::create(vm, &uart)?;
        match config.console {
            ConsoleDevice::Uart => self.console = Some(uart),
            // Nobody reads what the guest sends there.
            ConsoleDevice::Virtio { .. } => self.others.push(uart),
        }
        self.power = Some(device_types::create(vm, &abi::AcpiPmConfig { flags: 0 })?);
        let rtc = abi::RtcConfig {
            ram_below_4g_bytes: config.ram.low(),
            ram_above_4g_bytes: config.ram.high(),
            utc_offset_seconds,
        };
        self.rtc = Some(device_types::create(vm, &rtc)?);
        self.others.push(device_types::create(vm, &abi::I8042Config { flags: 0 })?);
        Ok(())
    }

    /// The PCI bus and what is on it: the disks and the network cards in their order, then the
    /// entropy source and the console.
    pub(super) fn create_pci(&mut self, vm: &VmFd, config: &PreparedRun) -> Result<(), ToolError> {
        let pci = abi::PciHostConfig { mmio_base: PCI_MMIO, mmio_size: PCI_MMIO_SIZE };
        self.others.push(device_types::create(vm, &pci)?);
        let mut slots = 1..;
        let mut slot = || slots.next().unwrap_or(0);
        for (index, disk) in config.disks.iter().enumerate() {
            self.create_disk(vm, index, disk, config.cpus, slot())?;
        }
        for (index, net) in config.nets.iter().enumerate() {
            self.create_net(vm, index, net, slot())?;
        }
        self.others.push(device_types::create(vm, &abi::VirtioRngConfig { slot: slot(), flags: 0 })?);
        if let ConsoleDevice::Virtio { packed } = config.console {
            let (columns, rows) = config.terminal;
            let flags = flags(&[(abi::CONSOLE_PACKED, packed), (abi::CONSOLE_WAITS, config.has_reader)]);
            let console = abi::VirtioConsoleConfig { slot: slot(), flags, columns, rows, pad: 0 };
            self.console = Some(device_types::create(vm, &console)?);
        }
        Ok(())
    }

    /// A disk, with a thread for each of its queues.
    fn create_disk(
        &mut self,
        vm: &VmFd,
        index: usize,
        disk: &OpenDisk,
        cpus: u32,
        slot: u32,
    ) -> Result<(), ToolError> {
        let mut serial = [0; abi::BLK_SERIAL_BYTES];
        serial.iter_mut().zip(disk.serial.bytes()).for_each(|(to, from)| *to = from);
        let most = u32::from(abi::BLK_MAX_QUEUES);
        let queues = disk.queues.map_or(cpus, u32::from).clamp(1, most);
        let config = abi::VirtioBlkConfig {
            fd: disk.file.as_raw_fd(),
            flags: flags(&[
                (abi::BLK_READ_ONLY, disk.read_only),
                (abi::BLK_PACKED, disk.packed),
                (abi::BLK_TELLS_FAILURES, true),
                (abi::BLK_HOLDS_FAILED, disk.on_error == OnDiskError::Stop),
            ]),
            serial,
            slot,
            queue_size: 0,
            queues: queues as u16,
            pad: 0,
        };
        let device = Arc::new(device_types::create(vm, &config)?);
        let running =
            RunningDisk::new(&disk.path, &*disk.file, disk.is_device, disk.on_error, Arc::clone(&device));
        let running = Arc::new(running);
        for queue in 0..queues {
            let (name, device) = (format!("disk{index}-{queue}"), Arc::clone(&device));
            self.workers.push(QueueWorker { name, device, queue, disk: Some(Arc::clone(&running)) });
        }
        self.disks.push(running);
        Ok(())
    }

    /// A network card, with a thread for each of its queues that carry packets.
    fn create_net(&mut self, vm: &VmFd, index: usize, net: &OpenNet, slot: u32) -> Result<(), ToolError> {
        let (behind, is_stream) = match &net.backend {
            NetBackend::Taps(files) => (files.iter().map(AsRawFd::as_raw_fd).collect(), false),
            NetBackend::Passt(arguments) => {
                let passt = PasstProcess::start(arguments).map_err(ToolError::io("start passt"))?;
                let fd = passt.socket.as_raw_fd();
                self.helpers.push(passt);
                (vec![fd], true)
            }
        };
        let mut fds = [-1; abi::NET_MAX_PAIRS];
        fds.iter_mut().zip(&behind).for_each(|(to, from)| *to = *from);
        let card = abi::VirtioNetConfig {
            fds,
            flags: flags(&[
                (abi::NET_OFFLOADS, net.tcp_offloads),
                (abi::NET_UDP_OFFLOADS, net.udp_offloads),
                (abi::NET_STREAM, is_stream),
                (abi::NET_PACKED, net.packed),
            ]),
            slot,
            pairs: behind.len() as u16,
            mtu: net.mtu,
            mac: net.mac.0,
            pad: [0; 6],
        };
        let device = Arc::new(device_types::create(vm, &card)?);
        for queue in 0..2 * behind.len() as u32 {
            let way = if queue % 2 == 0 { "rx" } else { "tx" };
            let name = format!("net{index}-{way}{}", queue / 2);
            self.workers.push(QueueWorker { name, device: Arc::clone(&device), queue, disk: None });
        }
        Ok(())
    }
}

/// A thread to be lent to a device: it serves a queue inside the module.
#[derive(Debug)]
pub struct QueueWorker {
    /// Name of the thread.
    pub name: String,
    /// The device.
    pub device: Arc<DeviceFd>,
    /// Which of its queues.
    pub queue: u32,
    /// The disk that it is, if it is one.
    pub disk: Option<Arc<RunningDisk>>,
}
