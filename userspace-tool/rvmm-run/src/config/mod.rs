// SPDX-License-Identifier: GPL-2.0

//! What the user asks for, as plain data, and the map of the machine that it is laid out on.
//!
//! Nothing here touches the host but to read configuration files: it is parsed and checked, and the other rooms carry it out.
//!
//! | module | what it does |
//! |---|---|
//! | [`spec`] | a VM, and the layers of settings that it is put together from |
//! | [`cli`] | the command line, which makes one layer |
//! | [`file`] | files, which make others |
//! | [`name`], [`disk`], [`net`], [`module`], [`root`], [`console`], [`memory`] | one setting each |
//! | [`options`] | what options of several things have in common |
//! | [`layout`] | the map of the machine |

pub mod cli;
pub mod console;
pub mod disk;
pub mod file;
pub mod layout;
pub mod memory;
pub mod module;
pub mod name;
pub mod net;
pub mod options;
pub mod root;
pub mod spec;

use std::str::FromStr;

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

impl FromStr for DeviceSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        clap::ValueEnum::from_str(text, false).map_err(|_| "all, isa or none".to_string())
    }
}
