// SPDX-License-Identifier: GPL-2.0

//! The wires between the chips.

mod resample;

use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::time::Ns;
use crate::chipset::bus::{decodes, BusSignals, ChipBus, IOAPIC_BASE};
use crate::chipset::i8042::I8042;
use crate::chipset::ioapic::Ioapic;
use crate::chipset::message::DestFormat;
use crate::chipset::pic::Pic;
use crate::chipset::pit::Pit;
use crate::chipset::pm::{PlatformRequest, Pm, TimerWidth};
use crate::chipset::routing::{GsiRoute, GsiRouting, GsiTarget};
use crate::chipset::rtc::Rtc;
use crate::chipset::saved::HasState;
use crate::chipset::uart::Uart;
use crate::chipset::PinLevel::{self, High, Low};
use crate::t_chipset::ops::Subject;
use proptest::prelude::*;
use std::collections::BTreeSet;

const START: Ns = Ns(1_000_000_000);

struct Pc {
    bus: ChipBus,
    now: Ns,
}

/// What came of an access: the vectors of the messages, and the pair's output.
struct Came {
    vectors: Vec<u8>,
    extint: PinLevel,
}

impl Pc {
    /// All chips, the PIC pair as Linux leaves it with vectors from 0x30 and all lines open.
    fn new() -> Pc {
        let mut bus = ChipBus::default();
        bus.pic = Some(Pic::new());
        bus.ioapic = Some(Ioapic::new(0, DestFormat::Narrow));
        bus.pit = Some(Pit::new());
        bus.rtc = Some(<Rtc as Subject>::fresh());
        bus.uart = Some(Uart::new().unwrap());
        bus.i8042 = Some(I8042::new());
        bus.pm = Some(Pm::new(TimerWidth::Bits24, START));
        bus.routing = GsiRouting::pc().unwrap();
        let mut pc = Pc { bus, now: START };
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
            (0x21, 0x00),
            (0xa1, 0x00),
        ] {
            pc.out(port, value);
        }
        pc
    }

    /// Does something with the bus, as the holder of its lock does.
    fn with<R>(&mut self, f: impl FnOnce(&mut ChipBus, Ns, &mut BusSignals) -> R) -> (R, Came) {
        let mut out = BusSignals::new();
        let r = f(&mut self.bus, self.now, &mut out);
        assert_eq!(self.bus.check(), Ok(()));
        let sent = std::iter::from_fn(|| self.bus.take_message(&mut out));
        let vectors = sent.map(|s| s.message.vector).collect();
        (r, Came { vectors, extint: self.bus.intr() })
    }

    fn out(&mut self, port: u16, value: u32) -> Came {
        let width = if (0x600..0x60c).contains(&port) { AccessWidth::B2 } else { AccessWidth::B1 };
        let (done, came) = self.with(|bus, now, out| bus.pio_write(port, width, value, now, out));
        assert!(done, "port {port:#x}");
        came
    }

    fn inb(&mut self, port: u16) -> (u32, Came) {
        let (value, came) = self.with(|bus, now, out| bus.pio_read(port, AccessWidth::B1, now, out));
        (value.expect("a chip"), came)
    }

    fn tick(&mut self, ns: u64) -> Came {
        self.now = self.now.after(ns);
        self.with(|bus, now, out| bus.tick(now, out)).1
    }

    fn acknowledge(&mut self) -> (Option<u8>, Came) {
        self.with(|bus, now, out| bus.acknowledge(now, out))
    }

    fn set_gsi(&mut self, gsi: u32, level: PinLevel) -> (Option<u32>, Came) {
        self.with(|bus, _, out| bus.set_gsi(gsi, level, out))
    }

    /// Opens an IOAPIC pin: vector 0x40 + pin, to APIC 0.
    fn open_pin(&mut self, pin: u8, flags: u64) -> Came {
        let write = |bus: &mut ChipBus, _, out: &mut BusSignals| {
            [(0, 0x10 + 2 * u64::from(pin)), (0x10, flags | 0x40 + u64::from(pin))]
                .map(|(at, value)| bus.mmio_write(Gpa(IOAPIC_BASE + at), AccessWidth::B4, value, out))
        };
        let (done, came) = self.with(write);
        assert_eq!(done, [true; 2]);
        came
    }

    /// A UART whose transmitter interrupts.
    fn uart_interrupts(&mut self) -> Came {
        self.out(0x3fc, 0x08);
        self.out(0x3f9, 0x02)
    }

    /// Channel 0 in mode 2 with 1193 ticks, about a millisecond.
    fn start_timer(&mut self) {
        self.out(0x43, 0x34);
        self.out(0x40, 0xa9);
        self.out(0x40, 0x04);
    }
}

