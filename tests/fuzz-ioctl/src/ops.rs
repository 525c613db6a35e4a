// SPDX-License-Identifier: GPL-2.0

//! What a random caller does: an ioctl of the table with an argument that is nearly right, or something to the
//! files and the memory behind it.

use crate::abi::{caps, nr, run, rvmm, sys as sys_abi, vcpu, vm};
use crate::random::Random;
use crate::sys::{self, Arena, RunPage};
use crate::table::{Row, Shape, Target, TABLE};
use crate::world::{restart, run_page, World, DEVICES, MEMORY};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Bytes of a caller's arguments.
const SCRATCH: usize = 16 * 4096;
/// MSRs that mean something to the module.
const MSRS: [u32; 28] = [
    0x10,
    0x1b,
    0x277,
    0x6e0,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0100,
    0xc000_0103,
    0x48,
    0x174,
    0x2ff,
    0x200,
    0x4b56_4d00,
    0x4b56_4d01,
    0x4b56_4d04,
    0x11,
    0x12,
    0x179,
    0x17a,
    0x400,
    0x401,
    0x402,
    0x830,
    0x8ff,
    0x3a,
    0xfe,
    0x8b,
];

/// Capabilities that can be enabled.
const CAPS: [u32; 13] = [
    caps::MANUAL_DIRTY_LOG_PROTECT2,
    caps::SPLIT_IRQCHIP,
    caps::X2APIC_API,
    caps::MAX_VCPU_ID,
    caps::DISABLE_QUIRKS,
    caps::DISABLE_QUIRKS2,
    caps::X86_DISABLE_EXITS,
    caps::EXCEPTION_PAYLOAD,
    caps::X86_TRIPLE_FAULT_EVENT,
    caps::HALT_POLL,
    caps::EXIT_ON_EMULATION_FAILURE,
    caps::X86_USER_SPACE_MSR,
    caps::NR_VCPUS,
];

/// A thread that does random things.
pub struct Caller<'a> {
    world: &'a World,
    /// Calls of each row, then those that succeeded.
    counts: Arena,
    without: &'a [String],
    random: Random,
    scratch: Arena,
    page: Option<RunPage>,
}

