// SPDX-License-Identifier: GPL-2.0

//! Tests of virtio and of the PCI bus under it.

pub(crate) mod blk;
mod console;
pub(crate) mod driver;
mod inflight;
pub(crate) mod machine;
pub(crate) mod mem;
mod msix;
pub(crate) mod net;
pub(crate) mod packed;
pub(crate) mod packed_driver;
mod pci_root;
mod pin;
mod queue;
pub(crate) mod random;
mod rng;
mod transport;