fn vectors(came: &Came) -> Vec<u8> {
    came.vectors.clone()
}

#[test]
fn the_uart_reaches_both_controllers() {
    let mut pc = Pc::new();
    pc.open_pin(4, 0);

    let out = pc.uart_interrupts();

    assert_eq!((vectors(&out), out.extint), (vec![0x44], High));
    assert_eq!(pc.acknowledge().0, Some(0x34));
    assert_eq!(pc.acknowledge().0, None);
}

#[test]
fn pins_of_pci_devices_share_a_line() {
    let mut pc = Pc::new();
    // PinLevel triggered, vector 0x45; devices 1 and 4 are wired to it.
    pc.open_pin(5, 1 << 15);
    let (one, four) = (1 << 1, 1 << 4);
    let pins = |pc: &mut Pc, asserted| pc.with(|bus, _, out| bus.settle_intx(asserted, out)).1;

    assert_eq!(vectors(&pins(&mut pc, one)), [0x45]);
    assert_eq!(vectors(&pins(&mut pc, one | four)), []);
    assert_eq!(vectors(&pins(&mut pc, four)), []);
    let again = pc.with(|bus, now, out| bus.eoi(0x45, now, out)).1;
    assert_eq!(vectors(&again), [0x45], "the other one still asserts it");
    pins(&mut pc, 0);
    let after = pc.with(|bus, now, out| bus.eoi(0x45, now, out)).1;
    assert_eq!(vectors(&after), []);
    assert_eq!(vectors(&pins(&mut pc, 1 << 2)), [], "that one has another line");
}

#[test]
fn a_line_that_stays_high_is_one_edge() {
    let mut pc = Pc::new();
    pc.open_pin(4, 0);
    pc.uart_interrupts();

    let (_, again) = pc.inb(0x3fd);
    assert_eq!(vectors(&again), []);

    // Reading IIR ends the transmitter's interrupt; the next byte sent raises it anew.
    let (iir, ended) = pc.inb(0x3fa);
    assert_eq!((iir & 0x0f, vectors(&ended)), (2, vec![]));
    assert_eq!(vectors(&pc.out(0x3f8, u32::from(b'x'))), [0x44]);
}

#[test]
fn console_input_raises_the_line_without_an_access_of_the_guest() {
    let mut pc = Pc::new();
    pc.open_pin(4, 0);
    pc.out(0x3fc, 0x08);
    pc.out(0x3f9, 0x01);

    let (_, out) = pc.with(|bus, _, out| {
        bus.uart.as_mut().unwrap().push_input(b"y");
        bus.settle_uart(out);
    });

    assert_eq!((vectors(&out), out.extint), (vec![0x44], High));
}

#[test]
fn the_timer_pulses_irq_0_of_the_pic_and_pin_2_of_the_ioapic() {
    let mut pc = Pc::new();
    pc.open_pin(0, 0);
    pc.open_pin(2, 0);
    pc.start_timer();
    assert_eq!(vectors(&pc.tick(500_000)), []);

    let out = pc.tick(600_000);

    assert_eq!((vectors(&out), out.extint), (vec![0x42], High));
    assert_eq!(pc.acknowledge().0, Some(0x30));
}

#[test]
fn the_timers_next_pulse_waits_for_the_end_of_the_last_and_is_not_lost() {
    let mut pc = Pc::new();
    pc.start_timer();
    pc.tick(1_100_000);
    assert_eq!(pc.acknowledge().0, Some(0x30));

    let second = pc.tick(1_000_000);
    assert_eq!(second.extint, Low, "the first is still in service");
    let ended = pc.out(0x20, 0x20);

    assert_eq!(ended.extint, High, "the missed pulse comes with the end");
    assert_eq!(pc.acknowledge().0, Some(0x30));
}

