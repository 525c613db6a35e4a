// SPDX-License-Identifier: GPL-2.0

//! The devices that user space can put into a machine: the chips, one table with a row for each, and the functions of
//! [`super::functions`].
//!
//! A row names the kind, its number in the ABI, the structure that configures it, and the function that makes it of
//! that structure and puts it into the machine:
//!
//! ```text
//! I8042 = abi::DEV_I8042, abi::I8042Config => i8042;
//! ```
//!
//! What user space then does with it by its fd is the same for all kinds: [`DeviceHandle`].

use super::console::ConsoleEnd;
use super::functions::{check, each_function, FunctionHost, FunctionKind, PciFunction};
use super::service::blk::BlkService;
use super::service::function::VirtioService;
use super::whole::GuestMachine;
use crate::abi::rvmm as abi;
use crate::arch::time::Ns;
use crate::chipset::bus::ChipBus;
use crate::chipset::i8042::I8042;
use crate::chipset::pci::PciSlot;
use crate::chipset::pm::{Pm, TimerWidth};
use crate::chipset::rtc::{Rtc, RtcSetup};
use crate::chipset::uart::Uart;
use crate::host::timer;
use kernel::prelude::*;
use kernel::sync::SetOnce;

pub(crate) use super::functions::ReadConfig;

macro_rules! chips {
    ($($(#[doc = $doc:literal])* $kind:ident = $number:path, $config:ty => $make:ident;)*) => {
        /// The kinds of devices.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum DeviceKind {
            $($(#[doc = $doc])* $kind,)*
            /// A function on PCI.
            Pci(FunctionKind),
        }

        impl DeviceKind {
            /// Returns the kind of a KVM_CREATE_DEVICE type.
            fn from_type(number: u32) -> Option<DeviceKind> {
                match number {
                    $($number => Some(DeviceKind::$kind),)*
                    _ => FunctionKind::from_type(number).map(DeviceKind::Pci),
                }
            }

            /// Makes the device as `config` says, and puts it into `machine`.
            fn make(self, machine: &GuestMachine, config: &impl ReadConfig, handle: &DeviceHandle) -> Result {
                match self {
                    $(DeviceKind::$kind => $make(machine, config.read::<$config>()?),)*
                    DeviceKind::Pci(kind) => handle.put_function(machine, kind, config),
                }
            }
        }
    };
}

chips! {
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
}

/// A device that user space has made, and once it is configured what can be asked of it.
pub(crate) struct DeviceHandle {
    kind: DeviceKind,
    /// Where on the bus its function is.
    slot: SetOnce<PciSlot>,
}

impl DeviceHandle {
    /// Returns one of a KVM_CREATE_DEVICE type that is yet to be configured. `None`: there is no such type.
    pub(crate) fn new(number: u32) -> Option<DeviceHandle> {
        Some(DeviceHandle { kind: DeviceKind::from_type(number)?, slot: SetOnce::new() })
    }

    /// Puts the device into `machine`, once, before a vCPU runs.
    ///
    /// # Errors
    /// `EBUSY` when there is one in its place or a vCPU has run; `EINVAL` for a structure that cannot be; those of
    /// the kind.
    pub(crate) fn configure(&self, machine: &GuestMachine, config: &impl ReadConfig) -> Result {
        self.kind.make(machine, config, self)
    }

    /// Makes a function and puts it on the bus of a machine in which no vCPU has run.
    fn put_function(&self, machine: &GuestMachine, kind: FunctionKind, config: &impl ReadConfig) -> Result {
        let GuestMachine { ram, interrupts, settings, .. } = machine;
        let host = FunctionHost { ram, interrupts, disks: settings.disks };
        let (number, function) = kind.make(config, &host)?;
        machine.reshape(|| {
            // Asked where one thread at a time is, so that two calls do not put two functions on the bus.
            if self.slot.as_ref().is_some() {
                return Err(EBUSY);
            }
            self.slot.populate(machine.pci.add(number, function)?);
            Ok(())
        })
    }

    /// Returns the device's function on the bus. `None`: it has none, or is not configured.
    fn function<'a>(&self, machine: &'a GuestMachine) -> Option<&'a PciFunction> {
        machine.pci.function(*self.slot.as_ref()?)
    }

    /// Returns whether the device is a console, configured or not.
    pub(crate) fn is_console(&self) -> bool {
        self.kind == DeviceKind::Uart || self.is_virtio_console()
    }

    /// Returns whether the device is a virtio console, whose input goes into the guest's memory.
    pub(crate) fn is_virtio_console(&self) -> bool {
        self.kind == DeviceKind::Pci(FunctionKind::Console)
    }

    /// Returns user space's side of a console. `None`: it is none, or is not configured.
    pub(crate) fn console<'a>(&self, machine: &'a GuestMachine) -> Option<ConsoleEnd<'a>> {
        if self.kind == DeviceKind::Uart {
            return Some(ConsoleEnd::Uart(&machine.interrupts));
        }
        match self.function(machine)? {
            PciFunction::Console(console) => Some(ConsoleEnd::Virtio(console)),
            _ => None,
        }
    }

    /// Asks a vCPU to serve what waits in the queues of the device's function.
    pub(crate) fn request_service(&self, machine: &GuestMachine) {
        if let Some(slot) = self.slot.as_ref() {
            machine.pci.request_service(&machine.interrupts, *slot);
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

    /// Returns whether the device is a clock, configured or not.
    pub(crate) fn is_clock(&self) -> bool {
        self.kind == DeviceKind::Rtc
    }

    /// Returns what a clock is ahead of UTC, in seconds. `None`: it is none, or is not configured.
    pub(crate) fn utc_offset_seconds(&self, machine: &GuestMachine) -> Option<i64> {
        let ahead = |rtc: &Rtc, now| rtc.utc_offset_seconds(wall_offset_ns(now));
        let offset = |bus: &mut ChipBus, now| bus.rtc.as_ref().map(|rtc| ahead(rtc, now));
        self.is_clock().then(|| machine.interrupts.with(|bus, now, _| offset(bus, now)))?
    }

    /// Returns whether the device is a disk, configured or not.
    pub(crate) fn is_disk(&self) -> bool {
        self.kind == DeviceKind::Pci(FunctionKind::Blk)
    }

    /// Returns how many requests of a disk the host failed. `None`: it is none, or is not configured.
    pub(crate) fn failed_requests(&self, machine: &GuestMachine) -> Option<u64> {
        self.disk(machine).map(BlkService::failed)
    }

    /// Looks whether a disk's file has grown.
    ///
    /// # Errors
    /// `ENXIO` for what is no disk or is not configured; `EBADF` where the file is not the caller's.
    pub(crate) fn look_at_size(&self, machine: &GuestMachine) -> Result {
        self.disk(machine).ok_or(ENXIO)?.look_at_size()
    }

    fn disk<'a>(&self, machine: &'a GuestMachine) -> Option<&'a BlkService> {
        match self.function(machine) {
            Some(PciFunction::Blk(disk)) => Some(disk),
            _ => None,
        }
    }

    /// Serves a queue with the calling thread, until a signal arrives, or there is something else to tell user space:
    /// the host's errno for a request that it failed.
    ///
    /// # Errors
    /// `ENXIO` before it is configured and for a device without queues, `EINVAL` for one whose queues no thread
    /// serves; those of the service.
    pub(crate) fn serve(&self, machine: &GuestMachine, queue: u16) -> Result<Option<Error>> {
        let function = self.function(machine).ok_or(ENXIO)?;
        each_function!(function, service => service.serve(queue))
    }
}

