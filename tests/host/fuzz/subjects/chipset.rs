// SPDX-License-Identifier: GPL-2.0

//! The chips behind ports, one by one and together on their bus.

use super::bytes::Bytes;
use crate::arch::addr::Gpa;
use crate::arch::time::Ns;
use crate::chipset::bus::{decodes, BusSignals, ChipBus, IOAPIC_BASE};
use crate::chipset::i8042::I8042;
use crate::chipset::ioapic::Ioapic;
use crate::chipset::pic::Pic;
use crate::chipset::pit::Pit;
use crate::chipset::pm::{Pm, TimerWidth};
use crate::chipset::routing::GsiRouting;
use crate::chipset::rtc::Rtc;
use crate::chipset::uart::Uart;
use crate::chipset::DestFormat;
use crate::chipset::PinLevel;
use crate::t_chipset::ops::{run, Subject};

pub(super) fn uart(bytes: &[u8]) {
    run::<Uart>(bytes);
}

pub(super) fn pit(bytes: &[u8]) {
    run::<Pit>(bytes);
}

pub(super) fn pic(bytes: &[u8]) {
    run::<Pic>(bytes);
}

pub(super) fn rtc(bytes: &[u8]) {
    run::<Rtc>(bytes);
}

pub(super) fn i8042(bytes: &[u8]) {
    run::<I8042>(bytes);
}

pub(super) fn pm(bytes: &[u8]) {
    run::<Pm>(bytes);
}

const PORTS: [u16; 32] = [
    0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x70, 0x71, 0x60, 0x64, 0x92, 0x3f8,
    0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x600, 0x602, 0x604, 0x608, 0xcf9, 0x80, 0x44, 0x62,
];

fn full_bus() -> ChipBus {
    let mut bus = ChipBus::default();
    bus.pic = Some(Pic::new());
    bus.ioapic = Some(Ioapic::new(0, DestFormat::Narrow));
    bus.pit = Some(Pit::new());
    bus.rtc = Some(<Rtc as Subject>::fresh());
    bus.uart = Some(Uart::new().unwrap());
    bus.i8042 = Some(I8042::new());
    bus.pm = Some(Pm::new(TimerWidth::Bits24, Ns::ZERO));
    bus.routing = GsiRouting::pc().unwrap();
    bus
}

/// Each message is one a pin could send, and no deadline that was served is left behind.
pub(super) fn bus(bytes: &[u8]) {
    let mut b = Bytes(bytes);
    let mut bus = full_bus();
    let mut now = Ns(1_000_000_007);
    while !b.is_empty() {
        let mut out = BusSignals::new();
        match b.below(16) {
            0..=3 => {
                let (port, width) = (b.pick(&PORTS), b.width());
                let value = bus.pio_read(port, width, now, &mut out);
                assert_eq!(value.is_some(), decodes(port));
                assert_eq!(u64::from(value.unwrap_or(0)) & !width.mask(), 0);
            }
            4..=9 => {
                let (port, width, value) = (b.pick(&PORTS), b.width(), b.number() as u32);
                assert_eq!(bus.pio_write(port, width, value, now, &mut out), decodes(port));
            }
            10 => {
                now = now.after(b.number() & 0xffff_ffff);
                bus.tick(now, &mut out);
                assert!(bus.deadline().is_none_or(|at| at > now), "a deadline that was served");
            }
            11 => {
                let (at, width, value) = (b.below(0x50), b.width(), b.number());
                assert!(bus.mmio_write(Gpa(IOAPIC_BASE + (at & !15)), width, value, &mut out));
                let read = bus.mmio_read(Gpa(IOAPIC_BASE + at), width).unwrap();
                assert_eq!(read & !width.mask(), 0);
            }
            12 => assert!(!bus.eoi(b.u8(), now, &mut out), "no chip is user space's"),
            13 => {
                let (gsi, level) = (u32::from(b.u8() & 31), PinLevel::from(b.flag()));
                let heard = bus.set_gsi(gsi, level, &mut out);
                assert!(heard.is_none_or(|n| gsi < 24 && n <= 2));
            }
            14 => {
                let was = bus.intr();
                assert_eq!(bus.acknowledge(now, &mut out).is_some(), was == PinLevel::High);
            }
            _ => outside(&mut bus, &mut b, now, &mut out),
        }
        while let Some(sent) = bus.take_message(&mut out) {
            let ioapic = bus.ioapic.as_ref().unwrap();
            assert!(!sent.message.level || ioapic.waits_for(sent.message.vector), "{sent:?}");
            if b.flag() {
                bus.not_accepted(sent);
            }
        }
        bus.retry(&mut out);
    }
}

fn outside(bus: &mut ChipBus, b: &mut Bytes<'_>, now: Ns, out: &mut BusSignals) {
    match b.below(5) {
        0 => assert!(bus.press_power_button(now, out)),
        1 => drop(bus.take_request()),
        2 => {
            bus.uart.as_mut().unwrap().push_input(&[b.u8()]);
            bus.settle_uart(out);
        }
        3 => {
            bus.edge_eoi(now, out);
            let ready = bus.deadline();
            assert!(ready.is_none_or(|at| at.0 > 0));
        }
        _ => {
            let had = bus.uart.as_ref().unwrap().output_len() != 0;
            bus.console_read();
            assert_eq!(bus.take_console_wake(), had);
            assert!(!bus.take_console_wake(), "told once");
        }
    }
}
