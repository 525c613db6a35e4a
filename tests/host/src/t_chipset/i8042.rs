// SPDX-License-Identifier: GPL-2.0

//! The keyboard controller, by the sequences of Linux's i8042 and atkbd drivers.

use super::ops::{any_stream, run, Subject};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::i8042::{BYTE_NS, FIRST_PORT, I8042, PORTS};
use crate::chipset::pm::PlatformRequest;
use crate::chipset::saved::HasState;
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::PioDevice;
use core::ops::RangeInclusive;
use proptest::prelude::*;

const OBF: u8 = 0x01;
const AUX: u8 = 0x20;

fn out(kbc: &mut I8042, port: u16, value: u8, now: Ns) {
    kbc.write(port - FIRST_PORT, AccessWidth::B1, u32::from(value), now);
}

fn inb(kbc: &mut I8042, port: u16, now: Ns) -> u8 {
    u8::try_from(kbc.read(port - FIRST_PORT, AccessWidth::B1, now)).unwrap()
}

/// Sends a controller command and reads its answer, which must be there at once.
fn ask(kbc: &mut I8042, command: u8) -> u8 {
    out(kbc, 0x64, command, Ns(1));
    assert_eq!(inb(kbc, 0x64, Ns(1)) & OBF, OBF);
    inb(kbc, 0x60, Ns(1))
}

/// Sends a byte to the keyboard and reads its answers by interrupt.
fn ask_keyboard(kbc: &mut I8042, byte: u8) -> Vec<u8> {
    let mut now = Ns(1_000);
    out(kbc, 0x60, byte, now);
    let mut answers = Vec::new();
    while let Some(at) = kbc.deadline() {
        assert_eq!(kbc.irq(), Low, "each byte makes an edge");
        now = now.max(at);
        kbc.tick(now);
        assert_eq!(kbc.irq(), High);
        answers.push(inb(kbc, 0x60, now));
    }
    answers
}

#[test]
fn linux_finds_a_controller() {
    let kbc = &mut I8042::new();
    // i8042_flush(), then the self-test, then the command byte twice.
    assert_eq!(inb(kbc, 0x64, Ns(1)) & OBF, 0);
    assert_eq!(ask(kbc, 0xaa), 0x55);
    let ctr = ask(kbc, 0x20);
    assert_eq!(ask(kbc, 0x20), ctr);
    assert_ne!(inb(kbc, 0x64, Ns(1)) & 0x10, 0, "the keyboard is not locked");

    // Keyboard off, its interrupt off.
    out(kbc, 0x64, 0x60, Ns(1));
    out(kbc, 0x60, ctr & !1 | 0x10, Ns(1));

    assert_eq!(ask(kbc, 0x20), ctr & !1 | 0x10);
    assert_eq!(kbc.irq(), Low);
}

#[test]
fn linux_finds_no_auxiliary_port_and_waits_for_none() {
    let kbc = &mut I8042::new();
    // i8042_check_aux(): the loopback answers, but not as the auxiliary port.
    out(kbc, 0x64, 0xd3, Ns(1));
    out(kbc, 0x60, 0x5a, Ns(1));
    assert_eq!(inb(kbc, 0x64, Ns(1)) & (OBF | AUX), OBF);
    assert_eq!(inb(kbc, 0x60, Ns(1)), 0x5a);

    // The interface test says that nothing is connected.
    let answer = ask(kbc, 0xa9);

    assert!(answer != 0 && answer != 0xfa && answer != 0xff);
}

#[test]
fn a_byte_for_the_auxiliary_device_times_out_at_once() {
    let kbc = &mut I8042::new();
    out(kbc, 0x64, 0x60, Ns(1));
    out(kbc, 0x60, 0x03, Ns(1));
    out(kbc, 0x64, 0xd4, Ns(1));

    out(kbc, 0x60, 0xf2, Ns(1));

    assert_eq!(inb(kbc, 0x64, Ns(1)) & (OBF | AUX | 0x40), OBF | AUX | 0x40);
    assert_eq!((kbc.irq(), kbc.aux_irq()), (Low, High));
    assert_eq!(inb(kbc, 0x60, Ns(1)), 0xfe);
    assert_eq!(kbc.aux_irq(), Low);
}

#[test]
fn the_keyboard_says_who_it_is() {
    let kbc = &mut I8042::new();

    assert_eq!(ask_keyboard(kbc, 0xf2), [0xfa, 0xab, 0x41]);

    out(kbc, 0x64, 0x60, Ns(1));
    out(kbc, 0x60, 0x01, Ns(1));
    assert_eq!(ask_keyboard(kbc, 0xf2), [0xfa, 0xab, 0x83], "untranslated");
}

#[test]
fn the_keyboard_resets_and_passes_its_test() {
    assert_eq!(ask_keyboard(&mut I8042::new(), 0xff), [0xfa, 0xaa]);
}

#[test]
fn the_keyboard_takes_the_commands_of_atkbd() {
    let kbc = &mut I8042::new();
    for byte in [0xf5, 0xed, 0x00, 0xf3, 0x00, 0xf4, 0xf0, 0x02] {
        assert_eq!(ask_keyboard(kbc, byte), [0xfa], "{byte:#x}");
    }
    assert_eq!(ask_keyboard(kbc, 0xf0), [0xfa]);
    assert_eq!(ask_keyboard(kbc, 0x00), [0xfa, 0x02], "the scan code set");
    assert_eq!(ask_keyboard(kbc, 0xee), [0xee]);
    assert_eq!(ask_keyboard(kbc, 0x01), [0xfe], "unknown");
}

