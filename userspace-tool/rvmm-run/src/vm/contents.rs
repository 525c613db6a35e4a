// SPDX-License-Identifier: GPL-2.0

//! What lies in the guest's memory when it starts.

use nix::errno::Errno;
use vm_memory::GuestMemoryMmap;

use super::prepared::Prepared;
use super::{firmware, regs};
use crate::acpi::{self, AcpiConfig};
use crate::error::Error;
use crate::kernel::{self, params, Initrd, Loaded};

/// RAM with everything in it that the guest starts from. It needs no module, so bad images are found without one.
#[derive(Debug)]
pub struct Contents {
    pub(super) ram: GuestMemoryMmap<()>,
    pub(super) loaded: Loaded,
}

impl Contents {
    /// Allocates RAM and copies kernel, initrd, tables and parameters into it.
    ///
    /// # Errors
    /// `Kernel`, `Initrd`, `Cmdline` for images that are damaged or do not fit.
    pub fn new(config: &Prepared) -> Result<Self, Error> {
        let ram = config.ram.allocate().map_err(|_| Error::Host("reserve guest memory", Errno::ENOMEM))?;
        let loaded = load_images(config, &ram)?;
        Ok(Self { ram, loaded })
    }
}

/// Copies kernel, initrd, tables and parameters into guest memory.
fn load_images(config: &Prepared, ram: &GuestMemoryMmap<()>) -> Result<Loaded, Error> {
    let boot_area = |_| Error::Host("write the boot structures", Errno::EFAULT);
    let (path, image) = &config.kernel;
    let loaded = kernel::load(image, config.ram, ram).map_err(|e| Error::Kernel(path.clone(), e))?;
    params::check_cmdline(&config.cmdline, &loaded).map_err(Error::Cmdline)?;
    let initrd: Option<Initrd> = match &config.initrd {
        None => None,
        Some((path, image)) => Some(
            kernel::load_initrd(image, &loaded, config.ram, ram)
                .map_err(|e| Error::Initrd(path.clone(), e))?,
        ),
    };
    params::write(ram, config.ram, &loaded, initrd, &config.cmdline).map_err(boot_area)?;
    regs::write_tables(ram, loaded.entry).map_err(boot_area)?;
    acpi::write(ram, AcpiConfig { cpus: config.cpus, keyboard: false }).map_err(boot_area)?;
    firmware::write_reset_vector(ram).map_err(boot_area)?;
    Ok(loaded)
}
