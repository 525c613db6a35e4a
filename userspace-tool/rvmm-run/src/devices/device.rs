// SPDX-License-Identifier: GPL-2.0

//! The module's own devices: `KVM_CREATE_DEVICE` types beyond KVM's, configured by one attribute that also realises them.
//!
//! The configuration structures are C structures in host byte order without padding; they are built as bytes, so that no
//! layout can drift from what is written here.

use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::{kvm_create_device, kvm_device_attr, KVM_CREATE_DEVICE_TEST};
use kvm_ioctls::{DeviceFd, VmFd};
use nix::errno::Errno;

use crate::config::disk::SERIAL_MAX;
use crate::config::net::PAIRS_MAX;
use crate::error::Error;

const TYPE_UART: u32 = 0x7276_0000;
const TYPE_RTC: u32 = 0x7276_0001;
const TYPE_I8042: u32 = 0x7276_0002;
const TYPE_PCI_HOST: u32 = 0x7276_0003;
const TYPE_POWER: u32 = 0x7276_0004;
const TYPE_BLK: u32 = 0x7276_0010;
const TYPE_RNG: u32 = 0x7276_0011;
const TYPE_NET: u32 = 0x7276_0012;
const TYPE_CONSOLE: u32 = 0x7276_0013;

/// Attribute group of the configuration.
const GROUP_CONFIG: u32 = 0;
/// Attribute group of actions.
const GROUP_ACTION: u32 = 1;
/// virtio-blk flag: the guest may only read.
const BLK_READ_ONLY: u32 = 1;
/// virtio-blk flag: packed rings are offered.
const BLK_PACKED: u32 = 2;
/// virtio-net flag: unfinished checksums and TCP segments.
const NET_OFFLOADS: u32 = 1;
/// virtio-net flag: the same for UDP.
const NET_UDP_OFFLOADS: u32 = 2;
/// virtio-net flag: packets go through a stream socket.
const NET_STREAM: u32 = 4;
/// virtio-net flag: packed rings are offered.
const NET_PACKED: u32 = 8;
/// virtio-console flag: packed rings are offered.
const CONSOLE_PACKED: u32 = 1;
/// virtio-console flag: the guest waits for the reader of its output.
const CONSOLE_WAITS: u32 = 2;
/// UART flag: the same.
const UART_WAITS: u32 = 1;
/// Attribute group of what a device counts.
const GROUP_COUNTERS: u32 = 2;
/// Counter of a console: bytes of output that were lost.
const COUNT_LOST: u64 = 0;

/// Every type with its name, for `--check`.
pub const TYPES: [(u32, &str); 9] = [
    (TYPE_UART, "the UART"),
    (TYPE_RTC, "the RTC"),
    (TYPE_I8042, "the keyboard controller"),
    (TYPE_PCI_HOST, "the PCI host bridge"),
    (TYPE_POWER, "the ACPI power management"),
    (TYPE_BLK, "virtio-blk disks"),
    (TYPE_RNG, "virtio-rng"),
    (TYPE_NET, "virtio-net cards"),
    (TYPE_CONSOLE, "virtio-console"),
];

/// A device and its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// 16550A; index 0 is ttyS0.
    Uart {
        /// Which serial port.
        index: u32,
        /// The guest waits for the reader of its output.
        waits: bool,
    },
    /// Real-time clock and CMOS.
    Rtc(RtcConfig),
    /// i8042 and port 0x92.
    Keyboard,
    /// PCI configuration ports and bus 0.
    PciHost(PciConfig),
    /// ACPI PM registers, PM timer and reset register.
    PowerManagement,
    /// A disk.
    Blk(BlkConfig),
    /// A network card.
    Net(NetConfig),
    /// An entropy source.
    Rng {
        /// PCI device number.
        slot: u32,
    },
    /// A virtio console.
    Console {
        /// PCI device number.
        slot: u32,
        /// Whether packed rings are offered.
        packed: bool,
        /// The guest waits for the reader of its output.
        waits: bool,
        /// Columns and rows of the terminal, zeroes if not known.
        size: (u16, u16),
    },
}

