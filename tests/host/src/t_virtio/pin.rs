// SPDX-License-Identifier: GPL-2.0

//! The INTx pin of a device whose driver does without MSI-X.

use super::machine::*;
use crate::arch::addr::AccessWidth::{B1, B2};
use crate::chipset::pci::PciInterrupt;
use crate::chipset::saved::{StateReader, StateWriter};
use crate::virtio::transport::pci::save::DEVICE_STATE_BYTES;

/// PCI status register: the function wants to interrupt.
const WANTS: u32 = 1 << 3;

/// A disk whose driver has not enabled MSI-X.
fn disk() -> super::blk::Disk {
    let mut m = super::blk::disk(4096);
    m.probe();
    m.set_reg(0x04, B2, 0x006);
    m.negotiate(1 << 32);
    m.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    m
}

fn status(m: &mut super::blk::Disk) -> u32 {
    m.reg(0x06, B2) & WANTS
}

#[test]
fn firmware_says_which_pin_and_which_interrupt() {
    let mut m = super::blk::disk(4096);

    assert_eq!(m.slot, 1);
    assert_eq!((m.reg(0x3d, B1), m.reg(0x3c, B1)), (1, 5));
    m.set_reg(0x3c, B1, 0xff);
    assert_eq!(m.reg(0x3c, B1), 0xff, "what is written there is the guest's business");
}

#[test]
fn the_pin_is_asserted_until_the_isr_status_is_read() {
    let mut m = disk();
    assert_eq!((m.dev.asserts_pin(), status(&mut m)), (false, 0));

    assert_eq!(m.dev.interrupt(0), Some(PciInterrupt::Pin));
    assert_eq!((m.dev.asserts_pin(), status(&mut m)), (true, WANTS));
    assert_eq!(m.dev.interrupt(0), None, "it is asserted already");

    assert_eq!(m.read(m.at.isr, B1), 1);
    assert_eq!((m.dev.asserts_pin(), status(&mut m)), (false, 0));
    assert_eq!(m.read(m.at.isr, B1), 0);
    assert_eq!(m.dev.config_changed(), Some(PciInterrupt::Pin));
    assert_eq!((m.dev.asserts_pin(), m.read(m.at.isr, B1)), (true, 2));
}

#[test]
fn a_state_saved_behind_a_read_of_the_status_can_be_restored() {
    let mut m = disk();
    let _ = m.dev.interrupt(0);
    assert_eq!(status(&mut m), WANTS);
    let mut out = StateWriter::new(DEVICE_STATE_BYTES).unwrap();
    m.dev.quiesced().unwrap().save(1, &mut out);

    let mut other = super::blk::disk(4096);
    let mut from = StateReader::new(out.finish().unwrap());
    assert_eq!(other.dev.quiesced().unwrap().restore(1, &mut from), Ok(()));
    assert!(other.dev.asserts_pin());
}

#[test]
fn the_command_register_disables_the_pin_but_not_its_status() {
    let mut m = disk();
    let _ = m.dev.interrupt(0);

    m.set_reg(0x04, B2, 0x406);
    assert_eq!((m.dev.asserts_pin(), status(&mut m)), (false, WANTS));
    m.set_reg(0x04, B2, 0x006);
    assert!(m.dev.asserts_pin());
}

#[test]
fn msix_and_a_reset_bring_the_pin_down() {
    let mut m = disk();
    let _ = m.dev.interrupt(0);
    let msix = m.at.msix;

    m.set_reg(msix + 2, B2, 0x8000);
    assert!(!m.dev.asserts_pin());
    m.set_reg(msix + 2, B2, 0);
    assert!(m.dev.asserts_pin());
    m.set_status(0);
    assert_eq!((m.dev.asserts_pin(), m.read(m.at.isr, B1)), (false, 0));
}
