// SPDX-License-Identifier: GPL-2.0

//! Where a virtio device's structures lie in its BARs, and the capabilities that say so.
//!
//! Follows VIRTIO 1.2, "PCI Device Discovery" and "Virtio Structure PCI Capabilities". The map itself
//! is in the parent module's text.

use crate::chipset::pci::{BarKind, ConfigSpace, MsixLayout, PciIdentity};
use crate::virtio::transport::msix;
use kernel::prelude::*;

/// Vendor id of all virtio devices.
const VENDOR: u16 = 0x1af4;
/// Device id of a modern device, to which the device type is added.
const DEVICE_BASE: u16 = 0x1040;
/// Subsystem ids from here on say that the device is not transitional.
const SUBSYSTEM_BASE: u16 = 0x40;
/// Revision of a modern device.
const REVISION: u8 = 1;

/// BAR with the virtio structures.
pub(crate) const BAR_STRUCTURES: u8 = 0;
/// BAR with the MSI-X structures.
pub(crate) const BAR_MSIX: u8 = 1;
pub(super) const STRUCTURES_BYTES: u32 = 0x4000;
pub(super) const MSIX_BYTES: u32 = 0x1000;

const COMMON: u32 = 0x0000;
const COMMON_BYTES: u32 = 56;
pub(super) const ISR: u32 = 0x1000;
const ISR_BYTES: u32 = 1;
pub(super) const DEVICE: u32 = 0x2000;
const DEVICE_BYTES: u32 = 0x1000;
pub(super) const NOTIFY: u32 = 0x3000;
pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
pub(super) const MSIX_PENDING: u32 = 0x800;

/// Capability id "vendor specific".
const CAP_VENDOR: u8 = 0x09;
const CAP_COMMON_CFG: u8 = 1;
const CAP_NOTIFY_CFG: u8 = 2;
const CAP_ISR_CFG: u8 = 3;
const CAP_DEVICE_CFG: u8 = 4;
const CAP_PCI_CFG: u8 = 5;
/// Offsets in the capability that gives access to BARs through configuration space.
pub(super) const PCI_CFG_BAR: u8 = 4;
pub(super) const PCI_CFG_OFFSET: u8 = 8;
pub(super) const PCI_CFG_LENGTH: u8 = 12;
pub(super) const PCI_CFG_DATA: u8 = 16;

/// Returns the configuration space of a device with `vectors` vectors, one of them for each queue,
/// and the offset in it of the capability that gives access to BARs.
///
/// # Errors
/// `EINVAL`: more vectors than a table can have.
pub(super) fn config_space(kind: u16, class: u32, vectors: u16) -> Result<(ConfigSpace, u8)> {
    let mut config = ConfigSpace::new(&PciIdentity {
        vendor: VENDOR,
        device: DEVICE_BASE.wrapping_add(kind),
        class,
        revision: REVISION,
        subsystem_vendor: VENDOR,
        subsystem: SUBSYSTEM_BASE.wrapping_add(kind),
    });
    let pci_cfg = lay_out(&mut config, vectors)?;
    Ok((config, pci_cfg))
}

fn lay_out(config: &mut ConfigSpace, vectors: u16) -> Result<u8> {
    config.add_bar(BAR_STRUCTURES, BarKind::Memory32, STRUCTURES_BYTES)?;
    config.add_bar(BAR_MSIX, BarKind::Memory32, MSIX_BYTES)?;
    config.add_msix(&MsixLayout {
        vectors,
        table_bar: BAR_MSIX,
        table: 0,
        pending_bar: BAR_MSIX,
        pending: MSIX_PENDING,
    })?;
    capability(config, CAP_COMMON_CFG, COMMON, COMMON_BYTES)?;
    capability(config, CAP_ISR_CFG, ISR, ISR_BYTES)?;
    capability(config, CAP_DEVICE_CFG, DEVICE, DEVICE_BYTES)?;
    let notify_bytes = u32::from(vectors.wrapping_sub(1)).wrapping_mul(NOTIFY_MULTIPLIER);
    config.add_capability(
        CAP_VENDOR,
        &structure(CAP_NOTIFY_CFG, NOTIFY, notify_bytes, NOTIFY_MULTIPLIER),
        &[],
    )?;
    // The driver writes BAR, offset, length and data of the access it wants.
    let writable =
        [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    config.add_capability(CAP_VENDOR, &structure(CAP_PCI_CFG, 0, 0, 0), &writable)
}

fn capability(config: &mut ConfigSpace, kind: u8, at: u32, bytes: u32) -> Result {
    let [_, body @ .., _, _, _, _] = structure(kind, at, bytes, 0);
    let mut short = [16; 14];
    for (to, from) in short.iter_mut().skip(1).zip(body) {
        *to = from;
    }
    config.add_capability(CAP_VENDOR, &short, &[])?;
    Ok(())
}

/// Returns the body of a virtio capability of 20 bytes, with a last doubleword of its own.
fn structure(kind: u8, at: u32, bytes: u32, extra: u32) -> [u8; 18] {
    let [a0, a1, a2, a3] = at.to_le_bytes();
    let [b0, b1, b2, b3] = bytes.to_le_bytes();
    let [e0, e1, e2, e3] = extra.to_le_bytes();
    [20, kind, BAR_STRUCTURES, 0, 0, 0, a0, a1, a2, a3, b0, b1, b2, b3, e0, e1, e2, e3]
}

const _: () = assert!(msix::MAX_VECTORS as u32 * msix::ENTRY_BYTES <= MSIX_PENDING);
