// SPDX-License-Identifier: GPL-2.0

//! What a random caller does: an ioctl of the table with an argument that is nearly right, or something to the
//! files and the memory behind it.

use crate::abi::{run, vm};
use crate::random::Random;
use crate::sys::{self, Arena, RunPage};
use crate::table::{Row, Target, TABLE};
use crate::world::{place, restart, run_page, World, MEMORY};
use zerocopy::{FromZeros, IntoBytes};

/// Bytes of a caller's arguments.
pub const SCRATCH: usize = 16 * 4096;

/// A thread that does random things.
pub struct Caller<'a> {
    pub(crate) world: &'a World,
    without: &'a [String],
    pub(crate) random: Random,
    pub(crate) scratch: Arena,
    pub(crate) page: Option<RunPage>,
}

impl<'a> Caller<'a> {
    /// A caller with numbers of its own.
    pub fn new(world: &'a World, without: &'a [String], random: Random) -> Caller<'a> {
        Caller { world, without, random, scratch: Arena::new(SCRATCH, false), page: None }
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
            6 => self.restart(),
            9 | 10 => self.world.refill(r),
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
        let (fd, arg) = self.arguments(target, number, shape);
        let other = self.random.once_in(200);
        let number = if other { number ^ 1 << self.random.below(32) } else { number };
        let answer = sys::ioctl(fd, number, arg);
        self.world.tally.note(row, answer >= 0 && !other);
        if answer >= 0 {
            self.keep(name, answer);
        }
    }

    /// Calls the ioctl of a row that waits, from a thread that may. A thread that was lent until a signal came was lent.
    pub fn call_waiting(&self, name: &str) {
        let Some(row) = TABLE.iter().position(|row| row.0 == name) else { return };
        let (_, number, target, _) = TABLE[row];
        let fd = match target {
            Target::Device if !self.random.once_in(4) => self.world.devices.at(1 + self.random.below(4)),
            _ => self.file(target),
        };
        let arg = if name == "RUN" { 0 } else { self.random.small(2) };
        let answer = sys::ioctl(fd, number, arg);
        let was_lent = name == "DEV_RUN" && answer < 0 && sys::was_interrupted();
        self.world.tally.note(row, answer >= 0 || was_lent);
        // The others get a turn at the vCPU, and at the CPU.
        std::thread::sleep(std::time::Duration::from_micros(self.random.next() % 2000));
        if self.random.once_in(16) {
            self.restart();
        }
    }

    /// Sends a vCPU back to where guests begin, or to where their driver does.
    fn restart(&self) {
        let (w, r) = (self.world, &self.random);
        if r.once_in(8) {
            w.prepare_driver(w.vcpus.any(r), &self.scratch, r);
        } else {
            restart(w.vcpus.any(r), &self.scratch, r);
        }
    }

    /// Returns a file for a call: mostly of the right kind.
    pub(crate) fn file(&self, target: Target) -> i32 {
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
            Target::Vm if r.once_in(4) => w.vms.at(1),
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
                self.world.devices.put(self.device_place(), device.fd as i32);
            }
            _ => {}
        }
    }

    /// Returns a place of a device whose fd may go: mostly none of those that all machines have.
    fn device_place(&self) -> usize {
        let r = &self.random;
        if r.once_in(16) {
            r.below(place::OTHERS.end)
        } else {
            place::OTHERS.start + r.below(place::OTHERS.len())
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
            1 => w.devices.put(self.device_place(), -1),
            2 => w.others.put(place, if place < 4 { sys::eventfd() } else { -1 }),
            3 if r.once_in(8) => w.others.put(4, sys::memory_file(1 << 20)),
            3 => sys::resize(w.others.at(4), r.of(&[0, 4096, 1 << 20, 1 << 20])),
            4 if r.once_in(8) => {
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
