// SPDX-License-Identifier: GPL-2.0

//! The devices of random guests: rvmm's chips, and a virtio device of each model that a driver has brought up before the guest
//! goes its own ways. Threads serve them, and somebody at their other ends moves data.

use crate::abi::{nr, rvmm};
use crate::driver::{Layout, Model, USED_INDEX};
use crate::random::Random;
use crate::raw::{self, ioctl_with, Memory, SharedFd};
use kvm_bindings::{kvm_create_device, kvm_device_attr};
use kvm_ioctls::{DeviceFd, VmFd};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// The models, in the order of their slots.
const MODELS: [Model; 4] = [Model::Disk, Model::Entropy, Model::Card, Model::Console];

/// Where their parts are in the guest.
pub struct Places(Layout);

/// The same in each guest: two megabytes below the I/O APIC are for them, and three pages of memory.
pub const DEVICES: Places = Places(Layout { bars: 0xfe80_0000, rings: 0xd000, data: 0xe000 });

impl Places {
    /// Returns an address that a device decodes, or nearly.
    pub fn address(&self, r: &mut Random) -> u64 {
        let n = r.below(MODELS.len() as u64) as u32;
        if r.one_in(2) {
            return self.0.doorbell(n, r.below(2) as u16).into();
        }
        let part = r.pick(&[0, 0, 0x1000, 0x2000, 0x3000, 0x4000, 0x4800]);
        u64::from(self.0.bar(n)) + part + r.below(0x48)
    }

    /// Returns full queues, and data of zeros, with their addresses.
    pub fn rings(&self) -> Vec<(u64, Vec<u8>)> {
        let each = queues()
            .map(|(n, model, queue)| (self.0.ring(n, queue).into(), self.0.full_ring(model, queue, 0)));
        each.chain([(self.0.data.into(), vec![0; 0x800])]).collect()
    }

    /// Returns the driver.
    pub fn code(&self, r: &mut Random) -> Vec<u8> {
        self.0.code(&MODELS, r.pick(&[0, 1 << 29, 3 << 28]), r.one_in(2))
    }
}

/// All queues: the number of the device, its model, the number of the queue.
fn queues() -> impl Iterator<Item = (u32, Model, u16)> {
    let each = |(n, model): (u32, Model)| (0..model.queues()).map(move |queue| (n, model, queue));
    (0..).zip(MODELS).flat_map(each)
}

/// The devices of a machine.
pub struct Devices {
    chips: Vec<DeviceFd>,
    /// In the order of [`MODELS`].
    models: Vec<DeviceFd>,
    /// The card's wire; the other end is the card's while it is served.
    wire: UnixStream,
    _card_end: UnixStream,
    _disk: File,
}

impl Devices {
    /// Puts the devices into a machine that has not run. `None`: the node has no such devices.
    pub fn new(vm: &VmFd, r: &mut Random) -> Option<Devices> {
        let (mmio_base, mmio_size) = (DEVICES.0.bars.into(), 0x20_0000);
        let mut chips = vec![add(vm, rvmm::DEV_PCI_HOST, &rvmm::PciHostConfig { mmio_base, mmio_size })?];
        let uart = rvmm::UartConfig { index: 0, flags: r.pick(&[0, rvmm::UART_WAITS]) };
        chips.push(add(vm, rvmm::DEV_UART, &uart)?);
        chips.push(add(vm, rvmm::DEV_RTC, &rvmm::RtcConfig::new_zeroed())?);
        chips.push(add(vm, rvmm::DEV_I8042, &rvmm::I8042Config::new_zeroed())?);
        chips.push(add(vm, rvmm::DEV_ACPI_PM, &rvmm::AcpiPmConfig::new_zeroed())?);
        let path = format!("/tmp/fuzz-disk-{}", std::process::id());
        let disk = File::create_new(&path).and_then(|f| f.set_len(1 << 20).map(|()| f)).expect("a disk");
        std::fs::remove_file(path).expect("its name");
        let (card_end, wire) = UnixStream::pair().expect("a pair of sockets");
        wire.set_nonblocking(true).expect("a socket that does not block");
        let mut blk = rvmm::VirtioBlkConfig::new_zeroed();
        (blk.fd, blk.slot) = (disk.as_raw_fd(), 1);
        let mut net = rvmm::VirtioNetConfig::new_zeroed();
        (net.fds[0], net.flags, net.pairs, net.slot) = (card_end.as_raw_fd(), rvmm::NET_STREAM, 1, 3);
        let mut console = rvmm::VirtioConsoleConfig::new_zeroed();
        (console.slot, console.flags) = (4, r.pick(&[0, rvmm::CONSOLE_WAITS]));
        let models = vec![
            add(vm, rvmm::DEV_VIRTIO_BLK, &blk)?,
            add(vm, rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { slot: 2, flags: 0 })?,
            add(vm, rvmm::DEV_VIRTIO_NET, &net)?,
            add(vm, rvmm::DEV_VIRTIO_CONSOLE, &console)?,
        ];
        Some(Devices { chips, models, wire, _card_end: card_end, _disk: disk })
    }

    /// Returns the queues that want a thread.
    pub fn workers(&self) -> Vec<(SharedFd, u64)> {
        let wanted = queues().filter(|(_, model, _)| matches!(model, Model::Disk | Model::Card));
        wanted.map(|(n, _, queue)| (SharedFd::of(&self.models[n as usize]), queue.into())).collect()
    }

    /// Does what somebody at the other ends does, and what a driver would: `memory` begins `before` bytes before the
    /// guest's.
    pub fn disturb(&self, r: &mut Random, memory: &Memory, before: u64) {
        let consoles = [&self.chips[1], &self.models[3]];
        let console = r.pick(&consoles).as_raw_fd();
        match r.below(6) {
            0 => raw::fill(console),
            1 => raw::drain(console),
            // A packet of 60 bytes, or bytes that are none.
            2 => {
                let mut packet = [r.byte(); 64];
                packet[..4].copy_from_slice(&(60 + u32::from(r.one_in(8))).to_be_bytes());
                (&self.wire).write_all(&packet).ok();
            }
            3 => raw::drain(self.wire.as_raw_fd()),
            _ => {
                let all: Vec<_> = queues().collect();
                let (n, model, queue) = r.pick(&all);
                let at = before + u64::from(DEVICES.0.ring(n, queue));
                let used = u16::from_le_bytes(memory.read((at + u64::from(USED_INDEX)) as usize));
                memory.write(at as usize, &DEVICES.0.full_ring(model, queue, used));
            }
        }
    }

    /// Returns how many queues have moved, as the guest's memory has it.
    pub fn moved(&self, memory: &Memory, before: u64) -> usize {
        let used = |(n, _, queue): (u32, Model, u16)| {
            memory.read::<2>((before + u64::from(DEVICES.0.ring(n, queue) + USED_INDEX)) as usize) != [0; 2]
        };
        queues().filter(|q| used(*q)).count()
    }
}

/// Makes a device and configures it.
fn add(vm: &VmFd, type_: u32, config: &(impl IntoBytes + Immutable)) -> Option<DeviceFd> {
    let device = vm.create_device(&mut kvm_create_device { type_, ..Default::default() }).ok()?;
    let addr = config.as_bytes().as_ptr() as u64;
    let mut attr = kvm_device_attr { flags: 0, group: rvmm::GROUP_CONFIG, attr: 0, addr };
    ioctl_with(&device, nr::SET_DEVICE_ATTR, &mut attr).expect("a device's configuration");
    Some(device)
}
