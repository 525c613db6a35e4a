// SPDX-License-Identifier: GPL-2.0

//! A device of the in-kernel machine: KVM_CREATE_DEVICE types of our own.

use super::user;
use crate::abi::{nr, rvmm as abi, vm as abi_vm};
use crate::chipset::bus::Bus;
use crate::chipset::i8042::I8042;
use crate::chipset::pm::{Pm, TimerWidth};
use crate::chipset::rtc::{Rtc, RtcConfig};
use crate::chipset::uart::Uart;
use crate::host::blkio::BackingFile;
use crate::host::file::{AnonFile, Known, WaitQueue};
use crate::host::netio::{Stream, Tap};
use crate::host::timer;
use crate::machine::worker::Worker;
use crate::vcpu::backend::Backend;
use crate::vcpu::disk::Disk;
use crate::vcpu::net::{Card, Way};
use crate::vcpu::pci::{Backing, Model, PciDevice};
use crate::vcpu::vm::Vm;
use crate::virtio::blk::{self, Blk, Geometry};
use crate::virtio::console::Console;
use crate::virtio::net::{self, Net, NetConfig};
use crate::virtio::pci::VirtioPci;
use crate::virtio::rng::Rng;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::prelude::*;
use kernel::sync::{Arc, SetOnce};

/// Requests that a disk can have under way, with one queue.
const REQUESTS: u16 = 64;
/// The same for each queue at least.
const LEAST_REQUESTS: u16 = 16;

static_assertions::const_assert_eq!(blk::MAX_QUEUES, abi::BLK_MAX_QUEUES);
static_assertions::const_assert_eq!(net::MAX_PAIRS as usize, abi::NET_MAX_PAIRS);

/// The types of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 16550A serial port.
    Uart,
    /// Real-time clock.
    Rtc,
    /// Keyboard controller.
    I8042,
    /// ACPI power management.
    Pm,
    /// PCI host bridge.
    PciHost,
    /// Disk.
    Blk,
    /// Network card.
    Net,
    /// Entropy source.
    Rng,
    /// Console.
    Console,
}

impl Kind {
    /// Returns the kind of a KVM_CREATE_DEVICE type.
    pub(super) fn from_type(kind: u32) -> Option<Kind> {
        Some(match kind {
            abi::DEV_UART => Kind::Uart,
            abi::DEV_RTC => Kind::Rtc,
            abi::DEV_I8042 => Kind::I8042,
            abi::DEV_ACPI_PM => Kind::Pm,
            abi::DEV_PCI_HOST => Kind::PciHost,
            abi::DEV_VIRTIO_BLK => Kind::Blk,
            abi::DEV_VIRTIO_RNG => Kind::Rng,
            abi::DEV_VIRTIO_NET => Kind::Net,
            abi::DEV_VIRTIO_CONSOLE => Kind::Console,
            _ => return None,
        })
    }
}

/// A device on PCI that its fd does something with.
pub(super) enum Served {
    Queues(Arc<PciDevice>),
    Console(Arc<PciDevice>),
}

/// The file behind a device's fd.
pub(super) struct DeviceFile<B: Backend> {
    pub(super) vm: Arc<Vm<B>>,
    pub(super) kind: Kind,
    /// Once configured, what threads can serve, or read and write.
    pub(super) served: SetOnce<Served>,
}