#[test]
fn a_timer_that_nobody_hears_goes_on() {
    let mut pc = Pc::new();
    pc.out(0x21, 0xff);
    pc.start_timer();
    for _ in 0..10 {
        assert_eq!(pc.tick(1_000_000).extint, Low);
    }

    pc.out(0x21, 0xfe);

    pc.acknowledge();
    pc.out(0x20, 0x20);
    let heard = (0..3).filter(|_| pc.tick(1_000_000).extint == High).count();
    assert!(heard > 0);
}

#[test]
fn the_end_of_a_level_interrupt_sends_it_again_while_its_line_is_high() {
    let mut pc = Pc::new();
    pc.open_pin(9, 0x8000);
    pc.out(0x604, 1);
    pc.out(0x602, 0x100);
    let (done, pressed) = pc.with(|bus, now, out| bus.press_power_button(now, out));
    assert_eq!((done, vectors(&pressed)), (true, vec![0x49]));

    let (_, again) = pc.with(|bus, now, out| bus.eoi(0x49, now, out));
    assert_eq!(vectors(&again), [0x49]);

    assert_eq!(vectors(&pc.out(0x600, 0x100)), [], "the status is cleared, the line falls");
    let (_, after) = pc.with(|bus, now, out| bus.eoi(0x49, now, out));
    assert_eq!(vectors(&after), []);
}

#[test]
fn the_power_button_is_silent_until_it_is_enabled() {
    let mut pc = Pc::new();
    pc.open_pin(9, 0x8000);
    let (_, pressed) = pc.with(|bus, now, out| bus.press_power_button(now, out));
    assert_eq!((vectors(&pressed), pressed.extint), (vec![], Low));

    let enabled = pc.out(0x602, 0x100);

    assert_eq!((vectors(&enabled), enabled.extint), (vec![0x49], High));
}

#[test]
fn requests_come_from_acpi_the_reset_register_and_the_keyboard_controller() {
    for (port, value, request) in [
        (0x604, 0x3400, PlatformRequest::PowerOff),
        (0xcf9, 6, PlatformRequest::Reset),
        (0x64, 0xfe, PlatformRequest::Reset),
    ] {
        let mut pc = Pc::new();
        assert_eq!(pc.bus.take_request(), None);

        pc.out(port, value);

        assert_eq!(pc.bus.take_request(), Some(request), "port {port:#x}");
        assert_eq!(pc.bus.take_request(), None, "taken once");
    }
}

#[test]
fn a_chip_that_was_not_created_leaves_its_ports_to_user_space() {
    let mut bus = ChipBus::default();
    let mut out = BusSignals::new();
    for port in [0x20, 0x40, 0x70, 0x60, 0x3f8, 0x608] {
        assert!(decodes(port));
        assert_eq!(bus.pio_read(port, AccessWidth::B1, START, &mut out), None);
        assert!(!bus.pio_write(port, AccessWidth::B1, 0, START, &mut out));
    }
    assert_eq!(bus.mmio_read(Gpa(IOAPIC_BASE), AccessWidth::B4), None);
    assert!(!bus.mmio_write(Gpa(IOAPIC_BASE), AccessWidth::B4, 0, &mut out));
    assert!(!bus.press_power_button(START, &mut out));
    assert_eq!((bus.acknowledge(START, &mut out), bus.deadline()), (None, None));
}

#[test]
fn the_ioapic_decodes_its_page_only() {
    let pc = Pc::new();

    assert!(pc.bus.mmio_read(Gpa(IOAPIC_BASE + 0xfff), AccessWidth::B1).is_some());
    assert_eq!(pc.bus.mmio_read(Gpa(IOAPIC_BASE + 0x1000), AccessWidth::B4), None);
    assert_eq!(pc.bus.mmio_read(Gpa(IOAPIC_BASE - 4), AccessWidth::B4), None);
}

