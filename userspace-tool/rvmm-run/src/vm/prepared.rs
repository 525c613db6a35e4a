// SPDX-License-Identifier: GPL-2.0

//! Everything that was checked and opened before the first machine is made.

use std::io;
use std::path::PathBuf;

use crate::config::console::ConsoleDevice;
use crate::config::memory::RamSize;
use crate::config::module::ModuleSpec;
use crate::config::root::RootDevice;
use crate::config::DeviceSet;
use crate::devices::disk::OpenDisk;
use crate::devices::file_id::FileId;
use crate::devices::net::OpenNet;
use crate::kernel::image::FileImage;

/// Everything that was checked before the first machine is made.
#[derive(Debug)]
pub struct PreparedRun {
    /// RAM.
    pub ram: RamSize,
    /// Number of processors.
    pub cpus: u32,
    /// Kernel image.
    pub kernel: (PathBuf, FileImage),
    /// Initrd image.
    pub initrd: Option<(PathBuf, FileImage)>,
    /// Further modules, in the order that the kernel is told.
    pub modules: Vec<(ModuleSpec, FileImage)>,
    /// Command line, if the user or the image has one.
    pub cmdline: Option<String>,
    /// That of a kernel of Linux without one.
    pub linux_cmdline: String,
    /// Root device, if the user says one.
    pub root: Option<RootDevice>,
    /// Disks in the guest's order.
    pub disks: Vec<OpenDisk>,
    /// Network cards in the guest's order.
    pub nets: Vec<OpenNet>,
    /// What the console is on.
    pub console: ConsoleDevice,
    /// There is something on the host that takes its output.
    pub has_reader: bool,
    /// Columns and rows of its terminal, zeroes if not known.
    pub terminal: (u16, u16),
    /// Which of the module's own devices the machine has.
    pub devices: DeviceSet,
}

impl PreparedRun {
    /// Every file that the guest is started from, with what it is.
    ///
    /// # Errors
    /// That of `fstat`.
    pub fn inputs(&self) -> io::Result<Vec<(FileId, &'static str)>> {
        let kernel = [(self.kernel.1.file(), "the kernel")].into_iter();
        let initrd = self.initrd.iter().map(|(_, image)| (image.file(), "the initrd"));
        let modules = self.modules.iter().map(|(_, image)| (image.file(), "a module"));
        let disks = self.disks.iter().map(|disk| (&*disk.file, "a disk of the guest's"));
        kernel
            .chain(initrd)
            .chain(modules)
            .chain(disks)
            .map(|(file, what)| Ok((FileId::of(file)?, what)))
            .collect()
    }
}
