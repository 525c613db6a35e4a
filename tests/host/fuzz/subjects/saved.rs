// SPDX-License-Identifier: GPL-2.0

//! A machine of all chips and all kinds of virtio devices under a stream of accesses, saved and restored on the way.

use crate::arch::addr::AccessWidth::{self, B1, B2, B4, B8};
use crate::arch::addr::Gpa;
use crate::arch::time::Ns;
use crate::chipset::bus::{BusSignals, ChipBus};
use crate::chipset::i8042::I8042;
use crate::chipset::ioapic::Ioapic;
use crate::chipset::lapic::{Lapic, TimerClock};
use crate::chipset::message::DestFormat;
use crate::chipset::pci::{ConfigAccess, PciInterrupt, PciRoot, PciSlot};
use crate::chipset::pic::Pic;
use crate::chipset::pit::Pit;
use crate::chipset::pm::{Pm, TimerWidth};
use crate::chipset::routing::GsiRouting;
use crate::chipset::rtc::{Rtc, RtcSetup};
use crate::chipset::saved::{BadState, StateReader, StateWriter};
use crate::chipset::uart::Uart;
use crate::mmu::mem::{GuestMem, MemError};
use crate::virtio::device::blk::{BlkStatus, DiskGeometry, NextRequest, VirtioBlk};
use crate::virtio::device::console::VirtioConsole;
use crate::virtio::device::net::{NetConfig, NetPacket, SentPackets, TakenPacket, VirtioNet};
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::transport::pci::{AccessEffect, VirtioPci};
use std::cell::RefCell;

/// Guest memory: 64 KiB at address 0.
#[derive(Clone)]
struct Ram(RefCell<Vec<u8>>);

const RAM_BYTES: u64 = 1 << 16;

/// Returns what tells interrupts apart.
fn vector_of(interrupt: PciInterrupt) -> u64 {
    match interrupt {
        PciInterrupt::Message(message) => u64::from(message.data),
        PciInterrupt::Pin => u64::MAX,
    }
}

impl Ram {
    fn at(gpa: Gpa, len: usize) -> Result<usize, MemError> {
        let end = gpa.0.checked_add(len as u64).filter(|end| *end <= RAM_BYTES);
        end.map(|_| gpa.0 as usize).ok_or(MemError::NoSlot(gpa))
    }
}

