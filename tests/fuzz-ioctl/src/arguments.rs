// SPDX-License-Identifier: GPL-2.0

//! The arguments of a random caller's ioctls: half of them as they ought to be, the others nearly so.

use crate::abi::{caps, nr, rvmm, sys as sys_abi, vcpu, vm};
use crate::ops::{Caller, SCRATCH};
use crate::sys::{self, RunPage};
use crate::table::{Shape, Target};
use crate::world::{place, DEVICES, LOGGED_SLOT, MEMORY};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// MSRs that mean something to the module.
const MSRS: [u32; 41] = [
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
    0x4b56_4d03,
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
    0x4000_0000,
    0x4000_0001,
    0x4000_0002,
    0x4000_0021,
    0x4000_0070,
    0x4000_0073,
    0x4000_0080,
    0x4000_0083,
    0x4000_0092,
    0x4000_00b0,
    0x4000_00b1,
    0x4000_0105,
];

/// Capabilities that can be enabled.
const CAPS: [u32; 19] = [
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
    caps::X86_APIC_BUS_CYCLES_NS,
    caps::MSR_PLATFORM_INFO,
    caps::ENFORCE_PV_FEATURE_CPUID,
    caps::HYPERV_ENFORCE_CPUID,
    caps::HYPERV_SYNIC,
    caps::HYPERV_SYNIC2,
    caps::NR_VCPUS,
];

