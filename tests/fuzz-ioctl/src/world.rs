// SPDX-License-Identifier: GPL-2.0

//! What the threads of a child share: a machine, its files, and memory.

use crate::abi::{caps, nr, run, rvmm, vcpu, vm};
use crate::driver::{Layout, Model, USED_INDEX};
use crate::random::Random;
use crate::sys::{self, Arena, RunPage};
use crate::table::Target;
use crate::tally::{Tally, MODELS};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of the guest's memory.
pub const MEMORY: usize = 8 << 20;
/// Where guests begin.
pub const START: u64 = 0x1000;
/// Where their driver begins.
const DRIVER: u32 = 0x1_0000;
/// The slot whose writes are logged: the data of the devices.
pub const LOGGED_SLOT: u32 = 1;
/// Where the guest and this process have it.
const LOGGED: (u32, usize) = (0x80_0000, MEMORY / 2);
/// What the driver uses.
const LAYOUT: Layout = Layout { bars: 0xc000_0000, rings: 0x2_0000, data: LOGGED.0 };

/// Places of the devices that every machine has; others are behind them. Those that move data come in the order of
/// [`MODELS`].
pub mod place {
    pub const DISK: usize = 1;
    pub const CONSOLE: usize = 4;
    pub const PM: usize = 5;
    pub const RTC: usize = 6;
    pub const OTHERS: core::ops::Range<usize> = 8..12;
}

/// The types of rvmm's devices, and how large their configurations are, in the order of their places.
pub const DEVICES: [(u32, usize); 9] = [
    (rvmm::DEV_PCI_HOST, size_of::<rvmm::PciHostConfig>()),
    (rvmm::DEV_VIRTIO_BLK, size_of::<rvmm::VirtioBlkConfig>()),
    (rvmm::DEV_VIRTIO_RNG, size_of::<rvmm::VirtioRngConfig>()),
    (rvmm::DEV_VIRTIO_NET, size_of::<rvmm::VirtioNetConfig>()),
    (rvmm::DEV_VIRTIO_CONSOLE, size_of::<rvmm::VirtioConsoleConfig>()),
    (rvmm::DEV_ACPI_PM, size_of::<rvmm::AcpiPmConfig>()),
    (rvmm::DEV_RTC, size_of::<rvmm::RtcConfig>()),
    (rvmm::DEV_UART, size_of::<rvmm::UartConfig>()),
    (rvmm::DEV_I8042, size_of::<rvmm::I8042Config>()),
];

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
    /// What is done.
    pub tally: Tally,
    /// How many buffers of each queue were used when it was looked at last.
    used: [AtomicU32; 8],
}