#[test]
fn a_message_route_sends_on_the_rise_alone() {
    let mut pc = Pc::new();
    let target = GsiTarget::Msi { addr: 0xfee0_1000, data: 0x51 };
    pc.bus.routing = GsiRouting::new([GsiRoute { gsi: 24, target }].into_iter()).unwrap();

    let (risen, rise) = pc.set_gsi(24, High);
    let (fallen, fall) = pc.set_gsi(24, Low);

    assert_eq!((risen, fallen), (Some(0), None), "the message is what counts");
    assert_eq!((vectors(&rise), vectors(&fall)), (vec![0x51], vec![]));
    assert_eq!(pc.set_gsi(25, High).0, None, "nothing listens");
}

#[test]
fn a_line_tells_what_became_of_it() {
    let mut pc = Pc::new();
    let mut set = |gsi, level| pc.bus.set_gsi(gsi, level, &mut BusSignals::new());

    assert_eq!(set(4, High), Some(1), "the PIC takes it, the IOAPIC's pin is masked");
    assert_eq!(set(4, High), Some(1), "no new edge: nothing to join");
    assert_eq!(set(4, Low), Some(2), "both hear it fall");
    assert_eq!(set(4, High), Some(0), "the first edge still waits");
    assert_eq!(set(20, High), None, "only at a masked pin");
    assert_eq!(set(20, High), Some(0), "an edge that is there already");

    pc.out(0x21, 0x10);

    let mut set = |gsi, level| pc.bus.set_gsi(gsi, level, &mut BusSignals::new());
    assert_eq!(set(4, Low), Some(1), "the PIC masks it");
    assert_eq!(set(4, High), None, "so do both");
}

#[test]
fn readers_of_the_console_are_told_once_until_they_read() {
    let mut pc = Pc::new();
    assert!(!pc.bus.take_console_wake());
    pc.out(0x3f8, u32::from(b'a'));

    assert!(pc.bus.take_console_wake());
    pc.out(0x3f8, u32::from(b'b'));
    assert!(!pc.bus.take_console_wake());

    pc.bus.console_read();
    assert!(pc.bus.take_console_wake(), "there is more");
}

/// The GSIs that chips drive with a level, and what each chip has on its line.
fn levels(bus: &ChipBus) -> [(u8, PinLevel); 5] {
    let kbd = bus.i8042.as_ref().unwrap();
    [
        (1, kbd.irq()),
        (4, bus.uart.as_ref().unwrap().irq()),
        (8, bus.rtc.as_ref().unwrap().irq()),
        (9, bus.pm.as_ref().unwrap().irq()),
        (12, kbd.aux_irq()),
    ]
}

fn any_port() -> impl Strategy<Value = u16> {
    // All chips but the controllers themselves.
    let ports =
        [0x60, 0x64, 0x70, 0x71, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x600, 0x602, 0x604, 0x40, 0x43, 0x61];
    proptest::sample::select(ports.to_vec())
}

proptest! {
    /// After every access the PIC pair's inputs are the levels of the chips.
    #[test]
    fn the_wires_carry_what_the_chips_drive(
        ops in proptest::collection::vec((0u8..5, any_port(), any::<u16>(), 0u64..200_000_000), 1..120),
    ) {
        let mut pc = Pc::new();
        let mut seen = BTreeSet::new();
        for (kind, port, value, ns) in ops {
            match kind {
                0 => drop(pc.inb(port)),
                1 => drop(pc.tick(ns)),
                2 => {
                    pc.with(|bus, now, out| {
                        bus.press_power_button(now, out);
                        bus.uart.as_mut().unwrap().push_input(&value.to_le_bytes());
                        bus.settle_uart(out);
                    });
                }
                _ => drop(pc.out(port, u32::from(value))),
            }
            let state = pc.bus.pic.as_ref().unwrap().save();
            let inputs = u16::from_le_bytes([state.master.last_irr, state.slave.last_irr]);
            for (gsi, level) in levels(&pc.bus) {
                prop_assert_eq!(PinLevel::from(inputs >> gsi & 1 != 0), level, "GSI {}", gsi);
                seen.insert((gsi, level.is_high()));
            }
            prop_assert_eq!(inputs & 1, 0, "the timer pulses");
        }
        prop_assert!(seen.contains(&(4, false)));
    }

    /// No deadline that was served comes back, however often time passes.
    #[test]
    fn a_tick_serves_its_deadline(
        ports in proptest::collection::vec((any_port(), any::<u16>()), 0..40),
        steps in proptest::collection::vec(0u64..50_000_000, 1..20),
    ) {
        let mut pc = Pc::new();
        for (port, value) in ports {
            pc.out(port, u32::from(value));
        }
        for ns in steps {
            pc.tick(ns);
            prop_assert!(pc.bus.deadline().is_none_or(|at| at > pc.now));
        }
    }
}