impl<'a> Caller<'a> {
    /// A caller with numbers of its own.
    pub fn new(world: &'a World, counts: Arena, without: &'a [String], random: Random) -> Caller<'a> {
        Caller { world, counts, without, random, scratch: Arena::new(SCRATCH, false), page: None }
    }

    /// Does one thing.
    pub fn step(&mut self) {
        let r = &self.random;
        match r.below(24) {
            0 => self.change_memory(),
            1 => self.change_files(),
            2 => self.pass_files(),
            3 => self.transfer(),
            4 => self.touch_run_page(),
            5 => {
                let page = r.below(4);
                self.world.write_code(page..page + 1, r);
            }
            6 => restart(self.world.vcpus.any(r), &self.scratch),
            7 => sys::transfer(self.world.others.at(r.below(4)), 8, true, None),
            8 => sys::interrupt(self.world.threads.any(r)),
            _ => {
                let row = r.below(TABLE.len());
                self.call(row);
            }
        }
        if self.random.once_in(8) {
            std::thread::sleep(std::time::Duration::from_micros(self.random.next() % 500));
        }
    }

    /// Calls the ioctl of a row. One that goes on until a signal comes is left to those who wait for it.
    pub fn call(&self, row: usize) {
        let (name, number, target, shape): Row = TABLE[row];
        let waits = matches!(name, "RUN" | "DEV_RUN") && self.page.is_none() && !self.random.once_in(50);
        if waits || self.without.iter().any(|w| w == name) {
            return;
        }
        let fd = self.file(target);
        let arg = self.argument(fd, number, shape);
        let number = if self.random.once_in(200) { number ^ 1 << self.random.below(32) } else { number };
        self.counts.counter(row).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answer = sys::ioctl(fd, number, arg);
        if answer >= 0 {
            self.counts.counter(TABLE.len() + row).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.keep(name, answer);
        }
    }

    /// Calls the ioctl of a row that waits, from a thread that may.
    pub fn call_waiting(&self, name: &str) {
        let Some(row) = TABLE.iter().position(|row| row.0 == name) else { return };
        let (_, number, target, _) = TABLE[row];
        let fd = self.file(target);
        let arg = if name == "RUN" { 0 } else { self.random.below(4) as u64 };
        self.counts.counter(row).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if sys::ioctl(fd, number, arg) >= 0 {
            self.counts.counter(TABLE.len() + row).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        // The others get a turn at the vCPU, and at the CPU.
        std::thread::sleep(std::time::Duration::from_micros(self.random.next() % 2000));
        if self.random.once_in(16) {
            restart(self.world.vcpus.any(&self.random), &self.scratch);
        }
    }

    fn file(&self, target: Target) -> i32 {
        let (w, r) = (self.world, &self.random);
        if r.once_in(40) {
            return r.of(&[
                w.others.any(r),
                w.queue[0],
                w.node,
                w.vms.any(r),
                w.vcpus.any(r),
                w.devices.any(r),
                -1,
            ]);
        }
        match target {
            Target::System => w.node,
            Target::Vm if r.once_in(16) => w.vms.at(1),
            Target::Vm => w.vms.at(0),
            Target::Vcpu => w.vcpus.any(r),
            Target::Device => w.devices.any(r),
        }
    }

    /// Keeps the fds that calls make.
    fn keep(&self, name: &str, answer: i32) {
        let place = self.random.below(16);
        match name {
            "CREATE_VM" => self.world.vms.put(1, answer),
            "CREATE_VCPU" => self.world.vcpus.put(place, answer),
            "GET_STATS_FD" => self.world.others.put(9 + place % 3, answer),
            "CREATE_DEVICE" => {
                let mut device = vm::CreateDevice::new_zeroed();
                self.scratch.read(0, device.as_mut_bytes());
                self.world.devices.put(place, device.fd as i32);
            }
            _ => {}
        }
    }

    fn set(&self, at: usize, bytes: &[u8]) {
        self.scratch.write(at, bytes);
    }

    fn set32(&self, at: usize, value: u64) {
        self.set(at, &(value as u32).to_ne_bytes());
    }

    /// Changes a structure of the arguments.
    fn change<T: FromBytes + IntoBytes + Immutable>(&self, at: usize, how: impl FnOnce(&mut T)) {
        let mut it = T::new_zeroed();
        self.scratch.read(at, it.as_mut_bytes());
        how(&mut it);
        self.set(at, it.as_bytes());
    }

    fn capability(&self) {
        let r = &self.random;
        let cap = if r.once_in(8) { r.odd() as u32 } else { r.of(&CAPS) };
        let arg = [0, 1, 2, 4, 24, r.odd()][r.below(6)];
        let flags = if r.once_in(20) { r.odd() as u32 } else { 0 };
        self.change(0, |a: &mut vm::EnableCap| {
            *a = vm::EnableCap::new_zeroed();
            (a.cap, a.flags, a.args[0]) = (cap, flags, arg);
        });
    }

    fn zone(&self) {
        let r = &self.random;
        self.change(0, |a: &mut vm::CoalescedMmioZone| {
            a.addr = [0x10, 0xc000_0000, r.odd()][r.below(3)];
            a.size = [1, 0x1000, r.odd() as u32][r.below(3)];
            a.pio = r.small(3) as u32;
        });
    }

    fn msr_filter(&self) {
        let r = &self.random;
        self.change(0, |a: &mut vm::MsrFilter| {
            *a = vm::MsrFilter::new_zeroed();
            a.flags = r.small(2) as u32;
            for range in &mut a.ranges[..r.below(4)] {
                range.flags = r.small(4) as u32;
                range.nmsrs = r.small(300) as u32;
                range.base = r.of(&MSRS);
                range.bitmap = if r.once_in(20) { self.bad_address() } else { self.scratch.address() + 4096 };
            }
        });
    }

    /// Returns an argument, having prepared what it points to.
    fn argument(&self, fd: i32, number: u32, shape: Shape) -> u64 {
        let size = nr::size_of_request(number);
        let base = self.scratch.address();
        if self.random.once_in(60) {
            return self.bad_address();
        }
        match shape {
            Shape::Nothing => return if self.random.once_in(50) { self.random.odd() } else { 0 },
            Shape::Number if self.random.once_in(3) => return self.random.odd(),
            Shape::Number => return self.random.below(200) as u64,
            Shape::Bytes => self.fill(0, size),
            Shape::Small => {
                self.fill(0, size);
                self.set32(0, self.random.small(if self.random.once_in(2) { 5 } else { 300 }));
            }
            Shape::Change(get) => {
                sys::ioctl(fd, get, base);
                if !self.random.once_in(8) {
                    self.fill(0, size);
                }
            }
            Shape::Memory => self.memory_slot(),
            Shape::Log => self.log(),
            Shape::LogPart => self.log_part(),
            Shape::Debugger => self.debugger(),
            Shape::Routing => self.routes(),
            Shape::Irqfd => {
                self.fill(0, size);
                self.change(0, |a: &mut vm::Irqfd| {
                    a.fd = self.event() as u32;
                    a.gsi = self.random.small(64) as u32;
                    a.flags = [0, 0, 1, 2, self.random.odd() as u32][self.random.below(5)];
                });
            }
            Shape::Ioeventfd => {
                self.fill(0, size);
                self.change(0, |a: &mut vm::Ioeventfd| {
                    a.addr = [0x70, 0xc000_0000, self.random.odd()][self.random.below(3)];
                    a.len = self.random.small(9) as u32;
                    a.fd = self.event();
                    a.flags = self.random.small(8) as u32;
                });
            }
            Shape::Line => self.line(),
            Shape::Message => self.change(0, |a: &mut vm::Msi| {
                *a = vm::Msi::new_zeroed();
                a.address_lo = 0xfee0_0000 | self.random.next() as u32 & 0xf_fffc;
                a.data = self.random.odd() as u32;
            }),
            Shape::NewDevice => self.change(0, |a: &mut vm::CreateDevice| {
                a.kind = self.random.of(&DEVICES).0;
                a.flags = if self.random.once_in(8) { self.random.odd() as u32 } else { 0 };
            }),
            Shape::Attribute => self.attribute(),
            Shape::State => self.state(fd),
            Shape::Msrs => self.msrs(),
            Shape::Cpuid => {
                let node = self.world.node;
                self.set32(0, [0, 8, 256, 256, self.random.odd()][self.random.below(5)]);
                sys::ioctl(node, nr::GET_SUPPORTED_CPUID, base);
                for _ in 0..self.random.below(3) {
                    let word = size_of::<sys_abi::Cpuid2>() + self.random.below(2000) * 4;
                    self.set32(word, self.random.odd());
                }
            }
            Shape::Capability => self.capability(),
            Shape::Zone => self.zone(),
            Shape::Filter => self.msr_filter(),
            Shape::Chip => {
                let chip = self.random.small(4);
                self.set32(0, chip);
                sys::ioctl(fd, nr::GET_IRQCHIP, base);
                self.fill(0, size);
                if !self.random.once_in(4) {
                    self.set32(0, chip);
                }
            }
        }
        base
    }

    fn fill(&self, at: usize, len: usize) {
        let mut bytes = vec![0; len.min(SCRATCH - at)];
        self.scratch.read(at, &mut bytes);
        self.random.fill(&mut bytes);
        self.scratch.write(at, &bytes);
    }

    fn event(&self) -> i32 {
        let (w, r) = (self.world, &self.random);
        if r.once_in(10) {
            w.others.any(r)
        } else {
            w.others.at(r.below(4))
        }
    }

    /// An address that is none, or not all of whose bytes are there, or that a guest writes to.
    fn bad_address(&self) -> u64 {
        let memory = self.world.memory.address();
        let page = self.page.as_ref().map_or(0, RunPage::address);
        let at = self.random.below(MEMORY) as u64;
        let end = self.scratch.address() + SCRATCH as u64 - self.random.small(16);
        self.random.of(&[0, 1, u64::MAX, 1 << 47, 1 << 63, (1 << 47) - 8, end, memory + at, page])
    }

    fn memory_slot(&self) {
        let r = &self.random;
        let pages = MEMORY as u64 >> 12;
        let gpa = if r.once_in(3) { r.odd() } else { (r.next() % pages) << 12 };
        let len = if r.once_in(3) { r.odd() & 0xffff_ffff } else { (r.next() % 600) << 12 };
        let at =
            if r.once_in(6) { 1 << 47 } else { self.world.memory.address() + ((r.next() % pages) << 12) };
        let (slot, flags) = (r.next() % 8, if r.once_in(8) { r.odd() } else { r.next() % 4 });
        // The first slot holds the guests' code, and mostly stays.
        let slot = if slot == 0 && !r.once_in(16) { 1 } else { slot };
        let taken_away = self.random.once_in(4);
        self.change(0, |a: &mut vm::UserspaceMemoryRegion| {
            (a.slot, a.flags) = (slot as u32, flags as u32);
            a.guest_phys_addr = gpa;
            a.memory_size = if taken_away { 0 } else { len };
            a.userspace_addr = at;
        });
    }

    fn line(&self) {
        let gsi = if self.random.once_in(5) { self.random.odd() } else { self.random.small(24) };
        let level = self.random.small(2) as u32;
        self.change(0, |a: &mut vm::IrqLevel| (a.irq, a.level) = (gsi as u32, level));
    }

    fn log(&self) {
        let (slot, at) = (self.random.small(8) as u32, self.bitmap());
        self.change(0, |a: &mut vm::DirtyLog| (a.slot, a.dirty_bitmap) = (slot, at));
    }

    fn log_part(&self) {
        let r = &self.random;
        let first = if r.once_in(4) { r.odd() } else { r.small(10) << 6 };
        let count = if r.once_in(4) { r.odd() } else { r.small(600) };
        let (slot, at) = (r.small(8) as u32, self.bitmap());
        self.change(0, |a: &mut vm::ClearDirtyLog| {
            (a.slot, a.num_pages, a.first_page, a.dirty_bitmap) = (slot, count as u32, first, at);
        });
    }

    /// Where a log goes to or comes from: mostly memory of the guests'.
    fn bitmap(&self) -> u64 {
        let r = &self.random;
        if r.once_in(5) {
            r.odd()
        } else {
            self.world.memory.address() + (r.next() % (MEMORY as u64 - 4096))
        }
    }

    fn debugger(&self) {
        let r = &self.random;
        let some = r.next() as u32;
        let control = if r.once_in(6) { some } else { some & 0x1f_0003 | 1 };
        self.fill(0, size_of::<vcpu::GuestDebug>());
        self.change(0, |a: &mut vcpu::GuestDebug| {
            a.control = control;
            // Breakpoints on instructions alone: QEMU ends where an interrupt is pushed to a stack that is watched.
            a.debugreg[7] &= 0xffff;
        });
    }

    fn routes(&self) {
        let count = self.random.below(65);
        let nr = if self.random.once_in(20) { self.random.odd() as u32 } else { count as u32 };
        self.change(0, |a: &mut vm::IrqRouting| (a.nr, a.flags) = (nr, 0));
        for i in 0..count {
            let at = size_of::<vm::IrqRouting>() + i * size_of::<vm::IrqRoutingEntry>();
            self.fill(at, size_of::<vm::IrqRoutingEntry>());
            if !self.random.once_in(8) {
                let small = |n| self.random.small(n) as u32;
                self.change(at, |a: &mut vm::IrqRoutingEntry| {
                    (a.gsi, a.kind, a.flags) = (small(64), 1 + small(2), 0);
                    (a.u[0], a.u[1]) = (small(3), small(24));
                });
            }
        }
    }

    fn attribute(&self) {
        let (kind, len) = self.random.of(&DEVICES);
        let config = self.world.config(kind, len, &self.random);
        self.set(64, &config);
        let addr = if self.random.once_in(8) { self.bad_address() } else { self.scratch.address() + 64 };
        self.change(0, |a: &mut vm::DeviceAttr| {
            a.flags = 0;
            a.group = self.random.small(3) as u32;
            a.attr = self.random.small(2);
            a.addr = addr;
        });
    }

    /// Rest, or a state that the machine has, changed.
    fn state(&self, fd: i32) {
        const ATTR: usize = size_of::<vm::DeviceAttr>();
        const DATA: usize = 1024;
        let base = self.scratch.address();
        let attr = self.random.small(3);
        self.change(0, |a: &mut vm::DeviceAttr| {
            (a.flags, a.group, a.attr) = (0, rvmm::GROUP_STATE, attr);
            a.addr = if self.random.once_in(8) { self.bad_address() } else { base + ATTR as u64 };
        });
        if attr == rvmm::STATE_REST {
            self.set32(ATTR, self.random.small(2));
            return;
        }
        self.change(ATTR, |b: &mut rvmm::StateBuffer| {
            (b.addr, b.bytes) = (base + DATA as u64, (SCRATCH - DATA) as u64);
        });
        sys::ioctl(fd, nr::GET_DEVICE_ATTR, base);
        for _ in 0..self.random.below(4) {
            self.set(DATA + self.random.below(SCRATCH - DATA - 1), &[self.random.next() as u8]);
        }
        if self.random.once_in(4) {
            self.change(ATTR, |b: &mut rvmm::StateBuffer| b.bytes = self.random.odd());
        }
    }

    fn msrs(&self) {
        let count = 1 + self.random.below(64);
        self.set32(0, if self.random.once_in(20) { self.random.odd() } else { count as u64 });
        for i in 0..count {
            let index = if self.random.once_in(6) { self.random.odd() } else { self.random.of(&MSRS).into() };
            let at = size_of::<vcpu::Msrs>() + i * size_of::<vcpu::MsrEntry>();
            let entry = vcpu::MsrEntry { index: index as u32, reserved: 0, data: self.random.odd() };
            self.set(at, entry.as_bytes());
        }
    }

    fn change_memory(&self) {
        let (m, r) = (&self.world.memory, &self.random);
        let at = r.below(MEMORY >> 12) << 12;
        let len = (1 + r.below(if r.once_in(4) { 1024 } else { 16 })) << 12;
        let advice = [
            libc::MADV_DONTNEED,
            libc::MADV_COLD,
            libc::MADV_PAGEOUT,
            libc::MADV_FREE,
            libc::MADV_MERGEABLE,
            libc::MADV_REMOVE,
            libc::MADV_DONTFORK,
        ];
        if r.once_in(8) {
            return m.advise(
                at,
                4 << 20,
                r.of(&[libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE, libc::MADV_COLLAPSE]),
            );
        }
        match r.below(8) {
            0 => m.remap(at, len, r.once_in(2), false),
            1 => m.remap(at, len, false, true),
            2 => m.protect(at, len, libc::PROT_READ),
            3 | 4 => m.protect(at, len, libc::PROT_READ | libc::PROT_WRITE),
            _ => m.advise(at, len, r.of(&advice)),
        }
    }

    fn change_files(&self) {
        let (w, r) = (self.world, &self.random);
        let place = r.below(16);
        let one = [w.devices.any(r), w.vcpus.any(r), w.vms.at(0), w.others.any(r)][r.below(4)];
        match r.below(8) {
            0 => w.others.put(12 + place % 4, sys::dup(one)),
            1 => w.devices.put(place, -1),
            2 => w.others.put(place, if place < 4 { sys::eventfd() } else { -1 }),
            3 => w.others.put(4, sys::memory_file(1 << 20)),
            4 => {
                let ends = sys::socket_pair();
                w.others.put(5, ends[0]);
                w.others.put(6, ends[1]);
            }
            5 => w.vcpus.put(place, sys::dup(w.vcpus.any(r))),
            6 => sys::set_nonblock(w.devices.any(r), !r.once_in(4)),
            _ if r.once_in(8) => w.others.put(7, sys::tap()),
            _ => w.others.put(7, sys::dup(w.others.at(7))),
        }
    }

    fn pass_files(&self) {
        let (w, r) = (self.world, &self.random);
        let fds = [w.devices.any(r), w.vcpus.any(r), w.vms.any(r), w.others.any(r), w.queue[1]];
        // A socket that a card has, too.
        let to = r.of(&[w.queue[0], w.others.at(5), w.others.at(6)]);
        for fd in fds.iter().filter(|fd| **fd >= 0) {
            if r.once_in(2) {
                sys::send_fds(to, &[*fd]);
            }
        }
        if r.once_in(2) {
            for fd in sys::receive_fds(w.queue[1]) {
                w.others.put(12 + r.below(4), fd);
            }
        }
    }

    fn transfer(&self) {
        let (w, r) = (self.world, &self.random);
        let fd = if r.once_in(4) { w.others.any(r) } else { w.devices.any(r) };
        let len = r.below(600);
        sys::set_nonblock(fd, !r.once_in(8));
        match r.below(4) {
            0 => sys::poll(fd, 0),
            1 => sys::transfer(fd, len, false, Some((r.odd() >> 1) as i64)),
            how => sys::transfer(fd, len, how == 2, None),
        }
    }

    fn touch_run_page(&mut self) {
        if self.page.is_none() || self.random.once_in(16) {
            let (vcpu, offset) = (self.world.vcpus.any(&self.random), self.random.below(4) as i64);
            self.page = if self.random.once_in(4) {
                RunPage::map(vcpu, (1 + self.random.below(5)) << 12, offset << 12)
            } else {
                run_page(vcpu)
            };
        }
        if let Some(page) = &self.page {
            for _ in 0..self.random.below(16) {
                page.set(self.random.below(256), self.random.next() as u8);
            }
            // Whether KVM_RUN is to return at once.
            page.set(run::offset::IMMEDIATE_EXIT, u8::from(self.random.once_in(4)));
        }
    }
}
