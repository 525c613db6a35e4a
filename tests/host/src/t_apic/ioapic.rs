// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC.

use crate::arch::addr::AccessWidth;
use crate::chipset::ioapic::{Ioapic, SavedIoapic};
use crate::chipset::message::DestMode;
use crate::chipset::message::BROADCAST;
use crate::chipset::saved::HasState;
use crate::chipset::DestFormat;
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::{ApicMessage, DeliveryMode};

const LEVEL: u32 = 0x8000;
const MASKED: u32 = 0x1_0000;

fn select(io: &mut Ioapic, index: u8) {
    assert_eq!(io.write(0, AccessWidth::B4, u64::from(index)).count(), 0);
}

fn write(io: &mut Ioapic, index: u8, value: u32) -> Vec<ApicMessage> {
    select(io, index);
    io.write(0x10, AccessWidth::B4, u64::from(value)).collect()
}

fn read(io: &mut Ioapic, index: u8) -> u64 {
    select(io, index);
    io.read(0x10, AccessWidth::B4)
}

/// Writes an entry in the order of Linux: the upper half first.
fn program(io: &mut Ioapic, pin: u8, dest: u8, low: u32) -> Vec<ApicMessage> {
    let mut sent = write(io, 0x11 + 2 * pin, u32::from(dest) << 24);
    sent.extend(write(io, 0x10 + 2 * pin, low));
    sent
}

fn ioapic() -> Ioapic {
    Ioapic::new(2, DestFormat::Narrow)
}

fn fixed(dest: u32, vector: u8, level: bool) -> ApicMessage {
    ApicMessage { dest, dest_mode: DestMode::Physical, delivery: DeliveryMode::Fixed, vector, level }
}

#[test]
fn identification_and_version_are_those_of_24_pins_with_an_eoi_register() {
    let mut io = ioapic();

    assert_eq!(read(&mut io, 0), 2 << 24);
    assert_eq!(read(&mut io, 1), 0x0017_0020);
    assert_eq!(read(&mut io, 2), 2 << 24);
    for pin in 0..24 {
        assert_eq!(read(&mut io, 0x10 + 2 * pin), u64::from(MASKED));
        assert_eq!(read(&mut io, 0x11 + 2 * pin), 0);
    }
    assert_eq!(read(&mut io, 0x40), 0xffff_ffff, "beyond the last entry");
    write(&mut io, 0, 0xff00_0000);
    assert_eq!(read(&mut io, 0), 0x0f00_0000);
}

#[test]
fn an_edge_pin_sends_once_for_each_rise() {
    let mut io = ioapic();
    program(&mut io, 4, 1, 0x24);

    assert_eq!(io.set_irq(4, High), Some(fixed(1, 0x24, false)));
    assert_eq!(io.set_irq(4, High), None);
    assert_eq!(io.set_irq(4, Low), None);
    assert_eq!(io.set_irq(4, High), Some(fixed(1, 0x24, false)));
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let mut io = ioapic();
    program(&mut io, 4, 1, 0x24 | MASKED);

    assert_eq!(io.set_irq(4, High), None);

    assert_eq!(program(&mut io, 4, 1, 0x24), []);
}

#[test]
fn a_level_pin_sends_again_at_the_end_of_its_interrupt_while_the_line_is_high() {
    let mut io = ioapic();
    program(&mut io, 9, 0, 0x39 | LEVEL);

    assert_eq!(io.set_irq(9, High), Some(fixed(0, 0x39, true)));
    assert_eq!(io.set_irq(9, High), None, "remote IRR");
    assert_eq!(read(&mut io, 0x10 + 18), u64::from(0x4039 | LEVEL));
    assert!(io.waits_for(0x39));
    assert_eq!(io.eoi(0x38).count(), 0);
    assert_eq!(io.eoi(0x39).collect::<Vec<_>>(), [fixed(0, 0x39, true)]);

    io.set_irq(9, Low);
    assert_eq!(io.eoi(0x39).count(), 0);
    assert!(!io.waits_for(0x39));
    assert_eq!(io.set_irq(9, High), Some(fixed(0, 0x39, true)));
}

#[test]
fn a_level_interrupt_that_nobody_accepted_is_sent_again() {
    let mut io = ioapic();
    program(&mut io, 9, 0, 0x39 | LEVEL);
    io.set_irq(9, High);

    io.not_accepted(9);

    assert!(!io.waits_for(0x39));
    assert_eq!(io.set_irq(9, High), Some(fixed(0, 0x39, true)));
}

#[test]
fn a_level_interrupt_that_nobody_accepted_is_sent_to_whom_the_entry_names_next() {
    let mut io = ioapic();
    program(&mut io, 10, 5, 0x50 | LEVEL);
    assert_eq!(io.set_irq(10, High), Some(fixed(5, 0x50, true)));

    io.not_accepted(10);

    // The upper half is written first, and sends to the new destination at once.
    assert_eq!(program(&mut io, 10, 0, 0x50 | LEVEL), [fixed(0, 0x50, true)]);
}

#[test]
fn pins_that_nobody_accepted_are_tried_again_and_no_others() {
    let mut io = ioapic();
    for pin in [9, 10, 11, 12] {
        program(&mut io, pin, 0, 0x50 + u32::from(pin) | if pin == 12 { 0 } else { LEVEL });
        io.set_irq(pin, High);
    }
    io.not_accepted(10);
    io.not_accepted(11);
    io.set_irq(11, Low);

    assert_eq!(io.retry().collect::<Vec<_>>(), [fixed(0, 0x5a, true)]);
    assert_eq!(io.retry().count(), 0);
}

