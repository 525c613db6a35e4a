// SPDX-License-Identifier: GPL-2.0

//! The devices that user space can put into a machine: one table, a row for each.
//!
//! A row names the kind, its number in the ABI, the structure that configures it, and the function that makes it of
//! that structure and puts it into the machine. A new device is a row here, its structure in `abi/rvmm.rs`, its model,
//! and where it has queues its service:
//!
//! ```text
//! Rng = abi::DEV_VIRTIO_RNG, abi::VirtioRngConfig => rng;
//! ```
//!
//! What user space then does with it by its fd is the same for all kinds: [`DeviceHandle`].

use super::console::ConsoleEnd;
use super::pci::PciFunction;
use super::service::blk::BlkService;
use super::service::console::ConsoleService;
use super::service::net::{NetBackend, NetService};
use super::service::rng::RngService;
use super::whole::GuestMachine;
use crate::abi::rvmm as abi;
use crate::chipset::bus::Bus;
use crate::chipset::i8042::I8042;
use crate::chipset::pm::{Pm, TimerWidth};
use crate::chipset::rtc::{Rtc, RtcSetup};
use crate::chipset::uart::Uart;
use crate::host::blkio::BackingFile;
use crate::host::file::Known;
use crate::host::netio::{Stream, Tap};
use crate::host::timer;
use crate::virtio::device::blk::{self as blk_model, DiskGeometry, VirtioBlk};
use crate::virtio::device::console::VirtioConsole;
use crate::virtio::device::net::{self as net_model, NetConfig, VirtioNet};
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::transport::pci::VirtioPci;
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};
use zerocopy::{FromBytes, IntoBytes};

/// Requests that a disk can have under way, with one queue.
const REQUESTS: u16 = 64;
/// The same for each queue at least.
const LEAST_REQUESTS: u16 = 16;

static_assertions::const_assert_eq!(blk_model::MAX_QUEUES, abi::BLK_MAX_QUEUES);
static_assertions::const_assert_eq!(net_model::MAX_PAIRS as usize, abi::NET_MAX_PAIRS);

/// Where the structure that configures a device comes from.
pub(crate) trait ReadConfig {
    /// Reads it.
    ///
    /// # Errors
    /// `EFAULT`.
    fn read<T: FromBytes + IntoBytes>(&self) -> Result<T>;
}

/// What a device can be asked by its fd, once it is in the machine.
enum ServedDevice {
    /// Threads serve the queues of a disk.
    Blk(Arc<BlkService>),
    /// The same of a network card.
    Net(Arc<NetService>),
    /// The console's other side.
    Console(Arc<ConsoleService>),
}