impl World {
    /// Makes a machine of a random shape; what is made only once in its life goes by the `round`.
    pub fn new(node: &str, r: &Random, tally: Tally, round: u64) -> World {
        let w = World {
            node: sys::open(node),
            vms: Fds::new(),
            vcpus: Fds::new(),
            devices: Fds::new(),
            others: Fds::new(),
            queue: sys::socket_pair(),
            memory: Arena::new(MEMORY, r.once_in(2)),
            threads: Fds::new(),
            tally,
            used: [const { AtomicU32::new(0) }; 8],
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
        w.make_machine(r, round);
        w
    }

    fn make_machine(&self, r: &Random, round: u64) {
        let vm = sys::ioctl(self.node, nr::CREATE_VM, 0);
        self.vms.put(0, vm);
        let scratch = Arena::new(4096, false);
        let make = |number, arg| self.call(Target::Vm, vm, number, arg);
        self.slot(vm, &scratch, 0, (0, 0), 0, MEMORY / 2);
        if round % 2 == 0 {
            self.enable(vm, &scratch, caps::MANUAL_DIRTY_LOG_PROTECT2, 1);
        }
        self.slot(vm, &scratch, LOGGED_SLOT, LOGGED, vm::MEM_LOG_DIRTY_PAGES, 1 << 20);
        make(nr::SET_BOOT_CPU_ID, 0);
        scratch.write(0, &[0; 64]);
        match round % 5 {
            0..=2 => {
                make(nr::CREATE_IRQCHIP, 0);
                make(nr::CREATE_PIT2, scratch.address());
            }
            3 => {
                make(nr::CREATE_IRQCHIP, 0);
                make(nr::CREATE_PIT, 0);
            }
            // None first: interrupts from user space go to such a machine alone.
            _ if round % 2 == 1 => self.enable(vm, &scratch, caps::SPLIT_IRQCHIP, 24),
            _ => {}
        }
        // Devices of the module's and rings of dirty pages exclude each other.
        let has_rings = round % 5 == 2;
        if has_rings {
            self.enable(vm, &scratch, caps::DIRTY_LOG_RING, 4096);
        } else {
            self.add_devices(vm, &scratch, r);
        }
        for id in 0..1 + r.below(3) as u64 {
            let vcpu = sys::ioctl(vm, nr::CREATE_VCPU, id);
            self.vcpus.put(id as usize, vcpu);
            restart(vcpu, &scratch, r);
        }
        if has_rings {
            make(nr::RESET_DIRTY_RINGS, 0);
        } else {
            self.run_driver(&scratch, r);
        }
        self.note_rare(&scratch);
        self.write_code(0..4, r);
    }

    fn add_devices(&self, vm: i32, scratch: &Arena, r: &Random) {
        for (i, (kind, len)) in DEVICES[..place::OTHERS.start].iter().enumerate() {
            self.add_device(vm, scratch, *kind, *len, i, r);
        }
        for i in place::OTHERS {
            let (kind, len) = r.of(&DEVICES);
            self.add_device(vm, scratch, kind, len, i, r);
        }
    }

    /// Makes calls of the first vCPU that few states allow: an interrupt from user space where there is no local APIC, a
    /// note to the guest's clock that it stood still.
    fn note_rare(&self, scratch: &Arena) {
        let (vcpu, clock) = (self.vcpus.at(0), vcpu::Msrs { nmsrs: 1, pad: 0 });
        let entry = vcpu::MsrEntry { index: 0x4b56_4d01, reserved: 0, data: u64::from(LOGGED.0) | 1 };
        scratch.write(0, clock.as_bytes());
        scratch.write(size_of::<vcpu::Msrs>(), entry.as_bytes());
        self.call(Target::Vcpu, vcpu, nr::SET_MSRS, scratch.address());
        self.call(Target::Vcpu, vcpu, nr::KVMCLOCK_CTRL, 0);
        scratch.write(0, vcpu::Interrupt { irq: 0x20 }.as_bytes());
        self.call(Target::Vcpu, vcpu, nr::INTERRUPT, scratch.address());
    }

    /// Makes a call that is as it ought to be, and counts it.
    fn call(&self, target: Target, fd: i32, number: u32, arg: u64) -> i32 {
        let answer = sys::ioctl(fd, number, arg);
        self.tally.note_of(target, number, answer >= 0);
        answer
    }

    fn enable(&self, vm: i32, scratch: &Arena, cap: u32, arg: u64) {
        let mut request = vm::EnableCap::new_zeroed();
        (request.cap, request.args[0]) = (cap, arg);
        scratch.write(0, request.as_bytes());
        self.call(Target::Vm, vm, nr::ENABLE_CAP, scratch.address());
    }

    /// Sets a slot of a VM; `at`: where the guest and this process have it.
    fn slot(&self, vm: i32, scratch: &Arena, slot: u32, at: (u32, usize), flags: u32, len: usize) {
        let region = vm::UserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr: at.0.into(),
            memory_size: len as u64,
            userspace_addr: self.memory.address() + at.1 as u64,
        };
        scratch.write(0, region.as_bytes());
        self.call(Target::Vm, vm, nr::SET_USER_MEMORY_REGION, scratch.address());
    }

