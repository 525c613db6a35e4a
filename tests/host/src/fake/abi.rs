// SPDX-License-Identifier: GPL-2.0

//! A VM and its vCPUs by ioctls, as a VMM has them.

use super::backend::{Fake, Guest};
use super::direct::RAM;
use super::steps::{code_page, Ran, Steps, CODE};
use crate::abi::run::offset;
use crate::abi::{nr, rvmm, sys as abi_sys, vcpu as abi, vm as abi_vm};
use crate::host::world::{locked, World};
use crate::kvm::observe::ObservedHost;
use crate::kvm::sys::{self, NodeContext};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::mm::virt::SharedBytes;
use kernel::prelude::*;
use std::collections::VecDeque;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Where structures for ioctls are put.
const SCRATCH: u64 = 0x1000_0000;
/// Bytes of each, and how many there are before the first is used again.
const ROOM: u64 = 0x2_0000;
const ROOMS: u64 = 16;

/// The window that BARs are placed in.
pub(crate) const WINDOW: u64 = 0xc000_0000;

/// What the node knows of a module that has just been loaded.
fn node_context() -> NodeContext {
    let settings = super::settings();
    NodeContext { settings, observed: ObservedHost::new(settings.disks).unwrap() }
}

/// Where [`supported_cpuid`] has its list.
const LIST: u64 = 0x1f00_0000;

/// Returns what KVM_GET_SUPPORTED_CPUID gives.
pub(crate) fn supported_cpuid(world: &World, backend: &kernel::sync::Arc<Fake>) -> Vec<abi_sys::CpuidEntry2> {
    const ROOM: usize = 100;
    world.process.map(LIST, 8192, true, false);
    world.process.write(LIST, &(ROOM as u64).to_le_bytes(), true).unwrap();
    sys::ioctl(backend, &node_context(), nr::GET_SUPPORTED_CPUID, LIST).unwrap();
    let mut all = [0u8; 8 + 40 * ROOM];
    world.process.read(LIST, &mut all, true).unwrap();
    let count = u32::from_le_bytes(all[..4].try_into().unwrap()) as usize;
    let entries = all[8..].chunks_exact(40).take(count);
    entries.map(|e| abi_sys::CpuidEntry2::read_from_bytes(e).unwrap()).collect()
}

/// A VM.
#[derive(Clone)]
pub(crate) struct AbiVm {
    pub(crate) world: Arc<World>,
    pub(crate) backend: kernel::sync::Arc<Fake>,
    pub(crate) node: Arc<NodeContext>,
    pub(crate) fd: i64,
    rooms: Arc<AtomicU64>,
}

impl AbiVm {
    /// One with `pages` pages of memory from 0 on. The caller is in the world.
    pub(crate) fn new(world: &Arc<World>, pages: u64) -> AbiVm {
        let backend = kernel::sync::Arc::new(Fake::new(), GFP_KERNEL).unwrap();
        world.process.map(SCRATCH, ROOM * ROOMS, true, false);
        let node = Arc::new(node_context());
        let fd = sys::ioctl(&backend, &node, nr::CREATE_VM, 0).unwrap();
        let vm = AbiVm { world: world.clone(), backend, node, fd, rooms: Arc::default() };
        world.process.map(RAM, pages * 4096, true, false);
        vm.set_memory(0, 0, pages * 4096, RAM).unwrap();
        world.process.write(RAM + CODE, &code_page(), true).unwrap();
        vm
    }

    /// One with all chips and a host bridge.
    pub(crate) fn with_chips(world: &Arc<World>, pages: u64) -> AbiVm {
        let vm = AbiVm::new(world, pages);
        vm.ioctl(nr::CREATE_IRQCHIP, 0).unwrap();
        vm.give(nr::CREATE_PIT2, &abi_vm::PitConfig { flags: 0, pad: [0; 15] }).unwrap();
        vm.device(rvmm::DEV_UART, &rvmm::UartConfig { index: 0, flags: 0 }).unwrap();
        let rtc =
            rvmm::RtcConfig { ram_below_4g_bytes: 1 << 20, ram_above_4g_bytes: 0, utc_offset_seconds: 0 };
        vm.device(rvmm::DEV_RTC, &rtc).unwrap();
        vm.device(rvmm::DEV_I8042, &rvmm::I8042Config { flags: 0 }).unwrap();
        vm.device(rvmm::DEV_ACPI_PM, &rvmm::AcpiPmConfig { flags: 0 }).unwrap();
        let host = rvmm::PciHostConfig { mmio_base: WINDOW, mmio_size: 0x1000_0000 };
        vm.device(rvmm::DEV_PCI_HOST, &host).unwrap();
        vm
    }