/// Puts a chip into its place on the bus of a machine in which no vCPU has run; what cannot be placed is dropped.
fn put_chip<D>(
    machine: &GuestMachine,
    chip: D,
    place: impl FnOnce(&mut ChipBus) -> &mut Option<D>,
) -> Result {
    let put = |place: &mut Option<D>| match place {
        Some(_) => Err(EBUSY),
        None => {
            *place = Some(chip);
            Ok(())
        }
    };
    machine.reshape(|| machine.interrupts.with(|bus, _, _| put(place(bus))))
}

fn uart(machine: &GuestMachine, c: abi::UartConfig) -> Result {
    check(c.index == 0 && c.flags & !abi::UART_WAITS == 0)?;
    let uart = Uart::new()?.wait_for_reader(c.flags & abi::UART_WAITS != 0);
    put_chip(machine, uart, |bus| &mut bus.uart)
}

/// Returns UTC since 1970 minus the monotonic clock, which shows `now`.
fn wall_offset_ns(now: Ns) -> i64 {
    timer::wall_ns().wrapping_sub(now.0) as i64
}

fn rtc(machine: &GuestMachine, c: abi::RtcConfig) -> Result {
    let now = machine.clock.time.now();
    let rtc = Rtc::new(
        &RtcSetup {
            ram_below_4g: c.ram_below_4g_bytes,
            ram_above_4g: c.ram_above_4g_bytes,
            utc_offset_seconds: c.utc_offset_seconds,
            wall_offset_ns: wall_offset_ns(now),
        },
        now,
    );
    put_chip(machine, rtc, |bus| &mut bus.rtc)
}

fn i8042(machine: &GuestMachine, c: abi::I8042Config) -> Result {
    check(c.flags == 0)?;
    put_chip(machine, I8042::new(), |bus| &mut bus.i8042)
}

fn pm(machine: &GuestMachine, c: abi::AcpiPmConfig) -> Result {
    check(c.flags == 0)?;
    put_chip(machine, Pm::new(TimerWidth::Bits32, machine.clock.time.now()), |bus| &mut bus.pm)
}

fn pci_host(machine: &GuestMachine, c: abi::PciHostConfig) -> Result {
    machine.reshape(|| machine.pci.create(c.mmio_base, c.mmio_size))
}
