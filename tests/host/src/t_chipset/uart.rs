// SPDX-License-Identifier: GPL-2.0

//! The UART, by the sequences of Linux's 8250 driver.

use super::ops::{any_stream, run, Subject};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::saved::HasState;
use crate::chipset::uart::{Uart, INPUT_BYTES, OUTPUT_BYTES, PORTS};
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::PioDevice;
use core::ops::RangeInclusive;
use kernel::alloc::{fail_none, fail_nth};
use kernel::prelude::ENOMEM;
use proptest::prelude::*;

const RBR: u16 = 0;
const THR: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

fn out(uart: &mut Uart, reg: u16, value: u8) {
    uart.write(reg, AccessWidth::B1, u32::from(value), Ns::ZERO);
}

fn inb(uart: &mut Uart, reg: u16) -> u8 {
    u8::try_from(uart.read(reg, AccessWidth::B1, Ns::ZERO)).unwrap()
}

/// As Linux leaves an open port: FIFOs on with trigger 8, DTR RTS OUT2, receive interrupts on.
fn open_uart() -> Uart {
    let mut uart = Uart::new().unwrap();
    for (reg, value) in [(FCR, 0x01), (FCR, 0x07), (FCR, 0x81), (LCR, 0x03), (MCR, 0x0b), (IER, 0x05)] {
        out(&mut uart, reg, value);
    }
    uart
}

fn output(uart: &mut Uart) -> Vec<u8> {
    let mut bytes = vec![0; OUTPUT_BYTES + 1];
    let n = uart.drain_output(&mut bytes);
    bytes.truncate(n);
    bytes
}

#[test]
fn linux_detects_a_16550a() {
    let uart = &mut Uart::new().unwrap();
    // The existence test.
    let saved_ier = inb(uart, IER);
    out(uart, IER, 0);
    assert_eq!(inb(uart, IER) & 0x0f, 0);
    out(uart, IER, 0x0f);
    assert_eq!(inb(uart, IER), 0x0f);
    out(uart, IER, saved_ier);
    // The loopback test.
    let saved_mcr = inb(uart, MCR);
    out(uart, MCR, 0x1a);
    assert_eq!(inb(uart, MSR) & 0xf0, 0x90);
    out(uart, MCR, saved_mcr);
    // The FIFO test: both bits, so a 16550A.
    out(uart, LCR, 0xbf);
    out(uart, FCR, 0);
    out(uart, LCR, 0);
    out(uart, FCR, 0x01);
    assert_eq!(inb(uart, IIR) >> 6, 3);
    // Not one with an EFR: the register reads as IIR, which is not zero.
    out(uart, LCR, 0x80);
    assert_ne!(inb(uart, 2), 0);
    out(uart, LCR, 0xbf);
    assert_ne!(inb(uart, 2), 0);
    // Not a National SuperIO: bank 2 does not show LOOP.
    out(uart, LCR, 0);
    let mcr = inb(uart, MCR);
    out(uart, LCR, 0xe0);
    assert_eq!(inb(uart, 2) & 0x10, mcr & 0x10);
    out(uart, LCR, 0);
    out(uart, MCR, mcr ^ 0x10);
    out(uart, LCR, 0xe0);
    assert_eq!(inb(uart, 2) & 0x10, 0);
    out(uart, LCR, 0);
    out(uart, MCR, mcr);
    // Not a 16750: no 64-byte FIFO bit, with or without DLAB.
    for lcr in [0, 0x80] {
        out(uart, LCR, lcr);
        out(uart, FCR, 0x21);
        assert_eq!(inb(uart, IIR) & 0x20, 0);
    }
    // Not an XScale: UUE does not stick.
    out(uart, LCR, 0);
    out(uart, IER, 0x40);
    assert_eq!(inb(uart, IER), 0);
}

#[test]
fn linux_finds_a_fifo_of_sixteen() {
    // size_fifo(): loopback, 256 bytes out, count what comes back.
    let uart = &mut Uart::new().unwrap();
    out(uart, LCR, 0);
    out(uart, FCR, 0x07);
    out(uart, MCR, 0x10);
    for n in 0..=255 {
        out(uart, THR, n);
    }

    let mut count = 0;
    while inb(uart, LSR) & 1 != 0 {
        assert_eq!(inb(uart, RBR), count);
        count += 1;
    }

    assert_eq!(count, 16);
    assert_eq!(uart.output_len(), 0, "nothing of it reached the console");
}

