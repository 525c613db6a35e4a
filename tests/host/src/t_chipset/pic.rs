// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers, driven as Linux drives them.

use super::ops::{any_stream, run, Subject};
use crate::arch::addr::AccessWidth;
use crate::arch::time::Ns;
use crate::chipset::pic::{Pic, SavedPic, SavedPicChip, FIRST_PORT, PORTS};
use crate::chipset::saved::HasState;
use crate::chipset::PinLevel::{High, Low};
use crate::chipset::PioDevice;
use core::ops::RangeInclusive;
use proptest::prelude::*;

fn out(pic: &mut Pic, port: u16, value: u8) {
    pic.write(port - FIRST_PORT, AccessWidth::B1, u32::from(value), Ns::ZERO);
}

fn inb(pic: &mut Pic, port: u16) -> u8 {
    u8::try_from(pic.read(port - FIRST_PORT, AccessWidth::B1, Ns::ZERO)).unwrap()
}

/// The writes of Linux's `init_8259A(0)`: vectors 0x30 and 0x38, no automatic EOI, then the masks.
fn pic_after_linux_init() -> Pic {
    let mut pic = Pic::new();
    for (port, value) in [
        (0x21, 0xff),
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
        out(&mut pic, port, value);
    }
    pic
}

fn pulse(pic: &mut Pic, line: u8) {
    pic.set_irq(line, High);
    pic.set_irq(line, Low);
}

#[test]
fn a_line_raises_intr_and_gives_its_vector() {
    let mut pic = pic_after_linux_init();
    assert_eq!(pic.intr(), Low);

    pic.set_irq(4, High);

    assert_eq!(pic.intr(), High);
    assert_eq!(pic.acknowledge(), 0x34);
    assert_eq!(pic.intr(), Low);
    assert_eq!(pic.in_service(), 1 << 4);
}

#[test]
fn lower_lines_come_first_and_wait_for_the_end_of_higher_ones() {
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x34);

    pulse(&mut pic, 6);
    pulse(&mut pic, 1);

    assert_eq!(pic.acknowledge(), 0x31, "line 1 interrupts the service of line 4");
    assert_eq!(pic.intr(), Low, "line 6 waits");
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.intr(), Low);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn specific_eoi_clears_only_the_named_line() {
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 4);
    pic.acknowledge();
    pulse(&mut pic, 1);
    pic.acknowledge();

    out(&mut pic, 0x20, 0x64);

    assert_eq!(pic.in_service(), 1 << 1);
    assert_eq!(pic.take_ended(), 1 << 4);
    assert_eq!(pic.take_ended(), 0);
}

#[test]
fn the_slave_comes_through_the_cascade() {
    let mut pic = pic_after_linux_init();
    pic.set_irq(12, High);

    assert_eq!(pic.acknowledge(), 0x3c);

    assert_eq!(pic.in_service(), 1 << 12 | 1 << 2);
    // Linux ends the slave's line, then the cascade.
    out(&mut pic, 0xa0, 0x64);
    out(&mut pic, 0x20, 0x62);
    assert_eq!(pic.in_service(), 0);
    assert_eq!(pic.take_ended(), 1 << 12);
}

#[test]
fn two_lines_of_the_slave_are_both_delivered() {
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 8);
    pulse(&mut pic, 14);
    assert_eq!(pic.acknowledge(), 0x38);
    assert_eq!(pic.intr(), Low);

    out(&mut pic, 0xa0, 0x60);
    out(&mut pic, 0x20, 0x62);

    assert_eq!(pic.intr(), High);
    assert_eq!(pic.acknowledge(), 0x3e);
}

#[test]
fn a_slave_that_ends_on_its_own_still_makes_a_new_edge_on_the_master() {
    let mut pic = pic_after_linux_init();
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, 0x03), (0xa1, 0)] {
        out(&mut pic, port, value);
    }
    pulse(&mut pic, 9);
    pulse(&mut pic, 10);
    assert_eq!(pic.acknowledge(), 0x39);

    out(&mut pic, 0x20, 0x62);

    assert_eq!(pic.intr(), High);
    assert_eq!(pic.acknowledge(), 0x3a);
}

#[test]
fn a_masked_line_waits_and_keeps_its_edge() {
    let mut pic = pic_after_linux_init();
    out(&mut pic, 0x21, 0x10);
    pulse(&mut pic, 4);
    assert_eq!(pic.intr(), Low);
    assert_eq!(inb(&mut pic, 0x20), 0x10);
    assert_eq!(inb(&mut pic, 0x21), 0x10);

    out(&mut pic, 0x21, 0);

    assert_eq!(pic.acknowledge(), 0x34);
}

#[test]
fn an_acknowledge_of_nothing_is_the_spurious_vector() {
    let mut pic = pic_after_linux_init();

    assert_eq!(pic.acknowledge(), 0x37);

    assert_eq!(pic.in_service(), 0);
}

