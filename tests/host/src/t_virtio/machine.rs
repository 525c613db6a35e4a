// SPDX-License-Identifier: GPL-2.0

//! A bus with one virtio function, reached as a guest reaches it: ports and physical addresses.

use super::driver::Ring;
use super::mem::Mem;
use super::packed_driver::PackedRing;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::chipset::pci::{ConfigAccess, MsixMessage, PciInterrupt, PciRoot, PciSlot};
use crate::virtio::queue::QueueLayout;
use crate::virtio::transport::pci::{AccessEffect, VirtioDevice, VirtioPci};
use AccessWidth::{B1, B2, B4};

pub(crate) const WINDOW: u64 = 0xc000_0000;

pub(crate) const ACKNOWLEDGE: u8 = 1;
pub(crate) const DRIVER: u8 = 2;
pub(crate) const DRIVER_OK: u8 = 4;
pub(crate) const FEATURES_OK: u8 = 8;
pub(crate) const NEEDS_RESET: u8 = 64;

pub(crate) const F_EVENT_IDX: u64 = 1 << 29;
pub(crate) const F_RING_PACKED: u64 = 1 << 34;
pub(crate) const F_VERSION_1: u64 = 1 << 32;

/// Addresses of the structures, as the capabilities tell them.
#[derive(Default, Debug)]
pub(crate) struct Structures {
    pub(crate) common: u64,
    pub(crate) notify: u64,
    pub(crate) isr: u64,
    pub(crate) device: u64,
    pub(crate) pci_cfg: u8,
    pub(crate) multiplier: u32,
    pub(crate) msix: u8,
    pub(crate) msix_table: u64,
    pub(crate) msix_pending: u64,
    pub(crate) vectors: u16,
}

pub(crate) struct Machine<D> {
    pub(crate) mem: Mem,
    pub(crate) root: PciRoot,
    pub(crate) dev: VirtioPci<D>,
    pub(crate) slot: u8,
    /// What the last write asked for.
    pub(crate) effect: AccessEffect,
    /// Interrupts so far.
    pub(crate) sent: Vec<PciInterrupt>,
    pub(crate) at: Structures,
}

impl<D: VirtioDevice> Machine<D> {
    pub(crate) fn new(device: D) -> Machine<D> {
        Machine::with(VirtioPci::new(device).unwrap())
    }

    pub(crate) fn with(mut dev: VirtioPci<D>) -> Machine<D> {
        let mut root = PciRoot::new(WINDOW, 0x3ec0_0000);
        let slot = root.add(None, dev.config_space()).unwrap().number();
        let (mem, sent) = (Mem::new(), Vec::new());
        Machine { mem, root, dev, slot, effect: AccessEffect::None, sent, at: Structures::default() }
    }

    pub(crate) fn inp(&mut self, offset: u16, width: AccessWidth) -> u32 {
        match self.root.read(offset, width) {
            ConfigAccess::Done(value) => value,
            ConfigAccess::Function { slot, register } => {
                assert_eq!(slot.number(), self.slot);
                self.dev.config_read(register, width)
            }
        }
    }

    pub(crate) fn out(&mut self, offset: u16, width: AccessWidth, value: u32) {
        if let ConfigAccess::Function { register, .. } = self.root.write(offset, width, value) {
            let effect = self.dev.config_write(register, width, value);
            self.act(effect);
        }
    }

    /// What the kernel side does with an effect.
    pub(crate) fn act(&mut self, effect: AccessEffect) {
        self.effect = effect;
        match effect {
            AccessEffect::Decode => {
                self.root.update(PciSlot::new(self.slot).unwrap(), self.dev.config_space())
            }
            AccessEffect::Broken(message) => self.sent.extend(message),
            _ => {}
        }
        if matches!(effect, AccessEffect::Decode | AccessEffect::Msix) {
            while let Some(message) = self.dev.take_pending() {
                self.sent.push(PciInterrupt::Message(message));
            }
        }
    }

    pub(crate) fn config_read(&mut self, slot: u8, register: u8, width: AccessWidth) -> u32 {
        self.out(0, B4, 0x8000_0000 | u32::from(slot) << 11 | u32::from(register & 0xfc));
        self.inp(4 + u16::from(register & 3), width)
    }