impl GuestMem for Ram {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        let at = Ram::at(gpa, buf.len())?;
        buf.copy_from_slice(&self.0.borrow()[at..at + buf.len()]);
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        let at = Ram::at(gpa, buf.len())?;
        self.0.borrow_mut()[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn cmpxchg(&self, _gpa: Gpa, _bytes: usize, _old: u64, _new: u64) -> Result<u64, MemError> {
        unreachable!("devices need no atomic exchange")
    }
}

const BLK: u8 = 1;
const NET: u8 = 2;
const CONSOLE: u8 = 3;
const RNG: u8 = 4;
/// The card's control queue.
const CONTROL: u64 = 4;
/// Where the root places the first BAR.
const WINDOW: u64 = 0xc000_0000;

/// Does `$do` with the device in a slot.
macro_rules! device {
    ($self:ident, $slot:expr, $dev:ident => $do:expr) => {
        match $slot {
            BLK => Some({
                let $dev = &mut $self.blk;
                $do
            }),
            NET => Some({
                let $dev = &mut $self.net;
                $do
            }),
            CONSOLE => Some({
                let $dev = &mut $self.console;
                $do
            }),
            RNG => Some({
                let $dev = &mut $self.rng;
                $do
            }),
            _ => None,
        }
    };
}

pub(crate) struct Machine {
    bus: ChipBus,
    root: PciRoot,
    blk: VirtioPci<VirtioBlk>,
    net: VirtioPci<VirtioNet>,
    console: VirtioPci<VirtioConsole>,
    rng: VirtioPci<VirtioRng>,
    lapic: Lapic,
    mem: Ram,
    now: Ns,
    /// Where the drivers of packed rings are.
    packed: [Option<u16>; 16],
}

impl Machine {
    pub(crate) fn new() -> Machine {
        let now = Ns(1_000_000_007);
        let mut bus = ChipBus::default();
        bus.pic = Some(Pic::new());
        bus.ioapic = Some(Ioapic::new(0, DestFormat::Narrow));
        bus.pit = Some(Pit::new());
        let wall = RtcSetup { wall_offset_ns: 1_700_000_000_500_000_000, ..RtcSetup::default() };
        bus.rtc = Some(Rtc::new(&wall, now));
        bus.uart = Some(Uart::new().unwrap());
        bus.i8042 = Some(I8042::new());
        bus.pm = Some(Pm::new(TimerWidth::Bits32, now));
        bus.routing = GsiRouting::pc().unwrap();
        let geometry =
            DiskGeometry { sectors: 64, block_shift: 9, read_only: false, discard: true, serial: [7; 20] };
        let config = NetConfig { mac: [2; 6], mtu: 1500, pairs: 2, offloads: true, udp_offloads: true };
        let mut root = PciRoot::new(WINDOW, 0x1000_0000);
        let mut blk = VirtioPci::new(VirtioBlk::new(geometry, 16, 4, 2).unwrap()).unwrap().offer_packed(true);
        let mut net = VirtioPci::new(VirtioNet::new(&config).unwrap()).unwrap();
        let mut console = VirtioPci::new(VirtioConsole::new(80, 25).unwrap().wait_for_reader(true)).unwrap();
        let mut rng = VirtioPci::new(VirtioRng).unwrap().offer_packed(true);
        root.add(PciSlot::new(BLK), blk.config_space()).unwrap();
        root.add(PciSlot::new(NET), net.config_space()).unwrap();
        root.add(PciSlot::new(CONSOLE), console.config_space()).unwrap();
        root.add(PciSlot::new(RNG), rng.config_space()).unwrap();
        let mem = Ram(RefCell::new(vec![0; RAM_BYTES as usize]));
        Machine {
            bus,
            root,
            blk,
            net,
            console,
            rng,
            lapic: Lapic::new(3, true),
            mem,
            now,
            packed: [None; 16],
        }
    }

    /// Returns the state of all devices. Every one is at rest between two operations.
    pub(crate) fn save(&mut self) -> Vec<u8> {
        let mut out = StateWriter::new(1 << 19).unwrap();
        self.bus.save_chips(&mut out);
        out.put(0, &self.lapic);
        self.root.save_root(&mut out);
        for slot in [BLK, NET, CONSOLE, RNG] {
            device!(self, slot, dev => dev.quiesced().expect("at rest").save(slot, &mut out));
        }
        out.finish().expect("there is room").to_vec()
    }

    /// Takes a state over. The memory and the clock are the caller's.
    pub(crate) fn restore(&mut self, bytes: &[u8]) -> Result<(), BadState> {
        let mut from = StateReader::new(bytes);
        let mut out = BusSignals::new();
        self.bus.restore_chips(&mut from, self.now, &mut out)?;
        from.get(0, &mut self.lapic)?;
        self.root.restore_root(&mut from)?;
        for slot in [BLK, NET, CONSOLE, RNG] {
            device!(self, slot, dev => dev.quiesced().expect("at rest").restore(slot, &mut from)).unwrap()?;
            self.follow(slot);
        }
        from.finish()
    }

    /// What decoding follows from.
    fn follow(&mut self, slot: u8) {
        device!(self, slot, dev => self.root.update(PciSlot::new(slot).unwrap(), dev.config_space()));
    }

    fn act(&mut self, slot: u8, effect: AccessEffect) -> u64 {
        let mut seen = format!("{effect:?}").len() as u64;
        if effect == AccessEffect::Decode {
            self.follow(slot);
        }
        while let Some(Some(message)) = device!(self, slot, dev => dev.take_pending()) {
            seen = seen.wrapping_mul(31).wrapping_add(message.addr ^ u64::from(message.data));
        }
        seen
    }

