// SPDX-License-Identifier: GPL-2.0

use crate::arch::addr::AccessWidth::{B1, B2, B4, B8};
use crate::chipset::pci::{MsixControl, MsixMessage};
use crate::virtio::transport::msix::MsixTable;

const ON: MsixControl = MsixControl { enabled: true, masked: false };
const MASKED: MsixControl = MsixControl { enabled: true, masked: true };

/// Two vectors, programmed as (0xfee0_1000 + vector * 16, 0x30 + vector), unmasked, MSI-X on.
fn table() -> MsixTable {
    let mut msix = MsixTable::new(2).unwrap();
    for vector in 0..2 {
        msix.write_table(vector * 16, B8, 0xfee0_1000 + vector * 16);
        msix.write_table(vector * 16 + 8, B4, 0x30 + vector);
        msix.write_table(vector * 16 + 12, B4, 0);
    }
    msix.set_control(ON, true);
    msix
}

fn message(vector: u32) -> MsixMessage {
    MsixMessage { addr: 0xfee0_1000 + u64::from(vector) * 16, data: 0x30 + vector }
}

#[test]
fn an_unmasked_vector_gives_its_message_at_once() {
    let mut msix = table();

    assert_eq!(msix.notify(1), Some(message(1)));
    assert_eq!(msix.read_pending(0, B8), 0);
    assert_eq!(msix.take_pending(), None);
    assert_eq!(msix.notify(2), None, "no such vector");
    assert_eq!(msix.notify(0xffff), None);
}

#[test]
fn a_masked_vector_becomes_pending_and_is_sent_once_when_unmasked() {
    let mut msix = table();
    msix.write_table(28, B4, 1);
    assert_eq!(msix.notify(1), None);
    assert_eq!(msix.notify(1), None);
    assert_eq!(msix.read_pending(0, B4), 2);
    assert_eq!(msix.take_pending(), None);
    assert_eq!(msix.notify(0), Some(message(0)), "the other one is not masked");

    msix.write_table(28, B4, 0);

    assert_eq!(msix.take_pending(), Some(message(1)));
    assert_eq!(msix.take_pending(), None);
    assert_eq!(msix.read_pending(0, B4), 0);
}

#[test]
fn the_function_mask_and_bus_mastering_hold_back_all_vectors() {
    for (control, bus_master) in [(MASKED, true), (ON, false)] {
        let mut msix = table();
        msix.set_control(control, bus_master);
        assert_eq!((msix.notify(0), msix.notify(1)), (None, None));
        assert_eq!(msix.read_pending(0, B8), 3);

        msix.set_control(ON, true);

        assert_eq!(msix.take_pending(), Some(message(0)));
        assert_eq!(msix.take_pending(), Some(message(1)));
        assert_eq!(msix.take_pending(), None);
    }
}

#[test]
fn without_msix_nothing_is_sent_nor_pending() {
    let mut msix = table();
    msix.set_control(MsixControl::default(), true);

    assert_eq!(msix.notify(0), None);

    msix.set_control(ON, true);
    assert_eq!(msix.take_pending(), None);
}

#[test]
fn the_table_takes_aligned_doublewords_and_quadwords_only() {
    let mut msix = table();
    assert_eq!(msix.read_table(0, B8), 0xfee0_1000);
    assert_eq!(msix.read_table(8, B4), 0x30);
    assert_eq!(msix.read_table(24, B8), 0x31);
    assert_eq!(msix.read_table(2, B2), 0xffff);
    assert_eq!(msix.read_table(4, B8), u64::MAX);
    assert_eq!(msix.read_table(32, B4), 0xffff_ffff, "beyond the last vector");

    msix.write_table(0, B1, 0);
    msix.write_table(4, B8, 0);
    msix.write_table(32, B4, 0);
    assert_eq!(msix.read_table(0, B8), 0xfee0_1000);

    msix.write_table(0, B4, 0xffff_ffff);
    msix.write_table(4, B4, 1);
    msix.write_table(12, B4, 0xffff_ffff);
    assert_eq!(msix.read_table(0, B8), 0x1_ffff_fffc);
    assert_eq!(msix.read_table(12, B4), 1, "reserved bits stay 0");
}

#[test]
fn reset_masks_everything() {
    let mut msix = table();
    msix.reset();

    assert_eq!(msix.read_table(12, B4), 1);
    msix.set_control(ON, true);
    assert_eq!(msix.notify(0), None);
    assert_eq!(msix.read_pending(0, B8), 1);
}
