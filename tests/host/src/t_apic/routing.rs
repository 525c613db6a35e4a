// SPDX-License-Identifier: GPL-2.0

//! GSI routing and MSI decoding.

use crate::chipset::message::DestFormat;
use crate::chipset::message::DestMode;
use crate::chipset::message::BROADCAST;
use crate::chipset::routing::{GsiRoute, GsiRouting, GsiTarget};
use crate::chipset::{ApicMessage, DeliveryMode};
use kernel::prelude::*;
use proptest::prelude::*;

const PIC0: u32 = 0;
const PIC1: u32 = 1;
const IOAPIC: u32 = 2;

fn pin(gsi: u32, chip: u32, pin: u32) -> Result<GsiRoute> {
    GsiRoute::from_entry(gsi, 1, 0, [chip, pin, 0])
}

fn msi(gsi: u32, addr: u64, data: u32) -> Result<GsiRoute> {
    GsiRoute::from_entry(gsi, 2, 0, [addr as u32, (addr >> 32) as u32, data])
}

fn table(routes: &[Result<GsiRoute>]) -> Result<GsiRouting> {
    GsiRouting::new(routes.iter().map(|r| r.expect("a valid entry")))
}

#[test]
fn the_identity_table_is_that_of_kvm() {
    let routing = GsiRouting::identity().expect("memory");

    for gsi in 0..16u8 {
        assert_eq!(routing.targets(gsi.into()), [GsiTarget::Pic(gsi), GsiTarget::Ioapic(gsi)]);
    }
    for gsi in 16..24u8 {
        assert_eq!(routing.targets(gsi.into()), [GsiTarget::Ioapic(gsi)]);
    }
    assert_eq!(routing.targets(24), []);
    assert_eq!(routing.targets(u32::MAX), []);
}

#[test]
fn the_pc_table_has_the_timer_at_pin_2() {
    let routing = GsiRouting::pc().expect("memory");

    assert_eq!(routing.targets(0), [GsiTarget::Pic(0), GsiTarget::Ioapic(2)]);
    assert_eq!(routing.targets(1), [GsiTarget::Pic(1), GsiTarget::Ioapic(1)]);
    assert_eq!(routing.targets(2), [GsiTarget::Pic(2)]);
    assert_eq!(routing.targets(23), [GsiTarget::Ioapic(23)]);
}

#[test]
fn entries_build_a_table_in_any_order() {
    let routing = table(&[msi(100, 0xfee0_1000, 0x31), pin(9, IOAPIC, 9), pin(9, PIC1, 1), pin(3, PIC0, 3)])
        .expect("valid");

    assert_eq!(routing.targets(100), [GsiTarget::Msi { addr: 0xfee0_1000, data: 0x31 }]);
    assert_eq!(routing.targets(9), [GsiTarget::Ioapic(9), GsiTarget::Pic(9)]);
    assert_eq!(routing.targets(3), [GsiTarget::Pic(3)]);
    assert_eq!(routing.targets(0), []);
    assert_eq!(table(&[]).expect("valid").targets(0), []);
}

#[test]
fn entries_that_name_nothing_are_refused() {
    let bad = [
        pin(0, PIC0, 8),
        pin(0, PIC1, 8),
        pin(0, IOAPIC, 24),
        pin(0, IOAPIC, 0x102),
        pin(0, 3, 0),
        pin(4096, IOAPIC, 0),
        GsiRoute::from_entry(0, 0, 0, [0; 3]),
        GsiRoute::from_entry(0, 3, 0, [0; 3]),
        GsiRoute::from_entry(0, 5, 0, [0; 3]),
        GsiRoute::from_entry(0, 1, 1, [0; 3]),
        GsiRoute::from_entry(0, 2, 2, [0; 3]),
    ];
    assert!(bad.iter().all(|r| *r == Err(EINVAL)), "{bad:?}");
    assert!(pin(4095, IOAPIC, 23).is_ok());
    assert!(GsiRoute::from_entry(0, 2, 1, [0; 3]).is_ok(), "an MSI may carry a device id");
    let sint = GsiRoute::from_entry(0, 4, 0, [1, 2, 0]).unwrap();
    assert_eq!(sint.target, GsiTarget::Sint { vp_index: 1, sint: 2 });
}

#[test]
fn one_gsi_takes_one_msi_or_one_pin_of_each_chip() {
    assert!(table(&[pin(1, PIC0, 1), pin(1, PIC1, 1), pin(1, IOAPIC, 1)]).is_ok());
    for bad in [
        [pin(1, IOAPIC, 1), pin(1, IOAPIC, 2)],
        [pin(1, PIC0, 1), pin(1, PIC0, 1)],
        [msi(1, 0, 0), msi(1, 0, 0)],
        [msi(1, 0, 0), pin(1, IOAPIC, 1)],
    ] {
        assert_eq!(table(&bad).map(|_| ()), Err(EINVAL));
    }
}