#[test]
fn linux_finds_no_transmitter_bugs() {
    let uart = &mut open_uart();
    out(uart, IER, 0);
    // The THRE test: the interrupt comes back when it is enabled again.
    out(uart, IER, 0x02);
    assert_eq!(inb(uart, IIR) & 1, 0);
    out(uart, IER, 0);
    out(uart, IER, 0x02);
    assert_eq!(inb(uart, IIR) & 1, 0);
    out(uart, IER, 0);
    // The TXEN test: an empty transmitter interrupts as soon as it is enabled.
    out(uart, IER, 0x02);
    assert_eq!(inb(uart, LSR) & 0x40, 0x40);
    assert_eq!(inb(uart, IIR) & 1, 0);
}

#[test]
fn the_transmitter_interrupts_once_for_what_was_written() {
    let uart = &mut open_uart();
    out(uart, IER, 0x02);
    assert_eq!(uart.irq(), High);
    assert_eq!(inb(uart, IIR), 0xc2);
    assert_eq!(uart.irq(), Low, "the reading of its cause takes it back");

    for byte in *b"hello" {
        out(uart, THR, byte);
    }

    assert_eq!(uart.irq(), High);
    assert_eq!(inb(uart, IIR), 0xc2);
    assert_eq!(inb(uart, IIR), 0xc1);
    assert_eq!(output(uart), b"hello");
}

#[test]
fn received_bytes_below_the_trigger_are_a_timeout() {
    let uart = &mut open_uart();

    assert_eq!(uart.push_input(b"abc"), 3);

    assert_eq!(uart.irq(), High);
    assert_eq!(inb(uart, IIR), 0xcc);
    assert_eq!((inb(uart, RBR), inb(uart, RBR), inb(uart, RBR)), (b'a', b'b', b'c'));
    assert_eq!(uart.irq(), Low);
    assert_eq!(inb(uart, LSR), 0x60);
}

#[test]
fn received_bytes_at_the_trigger_are_data() {
    let uart = &mut open_uart();

    uart.push_input(b"12345678");

    assert_eq!(inb(uart, IIR), 0xc4);
    inb(uart, RBR);
    assert_eq!(inb(uart, IIR), 0xcc);
}

#[test]
fn input_beyond_the_fifo_waits_and_is_not_lost() {
    let uart = &mut open_uart();
    let sent: Vec<u8> = (0..200u8).collect();

    uart.push_input(&sent);

    let mut got = Vec::new();
    while inb(uart, LSR) & 1 != 0 {
        got.push(inb(uart, RBR));
    }
    assert_eq!(got, sent);
}

#[test]
fn input_is_taken_as_far_as_there_is_room() {
    let uart = &mut open_uart();
    let much = vec![b'x'; INPUT_BYTES + 100];

    assert_eq!(uart.push_input(&much), INPUT_BYTES);

    assert_eq!(uart.input_room(), 16, "the FIFO took some");
    assert_eq!(uart.push_input(&much), 16);
    assert_eq!(uart.push_input(&much), 0);
}

#[test]
fn causes_come_in_the_order_of_their_urgency() {
    let uart = &mut open_uart();
    out(uart, MCR, 0x1b);
    for n in 0..17 {
        out(uart, THR, n);
    }
    out(uart, IER, 0x0f);

    assert_eq!(inb(uart, IIR), 0xc6, "overrun");
    assert_eq!(inb(uart, LSR), 0x63);
    assert_eq!(inb(uart, IIR), 0xc4, "data");
    out(uart, FCR, 0x83);
    assert_eq!(inb(uart, IIR), 0xc2, "transmitter");
    out(uart, MCR, 0x19);
    assert_eq!(inb(uart, IIR), 0xc0, "modem");
    assert_eq!(inb(uart, MSR) & 0x01, 0x01, "CTS changed");
    assert_eq!(inb(uart, IIR), 0xc1);
}

