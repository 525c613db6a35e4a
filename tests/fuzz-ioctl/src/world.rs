// SPDX-License-Identifier: GPL-2.0

//! What the threads of a child share: a machine, its files, and memory.

use crate::abi::{nr, run, rvmm, vcpu, vm};
use crate::random::Random;
use crate::sys::{self, Arena, RunPage};
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of the guest's memory.
pub const MEMORY: usize = 8 << 20;
/// Where guests begin.
pub const START: u64 = 0x1000;

/// The types of rvmm's devices, and how large their configurations are.
pub const DEVICES: [(u32, usize); 9] = [
    (rvmm::DEV_UART, size_of::<rvmm::UartConfig>()),
    (rvmm::DEV_RTC, size_of::<rvmm::RtcConfig>()),
    (rvmm::DEV_I8042, size_of::<rvmm::I8042Config>()),
    PCI_HOST,
    (rvmm::DEV_ACPI_PM, size_of::<rvmm::AcpiPmConfig>()),
    (rvmm::DEV_VIRTIO_BLK, size_of::<rvmm::VirtioBlkConfig>()),
    (rvmm::DEV_VIRTIO_RNG, size_of::<rvmm::VirtioRngConfig>()),
    (rvmm::DEV_VIRTIO_NET, size_of::<rvmm::VirtioNetConfig>()),
    (rvmm::DEV_VIRTIO_CONSOLE, size_of::<rvmm::VirtioConsoleConfig>()),
];
/// The one without which there is no PCI.
const PCI_HOST: (u32, usize) = (rvmm::DEV_PCI_HOST, size_of::<rvmm::PciHostConfig>());

/// The fds of a child by what they are. Others close them, and put others in their places, at any time.
pub struct Fds<const N: usize>([AtomicI32; N]);

impl<const N: usize> Fds<N> {
    fn new() -> Fds<N> {
        Fds([const { AtomicI32::new(-1) }; N])
    }

    /// Returns one of them, or -1.
    pub fn any(&self, r: &Random) -> i32 {
        let first = r.below(N);
        let mut all = (0..N).map(|i| self.0[(first + i) % N].load(Relaxed));
        all.find(|fd| *fd >= 0).unwrap_or(-1)
    }

    /// Returns the `i`th, or -1.
    pub fn at(&self, i: usize) -> i32 {
        self.0[i % N].load(Relaxed)
    }

    /// Puts an fd into a place, and closes the one that had it.
    pub fn put(&self, i: usize, fd: i32) {
        sys::close(self.0[i % N].swap(fd, Relaxed));
    }
}

/// See the module's description.
pub struct World {
    /// The node.
    pub node: i32,
    /// VMs; the first has the vCPUs and the devices.
    pub vms: Fds<2>,
    /// vCPUs.
    pub vcpus: Fds<4>,
    /// Devices.
    pub devices: Fds<12>,
    /// Files that are none of the module's, and some that are.
    pub others: Fds<16>,
    /// Two ends of a socket in which fds wait.
    pub queue: [i32; 2],
    /// What guests run in; its mappings change.
    pub memory: Arena,
    /// Numbers of the threads.
    pub threads: Fds<16>,
}

impl World {
    /// Makes a machine of a random shape.
    pub fn new(node: &str, r: &Random) -> World {
        let w = World {
            node: sys::open(node),
            vms: Fds::new(),
            vcpus: Fds::new(),
            devices: Fds::new(),
            others: Fds::new(),
            queue: sys::socket_pair(),
            memory: Arena::new(MEMORY, r.once_in(2)),
            threads: Fds::new(),
        };
        for i in 0..4 {
            w.others.put(i, sys::eventfd());
        }
        w.others.put(4, sys::memory_file(1 << 20));
        let ends = sys::socket_pair();
        w.others.put(5, ends[0]);
        w.others.put(6, ends[1]);
        w.others.put(7, sys::tap());
        w.others.put(8, sys::open("/dev/null"));
        w.make_machine(r);
        w
    }

    fn make_machine(&self, r: &Random) {
        let vm = sys::ioctl(self.node, nr::CREATE_VM, 0);
        self.vms.put(0, vm);
        let scratch = Arena::new(4096, false);
        self.slot(vm, &scratch, 0, 0, 0, MEMORY as u64 / 2);
        if !r.once_in(4) {
            sys::ioctl(vm, nr::CREATE_IRQCHIP, 0);
            scratch.write(0, &[0; 64]);
            sys::ioctl(vm, nr::CREATE_PIT2, scratch.address());
        }
        for i in 0..10 {
            let (kind, len) = if i == 0 { PCI_HOST } else { r.of(&DEVICES) };
            self.add_device(vm, &scratch, kind, len, i, r);
        }
        for id in 0..1 + r.below(3) as u64 {
            let vcpu = sys::ioctl(vm, nr::CREATE_VCPU, id);
            self.vcpus.put(id as usize, vcpu);
            restart(vcpu, &scratch);
        }
        self.write_code(0..4, r);
    }

    /// Sets a slot of a VM.
    pub fn slot(&self, vm: i32, scratch: &Arena, slot: u32, gpa: u64, at: u64, len: u64) {
        let userspace_addr = self.memory.address() + at;
        let region = vm::UserspaceMemoryRegion {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: len,
            userspace_addr,
        };
        scratch.write(0, region.as_bytes());
        sys::ioctl(vm, nr::SET_USER_MEMORY_REGION, scratch.address());
    }