/// Configuration of the RTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcConfig {
    /// RAM below 4 GiB in bytes.
    pub below_4g: u64,
    /// RAM from 4 GiB on in bytes.
    pub above_4g: u64,
    /// Seconds that the clock is ahead of UTC.
    pub utc_offset: i64,
}

/// Configuration of the PCI host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciConfig {
    /// First byte of the window for BARs.
    pub mmio_base: u64,
    /// Its size.
    pub mmio_size: u64,
}

/// Configuration of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlkConfig {
    /// Open file; the module takes a reference of its own.
    pub fd: RawFd,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Serial number, at most `SERIAL_MAX` bytes.
    pub serial: String,
    /// PCI device number, 0 for the next free one.
    pub slot: u32,
    /// Entries of a queue, 0 for the module's default.
    pub queue_size: u32,
    /// Queues.
    pub queues: u16,
}

/// Configuration of a network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// A queue of the tap for each pair of queues, at most `PAIRS_MAX`, or a stream socket; the module takes references
    /// of its own.
    pub fds: Vec<RawFd>,
    /// It is a stream socket.
    pub is_stream: bool,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Address of the guest's card.
    pub mac: [u8; 6],
    /// Largest packet, 0 to say nothing.
    pub mtu: u16,
    /// The tap takes and gives unfinished checksums and TCP segments.
    pub tcp_offloads: bool,
    /// The same for UDP.
    pub udp_offloads: bool,
    /// PCI device number, 0 for the next free one.
    pub slot: u32,
}

impl NetConfig {
    fn bytes(&self) -> Vec<u8> {
        let mut fds = self.fds.clone();
        fds.resize(PAIRS_MAX, -1);
        let mut bytes: Vec<u8> = fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect();
        let flags = if self.tcp_offloads { NET_OFFLOADS } else { 0 }
            | if self.udp_offloads { NET_UDP_OFFLOADS } else { 0 }
            | if self.is_stream { NET_STREAM } else { 0 }
            | if self.packed { NET_PACKED } else { 0 };
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.slot.to_ne_bytes());
        bytes.extend((self.fds.len() as u16).to_ne_bytes());
        bytes.extend(self.mtu.to_ne_bytes());
        bytes.extend(self.mac);
        bytes.extend([0; 6]);
        bytes
    }
}

impl Device {
    /// Device type number.
    pub fn kind(&self) -> u32 {
        match self {
            Self::Uart { .. } => TYPE_UART,
            Self::Rtc(_) => TYPE_RTC,
            Self::Keyboard => TYPE_I8042,
            Self::PciHost(_) => TYPE_PCI_HOST,
            Self::PowerManagement => TYPE_POWER,
            Self::Blk(_) => TYPE_BLK,
            Self::Net(_) => TYPE_NET,
            Self::Rng { .. } => TYPE_RNG,
            Self::Console { .. } => TYPE_CONSOLE,
        }
    }

