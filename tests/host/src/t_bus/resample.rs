// SPDX-License-Identifier: GPL-2.0

//! GSIs that the end of their interrupt releases.

use super::*;

/// A PC whose GSI 10 is resampled by `users`.
fn pc_with(users: usize) -> Pc {
    let mut pc = Pc::new();
    for _ in 0..users {
        pc.bus.resampled.add_user(10).unwrap();
    }
    pc
}

/// Asserts GSI 10.
fn assert_it(pc: &mut Pc) -> Came {
    pc.with(|bus, _, out| bus.assert_resampled(10, out)).1
}

/// Does something, and returns whether GSI 10 has ended with it, and what came of it.
fn ended(pc: &mut Pc, f: impl FnOnce(&mut ChipBus, Ns, &mut BusSignals)) -> (bool, Came) {
    let (says, came) = pc.with(|bus, now, out| {
        f(bus, now, out);
        out.has_ended()
    });
    let gsi = pc.bus.resampled.take_ended();
    assert_eq!((gsi, pc.bus.resampled.take_ended()), (says.then_some(10), None));
    (says, came)
}

#[test]
fn the_end_at_the_ioapic_lowers_the_line_and_is_told() {
    let mut pc = pc_with(1);
    pc.open_pin(10, 0x8000);
    assert_eq!(vectors(&assert_it(&mut pc)), [0x4a]);
    assert!(!pc.bus.awaits_edge_eoi(), "a local APIC tells of this end");

    let (other, _) = ended(&mut pc, |bus, now, out| _ = bus.eoi(0x49, now, out));
    assert!(!other);
    let (end, came) = ended(&mut pc, |bus, now, out| _ = bus.eoi(0x4a, now, out));

    assert_eq!((end, vectors(&came)), (true, vec![]));
    assert_eq!(vectors(&assert_it(&mut pc)), [0x4a], "it can come again");
    let write_eoi = |bus: &mut ChipBus, _, out: &mut BusSignals| {
        assert!(bus.mmio_write(Gpa(IOAPIC_BASE + 0x40), AccessWidth::B4, 0x4a, out));
    };
    assert!(ended(&mut pc, write_eoi).0, "as with the register of the chip");
}

#[test]
fn an_edge_at_the_ioapic_ends_too() {
    let mut pc = pc_with(1);
    pc.open_pin(10, 0);
    assert!(!pc.bus.awaits_edge_eoi());
    assert_eq!(vectors(&assert_it(&mut pc)), [0x4a]);
    assert!(pc.bus.awaits_edge_eoi());

    assert!(ended(&mut pc, |bus, now, out| bus.edge_eoi(now, out)).0);

    assert!(!pc.bus.awaits_edge_eoi());
    assert!(!ended(&mut pc, |bus, now, out| bus.edge_eoi(now, out)).0, "it is not asserted");
    assert_eq!(vectors(&assert_it(&mut pc)), [0x4a], "the line had fallen");
}

#[test]
fn the_end_at_the_pair_lowers_the_line_and_is_told() {
    for (eoi, elcr) in [(0x20, 0), (0x20, 4), (0x62, 4)] {
        let mut pc = pc_with(1);
        pc.out(0x4d1, elcr);
        assert_eq!(assert_it(&mut pc).extint, High);
        let taken = |bus: &mut ChipBus, now, out: &mut BusSignals| {
            assert_eq!(bus.acknowledge(now, out), Some(0x3a));
        };
        assert!(!ended(&mut pc, taken).0);

        let end = |bus: &mut ChipBus, now, out: &mut BusSignals| {
            assert!(bus.pio_write(0xa0, AccessWidth::B1, eoi, now, out));
            assert!(bus.pio_write(0x20, AccessWidth::B1, 0x20, now, out));
        };
        let (end, came) = ended(&mut pc, end);

        assert_eq!((end, came.extint), (true, Low), "EOI {eoi:#x}, ELCR {elcr:#x}");
        assert_eq!(assert_it(&mut pc).extint, High);
    }
}

#[test]
fn an_automatic_end_at_the_pair_is_told_with_the_acknowledge() {
    let mut pc = pc_with(1);
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, 0x03)] {
        pc.out(port, value);
    }
    assert_it(&mut pc);

    let acknowledge = |bus: &mut ChipBus, now, out: &mut BusSignals| {
        assert_eq!(bus.acknowledge(now, out), Some(0x3a));
    };
    assert!(ended(&mut pc, acknowledge).0);
}

#[test]
fn others_keep_the_line_high_and_it_keeps_the_line_high_against_them() {
    let mut pc = pc_with(1);
    pc.open_pin(10, 0x8000);
    let drive = |pc: &mut Pc, level| pc.with(|bus, _, out| bus.set_gsi_from_outside(10, level, out)).1;
    assert_eq!(vectors(&drive(&mut pc, High)), [0x4a]);
    assert_eq!(vectors(&assert_it(&mut pc)), []);

    let (end, came) = ended(&mut pc, |bus, now, out| _ = bus.eoi(0x4a, now, out));
    assert_eq!((end, vectors(&came)), (true, vec![0x4a]), "user space asserts it still");
    assert_it(&mut pc);
    drive(&mut pc, Low);
    let again = pc.with(|bus, _, out| {
        let ioapic = bus.ioapic.as_mut().unwrap();
        ioapic.not_accepted(10);
        bus.retry(out);
    });
    assert_eq!(vectors(&again.1), [0x4a], "the event asserts it still");
    let (end, came) = ended(&mut pc, |bus, now, out| _ = bus.eoi(0x4a, now, out));
    assert_eq!((end, vectors(&came)), (true, vec![]));
}

#[test]
fn the_last_one_to_go_lowers_the_line() {
    let mut pc = pc_with(2);
    pc.open_pin(10, 0x8000);
    assert_it(&mut pc);

    for is_high in [true, false] {
        pc.with(|bus, _, out| bus.remove_resampler(10, out));
        pc.bus.ioapic.as_mut().unwrap().not_accepted(10);
        let (_, came) = pc.with(|bus, _, out| bus.retry(out));
        assert_eq!(vectors(&came).len(), usize::from(is_high));
    }
    assert!(pc.bus.resampled.is_empty());
    assert!(!pc.with(|bus, _, out| (bus.remove_resampler(10, out), out.has_ended()).1).0);
}

proptest! {
    /// Whatever is asserted and ended at both chips: as long as it is asserted the guest has an interrupt to take or to
    /// end, and each end of it is told.
    #[test]
    fn no_end_is_lost(steps in proptest::collection::vec(0u8..4, 1..60), is_level: bool) {
        let mut pc = pc_with(1);
        pc.out(0xa1, 0xff);
        pc.open_pin(10, if is_level { 0x8000 } else { 0 });
        let (mut asserted, mut in_service) = (false, false);
        for step in steps {
            let is_ended = match step {
                0 | 1 => {
                    let sent = !vectors(&assert_it(&mut pc)).is_empty();
                    prop_assert_eq!(sent, !asserted && !in_service);
                    (asserted, in_service) = (true, in_service || sent);
                    false
                }
                _ if !in_service => false,
                _ => {
                    in_service = false;
                    let end = if is_level {
                        ended(&mut pc, |bus, now, out| _ = bus.eoi(0x4a, now, out))
                    } else {
                        ended(&mut pc, |bus, now, out| bus.edge_eoi(now, out))
                    };
                    prop_assert_eq!(vectors(&end.1), Vec::<u8>::new());
                    end.0
                }
            };
            prop_assert_eq!(is_ended, asserted && !in_service, "step {}", step);
            asserted &= !is_ended;
        }
    }
}