impl Caller<'_> {
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

    fn msr_filter(&self, good: bool) {
        let r = &self.random;
        self.change(0, |a: &mut vm::MsrFilter| {
            *a = vm::MsrFilter::new_zeroed();
            a.flags = if good { 0 } else { r.small(2) as u32 };
            for range in &mut a.ranges[..if good { 0 } else { r.below(4) }] {
                range.flags = r.small(4) as u32;
                range.nmsrs = r.small(300) as u32;
                range.base = r.of(&MSRS);
                range.bitmap = if r.once_in(20) { self.bad_address() } else { self.scratch.address() + 4096 };
            }
        });
    }

    /// Returns a file and an argument for a call, having prepared what the argument points to.
    pub(crate) fn arguments(&self, target: Target, number: u32, shape: Shape) -> (i32, u64) {
        let fd = self.file(target);
        if self.random.once_in(60) {
            return (fd, self.bad_address());
        }
        let good = self.random.once_in(2);
        if good && shape == Shape::Attribute {
            return self.good_attribute(number);
        }
        let size = nr::size_of_request(number);
        match shape {
            Shape::Nothing => return (fd, if self.random.once_in(50) { self.random.odd() } else { 0 }),
            Shape::Number if good => return (fd, 0),
            Shape::Number if self.random.once_in(2) => return (fd, self.random.odd()),
            Shape::Number => return (fd, self.random.small(200)),
            Shape::Change(get) => {
                sys::ioctl(fd, get, self.scratch.address());
                if !good {
                    self.fill(0, size);
                }
            }
            _ if good => self.set(0, &vec![0; size.max(64)]),
            _ => self.fill(0, size),
        }
        self.shaped(fd, shape, good, size);
        (fd, self.scratch.address())
    }

    /// Prepares an argument over bytes that are all 0 if `good`, else anything.
    fn shaped(&self, fd: i32, shape: Shape, good: bool, size: usize) {
        match shape {
            Shape::Nothing | Shape::Number | Shape::Bytes | Shape::Change(_) => {}
            Shape::Attribute => self.attribute(),
            Shape::Small => self.set32(0, self.random.small(if good { 2 } else { 300 })),
            Shape::Memory => self.memory_slot(good),
            Shape::Log => self.log(good),
            Shape::LogPart => self.log_part(good),
            Shape::Debugger => self.debugger(),
            Shape::Routing => self.routes(good),
            Shape::Irqfd => self.irqfd(good),
            Shape::Ioeventfd => self.ioeventfd(good),
            Shape::Connection => self.connection(good),
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
            Shape::State => self.state(fd, good),
            Shape::NodeAttribute => self.change(0, |a: &mut vm::DeviceAttr| {
                a.addr = if good { self.scratch.address() + 64 } else { self.bad_address() };
            }),
            Shape::Signals => self.signals(good),
            Shape::Range => self.change(0, |a: &mut vcpu::PreFaultMemory| {
                if good {
                    (a.gpa, a.size) = (self.random.small(16) << 12, (1 + self.random.small(64)) << 12);
                }
            }),
            Shape::Msrs => self.msrs(),
            Shape::Cpuid => self.leaves(good),
            Shape::List => self.set32(0, if good { 256 } else { self.random.of(&[0, 8, self.random.odd()]) }),
            Shape::Capability => self.capability(),
            Shape::Zone => self.zone(),
            Shape::Filter => self.msr_filter(good),
            Shape::MceCap if good => {
                sys::ioctl(self.world.node, nr::X86_GET_MCE_CAP_SUPPORTED, self.scratch.address());
                self.set(0, &[1 + self.random.below(8) as u8]);
            }
            Shape::MceCap => {}
            Shape::Mce => self.change(0, |a: &mut vcpu::X86Mce| {
                a.status |= if good { 1 << 63 } else { 0 };
                a.bank = self.random.small(if good { 1 } else { 40 }) as u8;
            }),
            Shape::Clock => {
                sys::ioctl(fd, nr::GET_CLOCK, self.scratch.address());
                self.change(0, |a: &mut vm::ClockData| a.flags &= vm::CLOCK_REALTIME);
                if !good {
                    self.fill(0, size);
                }
            }
            Shape::Chip => {
                let chip = self.random.small(if good { 3 } else { 5 });
                self.set32(0, chip);
                sys::ioctl(fd, nr::GET_IRQCHIP, self.scratch.address());
                if !good {
                    self.fill(0, size);
                    self.set32(0, self.random.small(5));
                }
            }
        }
    }

    fn irqfd(&self, good: bool) {
        self.change(0, |a: &mut vm::Irqfd| {
            a.fd = self.event() as u32;
            a.gsi = self.random.small(if good { 24 } else { 64 }) as u32;
            a.flags = if good { self.random.small(2) as u32 } else { self.random.odd() as u32 & 3 };
        });
    }

    fn ioeventfd(&self, good: bool) {
        let r = &self.random;
        self.change(0, |a: &mut vm::Ioeventfd| {
            a.addr = [0x70, 0x1000_0000 + r.small(4096) * 8, r.odd()][r.below(if good { 2 } else { 3 })];
            a.len = if good { 4 } else { r.small(9) as u32 };
            a.fd = self.event();
            a.flags = r.small(if good { 4 } else { 8 }) as u32;
        });
    }

    fn connection(&self, good: bool) {
        let r = &self.random;
        self.change(0, |a: &mut vm::HypervEventfd| {
            a.conn_id = if good { r.small(64) } else { r.odd() } as u32;
            a.fd = self.event();
            a.flags = if good { 0 } else { r.small(3) as u32 };
        });
    }

    fn leaves(&self, good: bool) {
        let count = if good { 256 } else { self.random.of(&[0, 8, 256, self.random.odd()]) };
        self.set32(0, count);
        let asked = if !good && self.random.once_in(4) {
            nr::GET_SUPPORTED_HV_CPUID
        } else {
            nr::GET_SUPPORTED_CPUID
        };
        sys::ioctl(self.world.node, asked, self.scratch.address());
        for _ in 0..if good { 0 } else { self.random.below(3) } {
            let word = size_of::<sys_abi::Cpuid2>() + self.random.below(2000) * 4;
            self.set32(word, self.random.odd());
        }
    }

    /// Returns a device with an attribute that it has.
    fn good_attribute(&self, number: u32) -> (i32, u64) {
        const POWER: (usize, u32, u64) = (place::PM, rvmm::GROUP_COMMAND, rvmm::COMMAND_POWER_BUTTON);
        const SIZE: (usize, u32, u64) = (place::DISK, rvmm::GROUP_COMMAND, rvmm::COMMAND_LOOK_AT_SIZE);
        const FAILED: (usize, u32, u64) = (place::DISK, rvmm::GROUP_COUNTERS, rvmm::COUNT_FAILED);
        const LOST: (usize, u32, u64) = (place::CONSOLE, rvmm::GROUP_COUNTERS, rvmm::COUNT_LOST);
        const OFFSET: (usize, u32, u64) = (place::RTC, rvmm::GROUP_CLOCK, rvmm::CLOCK_UTC_OFFSET);
        let (place, group, attr) = match number {
            nr::SET_DEVICE_ATTR => self.random.of(&[POWER, SIZE]),
            nr::GET_DEVICE_ATTR => self.random.of(&[FAILED, LOST, OFFSET]),
            _ => self.random.of(&[POWER, SIZE, FAILED, LOST, OFFSET]),
        };
        let addr = self.scratch.address() + 64;
        self.set(0, vm::DeviceAttr { flags: 0, group, attr, addr }.as_bytes());
        (self.world.devices.at(place), self.scratch.address())
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

    fn memory_slot(&self, good: bool) {
        let r = &self.random;
        let pages = MEMORY as u64 >> 12;
        let (slot, memory) = (2 + r.small(6), self.world.memory.address());
        if good {
            // Each in a place of its own, so that it overlaps no other.
            let part = MEMORY as u64 / 16;
            self.change(0, |a: &mut vm::UserspaceMemoryRegion| {
                (a.slot, a.flags) = (slot as u32, r.small(2) as u32);
                a.guest_phys_addr = 2 * MEMORY as u64 + slot * part;
                a.memory_size = r.small(3) * (part / 2);
                a.userspace_addr = memory + r.small(8) * part;
            });
            return;
        }
        let gpa = if r.once_in(3) { r.odd() } else { (r.next() % pages) << 12 };
        let len = if r.once_in(3) { r.odd() & 0xffff_ffff } else { (r.next() % 600) << 12 };
        let at = if r.once_in(6) { 1 << 47 } else { memory + ((r.next() % pages) << 12) };
        let flags = if r.once_in(8) { r.odd() } else { r.next() % 4 };
        // The first two hold the guests' code and data, and mostly stay.
        let slot = if r.once_in(16) { r.small(2) } else { slot };
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

    fn log(&self, good: bool) {
        let slot = if good { LOGGED_SLOT } else { self.random.small(8) as u32 };
        let at = self.bitmap(good);
        self.change(0, |a: &mut vm::DirtyLog| (a.slot, a.dirty_bitmap) = (slot, at));
    }

    fn log_part(&self, good: bool) {
        let (r, at) = (&self.random, self.bitmap(good));
        if good {
            self.change(0, |a: &mut vm::ClearDirtyLog| {
                (a.slot, a.num_pages, a.first_page, a.dirty_bitmap) = (LOGGED_SLOT, 64, r.small(3) << 6, at);
            });
            return;
        }
        let first = if r.once_in(4) { r.odd() } else { r.small(10) << 6 };
        let count = if r.once_in(4) { r.odd() } else { r.small(600) };
        let slot = r.small(8) as u32;
        self.change(0, |a: &mut vm::ClearDirtyLog| {
            (a.slot, a.num_pages, a.first_page, a.dirty_bitmap) = (slot, count as u32, first, at);
        });
    }

    /// Where a log goes to or comes from: mostly memory of the guests'.
    fn bitmap(&self, good: bool) -> u64 {
        let r = &self.random;
        if good {
            self.scratch.address() + 4096
        } else if r.once_in(5) {
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

    fn routes(&self, good: bool) {
        let count = self.random.below(if good { 24 } else { 65 });
        let nr = if !good && self.random.once_in(10) { self.random.odd() as u32 } else { count as u32 };
        self.change(0, |a: &mut vm::IrqRouting| (a.nr, a.flags) = (nr, 0));
        for i in 0..count {
            let at = size_of::<vm::IrqRouting>() + i * size_of::<vm::IrqRoutingEntry>();
            let small = |n| self.random.small(n) as u32;
            if good {
                self.change(at, |a: &mut vm::IrqRoutingEntry| {
                    *a = vm::IrqRoutingEntry::new_zeroed();
                    (a.gsi, a.kind, a.u[0], a.u[1]) = (i as u32, 1, 2, small(24));
                });
                continue;
            }
            self.fill(at, size_of::<vm::IrqRoutingEntry>());
            if !self.random.once_in(8) {
                self.change(at, |a: &mut vm::IrqRoutingEntry| {
                    (a.gsi, a.kind, a.flags) = (small(64), [1, 2, 4][small(3) as usize], 0);
                    (a.u[0], a.u[1]) = (small(3), small(24));
                });
            }
        }
    }

    fn attribute(&self) {
        let (kind, len) = self.random.of(&DEVICES);
        let mut config = self.world.config(kind, len, self.random.small(32) as u32, &self.random);
        if self.random.once_in(2) {
            self.random.fill(&mut config);
        }
        self.set(64, &config);
        let addr = if self.random.once_in(8) { self.bad_address() } else { self.scratch.address() + 64 };
        self.change(0, |a: &mut vm::DeviceAttr| {
            a.flags = 0;
            a.group = self.random.small(4) as u32;
            a.attr = self.random.small(2);
            a.addr = addr;
        });
    }

    /// Any signals but the one that kicks: a guest that spins would keep its thread until the process is killed.
    fn signals(&self, good: bool) {
        let len = if good || !self.random.once_in(4) { size_of::<u64>() as u64 } else { self.random.odd() };
        self.set32(0, len);
        let blocked = self.random.next() & !(1 << (libc::SIGUSR1 - 1));
        self.set(size_of::<vcpu::SignalMask>(), &blocked.to_ne_bytes());
    }

    /// Rest, or a state that the machine has, changed.
    fn state(&self, fd: i32, good: bool) {
        const ATTR: usize = size_of::<vm::DeviceAttr>();
        const DATA: usize = 1024;
        let base = self.scratch.address();
        if good && self.random.once_in(2) {
            // Of a vCPU: where its TSC stands.
            let (group, attr, addr) = (vcpu::VCPU_TSC_CTRL, vcpu::VCPU_TSC_OFFSET, base + ATTR as u64);
            self.set(0, vm::DeviceAttr { flags: 0, group, attr, addr }.as_bytes());
            return;
        }
        let attr = self.random.small(3);
        self.change(0, |a: &mut vm::DeviceAttr| {
            (a.flags, a.group, a.attr) = (0, rvmm::GROUP_STATE, attr);
            a.addr = if !good && self.random.once_in(4) { self.bad_address() } else { base + ATTR as u64 };
        });
        if attr == rvmm::STATE_REST {
            self.set32(ATTR, self.random.small(2));
            return;
        }
        self.change(ATTR, |b: &mut rvmm::StateBuffer| {
            (b.addr, b.bytes) = (base + DATA as u64, (SCRATCH - DATA) as u64);
        });
        sys::ioctl(fd, nr::GET_DEVICE_ATTR, base);
        for _ in 0..if good { 0 } else { self.random.below(4) } {
            self.set(DATA + self.random.below(SCRATCH - DATA - 1), &[self.random.next() as u8]);
        }
        if !good && self.random.once_in(3) {
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
}
