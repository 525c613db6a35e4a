// SPDX-License-Identifier: GPL-2.0

//! A machine's state by ioctls, and another machine of another host that goes on from it: both answer the same from
//! there on, to the nanosecond.

use super::rest::set_rest;
use super::{for_seeds, Random};
use crate::abi::{nr, rvmm, vm as abi};
use crate::arch::addr::AccessWidth::*;
use crate::fake::abi::{AbiVcpu, AbiVm};
use crate::fake::direct::RAM;
use crate::fake::steps::Steps;
use crate::fake::virtio::{config_read, config_write, Device, Ring};
use crate::host::blkio::DiskFile;
use crate::host::netio::TapDevice;
use crate::host::world::{Entered, World};
use kernel::prelude::*;
use std::sync::Arc;

/// Pages of memory.
const PAGES: u64 = 64;
/// Slots of the devices.
const BLK: u8 = 4;
const NET: u8 = 5;
const CONSOLE: u8 = 6;
const RNG: u8 = 7;

/// A machine of all devices on a host of its own.
struct Half {
    world: Arc<World>,
    vm: AbiVm,
    cpu: AbiVcpu,
    console: i64,
    _files: (Arc<DiskFile>, Arc<TapDevice>),
}

impl Half {
    /// One on a host that has been up for `age` nanoseconds.
    fn new(age: u64) -> Half {
        let world = World::new();
        let _in = world.enter(0);
        world.advance(age);
        let vm = AbiVm::with_chips(&world, PAGES);
        let (file, tap) = (Arc::new(DiskFile::new(64 * 512)), TapDevice::new());
        vm.disk(world.open_disk(&file), BLK.into(), 2, 0);
        vm.network_card(world.open_tap(&tap), NET.into(), 0);
        let console =
            rvmm::VirtioConsoleConfig { slot: CONSOLE.into(), flags: 0, columns: 80, rows: 25, pad: 0 };
        let console = vm.device(rvmm::DEV_VIRTIO_CONSOLE, &console).unwrap();
        vm.device(rvmm::DEV_VIRTIO_RNG, &rvmm::VirtioRngConfig { slot: RNG.into(), flags: 0 }).unwrap();
        let cpu = vm.vcpu(0);
        Half { world, vm, cpu, console, _files: (file, tap) }
    }

    fn enter(&self) -> Entered {
        self.world.enter(0)
    }

    fn attr(&self, fd: i64, cmd: u32, attr: u64, addr: u64) -> Result<i64> {
        self.vm.give_to(fd, cmd, &abi::DeviceAttr { flags: 0, group: rvmm::GROUP_STATE, attr, addr })
    }

    /// Returns a state of the VM or of the vCPU.
    fn save(&self, fd: i64, what: u64) -> Vec<u8> {
        let at = self.vm.put(&rvmm::StateBuffer { addr: 0, bytes: 0 });
        assert_eq!(self.attr(fd, nr::GET_DEVICE_ATTR, what, at), Err(E2BIG));
        let bytes = self.vm.get::<rvmm::StateBuffer>(at).bytes;
        let mut state = vec![0xee; bytes as usize];
        let addr = self.vm.put(&state[..]);
        let at = self.vm.put(&rvmm::StateBuffer { addr, bytes });
        assert_eq!(self.attr(fd, nr::GET_DEVICE_ATTR, what, at), Ok(0));
        self.world.process.read(addr, &mut state, true).unwrap();
        state
    }

    fn restore(&self, fd: i64, what: u64, state: &[u8]) -> Result<i64> {
        let addr = self.vm.put(state);
        let at = self.vm.put(&rvmm::StateBuffer { addr, bytes: state.len() as u64 });
        self.attr(fd, nr::SET_DEVICE_ATTR, what, at)
    }

    /// All of its state at rest: devices, local APIC, memory.
    fn state(&self) -> [Vec<u8>; 3] {
        let mut memory = vec![0; (PAGES * 4096) as usize];
        self.world.process.read(RAM, &mut memory, true).unwrap();
        [self.save(self.vm.fd, rvmm::STATE_MACHINE), self.save(self.cpu.fd, rvmm::STATE_LAPIC), memory]
    }

    /// Takes that over.
    fn take_over(&self, [machine, lapic, memory]: &[Vec<u8>; 3]) {
        self.world.process.write(RAM, memory, true).unwrap();
        assert_eq!(self.restore(self.vm.fd, rvmm::STATE_MACHINE, machine), Ok(0));
        assert_eq!(self.restore(self.cpu.fd, rvmm::STATE_LAPIC, lapic), Ok(0));
    }

