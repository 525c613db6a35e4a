// SPDX-License-Identifier: GPL-2.0

//! What the user asks for, as plain data, and the map of the machine that it is laid out on.
//!
//! Nothing here touches the host: it is parsed and checked, and the other rooms carry it out.

pub mod cli;
pub mod console;
pub mod disk;
pub mod layout;
pub mod memory;
pub mod module;
pub mod net;
pub mod options;
pub mod root;

/// A choice among the module's own devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceSet {
    /// Every device.
    All,
    /// No PCI bus, and so no disks.
    Isa,
    /// None at all.
    None,
}