#[test]
fn the_eoi_register_ends_an_interrupt_too() {
    let mut io = ioapic();
    program(&mut io, 9, 0, 0x39 | LEVEL);
    io.set_irq(9, High);

    assert_eq!(io.write(0x40, AccessWidth::B4, 0x39).count(), 1);
}

#[test]
fn unmasking_a_level_pin_with_its_line_high_sends() {
    let mut io = ioapic();
    program(&mut io, 9, 3, 0x39 | LEVEL | MASKED);
    assert_eq!(io.set_irq(9, High), None);

    assert_eq!(program(&mut io, 9, 3, 0x39 | LEVEL), [fixed(3, 0x39, true)]);
    assert_eq!(program(&mut io, 9, 3, 0x39 | LEVEL), [], "remote IRR");
}

#[test]
fn remote_irr_cannot_be_written_and_goes_with_edge_mode() {
    let mut io = ioapic();
    program(&mut io, 9, 0, 0x39 | LEVEL);
    io.set_irq(9, High);
    io.set_irq(9, Low);

    program(&mut io, 9, 0, 0x39 | LEVEL | MASKED);
    assert!(io.waits_for(0x39));
    program(&mut io, 9, 0, 0x4039 | MASKED);
    assert!(!io.waits_for(0x39));
}

#[test]
fn two_pins_with_one_vector_end_together() {
    let mut io = ioapic();
    for pin in [10, 11] {
        program(&mut io, pin, 0, 0x50 | LEVEL);
        io.set_irq(pin, High);
    }

    assert_eq!(io.eoi(0x50).count(), 2);
}

#[test]
fn delivery_modes_and_destinations_are_passed_on() {
    let mut io = ioapic();
    program(&mut io, 1, 0x03, 0x931);
    program(&mut io, 2, 0xff, 0x32);
    program(&mut io, 3, 0, 0x400 | LEVEL);
    program(&mut io, 5, 0, 0x300);

    let logical = io.set_irq(1, High).expect("a message");
    assert_eq!(
        (logical.dest, logical.dest_mode, logical.delivery),
        (3, DestMode::Logical, DeliveryMode::LowestPriority)
    );
    assert_eq!(io.set_irq(2, High).map(|m| m.dest), Some(BROADCAST));
    assert_eq!(io.set_irq(3, High).map(|m| (m.delivery, m.level)), Some((DeliveryMode::Nmi, false)));
    assert_eq!(io.set_irq(5, High), None, "reserved delivery mode");
}

#[test]
fn extended_destinations_have_15_bits() {
    let mut io = Ioapic::new(0, DestFormat::Extended);
    write(&mut io, 0x11 + 8, 0xff | (0x21 << 24) | (5 << 17));
    write(&mut io, 0x10 + 8, 0x40);

    assert_eq!(io.set_irq(4, High).map(|m| m.dest), Some(0x521));
}

#[test]
fn pins_and_registers_that_do_not_exist_are_ignored() {
    let mut io = ioapic();
    let before = io.clone();

    assert_eq!(io.set_irq(24, High), None);
    assert_eq!(io.set_irq(255, High), None);
    assert_eq!(io.write(0x20, AccessWidth::B4, 0xffff_ffff).count(), 0);
    assert_eq!(io.read(0x20, AccessWidth::B4), 0xffff_ffff);
    assert_eq!(io, before);
}

#[test]
fn reset_masks_all_pins_and_keeps_the_lines() {
    let mut io = ioapic();
    program(&mut io, 9, 0, 0x39 | LEVEL);
    io.set_irq(9, High);

    io.reset();

    assert_eq!(read(&mut io, 0x10 + 18), u64::from(MASKED));
    assert_eq!(program(&mut io, 9, 0, 0x39 | LEVEL).len(), 1);
}

#[test]
fn restoring_a_saved_state_gives_the_same_chip() {
    let mut io = ioapic();
    program(&mut io, 9, 7, 0x39 | LEVEL);
    program(&mut io, 4, 1, 0x24);
    io.set_irq(9, High);
    io.set_irq(4, High);
    let state = io.save();

    let mut other = Ioapic::new(0, DestFormat::Narrow);
    other.restore(&state).unwrap();
    assert_eq!(other.retry().count(), 0, "all that is high was sent");

    assert_eq!(other, io);
    assert_eq!(other.save(), state);
}

#[test]
fn restoring_sends_what_was_high_and_not_sent_and_masks_junk_off() {
    let mut io = ioapic();
    let mut state = SavedIoapic { irr: u32::MAX, redirtbl: [u64::from(MASKED); 24], ..io.save() };
    state.redirtbl[9] = u64::from(0x39 | LEVEL);
    state.redirtbl[4] = 0x24;
    state.redirtbl[5] = u64::MAX;

    assert!(io.restore(&state).is_err());
    io.set_state(&state);
    assert_eq!(io.retry().collect::<Vec<_>>(), [fixed(0, 0x39, true)]);

    let saved = io.save();
    assert_eq!(saved.irr, 0x00ff_ffff);
    assert_eq!(saved.redirtbl[5], 0xfffe_0000_0001_afff);
}