    fn config(&mut self, write: bool, slot: u8, register: u8, width: AccessWidth, value: u32) -> u64 {
        let address = 0x8000_0000 | u32::from(slot) << 11 | u32::from(register & 0xfc);
        self.root.write(0, B4, address);
        let offset = 4 + u16::from(register & 3);
        let access = match write {
            true => self.root.write(offset, width, value),
            false => self.root.read(offset, width),
        };
        match access {
            ConfigAccess::Done(value) => value.into(),
            ConfigAccess::Function { slot, register } if write => {
                let slot = slot.number();
                let effect = device!(self, slot, dev => dev.config_write(register, width, value)).unwrap();
                self.act(slot, effect)
            }
            ConfigAccess::Function { slot, register } => {
                device!(self, slot.number(), dev => dev.config_read(register, width)).unwrap().into()
            }
        }
    }

    fn bar(&mut self, write: bool, slot: u8, bar: u8, offset: u64, width: AccessWidth, value: u64) -> u64 {
        let seen = match write {
            true => {
                let effect = device!(self, slot, dev => dev.bar_write(bar, offset, width, value)).unwrap();
                self.act(slot, effect)
            }
            false => device!(self, slot, dev => dev.bar_read(bar, offset, width)).unwrap(),
        };
        // The same by the address, which says whether the map of BARs is the same.
        let base = u64::from(self.config(false, slot, 0x10 + 4 * bar, B4, 0) as u32 & !0xf);
        let hit = self.root.decode(Gpa(base.wrapping_add(offset)));
        seen ^ hit.map_or(0, |hit| hit.offset << 8 | u64::from(hit.slot.number()))
    }

    /// Brings a device up as a driver does, with queues whose rings are in memory.
    fn bring_up(&mut self, slot: u8, how: u8) -> u64 {
        let mut seen = self.config(true, slot, 0x04, B2, 0x0406);
        self.bar(true, slot, 0, 0x14, B1, 0);
        for status in [1, 3] {
            self.bar(true, slot, 0, 0x14, B1, status);
        }
        let packed = how & 1 != 0 && matches!(slot, BLK | RNG);
        for (select, value) in [
            (0, if how & 2 != 0 { 0x3043_ffff } else { 0x0043_ffff }),
            (1, 0x01c0_0001 | u64::from(packed) << 2),
        ] {
            self.bar(true, slot, 0, 0x00, B4, select);
            let offered = device!(self, slot, dev => dev.bar_read(0, 0x04, B4)).unwrap();
            self.bar(true, slot, 0, 0x08, B4, select);
            self.bar(true, slot, 0, 0x0c, B4, value & offered);
        }
        self.bar(true, slot, 0, 0x14, B1, 11);
        for vector in 0..4 {
            self.bar(true, slot, 1, vector * 16, B8, 0xfee0_0000);
            self.bar(true, slot, 1, vector * 16 + 8, B8, 0x40 + vector + (u64::from(how >> 2 & 1) << 32));
        }
        self.config(true, slot, 0x42, B2, 0x8000);
        for queue in [0, 1, CONTROL].into_iter().take(if slot == NET { 3 } else { 2 }) {
            let at = Machine::ring(slot, queue);
            self.packed[Machine::number(slot, queue)] = packed.then_some(0);
            self.bar(true, slot, 0, 0x16, B2, queue);
            self.bar(true, slot, 0, 0x18, B2, 16);
            self.bar(true, slot, 0, 0x1a, B2, 1 + queue % 3);
            for (register, gpa) in [(0x20, at), (0x28, at + 0x200), (0x30, at + 0x300)] {
                self.bar(true, slot, 0, register, B8, gpa);
            }
            seen = seen.wrapping_mul(31) ^ self.bar(true, slot, 0, 0x1c, B2, 1);
            self.mem.0.borrow_mut()[at as usize..at as usize + 0x400].fill(0);
        }
        seen ^ self.bar(true, slot, 0, 0x14, B1, 15)
    }

    /// Where a queue lies: table, available ring and used ring within 1 KiB.
    fn ring(slot: u8, queue: u64) -> u64 {
        0x1000 + Machine::number(slot, queue) as u64 * 0x400
    }

    fn number(slot: u8, queue: u64) -> usize {
        usize::from(slot - 1) * 4 + if queue == CONTROL { 2 } else { queue as usize }
    }