    pub(crate) fn config_write(&mut self, slot: u8, register: u8, width: AccessWidth, value: u32) {
        self.out(0, B4, 0x8000_0000 | u32::from(slot) << 11 | u32::from(register & 0xfc));
        self.out(4 + u16::from(register & 3), width, value);
    }

    pub(crate) fn reg(&mut self, register: u8, width: AccessWidth) -> u32 {
        self.config_read(self.slot, register, width)
    }

    pub(crate) fn set_reg(&mut self, register: u8, width: AccessWidth, value: u32) {
        self.config_write(self.slot, register, width, value);
    }

    pub(crate) fn read(&mut self, gpa: u64, width: AccessWidth) -> u64 {
        let hit = self.root.decode(Gpa(gpa)).expect("a BAR");
        assert_eq!(hit.slot.number(), self.slot);
        self.dev.bar_read(hit.bar, hit.offset, width)
    }

    pub(crate) fn write(&mut self, gpa: u64, width: AccessWidth, value: u64) {
        let hit = self.root.decode(Gpa(gpa)).expect("a BAR");
        assert_eq!(hit.slot.number(), self.slot);
        let effect = self.dev.bar_write(hit.bar, hit.offset, width, value);
        self.act(effect);
    }

    pub(crate) fn bar(&mut self, bar: u8) -> u64 {
        u64::from(self.reg(0x10 + 4 * bar, B4) & !0xf)
    }

    /// Walks the capability list and turns decoding on, as a driver's probe does.
    pub(crate) fn probe(&mut self) {
        assert_eq!(self.reg(0x06, B2) & 0x10, 0x10, "has a capability list");
        let mut cap = self.reg(0x34, B1) as u8;
        for _ in 0..48 {
            if cap == 0 {
                break;
            }
            match self.reg(cap, B1) {
                0x09 => self.virtio_cap(cap),
                0x11 => {
                    let (table, pending) = (self.reg(cap + 4, B4), self.reg(cap + 8, B4));
                    self.at.msix = cap;
                    self.at.vectors = (self.reg(cap + 2, B2) & 0x7ff) as u16 + 1;
                    self.at.msix_table = self.bar((table & 7) as u8) + u64::from(table & !7);
                    self.at.msix_pending = self.bar((pending & 7) as u8) + u64::from(pending & !7);
                }
                id => panic!("capability {id:#x}"),
            }
            cap = self.reg(cap + 1, B1) as u8;
        }
        assert_eq!(cap, 0, "the list ends");
        self.set_reg(0x04, B2, 0x0406);
    }

    fn virtio_cap(&mut self, cap: u8) {
        let bar = self.reg(cap + 4, B1) as u8;
        let at = self.bar(bar) + u64::from(self.reg(cap + 8, B4));
        match self.reg(cap + 3, B1) {
            1 => self.at.common = at,
            2 => {
                self.at.notify = at;
                self.at.multiplier = self.reg(cap + 16, B4);
            }
            3 => self.at.isr = at,
            4 => self.at.device = at,
            5 => self.at.pci_cfg = cap,
            kind => panic!("virtio capability {kind}"),
        }
    }

    pub(crate) fn common(&mut self, at: u64, width: AccessWidth) -> u64 {
        self.read(self.at.common + at, width)
    }

    pub(crate) fn set_common(&mut self, at: u64, width: AccessWidth, value: u64) {
        self.write(self.at.common + at, width, value);
    }

    pub(crate) fn status(&mut self) -> u8 {
        self.common(0x14, B1) as u8
    }

    pub(crate) fn set_status(&mut self, status: u8) {
        self.set_common(0x14, B1, u64::from(status));
    }

    pub(crate) fn offered(&mut self) -> u64 {
        self.set_common(0x00, B4, 0);
        let low = self.common(0x04, B4);
        self.set_common(0x00, B4, 1);
        low | self.common(0x04, B4) << 32
    }

    pub(crate) fn accept(&mut self, features: u64) {
        self.set_common(0x08, B4, 0);
        self.set_common(0x0c, B4, features & 0xffff_ffff);
        self.set_common(0x08, B4, 1);
        self.set_common(0x0c, B4, features >> 32);
    }

    /// Programs and unmasks a vector: its message is (0xfee0_0000, 0x40 + vector).
    pub(crate) fn unmask(&mut self, vector: u16) {
        let at = self.at.msix_table + 16 * u64::from(vector);
        self.write(at, B4, 0xfee0_0000);
        self.write(at + 4, B4, 0);
        self.write(at + 8, B4, 0x40 + u64::from(vector));
        self.write(at + 12, B4, 0);
    }