    /// Makes a device and configures it, mostly as it wants to be.
    fn add_device(&self, vm: i32, scratch: &Arena, kind: u32, len: usize, place: usize, r: &Random) {
        let mut device = vm::CreateDevice { kind, fd: 0, flags: 0 };
        scratch.write(0, device.as_bytes());
        if self.call(Target::Vm, vm, nr::CREATE_DEVICE, scratch.address()) < 0 {
            return;
        }
        scratch.read(0, device.as_mut_bytes());
        let fd = device.fd as i32;
        let mut config = self.config(kind, len, place as u32, r);
        if r.once_in(if place::OTHERS.contains(&place) { 4 } else { 16 }) {
            r.fill(&mut config);
        }
        scratch.write(64, &config);
        let addr = scratch.address() + 64;
        let attr = vm::DeviceAttr { flags: 0, group: rvmm::GROUP_CONFIG, attr: 0, addr };
        scratch.write(0, attr.as_bytes());
        self.call(Target::Device, fd, nr::SET_DEVICE_ATTR, scratch.address());
        self.devices.put(place, fd);
    }

    /// Returns a configuration of a device, as it ought to be; `slot`: where it is on the bus.
    pub fn config(&self, kind: u32, len: usize, slot: u32, r: &Random) -> Vec<u8> {
        match kind {
            rvmm::DEV_PCI_HOST => {
                let (mmio_base, mmio_size) = (LAYOUT.bars.into(), 0x1000_0000);
                rvmm::PciHostConfig { mmio_base, mmio_size }.as_bytes().to_vec()
            }
            rvmm::DEV_VIRTIO_BLK => {
                let mut disk = rvmm::VirtioBlkConfig::new_zeroed();
                (disk.fd, disk.slot) = (self.others.at(4), slot);
                disk.queues = r.below(4) as u16;
                disk.flags =
                    r.of(&[0, rvmm::BLK_TELLS_FAILURES, rvmm::BLK_TELLS_FAILURES | rvmm::BLK_HOLDS_FAILED]);
                disk.as_bytes().to_vec()
            }
            rvmm::DEV_VIRTIO_NET => {
                let stream = r.once_in(2);
                let offloads = rvmm::NET_OFFLOADS | rvmm::NET_UDP_OFFLOADS;
                let mut card = rvmm::VirtioNetConfig::new_zeroed();
                card.fds[0] = self.others.at(if stream { 5 + r.below(2) } else { 7 });
                card.flags = if stream { rvmm::NET_STREAM } else { offloads * r.below(2) as u32 };
                (card.pairs, card.slot) = (1, slot);
                card.as_bytes().to_vec()
            }
            rvmm::DEV_VIRTIO_RNG => rvmm::VirtioRngConfig { slot, flags: 0 }.as_bytes().to_vec(),
            rvmm::DEV_VIRTIO_CONSOLE => {
                let mut console = rvmm::VirtioConsoleConfig::new_zeroed();
                (console.slot, console.flags) = (slot, r.of(&[0, rvmm::CONSOLE_WAITS]));
                console.as_bytes().to_vec()
            }
            _ => vec![0; len],
        }
    }

    /// Lets the first vCPU bring the devices up.
    fn run_driver(&self, scratch: &Arena, r: &Random) {
        let vcpu = self.vcpus.at(0);
        self.prepare_driver(vcpu, scratch, r);
        let Some(page) = run_page(vcpu) else { return };
        for _ in 0..16 {
            // Its last instruction has no handler.
            let ran = self.call(Target::Vcpu, vcpu, nr::RUN, 0) >= 0;
            if ran && page.get(run::offset::EXIT_REASON) == run::ExitReason::Shutdown as u8 {
                break;
            }
        }
        restart(vcpu, scratch, r);
    }

    /// Writes the driver, and full queues, and brings a vCPU to where it begins: flat protected mode, in which it ends in a
    /// triple fault.
    pub fn prepare_driver(&self, vcpu: i32, scratch: &Arena, r: &Random) {
        for (n, model) in MODELS.iter().enumerate() {
            for queue in 0..model.queues() {
                self.used[2 * n + usize::from(queue)].store(0, Relaxed);
                self.put_ring(n, *model, queue, 0);
            }
        }
        let features = r.of(&[0, 1 << 29, 3 << 28]);
        self.memory.try_write(DRIVER as usize, &LAYOUT.code(&MODELS, features, r.once_in(2)));
        let flat = |kind| vcpu::Segment {
            kind,
            limit: u32::MAX,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..vcpu::Segment::new_zeroed()
        };
        start(vcpu, scratch, (flat(11), flat(3)), 0x11, DRIVER.into());
    }