    /// Makes a buffer available in a packed ring: for a disk one to be read and one to be written, else the latter.
    fn offer_packed(&mut self, slot: u8, queue: u64, value: u8, mut position: u16) {
        let data = 0x8000 + u64::from(value) * 0x40;
        let parts: &[(u64, u64)] = if slot == BLK { &[(data, 1), (data + 0x800, 2)] } else { &[(data, 2)] };
        for (gpa, flags) in parts {
            let at = Machine::ring(slot, queue) + 16 * u64::from(position % 16);
            let turn = if position < 16 { 1u64 << 7 } else { 1 << 15 };
            let _ = self.mem.write_obj(Gpa(at), &[*gpa, 64 | u64::from(value) << 32 | (flags | turn) << 48]);
            position = (position + 1) % 32;
        }
        self.packed[Machine::number(slot, queue)] = Some(position);
        let _ = self.mem.write_obj(Gpa(data), &[u64::from([0u8, 1, 4, 8][usize::from(value & 3)]), 0]);
    }

    /// Makes a buffer of a readable and a writable part available in a split ring, or one of either in a packed one.
    fn offer(&mut self, slot: u8, queue: u64, value: u8) {
        if let Some(position) = self.packed[Machine::number(slot, queue)] {
            return self.offer_packed(slot, queue, value, position);
        }
        let at = Machine::ring(slot, queue);
        let data = 0x8000 + u64::from(value) * 0x40;
        let long = if slot == CONSOLE { 0x3800 } else { 64 };
        let part = |write: bool, next: bool| {
            let flags = u64::from(write) << 1 | u64::from(next);
            (
                data + if write { 0x800 } else { 0 },
                if write { 64 } else { long } | flags << 32 | u64::from(next) << 48,
            )
        };
        let head = u16::from(value & 7) * 2;
        for (n, (gpa, rest)) in [part(false, true), part(true, false)].into_iter().enumerate() {
            // The second descriptor follows the first.
            let rest = if n == 0 { rest & 0xffff_ffff_ffff | u64::from(head + 1) << 48 } else { rest };
            let desc = at + 16 * (u64::from(head) + n as u64);
            let _ = self.mem.write_obj(Gpa(desc), &[gpa, rest]);
        }
        let idx: u16 = self.mem.read_obj(Gpa(at + 0x202)).unwrap();
        let _ = self.mem.write_obj(Gpa(at + 0x204 + 2 * u64::from(idx % 16)), &head);
        let _ = self.mem.write_obj(Gpa(at + 0x202), &idx.wrapping_add(1));
        if queue == CONTROL {
            let command = if value & 8 == 0 { [4, 0, 1 + (value & 1), 0] } else { [5, 0, value & 0x83, 0] };
            let _ = self.mem.write_obj(Gpa(data), &[u64::from(u32::from_le_bytes(command)), 0]);
            return;
        }
        // Type of a request of a disk: read, write, flush, get id.
        let _ = self.mem.write_obj(Gpa(data), &[u64::from([0u8, 1, 4, 8][usize::from(value & 3)]), 0]);
    }

    /// Serves a device as its worker does, and leaves nothing under way.
    fn serve(&mut self, slot: u8, how: u8) -> u64 {
        let mem = &self.mem;
        match slot {
            BLK => {
                let index = u16::from(how & 1);
                // What was completed before, and not decided about.
                let mut seen = self.blk.notify(index, mem).map_or(0, vector_of);
                for _ in 0..8 {
                    match self.blk.next(index, mem) {
                        NextRequest::Request(request) => {
                            seen = seen.wrapping_mul(31) + request.bytes();
                            // An interrupt is not decided about at once, always.
                            let done = match how & 2 {
                                0 => self.blk.complete(mem, request, BlkStatus::Ok, 512),
                                _ => self.blk.give_back(mem, request, BlkStatus::Ok, 512),
                            };
                            seen ^= format!("{done:?}").len() as u64;
                        }
                        other => {
                            seen ^= format!("{other:?}").len() as u64;
                            break;
                        }
                    }
                }
                seen
            }
            NET => {
                let mut packet = NetPacket::new().unwrap();
                let mut seen = format!("{:?}", self.net.serve_control(mem)).len() as u64;
                let taken = self.net.take_packet(1, mem, &mut packet);
                seen ^= format!("{taken:?}").len() as u64;
                if taken == TakenPacket::Packet {
                    let mut sent = SentPackets::new(4).unwrap();
                    let _ = sent.add(packet.buffer().unwrap());
                    seen ^= format!("{:?}", self.net.give_packets(1, mem, &sent)).len() as u64;
                }
                seen ^ u64::from(self.net.receive_queue(3)) ^ u64::from(self.net.offloads().bits())
            }
            CONSOLE => {
                let mut out = [0; 100];
                let mut seen = format!("{:?}", self.console.serve_output(mem)).len() as u64;
                seen ^= format!("{:?}", self.console.serve_input(mem)).len() as u64;
                if how & 1 != 0 {
                    seen = seen.wrapping_mul(31) + self.console.drain_output(&mut out) as u64;
                }
                seen = out.iter().fold(seen, |seen, byte| seen.wrapping_mul(31) + u64::from(*byte));
                seen ^ u64::from(self.console.take_waiting()) << 40
                    ^ u64::from(self.console.take_news()) << 41
            }
            _ => format!("{:?}", self.rng.serve(mem, |part| part.fill(7))).len() as u64,
        }
    }

