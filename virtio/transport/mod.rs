// SPDX-License-Identifier: GPL-2.0

//! How a device is found and set up: the transport over PCI.

mod common;
pub(crate) mod features;
pub(crate) mod msix;
pub(crate) mod pci;
