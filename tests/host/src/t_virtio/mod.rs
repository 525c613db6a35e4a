// SPDX-License-Identifier: GPL-2.0

//! Tests of virtio and of the PCI bus under it.

mod blk;
mod driver;
mod machine;
mod mem;
mod msix;
mod pci_root;
mod queue;
mod random;
mod rng;
mod transport;