macro_rules! devices {
    ($($(#[doc = $doc:literal])* $kind:ident = $number:path, $config:ty => $make:ident;)*) => {
        /// The kinds of devices.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum DeviceKind {
            $($(#[doc = $doc])* $kind,)*
        }

        impl DeviceKind {
            /// Returns the kind of a KVM_CREATE_DEVICE type.
            fn from_type(number: u32) -> Option<DeviceKind> {
                match number {
                    $($number => Some(DeviceKind::$kind),)*
                    _ => None,
                }
            }

            /// Makes the device as `config` says, and puts it into `machine`.
            fn make(self, machine: &GuestMachine, config: &impl ReadConfig, handle: &DeviceHandle) -> Result {
                match self {
                    $(DeviceKind::$kind => $make(machine, config.read::<$config>()?, handle),)*
                }
            }
        }
    };
}

devices! {
    /// 16550A serial port.
    Uart = abi::DEV_UART, abi::UartConfig => uart;
    /// Real-time clock.
    Rtc = abi::DEV_RTC, abi::RtcConfig => rtc;
    /// Keyboard controller.
    I8042 = abi::DEV_I8042, abi::I8042Config => i8042;
    /// ACPI power management.
    Pm = abi::DEV_ACPI_PM, abi::AcpiPmConfig => pm;
    /// PCI host bridge.
    PciHost = abi::DEV_PCI_HOST, abi::PciHostConfig => pci_host;
    /// Disk.
    Blk = abi::DEV_VIRTIO_BLK, abi::VirtioBlkConfig => blk;
    /// Network card.
    Net = abi::DEV_VIRTIO_NET, abi::VirtioNetConfig => net;
    /// Entropy source.
    Rng = abi::DEV_VIRTIO_RNG, abi::VirtioRngConfig => rng;
    /// Console.
    Console = abi::DEV_VIRTIO_CONSOLE, abi::VirtioConsoleConfig => console;
}

/// A device that user space has made, and once it is configured what can be asked of it.
pub(crate) struct DeviceHandle {
    kind: DeviceKind,
    served: SetOnce<ServedDevice>,
}

impl DeviceHandle {
    /// Returns one of a KVM_CREATE_DEVICE type that is yet to be configured. `None`: there is no such type.
    pub(crate) fn new(number: u32) -> Option<DeviceHandle> {
        Some(DeviceHandle { kind: DeviceKind::from_type(number)?, served: SetOnce::new() })
    }

    /// Puts the device into `machine`, once, before a vCPU runs.
    ///
    /// # Errors
    /// `EBUSY` when there is one in its place or a vCPU has run; `EINVAL` for a structure that cannot be; those of
    /// the kind.
    pub(crate) fn configure(&self, machine: &GuestMachine, config: &impl ReadConfig) -> Result {
        self.kind.make(machine, config, self)
    }

    /// Puts what was made into a machine in which no vCPU has run, by `place`.
    fn put(&self, machine: &GuestMachine, served: ServedDevice, place: impl FnOnce() -> Result) -> Result {
        machine.reshape(|| {
            if self.served.as_ref().is_some() {
                return Err(EBUSY);
            }
            place()?;
            self.served.populate(served);
            Ok(())
        })
    }

    /// Returns whether the device is a console, configured or not.
    pub(crate) fn is_console(&self) -> bool {
        matches!(self.kind, DeviceKind::Uart | DeviceKind::Console)
    }

    /// Returns whether the device is a virtio console, whose input goes into the guest's memory.
    pub(crate) fn is_virtio_console(&self) -> bool {
        self.kind == DeviceKind::Console
    }

    /// Returns user space's side of a console. `None`: it is none, or is not configured.
    pub(crate) fn console<'a>(&'a self, machine: &'a GuestMachine) -> Option<ConsoleEnd<'a>> {
        match (self.kind, self.served.as_ref()) {
            (DeviceKind::Uart, _) => Some(ConsoleEnd::Uart(&machine.interrupts)),
            (_, Some(ServedDevice::Console(console))) => Some(ConsoleEnd::Virtio(console)),
            _ => None,
        }
    }

    /// Asks a vCPU to serve what waits in the queues of a virtio console.
    pub(crate) fn request_service(&self, machine: &GuestMachine) {
        if let Some(ServedDevice::Console(console)) = self.served.as_ref() {
            machine.pci.request_service(&machine.interrupts, console);
        }
    }

    /// Returns whether the device has a power button.
    pub(crate) fn has_power_button(&self) -> bool {
        self.kind == DeviceKind::Pm
    }

    /// Presses the power button. Returns whether there is one.
    pub(crate) fn press_power_button(&self, machine: &GuestMachine) -> bool {
        self.has_power_button() && machine.interrupts.with(|bus, now, out| bus.press_power_button(now, out))
    }

    /// Serves a queue with the calling thread, until a signal arrives.
    ///
    /// # Errors
    /// `ENXIO` before it is configured, `EINVAL` for a device whose queues no thread serves; those of the service.
    pub(crate) fn serve(&self, queue: u16) -> Result {
        match self.served.as_ref().ok_or(ENXIO)? {
            ServedDevice::Blk(blk) => blk.serve(queue),
            ServedDevice::Net(net) => net.serve(queue),
            ServedDevice::Console(_) => Err(EINVAL),
        }
    }
}

fn check(ok: bool) -> Result {
    if ok {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Puts a chip into its place on the bus of a machine in which no vCPU has run; what cannot be placed is dropped.
fn put_chip<D>(machine: &GuestMachine, chip: D, place: impl FnOnce(&mut Bus) -> &mut Option<D>) -> Result {
    let put = |place: &mut Option<D>| match place {
        Some(_) => Err(EBUSY),
        None => {
            *place = Some(chip);
            Ok(())
        }
    };
    machine.reshape(|| machine.interrupts.with(|bus, _, _| put(place(bus))))
}

fn uart(machine: &GuestMachine, c: abi::UartConfig, _: &DeviceHandle) -> Result {
    check(c.index == 0 && c.flags & !abi::UART_WAITS == 0)?;
    let uart = Uart::new()?.wait_for_reader(c.flags & abi::UART_WAITS != 0);
    put_chip(machine, uart, |bus| &mut bus.uart)
}

fn rtc(machine: &GuestMachine, c: abi::RtcConfig, _: &DeviceHandle) -> Result {
    let now = timer::now();
    let rtc = Rtc::new(
        &RtcSetup {
            ram_below_4g: c.ram_below_4g_bytes,
            ram_above_4g: c.ram_above_4g_bytes,
            utc_offset_seconds: c.utc_offset_seconds,
            wall_offset_ns: timer::wall_ns().wrapping_sub(now.0) as i64,
        },
        now,
    );
    put_chip(machine, rtc, |bus| &mut bus.rtc)
}

fn i8042(machine: &GuestMachine, c: abi::I8042Config, _: &DeviceHandle) -> Result {
    check(c.flags == 0)?;
    put_chip(machine, I8042::new(), |bus| &mut bus.i8042)
}

fn pm(machine: &GuestMachine, c: abi::AcpiPmConfig, _: &DeviceHandle) -> Result {
    check(c.flags == 0)?;
    put_chip(machine, Pm::new(TimerWidth::Bits32, timer::now()), |bus| &mut bus.pm)
}

fn pci_host(machine: &GuestMachine, c: abi::PciHostConfig, _: &DeviceHandle) -> Result {
    machine.reshape(|| machine.pci.create(c.mmio_base, c.mmio_size))
}

fn rng(machine: &GuestMachine, c: abi::VirtioRngConfig, _: &DeviceHandle) -> Result {
    check(c.flags & !abi::RNG_PACKED == 0)?;
    let rng = VirtioPci::new(VirtioRng)?.offer_packed(c.flags & abi::RNG_PACKED != 0);
    let service = RngService::new(rng, machine.ram.clone(), machine.interrupts.clone())?;
    machine.reshape(|| machine.pci.add(c.slot, PciFunction::Rng(service)))
}

fn console(machine: &GuestMachine, c: abi::VirtioConsoleConfig, handle: &DeviceHandle) -> Result {
    check(c.flags & !(abi::CONSOLE_PACKED | abi::CONSOLE_WAITS) == 0 && c.pad == 0)?;
    let console = VirtioConsole::new(c.columns, c.rows)?.wait_for_reader(c.flags & abi::CONSOLE_WAITS != 0);
    let console = VirtioPci::new(console)?.offer_packed(c.flags & abi::CONSOLE_PACKED != 0);
    let service = ConsoleService::new(console, machine.ram.clone(), machine.interrupts.clone())?;
    let function = PciFunction::Console(service.clone());
    handle.put(machine, ServedDevice::Console(service), || machine.pci.add(c.slot, function))
}

fn blk(machine: &GuestMachine, c: abi::VirtioBlkConfig, handle: &DeviceHandle) -> Result {
    let read_only = c.flags & abi::BLK_READ_ONLY != 0;
    check(c.flags & !(abi::BLK_READ_ONLY | abi::BLK_PACKED) == 0 && c.pad == 0)?;
    let (known, file) = Known::<BackingFile>::look_up(c.fd)?;
    file.check_mode(!read_only)?;
    let p = file.properties()?;
    check((9..=12).contains(&p.block_shift) && p.bytes >= 512)?;
    let geometry = DiskGeometry {
        sectors: p.bytes >> 9,
        block_shift: p.block_shift,
        read_only,
        discard: p.discard && !read_only,
        serial: c.serial,
    };
    let size = match c.queue_size {
        0 => 256,
        n => u16::try_from(n)?,
    };
    check(size.is_power_of_two() && size <= 1024)?;
    let queues = c.queues.max(1);
    // Together about as many as one queue would have.
    let depth = REQUESTS.checked_div(queues).unwrap_or(0).max(LEAST_REQUESTS);
    let blk = VirtioPci::new(VirtioBlk::new(geometry, size, depth, queues)?)?
        .offer_packed(c.flags & abi::BLK_PACKED != 0);
    let service =
        BlkService::new(blk, known, machine.ram.clone(), machine.interrupts.clone(), machine.settings.disks)?;
    let function = PciFunction::Blk(service.clone());
    handle.put(machine, ServedDevice::Blk(service), || machine.pci.add(c.slot, function))
}

fn net(machine: &GuestMachine, c: abi::VirtioNetConfig, handle: &DeviceHandle) -> Result {
    let offloads = abi::NET_OFFLOADS | abi::NET_UDP_OFFLOADS;
    let is_stream = c.flags & abi::NET_STREAM != 0;
    check(c.flags & !(offloads | abi::NET_STREAM | abi::NET_PACKED) == 0 && c.pad == [0; 6])?;
    check(!is_stream || (c.flags & offloads == 0 && c.pairs == 1))?;
    let net = VirtioNet::new(&NetConfig {
        mac: c.mac,
        mtu: c.mtu,
        pairs: c.pairs,
        offloads: c.flags & abi::NET_OFFLOADS != 0,
        udp_offloads: c.flags & abi::NET_UDP_OFFLOADS != 0,
    })?;
    let backend = match c.fds.get(..usize::from(c.pairs)).unwrap_or(&[]) {
        [fd] if is_stream => NetBackend::Stream(Known::<Stream>::look_up(*fd)?.0),
        fds => {
            let mut taps = KVec::with_capacity(fds.len(), GFP_KERNEL_ACCOUNT)?;
            for fd in fds {
                taps.push_within_capacity(Known::<Tap>::look_up(*fd)?.0)?;
            }
            NetBackend::Taps(taps)
        }
    };
    let net = VirtioPci::new(net)?.offer_packed(c.flags & abi::NET_PACKED != 0);
    let service = NetService::new(net, backend, machine.ram.clone(), machine.interrupts.clone())?;
    let function = PciFunction::Net(service.clone());
    handle.put(machine, ServedDevice::Net(service), || machine.pci.add(c.slot, function))
}