#[test]
fn a_level_line_that_falls_in_time_leaves_nothing_behind() {
    let mut pic = pic_after_linux_init();
    out(&mut pic, 0x4d1, 1 << 2);
    pic.set_irq(10, High);
    assert_eq!(pic.intr(), High);

    pic.set_irq(10, Low);

    assert_eq!(pic.intr(), Low);
    assert_eq!(pic.acknowledge(), 0x37);
}

#[test]
fn a_slave_that_lost_its_request_answers_with_line_fifteen() {
    // In special mask mode a slave's request can be asked for while the master has latched it.
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 9);
    let mut state = pic.save();
    state.slave.irr = 0;
    state.master.last_irr |= 1 << 2;
    pic.set_state(&state);

    assert_eq!(pic.intr(), Low, "the cascade wire fell with the request");
    assert_eq!(pic.acknowledge(), 0x37);
}

#[test]
fn a_level_line_interrupts_again_until_it_falls() {
    let mut pic = pic_after_linux_init();
    out(&mut pic, 0x4d1, 1 << 2);
    assert_eq!(inb(&mut pic, 0x4d1), 1 << 2);
    pic.set_irq(10, High);

    for _ in 0..3 {
        assert_eq!(pic.acknowledge(), 0x3a);
        assert_eq!(pic.intr(), Low);
        out(&mut pic, 0xa0, 0x62);
        out(&mut pic, 0x20, 0x62);
    }
    pic.set_irq(10, Low);

    assert_eq!(pic.intr(), Low);
}

#[test]
fn an_edge_line_that_stays_high_interrupts_once() {
    let mut pic = pic_after_linux_init();
    pic.set_irq(5, High);
    assert_eq!(pic.acknowledge(), 0x35);
    out(&mut pic, 0x20, 0x65);

    pic.set_irq(5, High);

    assert_eq!(pic.intr(), Low);
}

#[test]
fn the_timer_and_cascade_cannot_be_made_level_triggered() {
    let mut pic = Pic::new();

    out(&mut pic, 0x4d0, 0xff);
    out(&mut pic, 0x4d1, 0xff);

    assert_eq!(inb(&mut pic, 0x4d0), 0xf8);
    assert_eq!(inb(&mut pic, 0x4d1), 0xde);
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pic = pic_after_linux_init();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x03), (0x21, 0)] {
        out(&mut pic, port, value);
    }
    pulse(&mut pic, 3);

    assert_eq!(pic.acknowledge(), 0x33);

    assert_eq!(pic.in_service(), 0);
    assert_eq!(pic.take_ended(), 1 << 3);
}

#[test]
fn rotation_puts_the_ended_line_last() {
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 3);
    pic.acknowledge();
    out(&mut pic, 0x20, 0xa0);

    pulse(&mut pic, 3);
    pulse(&mut pic, 6);

    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn set_priority_makes_the_named_line_the_lowest() {
    let mut pic = pic_after_linux_init();
    out(&mut pic, 0x20, 0xc4);

    pulse(&mut pic, 1);
    pulse(&mut pic, 5);

    assert_eq!(pic.acknowledge(), 0x35);
}

#[test]
fn special_mask_mode_lets_lower_lines_through() {
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert_eq!(pic.intr(), Low);

    out(&mut pic, 0x21, 1 << 1);
    out(&mut pic, 0x20, 0x68);

    assert_eq!(pic.acknowledge(), 0x36);
    out(&mut pic, 0x20, 0x20);
    assert_eq!(pic.in_service(), 1 << 1, "the masked line is not the one that a plain EOI ends");
}

#[test]
fn special_fully_nested_mode_lets_the_slave_interrupt_itself() {
    let mut pic = pic_after_linux_init();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x11), (0x21, 0)] {
        out(&mut pic, port, value);
    }
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), 0x3c);

    pulse(&mut pic, 9);

    assert_eq!(pic.acknowledge(), 0x39);
}

#[test]
fn a_poll_takes_the_request_into_service() {
    let mut pic = pic_after_linux_init();
    pulse(&mut pic, 5);

    out(&mut pic, 0x20, 0x0c);

    assert_eq!(inb(&mut pic, 0x20), 0x85);
    assert_eq!(pic.in_service(), 1 << 5);
    out(&mut pic, 0x20, 0x0b);
    assert_eq!(inb(&mut pic, 0x20), 1 << 5, "one poll, then reads are reads");
    out(&mut pic, 0x20, 0x0c);
    assert_eq!(inb(&mut pic, 0x20), 0);
}