    fn clock(&self) -> TimerClock {
        TimerClock { now: self.now, tsc: self.now.0, ns_per_tick: 1 << 32 }
    }

    /// Whether every type keeps its invariants.
    fn check(&mut self) {
        assert_eq!(self.bus.check(), Ok(()));
        assert_eq!(self.root.check(), Ok(()));
        assert_eq!(self.lapic.check(), Ok(()));
        for slot in [BLK, NET, CONSOLE, RNG] {
            assert_eq!(device!(self, slot, dev => dev.check()), Some(Ok(())));
        }
    }

    /// Does one thing, and returns all that can be seen of it.
    pub(crate) fn apply(&mut self, op: [u8; 6]) -> u64 {
        let [kind, a, b, c, d, e] = op;
        let value = u32::from_le_bytes([b, c, d, e]);
        let width = [B1, B2, B4, B8][usize::from(e & 3)];
        let slot = 1 + a % 4;
        let mut out = BusSignals::new();
        let mut seen = match if kind & 0x20 != 0 && kind & 0x10 != 0 { 11 } else { kind % 16 } {
            0 | 1 => self.bus.pio_read(port(a), narrow(kind, width), self.now, &mut out).unwrap_or(77).into(),
            2..=4 => self.bus.pio_write(port(a), narrow(kind, width), value, self.now, &mut out).into(),
            5 => {
                self.now = self.now.after(u64::from(b).pow(u32::from(1 + a % 4)));
                self.bus.tick(self.now, &mut out);
                self.lapic.tick(self.now).into()
            }
            6 => self.config(a & 0x80 != 0, slot, b, width, u32::from(c) << (d & 24)),
            7 => self.bar(a & 0x80 != 0, slot, 0, u64::from(b & 0x3f), width, u64::from(c)),
            8 => self.bar(a & 0x80 != 0, slot, 1, u64::from(b & 0x7c), B4, u64::from(c & 1)),
            9 => self.bar(a & 0x80 != 0, slot, 0, 0x1000 << (c & 1) | u64::from(b & 15), B1, d.into()),
            10 => self.bring_up(slot, b),
            11 => {
                let queue = if slot == NET && b & 2 != 0 { CONTROL } else { u64::from(b & 1) };
                for n in 0..1 + (d >> 6) {
                    self.offer(slot, queue, c.wrapping_add(n));
                }
                self.serve(slot, d)
            }
            12 => {
                let reg = u32::from(b & 0x3f) << 4;
                let clock = self.clock();
                match a & 1 {
                    0 => format!("{:?}", self.lapic.write(reg, value >> 8, &clock)).len() as u64,
                    _ => self.lapic.read(reg, self.now).into(),
                }
            }
            13 => {
                let vector = self.lapic.pending();
                if let Some(vector) = vector.filter(|_| a & 1 != 0) {
                    self.lapic.accept_pending(vector);
                }
                self.lapic.accept(b, a & 2 != 0);
                u64::from(vector.unwrap_or(0)) << 8 | u64::from(self.lapic.ppr())
            }
            14 => {
                let at = Gpa(0xfec0_0000 + [0, 0x10, 0x10, 0x40][usize::from(a & 3)]);
                self.bus.mmio_write(at, B4, u64::from(value) & 0x1_ffff, &mut out);
                self.bus.mmio_read(Gpa(0xfec0_0010), B4).unwrap()
            }
            _ if a & 1 != 0 => {
                let said = self.bus.pio_write(0x60, B1, [0xf2, 0xff][usize::from(b & 1)], self.now, &mut out);
                self.bus.pio_read(0x60, B1, self.now, &mut out).map_or(0, u64::from) ^ u64::from(said)
            }
            _ => {
                let taken = self.bus.uart.as_mut().unwrap().push_input(&[b, c]);
                self.bus.settle_uart(&mut out);
                (taken + self.console.push_input(&[d, e])) as u64
            }
        };
        while let Some(sent) = self.bus.take_message(&mut out) {
            seen = seen.wrapping_mul(31) ^ u64::from(sent.message.vector);
            self.lapic.accept(sent.message.vector, sent.message.level);
        }
        if a & 0x40 != 0 {
            seen ^= u64::from(self.bus.acknowledge(&mut out).unwrap_or(0)) << 16;
        }
        self.check();
        seen ^ u64::from(self.bus.intr().is_high()) << 63
            ^ self.bus.deadline().map_or(0, |at| at.0 << 1)
            ^ self.lapic.deadline().map_or(0, |at| at.0 << 2)
    }
}

fn port(a: u8) -> u16 {
    const PORTS: [u16; 32] = [
        0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0x60, 0x64, 0x92,
        0x600, 0x602, 0x604, 0x605, 0x608, 0xcf9, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff,
        0x43, 0x71,
    ];
    PORTS[usize::from(a & 31)]
}

/// Mostly bytes: that is what ports are for.
fn narrow(kind: u8, width: AccessWidth) -> AccessWidth {
    if kind & 0xc0 == 0xc0 {
        width
    } else {
        B1
    }
}

fn ops(bytes: &[u8]) -> impl Iterator<Item = [u8; 6]> + '_ {
    bytes.chunks_exact(6).map(|op| op.try_into().unwrap())
}