    /// Another VM of the same process, with the same memory.
    pub(crate) fn another(&self, pages: u64) -> AbiVm {
        let vm = AbiVm { fd: self.node(nr::CREATE_VM, 0).unwrap(), ..self.clone() };
        vm.set_memory(0, 0, pages * 4096, RAM).unwrap();
        vm
    }

    /// Closes the VM's fd.
    pub(crate) fn close(&self) {
        self.world.close(self.fd);
    }

    fn room(&self) -> u64 {
        SCRATCH + self.rooms.fetch_add(1, SeqCst) % ROOMS * ROOM
    }

    /// Puts a structure into memory. Returns its address.
    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(&self, value: &T) -> u64 {
        let at = self.room();
        self.world.process.write(at, value.as_bytes(), true).unwrap();
        at
    }

    /// Reads a structure from memory.
    pub(crate) fn get<T: FromBytes + IntoBytes>(&self, at: u64) -> T {
        let mut value = T::new_zeroed();
        self.world.process.read(at, value.as_mut_bytes(), true).unwrap();
        value
    }

    /// ioctl(2) on the node.
    pub(crate) fn node(&self, cmd: u32, arg: u64) -> Result<i64> {
        sys::ioctl(&self.backend, &self.node, cmd, arg)
    }

    /// ioctl(2) on any of its files.
    pub(crate) fn on(&self, fd: i64, cmd: u32, arg: u64) -> Result<i64> {
        self.world.ioctl(fd, cmd, arg)
    }

    /// As [`AbiVm::on`], with a structure.
    pub(crate) fn give_to<T: IntoBytes + Immutable + ?Sized>(
        &self,
        fd: i64,
        cmd: u32,
        value: &T,
    ) -> Result<i64> {
        self.on(fd, cmd, self.put(value))
    }

    /// As [`AbiVm::give_to`]; returns the structure as it is afterwards.
    pub(crate) fn exchange<T>(&self, fd: i64, cmd: u32, value: &T) -> Result<T>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let at = self.put(value);
        self.on(fd, cmd, at)?;
        Ok(self.get(at))
    }

    /// Asks a file for a structure.
    pub(crate) fn ask<T: FromBytes + IntoBytes + Immutable>(&self, fd: i64, cmd: u32) -> Result<T> {
        self.exchange(fd, cmd, &T::new_zeroed())
    }

    /// ioctl(2) on the VM.
    pub(crate) fn ioctl(&self, cmd: u32, arg: u64) -> Result<i64> {
        self.on(self.fd, cmd, arg)
    }

    /// The same with a structure.
    pub(crate) fn give<T: IntoBytes + Immutable + ?Sized>(&self, cmd: u32, value: &T) -> Result<i64> {
        self.give_to(self.fd, cmd, value)
    }

    /// Sets a memory slot.
    pub(crate) fn set_memory(&self, slot: u32, gpa: u64, bytes: u64, hva: u64) -> Result<i64> {
        let region = abi_vm::UserspaceMemoryRegion {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: bytes,
            userspace_addr: hva,
        };
        self.give(nr::SET_USER_MEMORY_REGION, &region)
    }

    /// Makes a device and configures it. Returns its fd.
    pub(crate) fn device<T: IntoBytes + Immutable>(&self, kind: u32, config: &T) -> Result<i64> {
        let asked = abi_vm::CreateDevice { kind, fd: 0, flags: 0 };
        let made = self.exchange(self.fd, nr::CREATE_DEVICE, &asked)?;
        let attr =
            abi_vm::DeviceAttr { flags: 0, group: rvmm::GROUP_CONFIG, attr: 0, addr: self.put(config) };
        self.give_to(made.fd.into(), nr::SET_DEVICE_ATTR, &attr)?;
        Ok(made.fd.into())
    }

    /// Makes a disk of the file behind `fd`. Returns its fd.
    pub(crate) fn disk(&self, fd: i32, slot: u32, queues: u16, flags: u32) -> i64 {
        let serial = *b"12345678901234567890";
        let config = rvmm::VirtioBlkConfig { fd, flags, serial, slot, queue_size: 0, queues, pad: 0 };
        self.device(rvmm::DEV_VIRTIO_BLK, &config).unwrap()
    }

    /// Makes a network card of one pair of queues on the tap or stream behind `fd`. Returns its fd.
    pub(crate) fn network_card(&self, fd: i32, slot: u32, flags: u32) -> i64 {
        let mut fds = [0; rvmm::NET_MAX_PAIRS];
        fds[0] = fd;
        let mac = [2, 0, 0, 0, 0, 1];
        let config = rvmm::VirtioNetConfig { fds, flags, slot, pairs: 1, mtu: 0, mac, pad: [0; 6] };
        self.device(rvmm::DEV_VIRTIO_NET, &config).unwrap()
    }

    /// Makes a vCPU, in protected mode.
    pub(crate) fn vcpu(&self, id: u64) -> AbiVcpu {
        let number = locked(&self.backend.guests).len();
        let fd = self.ioctl(nr::CREATE_VCPU, id).unwrap();
        let guest = self.backend.guest(number);
        let mut pages = self.world.mmap(fd, 3 << 12).unwrap().into_iter().map(|(_, page)| page);
        let (run, pio) = (pages.next().unwrap(), pages.next().unwrap());
        let vcpu = AbiVcpu { vm: self.clone(), fd, run, pio, guest, answers: VecDeque::new() };
        let mut s: abi::Sregs = self.ask(fd, nr::GET_SREGS).unwrap();
        let data = abi::Segment {
            base: 0,
            limit: u32::MAX,
            selector: 0x10,
            kind: 3,
            present: 1,
            dpl: 0,
            db: 1,
            s: 1,
            l: 0,
            g: 1,
            avl: 0,
            unusable: 0,
            padding: 0,
        };
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        s.cs = abi::Segment { selector: 8, kind: 11, ..data };
        s.cr0 = 0x11;
        self.give_to(fd, nr::SET_SREGS, &s).unwrap();
        let regs = abi::Regs { rip: CODE, rflags: 2, ..self.ask(fd, nr::GET_REGS).unwrap() };
        self.give_to(fd, nr::SET_REGS, &regs).unwrap();
        self.give_to(fd, nr::SET_MP_STATE, &abi::MpState { mp_state: 0 }).unwrap();
        vcpu
    }
}