#[test]
fn the_ring_indicator_marks_only_its_fall() {
    let uart = &mut open_uart();
    out(uart, MCR, 0x1c);
    inb(uart, MSR);
    out(uart, MCR, 0x18);

    assert_eq!(inb(uart, MSR), 0x84);
    assert_eq!(inb(uart, MSR), 0x80);
}

#[test]
fn a_terminal_is_attached() {
    let uart = &mut open_uart();

    assert_eq!(inb(uart, MSR), 0xb0);
}

#[test]
fn out2_gates_the_interrupt() {
    let uart = &mut open_uart();
    uart.push_input(b"x");
    assert_eq!(uart.irq(), High);

    out(uart, MCR, 0x03);

    assert_eq!(uart.irq(), Low);
}

#[test]
fn the_divisor_hides_behind_dlab() {
    let uart = &mut open_uart();
    out(uart, LCR, 0x83);
    out(uart, 0, 0x01);
    out(uart, 1, 0x02);
    assert_eq!((inb(uart, 0), inb(uart, 1)), (0x01, 0x02));

    out(uart, LCR, 0x03);

    assert_eq!(inb(uart, IER), 0x05);
    assert_eq!(uart.output_len(), 0);
}

#[test]
fn the_scratch_register_keeps_what_is_written() {
    let uart = &mut open_uart();

    out(uart, SCR, 0xa5);

    assert_eq!(inb(uart, SCR), 0xa5);
}

#[test]
fn switching_the_fifos_empties_them() {
    let uart = &mut open_uart();
    uart.push_input(b"abc");

    out(uart, FCR, 0);

    assert_eq!(inb(uart, LSR) & 1, 0);
    assert_eq!(inb(uart, IIR), 0x01);
}

#[test]
fn without_fifos_one_byte_is_received_at_a_time() {
    let uart = &mut Uart::new().unwrap();
    out(uart, MCR, 0x08);
    out(uart, IER, 0x01);

    uart.push_input(b"ab");

    assert_eq!(inb(uart, IIR), 0x04);
    assert_eq!(inb(uart, RBR), b'a');
    assert_eq!(inb(uart, IIR), 0x04);
    assert_eq!(inb(uart, RBR), b'b');
    assert_eq!(uart.irq(), Low);
}

#[test]
fn output_that_nobody_reads_keeps_the_newest() {
    let uart = &mut open_uart();
    for n in 0..OUTPUT_BYTES + 10 {
        out(uart, THR, (n % 251) as u8);
    }

    let kept = output(uart);

    assert_eq!(kept.len(), OUTPUT_BYTES);
    assert_eq!(kept[0], 10);
    assert_eq!(uart.dropped(), 10);
}

/// As Linux's interrupt handler sends: a FIFO's worth whenever THRE is set. Returns how many bytes went.
fn send_while_empty(uart: &mut Uart, text: &[u8]) -> usize {
    let mut sent = 0;
    while sent < text.len() && inb(uart, LSR) & 0x60 == 0x60 {
        for byte in text[sent..].iter().take(16) {
            out(uart, THR, *byte);
        }
        sent = (sent + 16).min(text.len());
    }
    sent
}

#[test]
fn a_driver_that_waits_for_the_transmitter_loses_nothing_to_a_late_reader() {
    let uart = &mut open_uart().wait_for_reader(true);
    out(uart, IER, 0x02);
    let text: Vec<u8> = (0..3 * OUTPUT_BYTES).map(|n| (n % 251) as u8).collect();

    let mut sent = send_while_empty(uart, &text);

    assert_eq!(sent, OUTPUT_BYTES);
    inb(uart, IIR);
    assert_eq!((inb(uart, LSR) & 0x60, uart.irq()), (0, Low), "the transmitter is full");
    let mut got = Vec::new();
    while got.len() < text.len() {
        let mut some = vec![0; 1000];
        let n = uart.drain_output(&mut some);
        got.extend(&some[..n]);
        if sent < text.len() {
            assert_eq!((uart.irq(), inb(uart, IIR) & 0x0f), (High, 0x02), "room is an interrupt");
            sent += send_while_empty(uart, &text[sent..]);
        }
    }
    assert_eq!((got, uart.dropped()), (text, 0));
}