/// Runs a machine, restores its state into a fresh one half way, and wants the same of both from there on.
pub(crate) fn machine(bytes: &[u8]) {
    let mut machine = Machine::new();
    let how = bytes.first().copied().unwrap_or(0);
    for slot in [BLK, NET, CONSOLE, RNG] {
        machine.bring_up(slot, how);
    }
    let half = bytes.len() / 12 * 6;
    for op in ops(&bytes[..half]) {
        machine.apply(op);
    }
    machine.bus.tick(machine.now, &mut BusSignals::new());

    let saved = machine.save();
    let mut other = Machine::new();
    other.now = machine.now;
    other.mem = machine.mem.clone();
    other.packed = machine.packed;
    other.restore(&saved).expect("what was saved can be restored");
    assert_eq!(other.save(), saved, "what was restored is saved the same");

    for op in ops(&bytes[half..]) {
        assert_eq!(machine.apply(op), other.apply(op), "{op:x?}");
    }
    assert_eq!(machine.save(), other.save());
    assert_eq!(*machine.mem.0.borrow(), *other.mem.0.borrow());
}

/// Changes a state somewhere and restores it: it is refused, or the machine has that state and goes on.
pub(crate) fn restore(bytes: &[u8]) {
    let Some(([n, places @ ..], rest)) = bytes.split_first_chunk::<13>() else { return };
    let mut machine = Machine::new();
    let (before, after) = rest.split_at(rest.len() / 12 * 6);
    for op in ops(before) {
        machine.apply(op);
    }
    let mut state = machine.save();
    for place in places.chunks_exact(3).take(usize::from(n % 5)) {
        let at = usize::from(u16::from_le_bytes([place[0], place[1]])) % state.len();
        state[at] = place[2];
    }
    if n & 0x80 != 0 {
        state.truncate(usize::from(places[0]) * 16);
    }
    let mut other = Machine::new();
    other.now = machine.now;
    let restored = other.restore(&state);
    // Even a state that was refused half way must do no harm.
    for op in ops(after) {
        other.apply(op);
    }
    if restored.is_ok() && after.is_empty() {
        other.save();
    }
}
