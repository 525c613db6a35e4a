// SPDX-License-Identifier: GPL-2.0

//! PCI configuration through its ports, BARs that move, and the registers behind them.

use super::bytes::Bytes;
use crate::arch::addr::{AccessWidth::*, Gpa};
use crate::chipset::pci::PciSlot;
use crate::t_virtio::machine::{Machine, F_VERSION_1, WINDOW};
use crate::t_virtio::random::disk;
use crate::virtio::device::blk::VirtioBlk;
use crate::virtio::transport::pci::AccessEffect;

/// Registers that drivers write.
const REGISTERS: [u8; 16] =
    [0x04, 0x05, 0x06, 0x0c, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x30, 0x34, 0x3c, 0x40, 0x50, 0x9a];
/// Places in the structures' BAR.
const PLACES: [u64; 14] = [0, 4, 8, 0xc, 0x10, 0x14, 0x16, 0x18, 0x1a, 0x1c, 0x20, 0x1000, 0x2000, 0x3000];

fn bar_access(m: &mut Machine<VirtioBlk>, b: &mut Bytes<'_>) {
    let bar = b.below(3) as u8;
    let offset = match b.below(4) {
        0 => b.number(),
        1 => b.pick(&PLACES) + b.below(0x60),
        _ => b.pick(&PLACES),
    };
    let (width, value) = (b.width(), b.number());
    let effect = m.dev.bar_write(bar, offset, width, value);
    if let AccessEffect::Kick(queue) = effect {
        assert!(m.dev.is_running() && queue == 0);
    }
    m.act(effect);
    assert!(m.dev.bar_read(bar, offset, width) <= width.mask());
}

/// What the bus decodes is the device's, inside one of its BARs.
fn check_decoding(m: &mut Machine<VirtioBlk>, gpa: u64) {
    let Some(hit) = m.root.decode(Gpa(gpa)) else { return };
    assert_eq!(hit.slot.number(), m.slot);
    let base = m.dev.config_read(0x10 + 4 * hit.bar, B4) & !0xf;
    assert_eq!(gpa & 0xffff_ffff, u64::from(base) + hit.offset, "where the BAR says");
    assert_ne!(m.dev.config_read(0x04, B2) & 2, 0, "memory decoding is on");
    assert!(m.dev.bar_read(hit.bar, hit.offset, B4) <= 0xffff_ffff);
}

/// A device that runs has agreed on what it offers.
fn check_features(m: &mut Machine<VirtioBlk>, offered: u64) {
    let half = |m: &mut Machine<VirtioBlk>, half| {
        let _ = m.dev.bar_write(0, 0x08, B4, half);
        m.dev.bar_read(0, 0x0c, B4)
    };
    let accepted = half(m, 0) | half(m, 1) << 32;
    assert_eq!(accepted & !offered, 0);
    assert_ne!(accepted & F_VERSION_1, 0);
}

/// No register stream changes the identity, widens a value, decodes what no BAR says, or keeps a
/// driver from starting over.
pub(super) fn pci(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut m = disk();
    m.probe();
    let offered = m.offered();
    let identity = m.reg(0, B4);
    while !b.is_empty() {
        match b.below(8) {
            0 => {
                let (offset, width, value) = (u16::from(b.u8() & 7), b.width(), b.u32());
                m.out(offset, width, value);
            }
            1 => {
                let (offset, width) = (u16::from(b.u8() & 7), b.width());
                assert_eq!(u64::from(m.inp(offset, width)) & !width.mask(), 0);
            }
            2 | 3 => {
                let register = if b.flag() { b.pick(&REGISTERS) } else { b.u8() };
                let (slot, width, value) = (b.pick(&[m.slot, m.slot, m.slot, 0, 31]), b.width(), b.number());
                m.config_write(slot, register, width, value as u32);
            }
            4..=6 => bar_access(&mut m, &mut b),
            _ => {
                m.dev.reset();
                m.root.reset_function(PciSlot::new(m.slot).unwrap(), m.dev.config_space());
            }
        }
        assert_eq!(m.dev.config_read(0, B4), identity);
        for gpa in [WINDOW, WINDOW + 0x1000, WINDOW + 0x4010, b.0.len() as u64 * 0x1000] {
            check_decoding(&mut m, gpa);
        }
        if m.dev.is_running() {
            check_features(&mut m, offered);
        }
        let _ = m.dev.next(0, &m.mem);
    }
    m.dev.reset();
    m.root.reset_function(PciSlot::new(m.slot).unwrap(), m.dev.config_space());
    m.start(0);
    assert!(m.dev.is_running());
}
