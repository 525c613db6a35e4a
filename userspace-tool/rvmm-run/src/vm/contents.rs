// SPDX-License-Identifier: GPL-2.0

//! What lies in the guest's memory when it starts.

use nix::errno::Errno;
use vm_memory::GuestMemoryMmap;

use super::prepared::PreparedRun;
use super::{firmware, regs};
use crate::acpi::{self, config::AcpiConfig};
use crate::error::ToolError;
use crate::kernel::loaded::{LoadedInitrd, LoadedKernel};
use crate::kernel::{self, params};

/// RAM with everything in it that the guest starts from. It needs no module, so bad images are found without one.
#[derive(Debug)]
pub struct RamContents {
    pub(super) ram: GuestMemoryMmap<()>,
    pub(super) loaded: LoadedKernel,
}

impl RamContents {
    /// Allocates RAM and copies kernel, initrd, tables and parameters into it.
    ///
    /// # Errors
    /// `Kernel`, `LoadedInitrd`, `Cmdline` for images that are damaged or do not fit.
    pub fn new(config: &PreparedRun) -> Result<Self, ToolError> {
        let ram =
            config.ram.allocate().map_err(|_| ToolError::Host("reserve guest memory", Errno::ENOMEM))?;
        let loaded = load_images(config, &ram)?;
        Ok(Self { ram, loaded })
    }
}

/// Copies kernel, initrd, tables and parameters into guest memory.
fn load_images(config: &PreparedRun, ram: &GuestMemoryMmap<()>) -> Result<LoadedKernel, ToolError> {
    let boot_area = |_| ToolError::Host("write the boot structures", Errno::EFAULT);
    let (path, image) = &config.kernel;
    let loaded = kernel::load(image, config.ram, ram).map_err(|e| ToolError::Kernel(path.clone(), e))?;
    params::check_cmdline(&config.cmdline, &loaded).map_err(ToolError::Cmdline)?;
    let initrd: Option<LoadedInitrd> = match &config.initrd {
        None => None,
        Some((path, image)) => Some(
            kernel::load_initrd(image, &loaded, config.ram, ram)
                .map_err(|e| ToolError::Initrd(path.clone(), e))?,
        ),
    };
    params::write(ram, config.ram, &loaded, initrd, &config.cmdline).map_err(boot_area)?;
    regs::write_tables(ram, loaded.entry).map_err(boot_area)?;
    acpi::write(ram, AcpiConfig { cpus: config.cpus, keyboard: false }).map_err(boot_area)?;
    firmware::write_reset_vector(ram).map_err(boot_area)?;
    Ok(loaded)
}