    /// Does one thing, and returns what the guest sees of it.
    fn apply(&mut self, op: u64) -> u64 {
        let (what, a, value) = (op % 16, op >> 4 & 0xff, op >> 12);
        let cpu = &mut self.cpu;
        match what {
            0..=2 => cpu.inp(port(a), B1).into(),
            3..=5 => {
                cpu.out(port(a), B1, value as u32 & 0xff);
                0
            }
            6 | 7 => {
                let ns = (value & 0xffff) << (a % 12);
                self.world.advance(ns);
                ns
            }
            8 => cpu.load(0xfee0_0000 + lapic_register(a), B4),
            9 => {
                cpu.store(0xfee0_0000 + lapic_register(a), B4, value & 0xf_ffff);
                0
            }
            10 => {
                cpu.store(0xfec0_0000, B4, a & 0x3f);
                if value & 1 != 0 {
                    cpu.store(0xfec0_0010, B4, value >> 1 & 0x1_ffff);
                }
                cpu.load(0xfec0_0010, B4)
            }
            11 => config_read(cpu, BLK + (a % 4) as u8, (value & 0x7c) as u8).into(),
            12 => {
                // Not the BARs, so that the next access meets the device.
                let register = [4, 0x40, 0x50, 0x60][(a >> 2 & 3) as usize];
                config_write(cpu, BLK + (a % 4) as u8, register, value as u32 & 0x7_0407);
                0
            }
            13 | 14 => {
                let bar = config_read(cpu, BLK + (a % 4) as u8, 0x10) & !0xf;
                let width = [B1, B2, B4][(a >> 2) as usize % 3];
                let at = u64::from(bar) + (value & 0x38);
                if what == 13 {
                    cpu.load(at, width)
                } else {
                    cpu.store(at, width, value >> 6 & 0x1f);
                    0
                }
            }
            _ => {
                let bytes = [a as u8, value as u8];
                self.world.write(self.console, &bytes, true).map_or(9, |n| n as u64)
            }
        }
    }
}

/// Ports of all chips.
fn port(a: u64) -> u16 {
    const PORTS: [u16; 24] = [
        0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0x60, 0x64, 0x600, 0x602,
        0x608, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3ff,
    ];
    PORTS[a as usize % PORTS.len()]
}

/// Registers that say nothing to others.
fn lapic_register(a: u64) -> u64 {
    const REGISTERS: [u64; 12] =
        [0x80, 0xb0, 0xd0, 0xe0, 0xf0, 0x280, 0x320, 0x350, 0x370, 0x380, 0x390, 0x3e0];
    REGISTERS[a as usize % REGISTERS.len()]
}

fn both(seed: u64) {
    let mut random = Random::new(seed);
    let mut first = Half::new(0);
    {
        let _in = first.enter();
        for _ in 0..150 {
            let op = random.next() << 31 ^ random.next();
            first.apply(op);
        }
        set_rest(&first.vm, 1).unwrap();
    }
    let in_first = first.enter();
    let state = first.state();
    drop(in_first);
    let mut other = Half::new(77_000_000_000);
    {
        let _in = other.enter();
        set_rest(&other.vm, 1).unwrap();
        other.take_over(&state);
        assert_eq!(other.state(), state, "what was set is read again");
        set_rest(&other.vm, 0).unwrap();
    }
    {
        let _in = first.enter();
        // It stood still for longer.
        first.world.advance(3_000_000_000);
        set_rest(&first.vm, 0).unwrap();
    }
    for n in 0..150 {
        let op = random.next() << 31 ^ random.next();
        let seen = [&mut first, &mut other].map(|half| {
            let _in = half.enter();
            half.apply(op)
        });
        assert_eq!(seen[0], seen[1], "operation {n}: {op:#x}");
    }
    let states = [&first, &other].map(|half| {
        let _in = half.enter();
        set_rest(&half.vm, 1).unwrap();
        half.state()
    });
    assert!(states[0] == states[1]);
}

#[test]
fn a_machine_that_takes_a_state_over_answers_as_the_one_that_had_it() {
    for_seeds(40, both);
}

/// What a console has in its ring and its rings to user space goes with it.
#[test]
fn a_console_goes_on_in_another_machine() {
    let mut first = Half::new(0);
    let mut other = Half::new(1_000_000);
    let say = |half: &mut Half, ring: &mut Ring, device: &Device, at: u64, text: &str| {
        half.world.process.write(RAM + at, text.as_bytes(), true).unwrap();
        ring.add(&[(at, text.len() as u32, false)]);
        half.cpu.store(device.notify(1), B2, 1);
    };
    let entered = first.enter();
    let device = Device::start(&mut first.cpu, CONSOLE, 2, 0x41, 1 << 32);
    let mut ring = Ring::new(&first.world.process, RAM, 1);
    say(&mut first, &mut ring, &device, 0x2_0000, "said before");
    assert_eq!(first.world.read(first.console, 5, 0, true).unwrap(), b"said ");
    set_rest(&first.vm, 1).unwrap();
    let state = first.state();
    drop(entered);

    let _in = other.enter();
    set_rest(&other.vm, 1).unwrap();
    other.take_over(&state);
    set_rest(&other.vm, 0).unwrap();
    let mut ring = ring.moved_to(&other.world.process);
    assert_eq!(ring.take_used(), [(0, 0)]);
    say(&mut other, &mut ring, &device, 0x2_1000, ", said after");
    assert_eq!(other.world.read(other.console, 64, 0, true).unwrap(), b"before, said after");
    assert_eq!(ring.take_used().len(), 1);
}