#[test]
fn initialization_forgets_edges_and_masks_but_keeps_the_trigger_modes() {
    let mut pic = pic_after_linux_init();
    out(&mut pic, 0x4d0, 1 << 5);
    out(&mut pic, 0x21, 0xff);
    pulse(&mut pic, 4);
    pic.set_irq(5, High);

    out(&mut pic, 0x20, 0x11);

    assert_eq!(pic.requested(), 1 << 5);
    assert_eq!(pic.masked(), 0);
    assert_eq!(inb(&mut pic, 0x4d0), 1 << 5);
}

#[test]
fn reset_keeps_only_the_levels_of_the_lines() {
    let mut pic = pic_after_linux_init();
    pic.set_irq(4, High);

    pic.reset();

    assert_eq!(pic.intr(), Low);
    pic.set_irq(4, Low);
    assert_eq!(pic, Pic::new());
}

#[test]
fn lines_that_do_not_exist_are_ignored() {
    let mut pic = pic_after_linux_init();
    let before = pic.clone();

    for line in [2, 16, 255] {
        pic.set_irq(line, High);
    }

    assert_eq!(pic, before);
}

#[test]
fn words_are_not_decoded() {
    let mut pic = pic_after_linux_init();
    let before = pic.clone();

    pic.write(1, AccessWidth::B2, 0xffff, Ns::ZERO);

    assert_eq!(pic, before);
    assert_eq!(pic.read(1, AccessWidth::B2, Ns::ZERO), 0xffff);
    assert_eq!(pic.read(2, AccessWidth::B1, Ns::ZERO), 0xff);
}

#[test]
fn the_state_goes_through_kvms_structure() {
    let mut pic = pic_after_linux_init();
    out(&mut pic, 0x4d1, 1 << 2);
    pic.set_irq(10, High);
    pulse(&mut pic, 4);
    pic.acknowledge();
    let state = pic.save();

    let raw = state.slave.to_kvm();
    let other = SavedPic {
        master: SavedPicChip::from_kvm(state.master.to_kvm()),
        slave: SavedPicChip::from_kvm(raw),
    };

    assert_eq!(other, state);
    assert_eq!(
        raw[..6],
        [1 << 2, 1 << 2, 0, 1 << 2, 0, 0x38],
        "last_irr, irr, imr, isr, priority_add, irq_base"
    );
    assert_eq!(raw[13..], [1, 1 << 2, 0xde], "init4, elcr, elcr_mask");
}

impl Subject for Pic {
    fn ports() -> Vec<RangeInclusive<u16>> {
        PORTS.to_vec()
    }
    fn fresh() -> Pic {
        Pic::new()
    }
    fn tick(&mut self, _now: Ns) {}
    fn deadline(&self) -> Option<Ns> {
        None
    }
    fn outside(&mut self, what: u8, value: u8, _now: Ns) -> u64 {
        match what & 3 {
            0 => drop(self.set_irq(value & 0x1f, High)),
            1 => drop(self.set_irq(value & 0x1f, Low)),
            2 => {
                let was_high = self.intr().is_high();
                let before = self.in_service();
                let vector = self.acknowledge();
                if !was_high {
                    assert_eq!(vector & 7, 7, "spurious");
                    assert_eq!(self.in_service(), before);
                }
                return u64::from(vector);
            }
            _ => return u64::from(self.take_ended()),
        }
        0
    }
    fn check(&self) {
        assert_eq!(Pic::check(self), Ok(()));
        let state = self.save();
        for chip in [state.master, state.slave] {
            assert_eq!(chip.irr & chip.elcr, chip.last_irr & chip.elcr, "a level request is its line");
            assert_eq!(chip.elcr & !chip.elcr_mask, 0);
            assert!(chip.priority_add < 8 && chip.irq_base & 7 == 0);
        }
        if state.master.irr & 4 != 0 {
            assert!(state.master.last_irr & 4 != 0, "the cascade is a wire");
        }
        if state.master.irr & !state.master.imr == 0 {
            assert_eq!(self.intr(), Low);
        }
    }
}

proptest! {
    #[test]
    fn any_stream_keeps_the_rules_of_the_chip(bytes in any_stream()) {
        run::<Pic>(&bytes);
    }

    /// Without polls and special modes, one acknowledge gives one vector and takes one line into service.
    #[test]
    fn one_acknowledge_serves_one_line(lines in proptest::collection::vec(0u8..16, 1..40)) {
        let mut pic = pic_after_linux_init();
        for line in lines {
            pulse(&mut pic, line);
            if pic.intr().is_high() {
                let before = pic.in_service();
                let vector = pic.acknowledge();
                let served = pic.in_service() & !before & !(1 << 2);
                prop_assert_eq!(served, 1u16 << (vector - 0x30));
                let rank = |line: u32| [0, 1, 8, 9, 10, 11, 12, 13, 14, 15, 3, 4, 5, 6, 7].iter().position(|l| *l == line);
                let new = rank(served.trailing_zeros());
                prop_assert!((0..16).filter(|l| *l != 2 && before >> l & 1 != 0).all(|l| rank(l) > new));
            }
        }
    }
}