    /// Makes a device and configures it, mostly as it wants to be.
    pub fn add_device(&self, vm: i32, scratch: &Arena, kind: u32, len: usize, place: usize, r: &Random) {
        let mut device = vm::CreateDevice { kind, fd: 0, flags: 0 };
        scratch.write(0, device.as_bytes());
        if sys::ioctl(vm, nr::CREATE_DEVICE, scratch.address()) < 0 {
            return;
        }
        scratch.read(0, device.as_mut_bytes());
        let fd = device.fd as i32;
        let config = self.config(kind, len, r);
        scratch.write(64, &config);
        let addr = scratch.address() + 64;
        let attr = vm::DeviceAttr { flags: 0, group: rvmm::GROUP_CONFIG, attr: 0, addr };
        scratch.write(0, attr.as_bytes());
        sys::ioctl(fd, nr::SET_DEVICE_ATTR, scratch.address());
        self.devices.put(place, fd);
    }

    /// Returns a device's configuration.
    pub fn config(&self, kind: u32, len: usize, r: &Random) -> Vec<u8> {
        let mut c = match kind {
            rvmm::DEV_PCI_HOST => {
                rvmm::PciHostConfig { mmio_base: 0xc000_0000, mmio_size: 0x1000_0000 }.as_bytes().to_vec()
            }
            rvmm::DEV_VIRTIO_BLK => {
                let mut disk = rvmm::VirtioBlkConfig::new_zeroed();
                disk.fd = self.others.at(4);
                disk.queues = r.below(4) as u16;
                disk.as_bytes().to_vec()
            }
            rvmm::DEV_VIRTIO_NET => {
                let stream = r.once_in(2);
                let offloads = rvmm::NET_OFFLOADS | rvmm::NET_UDP_OFFLOADS;
                let mut card = rvmm::VirtioNetConfig::new_zeroed();
                card.fds[0] = self.others.at(if stream { 5 + r.below(2) } else { 7 });
                card.flags = if stream { rvmm::NET_STREAM } else { offloads * r.below(2) as u32 };
                card.pairs = 1;
                card.as_bytes().to_vec()
            }
            _ => vec![0; len],
        };
        if r.once_in(6) {
            r.fill(&mut c);
        }
        c
    }

    /// Fills pages of the guest's memory with code that exits, or with anything.
    pub fn write_code(&self, pages: core::ops::Range<usize>, r: &Random) {
        for page in pages {
            let mut bytes = [0u8; 4096];
            let mut at = 0;
            let anything = r.once_in(2);
            while at < bytes.len() - 8 {
                let any = r.next().to_ne_bytes();
                let piece = if anything { &any[..] } else { SNIPPETS[r.below(SNIPPETS.len())] };
                bytes[at..at + piece.len()].copy_from_slice(piece);
                at += piece.len();
            }
            self.memory.try_write(page * 4096, &bytes);
        }
    }
}

/// Instructions of real mode that exit, or lead somewhere.
const SNIPPETS: [&[u8]; 22] = [
    &[0xe4, 0x40],                               // in al, 0x40
    &[0xe6, 0x43],                               // out 0x43, al
    &[0xe6, 0x20],                               // out 0x20, al
    &[0xba, 0xf8, 0x03, 0xee],                   // mov dx, 0x3f8; out dx, al
    &[0xba, 0xf8, 0x0c, 0x66, 0xef],             // mov dx, 0xcf8; out dx, eax
    &[0xba, 0xfc, 0x0c, 0x66, 0xed],             // mov dx, 0xcfc; in eax, dx
    &[0x0f, 0xa2],                               // cpuid
    &[0x0f, 0x32],                               // rdmsr
    &[0x0f, 0x30],                               // wrmsr
    &[0x0f, 0x20, 0xc0],                         // mov eax, cr0
    &[0x0f, 0x22, 0xc0],                         // mov cr0, eax
    &[0x0f, 0x01, 0xd9],                         // vmmcall
    &[0xf4],                                     // hlt
    &[0xfb],                                     // sti
    &[0xfa],                                     // cli
    &[0xcd, 0x10],                               // int 0x10
    &[0x0f, 0x0b],                               // ud2
    &[0x6e],                                     // outsb
    &[0xf3, 0x6c],                               // rep insb
    &[0x67, 0x66, 0xa3, 0x00, 0x00, 0xe0, 0xfe], // mov [0xfee00000], eax
    &[0x66, 0xb8, 0x00, 0x00, 0x00, 0xc0],       // mov eax, 0xc0000000
    &[0xeb, 0x00],                               // jmp to the next
];

/// Brings a vCPU to where guests begin.
pub fn restart(vcpu: i32, scratch: &Arena) {
    if sys::ioctl(vcpu, nr::GET_SREGS, scratch.address()) < 0 {
        return;
    }
    let mut sregs = vcpu::Sregs::new_zeroed();
    scratch.read(0, sregs.as_mut_bytes());
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    scratch.write(0, sregs.as_bytes());
    sys::ioctl(vcpu, nr::SET_SREGS, scratch.address());
    let mut regs = vcpu::Regs::new_zeroed();
    (regs.rsp, regs.rip, regs.rflags) = (0x8000, START, 2);
    scratch.write(0, regs.as_bytes());
    sys::ioctl(vcpu, nr::SET_REGS, scratch.address());
}

/// Maps a vCPU's page, wherever the vCPU is.
pub fn run_page(vcpu: i32) -> Option<RunPage> {
    RunPage::map(vcpu, run::MMAP_SIZE, 0)
}