#[test]
fn the_timer_through_the_ioapic_goes_on_with_the_end_of_its_interrupt() {
    let mut pc = Pc::new();
    pc.out(0x21, 0xff);
    pc.open_pin(2, 0);
    pc.start_timer();
    assert_eq!(vectors(&pc.tick(1_100_000)), [0x42]);
    assert_eq!(vectors(&pc.tick(1_000_000)), []);

    assert!(pc.bus.awaits_edge_eoi());
    let (_, out) = pc.with(|bus, now, out| bus.edge_eoi(now, out));

    assert_eq!(vectors(&out), [0x42]);
}

#[test]
fn the_pairs_output_stays_through_accesses_to_other_chips() {
    let mut pc = Pc::new();
    assert_eq!(pc.set_gsi(1, High).1.extint, High);

    let (_, read) = pc.with(|bus, _, _| bus.mmio_read(Gpa(IOAPIC_BASE), AccessWidth::B4));
    let (_, written) = pc.with(|bus, _, out| bus.mmio_write(Gpa(IOAPIC_BASE), AccessWidth::B4, 0, out));
    let (_, ended) = pc.with(|bus, now, out| bus.eoi(0x55, now, out));
    let (_, nothing) = pc.with(|_, _, _| ());

    for (what, came) in [("read", read), ("write", written), ("end", ended), ("nothing", nothing)] {
        assert_eq!(came.extint, High, "{what}");
    }
}

#[test]
fn pulses_of_the_timer_that_all_mask_are_not_made_up_for() {
    let mut pc = Pc::new();
    pc.out(0x21, 0xff);
    pc.start_timer();
    pc.tick(50_000_000);
    assert_eq!(pc.bus.pit.as_ref().unwrap().pending(), 0);
}

#[test]
fn a_level_message_that_nobody_took_is_sent_again_when_somebody_may() {
    let mut pc = Pc::new();
    pc.open_pin(9, 0x8000);
    let (sent, _) = pc.with(|bus, _, out| {
        bus.set_gsi(9, High, out);
        let sent = bus.take_message(out).expect("a message");
        bus.not_accepted(sent);
        sent
    });
    assert_eq!((sent.message.vector, sent.pin), (0x49, Some(9)));
    assert!(!pc.bus.ioapic.as_ref().unwrap().waits_for(0x49));

    assert_eq!(vectors(&pc.with(|bus, _, out| bus.retry(out)).1), [0x49]);
    assert_eq!(vectors(&pc.with(|bus, _, out| bus.retry(out)).1), [], "taken this time");
}

#[test]
fn with_automatic_eoi_each_acknowledge_hands_out_the_next_pulse_that_was_missed() {
    let mut pc = Pc::new();
    // The first 8259 once more, now with automatic EOI.
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x03), (0x21, 0xfe)] {
        pc.out(port, value);
    }
    pc.start_timer();
    // Five periods, in which nobody took an interrupt: no acknowledge is given up so soon.
    pc.tick(1_010_000);
    pc.tick(4_000_000);

    let taken = std::iter::from_fn(|| {
        let (vector, came) = pc.acknowledge();
        vector.map(|vector| (vector, came.extint))
    });

    let taken: Vec<_> = taken.collect();
    assert_eq!(taken, [(0x30, High), (0x30, High), (0x30, High), (0x30, High), (0x30, Low)]);
}