impl<B: Backend> DeviceFile<B> {
    /// Makes a device that is yet to be configured.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(vm: Arc<Vm<B>>, kind: Kind) -> Result<Arc<DeviceFile<B>>> {
        Ok(Arc::new(DeviceFile { vm, kind, served: SetOnce::new() }, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns whether the device has this attribute.
    fn has_attr(&self, a: &abi_vm::DeviceAttr) -> bool {
        match (a.group, a.attr) {
            (abi::GROUP_CONFIG, 0) => true,
            (abi::GROUP_COMMAND, abi::COMMAND_POWER_BUTTON) => self.kind == Kind::Pm,
            (abi::GROUP_COUNTERS, abi::COUNT_LOST) => self.is_console(),
            _ => false,
        }
    }

    fn get_attr(&self, a: abi_vm::DeviceAttr) -> Result<i64> {
        match (a.group, a.attr) {
            (abi::GROUP_COUNTERS, abi::COUNT_LOST) if self.is_console() => {
                user::write(a.addr, &self.lost_output()).map(|()| 0)
            }
            // Commands and the configuration are set only.
            _ if self.has_attr(&a) => Err(EPERM),
            _ => Err(ENXIO),
        }
    }

    fn set_attr(&self, a: abi_vm::DeviceAttr) -> Result<i64> {
        match (a.group, a.attr) {
            (abi::GROUP_CONFIG, 0) => self.configure(a.addr),
            (abi::GROUP_COMMAND, abi::COMMAND_POWER_BUTTON) if self.kind == Kind::Pm => {
                let done = self.vm.chipset.with(|bus, now, out| bus.press_power_button(now, out));
                if done {
                    Ok(0)
                } else {
                    Err(ENXIO)
                }
            }
            _ => Err(ENXIO),
        }
    }

    /// Puts the device into the machine, once.
    fn configure(&self, addr: u64) -> Result<i64> {
        let now = timer::now();
        match self.kind {
            Kind::Uart => {
                let c: abi::UartConfig = user::read(addr)?;
                check(c.index == 0 && c.flags & !abi::UART_WAITS == 0)?;
                let uart = Uart::new()?.wait_for_reader(c.flags & abi::UART_WAITS != 0);
                self.place(|bus| put(&mut bus.uart, uart))
            }
            Kind::Rtc => {
                let c: abi::RtcConfig = user::read(addr)?;
                let rtc = Rtc::new(
                    &RtcConfig {
                        ram_below_4g: c.ram_below_4g_bytes,
                        ram_above_4g: c.ram_above_4g_bytes,
                        utc_offset_seconds: c.utc_offset_seconds,
                        wall_offset_ns: timer::wall_ns().wrapping_sub(now.0) as i64,
                    },
                    now,
                );
                self.place(|bus| put(&mut bus.rtc, rtc))
            }
            Kind::I8042 => {
                check(user::read::<abi::I8042Config>(addr)?.flags == 0)?;
                self.place(|bus| put(&mut bus.i8042, I8042::new()))
            }
            Kind::Pm => {
                check(user::read::<abi::AcpiPmConfig>(addr)?.flags == 0)?;
                self.place(|bus| put(&mut bus.pm, Pm::new(TimerWidth::Bits32, now)))
            }
            Kind::PciHost => {
                let c: abi::PciHostConfig = user::read(addr)?;
                self.vm.reshape(|| self.vm.pci.create(c.mmio_base, c.mmio_size)).map(|()| 0)
            }
            Kind::Blk => self.create_disk(user::read(addr)?),
            Kind::Net => self.create_card(user::read(addr)?),
            Kind::Console => self.create_console(user::read(addr)?),
            Kind::Rng => {
                let c: abi::VirtioRngConfig = user::read(addr)?;
                check(c.flags & !abi::RNG_PACKED == 0)?;
                let rng = VirtioPci::new(Rng)?.offer_packed(c.flags & abi::RNG_PACKED != 0);
                self.vm
                    .reshape(|| self.vm.pci.add(c.slot, Model::Rng(rng), |_| Ok(Backing::Nothing)))
                    .map(|_| 0)
            }
        }
    }

    fn create_console(&self, c: abi::VirtioConsoleConfig) -> Result<i64> {
        check(c.flags & !(abi::CONSOLE_PACKED | abi::CONSOLE_WAITS) == 0 && c.pad == 0)?;
        let console = Console::new(c.columns, c.rows)?.wait_for_reader(c.flags & abi::CONSOLE_WAITS != 0);
        let console = VirtioPci::new(console)?;
        let console = console.offer_packed(c.flags & abi::CONSOLE_PACKED != 0);
        self.create_served(c.slot, Model::Console(console), |_| Ok(Backing::Nothing), Served::Console)
    }

    /// Puts a chip onto the bus of a machine in which no vCPU has run.
    fn place(&self, put: impl FnOnce(&mut Bus) -> Result<i64>) -> Result<i64> {
        self.vm.reshape(|| self.vm.chipset.with(|bus, _, _| put(bus)))
    }

    fn create_disk(&self, c: abi::VirtioBlkConfig) -> Result<i64> {
        let read_only = c.flags & abi::BLK_READ_ONLY != 0;
        check(c.flags & !(abi::BLK_READ_ONLY | abi::BLK_PACKED) == 0 && c.pad == 0)?;
        let (known, file) = Known::<BackingFile>::look_up(c.fd)?;
        file.check_mode(!read_only)?;
        let p = file.properties()?;
        check((9..=12).contains(&p.block_shift) && p.bytes >= 512)?;
        let geometry = Geometry {
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
        let blk = VirtioPci::new(Blk::new(geometry, size, depth, queues)?)?
            .offer_packed(c.flags & abi::BLK_PACKED != 0);
        let depth = blk.depth();
        let disk = |workers: &[_]| Disk::new(known, workers, depth).map(Backing::Disk);
        self.create_served(c.slot, Model::Blk(blk), disk, Served::Queues)
    }

    fn create_card(&self, c: abi::VirtioNetConfig) -> Result<i64> {
        let offloads = abi::NET_OFFLOADS | abi::NET_UDP_OFFLOADS;
        let is_stream = c.flags & abi::NET_STREAM != 0;
        check(c.flags & !(offloads | abi::NET_STREAM | abi::NET_PACKED) == 0 && c.pad == [0; 6])?;
        check(!is_stream || (c.flags & offloads == 0 && c.pairs == 1))?;
        let net = Net::new(&NetConfig {
            mac: c.mac,
            mtu: c.mtu,
            pairs: c.pairs,
            offloads: c.flags & abi::NET_OFFLOADS != 0,
            udp_offloads: c.flags & abi::NET_UDP_OFFLOADS != 0,
        })?;
        let fds = c.fds.get(..usize::from(c.pairs)).unwrap_or(&[]);
        let way = match fds {
            [fd] if is_stream => Way::Stream(Known::<Stream>::look_up(*fd)?.0),
            fds => {
                let mut taps = KVec::with_capacity(fds.len(), GFP_KERNEL_ACCOUNT)?;
                for fd in fds {
                    taps.push_within_capacity(Known::<Tap>::look_up(*fd)?.0)?;
                }
                Way::Taps(taps)
            }
        };
        let net = VirtioPci::new(net)?.offer_packed(c.flags & abi::NET_PACKED != 0);
        let card = |workers: &[_]| Card::new(way, workers.len()).map(Backing::Card);
        self.create_served(c.slot, Model::Net(net), card, Served::Queues)
    }

    /// Puts a device onto the bus that its fd does something with.
    fn create_served(
        &self,
        slot: u32,
        model: Model,
        backing: impl FnOnce(&[Arc<Worker>]) -> Result<Backing>,
        with: impl FnOnce(Arc<PciDevice>) -> Served,
    ) -> Result<i64> {
        self.vm.reshape(|| {
            if self.served.as_ref().is_some() {
                return Err(EBUSY);
            }
            self.served.populate(with(self.vm.pci.add(slot, model, backing)?));
            Ok(0)
        })
    }

    /// Serves a queue with the calling thread.
    fn serve(&self, queue: u64) -> Result<i64> {
        if !self.vm.space.is_current() {
            return Err(EIO);
        }
        let queue = u16::try_from(queue)?;
        let Served::Queues(device) = self.served.as_ref().ok_or(ENXIO)? else { return Err(EINVAL) };
        match &device.backing {
            Backing::Nothing => Err(EINVAL),
            Backing::Disk(disk) => disk.serve(&self.vm, device, queue),
            Backing::Card(card) => card.serve(&self.vm, device, queue),
        }
        .map(|()| 0)
    }
}

fn check(ok: bool) -> Result {
    if ok {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// Puts a device into its place on the bus; what cannot be placed is dropped by the caller.
fn put<D>(place: &mut Option<D>, device: D) -> Result<i64> {
    if place.is_some() {
        return Err(EBUSY);
    }
    *place = Some(device);
    Ok(0)
}

impl<B: Backend> AnonFile for DeviceFile<B> {
    const NAME: &'static CStr = c"rvmm-device";

    fn ioctl(this: &Arc<Self>, cmd: u32, arg: u64) -> Result<i64> {
        match cmd {
            nr::SET_DEVICE_ATTR => this.set_attr(user::read(arg)?),
            abi::DEV_RUN => this.serve(arg),
            nr::HAS_DEVICE_ATTR if this.has_attr(&user::read(arg)?) => Ok(0),
            nr::HAS_DEVICE_ATTR => Err(ENXIO),
            nr::GET_DEVICE_ATTR => this.get_attr(user::read(arg)?),
            _ => Err(ENOTTY),
        }
    }

    fn read(
        this: &Arc<Self>,
        to: &mut IovIterDest<'_>,
        _position: &mut u64,
        nonblock: bool,
    ) -> Result<usize> {
        this.read_console(to, nonblock)
    }

    fn write(this: &Arc<Self>, from: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize> {
        this.write_console(from, nonblock)
    }

    fn poll(this: &Arc<Self>) -> u32 {
        this.poll_console()
    }

    fn wait_queue(this: &Self) -> Option<&WaitQueue> {
        this.is_console().then_some(&this.vm.chipset.console)
    }
}