#[test]
fn what_is_sent_to_a_full_transmitter_is_lost_and_counted() {
    let uart = &mut open_uart().wait_for_reader(true);
    for n in 0..OUTPUT_BYTES + 10 {
        out(uart, THR, (n % 251) as u8);
    }

    let kept = output(uart);

    assert_eq!((kept.len(), kept[0], uart.dropped()), (OUTPUT_BYTES, 0, 10));
    assert_eq!(inb(uart, LSR) & 0x60, 0x60);
}

#[test]
fn output_is_drained_in_pieces() {
    let uart = &mut open_uart();
    for byte in *b"login: " {
        out(uart, THR, byte);
    }
    let mut piece = [0; 4];

    assert_eq!(uart.drain_output(&mut piece), 4);
    assert_eq!(&piece, b"logi");
    assert_eq!(uart.drain_output(&mut piece), 3);
    assert_eq!(&piece[..3], b"n: ");
    assert_eq!(uart.drain_output(&mut piece), 0);
}

#[test]
fn reset_keeps_the_output_and_drops_the_input() {
    let uart = &mut open_uart();
    out(uart, THR, b'!');
    uart.push_input(b"abc");

    uart.reset();

    assert_eq!(HasState::save(uart), HasState::save(&Uart::new().unwrap()));
    assert_eq!(output(uart), b"!");
}

#[test]
fn no_memory_is_an_error_and_not_a_panic() {
    for n in 0..2 {
        fail_nth(n);
        assert_eq!(Uart::new().err(), Some(ENOMEM));
    }
    assert!(!fail_none());
}

impl Subject for Uart {
    fn ports() -> Vec<RangeInclusive<u16>> {
        PORTS.to_vec()
    }
    fn fresh() -> Uart {
        Uart::new().unwrap()
    }
    fn tick(&mut self, _now: Ns) {}
    fn deadline(&self) -> Option<Ns> {
        None
    }
    fn outside(&mut self, what: u8, value: u8, _now: Ns) -> u64 {
        match what & 7 {
            // No more than the receiver holds: the rings are no part of the saved state.
            0..=5 if self.save().rx_len == 0 && self.save().mcr & 0x10 == 0 => {
                return self.push_input(&[value]) as u64;
            }
            6 => self.reset(),
            _ => {}
        }
        0
    }
    fn check(&self) {
        assert_eq!(Uart::check(self), Ok(()));
        let state = self.save();
        assert!(state.rx_len <= if state.fcr & 1 != 0 { 16 } else { 1 });
        if state.mcr & 0x08 == 0 || state.ier == 0 {
            assert_eq!(self.irq(), Low);
        }
        if state.mcr & 0x08 != 0 && state.ier & 1 != 0 && state.rx_len > 0 {
            assert_eq!(self.irq(), High, "received data interrupts");
        }
    }
}

proptest! {
    #[test]
    fn any_stream_keeps_the_rules_of_the_chip(bytes in any_stream()) {
        run::<Uart>(&bytes);
    }

    /// What the guest writes is what the console reads, in order, however it is drained.
    #[test]
    fn output_arrives_whole(text in proptest::collection::vec(any::<u8>(), 0..500), step in 1usize..40) {
        let uart = &mut open_uart();
        let mut got = Vec::new();
        let mut piece = vec![0; step];
        for byte in &text {
            out(uart, THR, *byte);
            if byte % 3 == 0 {
                let n = uart.drain_output(&mut piece);
                got.extend_from_slice(&piece[..n]);
            }
        }
        got.extend(output(uart));
        prop_assert_eq!(got, text);
    }

    /// What the console types is what the guest reads, in order.
    #[test]
    fn input_arrives_whole(text in proptest::collection::vec(any::<u8>(), 0..500), step in 1usize..40) {
        let uart = &mut open_uart();
        let mut got = Vec::new();
        for piece in text.chunks(step) {
            prop_assert_eq!(uart.push_input(piece), piece.len());
            if inb(uart, IIR) & 1 == 0 {
                got.push(inb(uart, RBR));
            }
        }
        while uart.irq().is_high() {
            got.push(inb(uart, RBR));
        }
        prop_assert_eq!(got, text);
    }
}