    fn put_ring(&self, n: usize, model: Model, queue: u16, used: u16) {
        self.memory.try_write(LAYOUT.ring(n as u32, queue) as usize, &LAYOUT.full_ring(model, queue, used));
    }

    /// Makes buffers of one queue available again, if the device has used some.
    pub fn refill(&self, r: &Random) {
        let n = r.below(MODELS.len());
        let queue = r.below(MODELS[n].queues().into()) as u16;
        let (last, mut used) = (&self.used[2 * n + usize::from(queue)], [0; 2]);
        let at = (LAYOUT.ring(n as u32, queue) + USED_INDEX) as usize;
        if self.memory.try_read(at, &mut used) {
            let used = u16::from_ne_bytes(used);
            if last.swap(used.into(), Relaxed) != used.into() {
                self.tally.note_served(n);
                self.put_ring(n, MODELS[n], queue, used);
            }
        }
    }

    /// Fills pages of the guest's memory with code that exits, or with anything.
    pub fn write_code(&self, pages: core::ops::Range<usize>, r: &Random) {
        for page in pages {
            let mut bytes = [0u8; 4096];
            let mut at = 0;
            let anything = r.once_in(2);
            while at < bytes.len() - 9 {
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
const SNIPPETS: [&[u8]; 27] = [
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
    // mov word [a doorbell], n
    &[0x67, 0xc7, 0x05, 0x00, 0x30, 0x00, 0xc0, 0, 0],
    &[0x67, 0xc7, 0x05, 0x00, 0xb0, 0x00, 0xc0, 0, 0],
    &[0x67, 0xc7, 0x05, 0x04, 0x30, 0x01, 0xc0, 1, 0],
    &[0x67, 0xc7, 0x05, 0x00, 0xb0, 0x01, 0xc0, 0, 0],
    &[0x67, 0xc7, 0x05, 0x04, 0xb0, 0x01, 0xc0, 1, 0],
];

/// Brings a vCPU to where guests begin: real mode, whose data may reach all of memory.
pub fn restart(vcpu: i32, scratch: &Arena, r: &Random) {
    let limit = r.of(&[0xffff, u32::MAX]);
    let real = |kind, limit: u32| {
        let g = u8::from(limit > 0xffff);
        vcpu::Segment { kind, limit, present: 1, s: 1, g, ..vcpu::Segment::new_zeroed() }
    };
    start(vcpu, scratch, (real(11, 0xffff), real(3, limit)), 0x10, START);
}

/// Brings a vCPU to `rip`, without paging, with this segment of code and these of data.
fn start(vcpu: i32, scratch: &Arena, segments: (vcpu::Segment, vcpu::Segment), cr0: u64, rip: u64) {
    if sys::ioctl(vcpu, nr::GET_SREGS, scratch.address()) < 0 {
        return;
    }
    let mut sregs = vcpu::Sregs::new_zeroed();
    scratch.read(0, sregs.as_mut_bytes());
    let (code, data) = segments;
    (sregs.cs, sregs.ss, sregs.ds) = (code, data, data);
    (sregs.es, sregs.fs, sregs.gs) = (data, data, data);
    (sregs.cr0, sregs.cr4, sregs.efer) = (cr0, 0, 0);
    sregs.idt.limit = if cr0 & 1 == 0 { 0xffff } else { 0 };
    scratch.write(0, sregs.as_bytes());
    sys::ioctl(vcpu, nr::SET_SREGS, scratch.address());
    let mut regs = vcpu::Regs::new_zeroed();
    (regs.rsp, regs.rip, regs.rflags) = (0x8000, rip, 2);
    scratch.write(0, regs.as_bytes());
    sys::ioctl(vcpu, nr::SET_REGS, scratch.address());
}

/// Maps a vCPU's page, wherever the vCPU is.
pub fn run_page(vcpu: i32) -> Option<RunPage> {
    RunPage::map(vcpu, run::MMAP_SIZE, 0)
}