#[test]
fn running_out_of_memory_is_an_error() {
    kernel::alloc::fail_nth(0);
    assert_eq!(GsiRouting::identity().map(|_| ()), Err(ENOMEM));
    assert!(!kernel::alloc::fail_none());
}

fn narrow(addr: u64, data: u32) -> Option<ApicMessage> {
    ApicMessage::from_msi(addr, data, DestFormat::Narrow)
}

#[test]
fn an_msi_decodes_by_the_manual() {
    let plain = ApicMessage {
        dest: 3,
        dest_mode: DestMode::Physical,
        delivery: DeliveryMode::Fixed,
        vector: 0x41,
        level: false,
    };
    let table = [
        (0xfee0_3000, 0x41, plain),
        (0xfee0_3004, 0x41, ApicMessage { dest_mode: DestMode::Logical, ..plain }),
        (
            0xfee0_300c,
            0x41,
            ApicMessage { dest_mode: DestMode::Logical, delivery: DeliveryMode::LowestPriority, ..plain },
        ),
        (0xfee0_3000, 0x141, ApicMessage { delivery: DeliveryMode::LowestPriority, ..plain }),
        (0xfee0_3000, 0x441, ApicMessage { delivery: DeliveryMode::Nmi, ..plain }),
        (0xfee0_3000, 0xc041, ApicMessage { level: true, ..plain }),
        (0xfee0_3000, 0x8041, ApicMessage { level: true, ..plain }),
        (0xfeef_f000, 0x41, ApicMessage { dest: BROADCAST, ..plain }),
    ];
    for (addr, data, expected) in table {
        assert_eq!(narrow(addr, data), Some(expected), "{addr:#x} {data:#x}");
    }
}

#[test]
fn what_is_no_msi_sends_nothing() {
    for (addr, data) in [(0, 0x41), (0xfed0_0000, 0x41), (0x1_fee0_0000, 0x41), (0xfee0_0000, 0x341)] {
        assert_eq!(narrow(addr, data), None, "{addr:#x} {data:#x}");
    }
}

#[test]
fn wide_destinations_come_from_their_bits_only_when_enabled() {
    let dest = |addr, format| ApicMessage::from_msi(addr, 0x41, format).map(|m| m.dest);

    let extended = 0xfee0_3000 | (5 << 5);
    assert_eq!(dest(extended, DestFormat::Narrow), Some(3));
    assert_eq!(dest(extended, DestFormat::Extended), Some(0x503));
    assert_eq!(dest(0xfeef_f000 | (1 << 5), DestFormat::Extended), Some(0x1ff));

    let wide = 0x0012_3400_fee5_6000;
    assert_eq!(dest(wide, DestFormat::Wide), Some(0x0012_3456));
    assert_eq!(dest(wide, DestFormat::Narrow), None);
    assert_eq!(dest(0xfeef_f000, DestFormat::Wide), Some(BROADCAST));
}

#[test]
fn a_gsi_that_is_a_message_needs_no_chips() {
    let routing =
        table(&[msi(5, 0xfee0_3000, 0x41), pin(6, IOAPIC, 6), msi(7, 0x1000, 0x41)]).expect("valid");

    let message = routing.message(5, DestFormat::Narrow).expect("a message");
    assert_eq!(Some(message), ApicMessage::from_msi(0xfee0_3000, 0x41, DestFormat::Narrow));
    assert_eq!(routing.message(6, DestFormat::Narrow), None, "a pin");
    assert_eq!(routing.message(7, DestFormat::Narrow), None, "not an APIC's address");
    assert_eq!(routing.message(8, DestFormat::Narrow), None, "no route");
}

proptest! {
    #[test]
    fn a_message_survives_packing(addr in 0xfee0_0000u64..0xfef0_0000, data: u32) {
        let message = ApicMessage::from_msi(addr, data, DestFormat::Narrow);
        let word = message.map_or(0, ApicMessage::pack);
        prop_assert_eq!(ApicMessage::unpack(word), message);
    }
}

#[test]
fn no_message_is_nought() {
    assert_eq!(ApicMessage::unpack(0), None);
    let message = ApicMessage::from_msi(0xfee0_0000, 0, DestFormat::Narrow).expect("a message");
    assert_ne!(message.pack(), 0);
}
