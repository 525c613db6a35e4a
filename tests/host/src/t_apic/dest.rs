// SPDX-License-Identifier: GPL-2.0

//! Who gets a message.

use super::*;
use crate::chipset::lapic::dest::matches;
use crate::chipset::lapic::{ApicIdentity, ApicMode, IcrShorthand, Ipi};
use crate::chipset::message::DestMode;
use crate::chipset::message::BROADCAST;
use crate::chipset::{ApicMessage, DeliveryMode};

fn to(dest: u32, dest_mode: DestMode) -> ApicMessage {
    ApicMessage { dest, dest_mode, delivery: DeliveryMode::Fixed, vector: 0x40, level: false }
}

fn xapic(apic_id: u32, logical: u8, flat: bool) -> ApicIdentity {
    ApicIdentity { apic_id, logical, flat, mode: ApicMode::Xapic, software_enabled: true }
}

fn x2apic(apic_id: u32) -> ApicIdentity {
    ApicIdentity { mode: ApicMode::X2apic, ..xapic(apic_id, 0, true) }
}

#[test]
fn destinations_match_by_the_table() {
    use DestMode::{Logical, Physical};
    let table = [
        // Physical.
        (to(3, Physical), xapic(3, 0, true), true),
        (to(3, Physical), xapic(4, 3, true), false),
        (to(0xff, Physical), xapic(4, 0, true), true),
        (to(BROADCAST, Physical), xapic(4, 0, true), true),
        (to(0x1_0004, Physical), xapic(4, 0, true), false),
        (to(0x1_0004, Physical), x2apic(0x1_0004), true),
        (to(0xff, Physical), x2apic(4), false),
        (to(0xff, Physical), x2apic(0xff), true),
        (to(BROADCAST, Physical), x2apic(4), true),
        // Logical, flat.
        (to(0x06, Logical), xapic(1, 0x02, true), true),
        (to(0x06, Logical), xapic(1, 0x08, true), false),
        (to(0xff, Logical), xapic(1, 0, true), true),
        (to(0x00, Logical), xapic(1, 0x02, true), false),
        (to(0x102, Logical), xapic(1, 0x02, true), false),
        // Logical, cluster.
        (to(0x23, Logical), xapic(9, 0x22, false), true),
        (to(0x23, Logical), xapic(9, 0x24, false), false),
        (to(0x33, Logical), xapic(9, 0x22, false), false),
        // Logical, x2APIC.
        (to(0x0001_0008, Logical), x2apic(0x13), true),
        (to(0x0001_0004, Logical), x2apic(0x13), false),
        (to(0x0002_0008, Logical), x2apic(0x13), false),
        (to(0x0000_ffff, Logical), x2apic(0x0f), true),
        (to(BROADCAST, Logical), x2apic(0x13), true),
    ];
    for (msg, target, expected) in table {
        assert_eq!(matches(&msg, &target), expected, "{msg:?} {target:?}");
    }
}

#[test]
fn a_disabled_apic_gets_nothing() {
    let off = ApicIdentity { mode: ApicMode::Disabled, ..xapic(0, 1, true) };
    let ipi = Ipi { msg: to(0, DestMode::Physical), shorthand: IcrShorthand::All };

    assert!(!matches(&to(0, DestMode::Physical), &off));
    assert!(!matches(&to(BROADCAST, DestMode::Physical), &off));
    assert!(!ipi.matches(1, &off));
}

#[test]
fn an_apic_disabled_by_software_takes_no_fixed_and_no_lowest_priority_message() {
    let off = ApicIdentity { software_enabled: false, ..xapic(1, 1, true) };
    let table = [
        (DeliveryMode::Fixed, false),
        (DeliveryMode::LowestPriority, false),
        (DeliveryMode::Nmi, true),
        (DeliveryMode::Init, true),
        (DeliveryMode::StartUp, true),
    ];
    for (delivery, expected) in table {
        for dest in [1, BROADCAST] {
            let msg = ApicMessage { delivery, ..to(dest, DestMode::Physical) };
            assert_eq!(matches(&msg, &off), expected, "{delivery:?} to {dest:#x}");
        }
        let ipi = Ipi {
            msg: ApicMessage { delivery, ..to(0, DestMode::Physical) },
            shorthand: IcrShorthand::Others,
        };
        assert_eq!(ipi.matches(0, &off), expected, "{delivery:?} to all others");
    }
}

#[test]
fn shorthands_go_by_the_sender() {
    let expected = [
        (IcrShorthand::None, [false, true]),
        (IcrShorthand::Itself, [true, false]),
        (IcrShorthand::All, [true, true]),
        (IcrShorthand::Others, [false, true]),
    ];
    for (shorthand, who) in expected {
        let ipi = Ipi { msg: to(1, DestMode::Physical), shorthand };
        assert_eq!([0, 1].map(|id| ipi.matches(0, &x2apic(id))), who, "{shorthand:?}");
    }
}

#[test]
fn a_physical_destination_is_found_without_a_search() {
    assert_eq!(to(7, DestMode::Physical).unicast(), Some(7));
    assert_eq!(to(0xff, DestMode::Physical).unicast(), None);
    assert_eq!(to(BROADCAST, DestMode::Physical).unicast(), None);
    assert_eq!(to(1, DestMode::Logical).unicast(), None);
    let ipi = Ipi { msg: to(7, DestMode::Physical), shorthand: IcrShorthand::Others };
    assert_eq!(ipi.unicast(), None);
}

#[test]
fn an_identity_survives_packing() {
    let ids = [xapic(3, 8, true), xapic(0xfe, 0x24, false), x2apic(0xdead_beef)];
    for id in ids {
        for mode in [ApicMode::Disabled, ApicMode::Xapic, ApicMode::X2apic] {
            for software_enabled in [false, true] {
                let id = ApicIdentity { mode, software_enabled, ..id };
                assert_eq!(ApicIdentity::unpack(id.pack()), id);
            }
        }
    }
    assert_eq!(ApicIdentity::unpack(0).mode, ApicMode::Disabled);
}

#[test]
fn the_identity_follows_the_registers() {
    let mut apic = xapic_after_linux_init();
    assert_eq!(apic.identity(), xapic(0, 1, true));

    assert_eq!(apic.write(reg::DFR, 0x0fff_ffff, &at(0)), LapicEffect::IdentityChanged);
    assert_eq!(apic.write(reg::LDR, 0x2100_0000, &at(0)), LapicEffect::IdentityChanged);

    assert_eq!(apic.identity(), xapic(0, 0x21, false));
    assert_eq!(x2apic_after_linux_init(300).identity(), x2apic(300));
}