    pub(crate) fn mask(&mut self, vector: u16) {
        self.write(self.at.msix_table + 16 * u64::from(vector) + 12, B4, 1);
    }

    pub(crate) fn negotiate(&mut self, features: u64) {
        self.set_status(0);
        assert_eq!(self.status(), 0);
        self.set_status(ACKNOWLEDGE);
        self.set_status(ACKNOWLEDGE | DRIVER);
        self.accept(features);
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert_eq!(self.status() & FEATURES_OK, FEATURES_OK);
    }

    /// Sets up queue 0 with vector 1 as Linux does, and returns the driver's side.
    pub(crate) fn set_up_queue(&mut self, event_idx: bool) -> Ring {
        self.set_up_queue_number(0, event_idx)
    }

    /// Sets up a queue with the vector after its number; each ring has 64 KiB of its own.
    pub(crate) fn set_up_queue_number(&mut self, index: u16, event_idx: bool) -> Ring {
        let size = self.select_queue(index);
        let ring = Ring::at(u64::from(index) << 16, size, event_idx);
        self.enable_queue(index, size, ring.layout);
        ring
    }

    /// The same with a packed ring of `size` entries.
    pub(crate) fn set_up_packed_queue(&mut self, index: u16, size: u16, event_idx: bool) -> PackedRing {
        self.select_queue(index);
        let ring = PackedRing::at(u64::from(index) << 16, size, event_idx);
        self.enable_queue(index, size, ring.layout);
        assert_eq!(self.common(0x18, B2), u64::from(size), "the size was accepted");
        ring
    }

    /// Returns the queue's largest size.
    fn select_queue(&mut self, index: u16) -> u16 {
        self.set_common(0x16, B2, index.into());
        assert_eq!(self.common(0x1c, B2), 0, "not enabled yet");
        self.common(0x18, B2) as u16
    }

    fn enable_queue(&mut self, index: u16, size: u16, layout: QueueLayout) {
        self.set_common(0x18, B2, u64::from(size));
        for (at, gpa) in [(0x20, layout.desc), (0x28, layout.avail), (0x30, layout.used)] {
            self.set_common(at, B4, gpa.0 & 0xffff_ffff);
            self.set_common(at + 4, B4, gpa.0 >> 32);
        }
        self.set_common(0x1a, B2, u64::from(index) + 1);
        assert_eq!(self.common(0x1a, B2), u64::from(index) + 1, "the vector was accepted");
        self.set_common(0x1c, B2, 1);
    }

    /// Everything from the probe to DRIVER_OK; MSI-X with a vector for the configuration and one
    /// for the queue.
    pub(crate) fn start(&mut self, features: u64) -> Ring {
        self.start_queues(features, 1).remove(0)
    }

    /// The same for the first `count` queues.
    pub(crate) fn start_queues(&mut self, features: u64, count: u16) -> Vec<Ring> {
        let event_idx = features & F_EVENT_IDX != 0;
        self.start_with(features, count, |m, index| m.set_up_queue_number(index, event_idx))
    }

    /// The same with packed rings of `size` entries.
    pub(crate) fn start_packed(&mut self, features: u64, count: u16, size: u16) -> Vec<PackedRing> {
        let event_idx = features & F_EVENT_IDX != 0;
        self.start_with(features | F_RING_PACKED, count, |m, i| m.set_up_packed_queue(i, size, event_idx))
    }

    fn start_with<R>(&mut self, features: u64, count: u16, set_up: impl Fn(&mut Self, u16) -> R) -> Vec<R> {
        self.probe();
        self.negotiate(features | F_VERSION_1);
        self.set_reg(self.at.msix + 2, B2, 0x8000);
        for vector in 0..=count {
            self.unmask(vector);
        }
        self.set_common(0x10, B2, 0);
        let rings = (0..count).map(|index| set_up(self, index)).collect();
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        assert_eq!(self.effect, AccessEffect::Activated);
        rings
    }

    pub(crate) fn message(vector: u16) -> PciInterrupt {
        PciInterrupt::Message(MsixMessage { addr: 0xfee0_0000, data: 0x40 + u32::from(vector) })
    }
}
