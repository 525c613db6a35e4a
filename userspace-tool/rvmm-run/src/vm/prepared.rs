// SPDX-License-Identifier: GPL-2.0

//! Everything that was checked and opened before the first machine is made.

use std::path::PathBuf;

use crate::config::console::ConsoleDevice;
use crate::config::memory::RamSize;
use crate::config::DeviceSet;
use crate::devices::disk::Disk;
use crate::devices::net::Net;
use crate::kernel::image::FileImage;

/// Everything that was checked before the first machine is made.
#[derive(Debug)]
pub struct Prepared {
    /// RAM.
    pub ram: RamSize,
    /// Number of processors.
    pub cpus: u32,
    /// Kernel image.
    pub kernel: (PathBuf, FileImage),
    /// Initrd image.
    pub initrd: Option<(PathBuf, FileImage)>,
    /// Command line.
    pub cmdline: String,
    /// Disks in the guest's order.
    pub disks: Vec<Disk>,
    /// Network cards in the guest's order.
    pub nets: Vec<Net>,
    /// What the console is on.
    pub console: ConsoleDevice,
    /// Columns and rows of its terminal, zeroes if not known.
    pub terminal: (u16, u16),
    /// Which of the module's own devices the machine has.
    pub devices: DeviceSet,
}