impl AbiVm {
    /// Gives a vCPU all that there is.
    pub(crate) fn give_cpuid(&self, vcpu: &AbiVcpu) {
        self.give_leaves(vcpu, &supported_cpuid(&self.world, &self.backend));
    }

    /// Gives a vCPU these leaves and no others.
    pub(crate) fn give_leaves(&self, vcpu: &AbiVcpu, entries: &[abi_sys::CpuidEntry2]) {
        let mut list = (entries.len() as u64).to_le_bytes().to_vec();
        for e in entries {
            list.extend_from_slice(e.as_bytes());
        }
        self.give_to(vcpu.fd, nr::SET_CPUID2, &list[..]).unwrap();
    }
}

/// A vCPU.
pub(crate) struct AbiVcpu {
    pub(crate) vm: AbiVm,
    pub(crate) fd: i64,
    run: SharedBytes,
    pio: SharedBytes,
    pub(crate) guest: Arc<Guest>,
    /// What the next reads of devices of user space give.
    pub(crate) answers: VecDeque<u64>,
}

impl AbiVcpu {
    /// Returns a number of struct kvm_run.
    pub(crate) fn word<const N: usize>(&self, at: usize) -> [u8; N] {
        locked(&self.run)[at..at + N].try_into().unwrap()
    }

    /// Sets bytes of struct kvm_run.
    pub(crate) fn set(&self, at: usize, bytes: &[u8]) {
        locked(&self.run)[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Returns the exit reason.
    pub(crate) fn reason(&self) -> u32 {
        u32::from_le_bytes(self.word(offset::EXIT_REASON))
    }

    /// Returns the bytes of the exit's own data.
    pub(crate) fn data(&self) -> [u8; 64] {
        self.word(offset::EXIT)
    }

    /// Returns the port's data.
    pub(crate) fn port_data(&self) -> [u8; 256] {
        locked(&self.pio)[..256].try_into().unwrap()
    }
}

impl Steps for AbiVcpu {
    /// The reason and the first bytes of its data.
    type UserExit = (u32, [u8; 64]);

    fn guest(&self) -> Arc<Guest> {
        self.guest.clone()
    }

    fn run(&mut self) -> Ran<(u32, [u8; 64])> {
        match self.vm.on(self.fd, nr::RUN, 0) {
            Ok(0) => Ran::User((self.reason(), self.data())),
            Ok(n) => unreachable!("KVM_RUN returns {n}"),
            Err(e) if e == EINTR => Ran::Guest,
            Err(e) => Ran::Failed(e),
        }
    }

    fn answer(&mut self, (reason, data): &(u32, [u8; 64])) -> bool {
        let is_read = match reason {
            2 => data[0] == 0,
            6 => data[20] == 0,
            _ => false,
        };
        if let Some(value) = if is_read { self.answers.pop_front() } else { None } {
            let bytes = value.to_le_bytes();
            match reason {
                2 => locked(&self.pio)[..8].copy_from_slice(&bytes),
                _ => self.set(offset::MMIO_DATA, &bytes),
            }
        }
        true
    }
}