#[test]
fn bytes_of_the_keyboard_come_one_after_the_other() {
    let kbc = &mut I8042::new();
    out(kbc, 0x60, 0xff, Ns(1_000));
    assert_eq!(inb(kbc, 0x64, Ns(1_000)) & OBF, OBF);
    assert_eq!(inb(kbc, 0x60, Ns(1_000)), 0xfa);

    assert_eq!(inb(kbc, 0x64, Ns(1_001)) & OBF, 0);
    assert_eq!(kbc.deadline(), Some(Ns(1_000 + BYTE_NS)));
    assert_eq!(inb(kbc, 0x64, Ns(1_000 + BYTE_NS)) & OBF, OBF);
    assert_eq!(inb(kbc, 0x60, Ns(1_000 + BYTE_NS)), 0xaa);
}

#[test]
fn a_disabled_keyboard_keeps_its_bytes() {
    let kbc = &mut I8042::new();
    out(kbc, 0x60, 0xff, Ns(1));
    out(kbc, 0x64, 0xad, Ns(1));
    inb(kbc, 0x60, Ns(1));
    assert_eq!(kbc.deadline(), None);

    out(kbc, 0x64, 0xae, Ns(2));

    assert_eq!(kbc.deadline(), Some(Ns(1 + BYTE_NS)));
}

#[test]
fn there_are_four_ways_to_reset() {
    for (port, values) in [(0x64, vec![0xfe]), (0x92, vec![0x03]), (0x64, vec![0xf0]), (0x92, vec![0x01])] {
        let kbc = &mut I8042::new();

        for value in values {
            out(kbc, port, value, Ns(1));
        }

        assert_eq!(kbc.take_request(), Some(PlatformRequest::Reset));
        assert_eq!(kbc.take_request(), None);
    }
    let kbc = &mut I8042::new();
    out(kbc, 0x64, 0xd1, Ns(1));
    out(kbc, 0x60, 0xdf, Ns(1));
    assert_eq!(kbc.take_request(), None);
    out(kbc, 0x64, 0xd1, Ns(1));
    out(kbc, 0x60, 0xde, Ns(1));
    assert_eq!(kbc.take_request(), Some(PlatformRequest::Reset));
}

#[test]
fn a_pulse_of_no_line_is_no_reset() {
    let kbc = &mut I8042::new();

    out(kbc, 0x64, 0xff, Ns(1));

    assert_eq!(kbc.take_request(), None);
}

#[test]
fn a20_reads_as_it_was_set_by_either_port() {
    let kbc = &mut I8042::new();
    assert_eq!(inb(kbc, 0x92, Ns(1)), 0x02);

    out(kbc, 0x92, 0x00, Ns(1));
    assert_eq!(ask(kbc, 0xd0) & 2, 0);

    out(kbc, 0x64, 0xdf, Ns(1));
    assert_eq!(inb(kbc, 0x92, Ns(1)), 0x02);
    assert_eq!(kbc.take_request(), None);
}

#[test]
fn an_interrupt_needs_its_bit_in_the_command_byte() {
    let kbc = &mut I8042::new();
    out(kbc, 0x64, 0x60, Ns(1));
    out(kbc, 0x60, 0x00, Ns(1));

    out(kbc, 0x64, 0xd2, Ns(1));
    out(kbc, 0x60, 0x1c, Ns(1));

    assert_eq!(kbc.irq(), Low);
    out(kbc, 0x64, 0x60, Ns(1));
    out(kbc, 0x60, 0x01, Ns(1));
    assert_eq!(kbc.irq(), High);
}

#[test]
fn reset_forgets_everything() {
    let kbc = &mut I8042::new();
    out(kbc, 0x60, 0xff, Ns(1));
    out(kbc, 0x64, 0xfe, Ns(1));

    kbc.reset();

    assert_eq!(*kbc, I8042::new());
}

impl Subject for I8042 {
    fn ports() -> Vec<RangeInclusive<u16>> {
        PORTS.to_vec()
    }
    fn fresh() -> I8042 {
        I8042::new()
    }
    fn tick(&mut self, now: Ns) {
        I8042::tick(self, now);
    }
    fn deadline(&self) -> Option<Ns> {
        I8042::deadline(self)
    }
    fn outside(&mut self, what: u8, _value: u8, _now: Ns) -> u64 {
        match what & 7 {
            0 => self.reset(),
            _ => return u64::from(self.take_request().is_some()),
        }
        0
    }
    fn check(&self) {
        let state = self.save();
        assert!(!(self.irq().is_high() && self.aux_irq().is_high()), "one byte has one source");
        if state.has_output == 0 {
            assert_eq!((self.irq(), self.aux_irq()), (Low, Low));
        }
        assert!(state.kbd_len <= 16 && (1..=3).contains(&state.kbd_set));
    }
}

proptest! {
    #[test]
    fn any_stream_keeps_the_rules_of_the_controller(bytes in any_stream()) {
        run::<I8042>(&bytes);
    }
}