    /// What the tool was doing when the module refused it.
    fn action(&self) -> &'static str {
        match self {
            Self::Uart { .. } => "create the UART",
            Self::Rtc(_) => "create the RTC",
            Self::Keyboard => "create the keyboard controller",
            Self::PciHost(_) => "create the PCI host bridge",
            Self::PowerManagement => "create the ACPI power management",
            Self::Blk(_) => "create a disk",
            Self::Net(_) => "create a network card",
            Self::Rng { .. } => "create the entropy source",
            Self::Console { .. } => "create the virtio console",
        }
    }

    /// Its name in messages.
    fn name(&self) -> &'static str {
        TYPES.iter().find(|(kind, _)| *kind == self.kind()).map_or("a device", |(_, name)| name)
    }

    /// The configuration structure as the module reads it.
    pub fn config(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Uart { index, waits } => {
                bytes.extend(index.to_ne_bytes());
                bytes.extend(if *waits { UART_WAITS } else { 0 }.to_ne_bytes());
            }
            Self::Rtc(rtc) => {
                bytes.extend(rtc.below_4g.to_ne_bytes());
                bytes.extend(rtc.above_4g.to_ne_bytes());
                bytes.extend(rtc.utc_offset.to_ne_bytes());
            }
            Self::Keyboard | Self::PowerManagement => bytes.extend(0u32.to_ne_bytes()),
            Self::PciHost(pci) => {
                bytes.extend(pci.mmio_base.to_ne_bytes());
                bytes.extend(pci.mmio_size.to_ne_bytes());
            }
            Self::Blk(blk) => {
                bytes.extend(blk.fd.to_ne_bytes());
                let flags =
                    if blk.read_only { BLK_READ_ONLY } else { 0 } | if blk.packed { BLK_PACKED } else { 0 };
                bytes.extend(flags.to_ne_bytes());
                let mut serial = blk.serial.as_bytes().to_vec();
                serial.resize(SERIAL_MAX, 0);
                bytes.extend(serial);
                bytes.extend(blk.slot.to_ne_bytes());
                bytes.extend(blk.queue_size.to_ne_bytes());
                bytes.extend(blk.queues.to_ne_bytes());
                bytes.extend(0u16.to_ne_bytes());
            }
            Self::Net(net) => bytes.extend(net.bytes()),
            Self::Rng { slot } => {
                bytes.extend(slot.to_ne_bytes());
                bytes.extend(0u32.to_ne_bytes());
            }
            Self::Console { slot, packed, waits, size: (columns, rows) } => {
                bytes.extend(slot.to_ne_bytes());
                let flags = if *packed { CONSOLE_PACKED } else { 0 } | if *waits { CONSOLE_WAITS } else { 0 };
                bytes.extend(flags.to_ne_bytes());
                bytes.extend(columns.to_ne_bytes());
                bytes.extend(rows.to_ne_bytes());
                bytes.extend(0u32.to_ne_bytes());
            }
        }
        bytes
    }
}

/// Creates and realises a device.
///
/// # Errors
/// `Lacks` for a type that the module does not know, `Host` with what else was refused.
pub fn create(vm: &VmFd, device: Device) -> Result<DeviceFd, Error> {
    let mut request = kvm_create_device { type_: device.kind(), fd: 0, flags: 0 };
    let fd = vm.create_device(&mut request).map_err(|e| match Errno::from_raw(e.errno()) {
        Errno::ENODEV => Error::Lacks(device.name()),
        errno => Error::Host(device.action(), errno),
    })?;
    let config = device.config();
    let attr = kvm_device_attr { group: GROUP_CONFIG, attr: 0, addr: config.as_ptr() as u64, flags: 0 };
    fd.set_device_attr(&attr).map_err(Error::host(device.action()))?;
    Ok(fd)
}

/// Presses the power button of an ACPI power management device.
///
/// # Errors
/// `Host` when the module refuses.
pub fn press_power_button(power: &DeviceFd) -> Result<(), Error> {
    let attr = kvm_device_attr { group: GROUP_ACTION, attr: 0, addr: 0, flags: 0 };
    power.set_device_attr(&attr).map_err(Error::host("press the power button"))
}

/// Bytes of output that a console's device lost.
pub fn lost_output(console: &impl AsRawFd) -> u64 {
    crate::sys::device_counter(console, GROUP_COUNTERS, COUNT_LOST).unwrap_or(0)
}

/// Whether the module knows a device type, asked without creating one.
pub fn is_known(vm: &VmFd, kind: u32) -> bool {
    let mut request = kvm_create_device { type_: kind, fd: 0, flags: KVM_CREATE_DEVICE_TEST };
    crate::sys::test_device(vm, &mut request)
}
