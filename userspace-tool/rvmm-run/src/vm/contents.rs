// SPDX-License-Identifier: GPL-2.0

//! What lies in the guest's memory when it starts.

use nix::errno::Errno;
use vm_memory::GuestMemoryMmap;

use super::prepared::PreparedRun;
use super::{firmware, regs};
use crate::acpi::{self, config::AcpiConfig};
use crate::error::ToolError;
use crate::kernel;
use crate::kernel::loaded::{LoadedKernel, LoadedModule};
use crate::kernel::modules::ModuleSpace;
use crate::kernel::params::{self, KernelFacts};

/// RAM with everything in it that the guest starts from. It needs no module, so bad images are found without one.
#[derive(Debug)]
pub struct RamContents {
    pub(super) ram: GuestMemoryMmap<()>,
    pub(super) loaded: LoadedKernel,
}

impl RamContents {
    /// Allocates RAM and copies kernel, modules, tables and parameters into it.
    ///
    /// # Errors
    /// `Kernel`, `Initrd`, `Module`, `Cmdline` for what is damaged, does not fit, or is nothing for this kernel.
    pub fn new(config: &PreparedRun) -> Result<Self, ToolError> {
        let ram =
            config.ram.allocate().map_err(|_| ToolError::Host("reserve guest memory", Errno::ENOMEM))?;
        let loaded = load_images(config, &ram)?;
        Ok(Self { ram, loaded })
    }
}

/// Copies kernel, modules, tables and parameters into guest memory.
fn load_images(config: &PreparedRun, ram: &GuestMemoryMmap<()>) -> Result<LoadedKernel, ToolError> {
    let boot_area = |_| ToolError::Host("write the boot structures", Errno::EFAULT);
    let (path, image) = &config.kernel;
    let of_kernel = |e| ToolError::Kernel(path.clone(), e);
    let loaded = kernel::load(image, config.ram, ram).map_err(of_kernel)?;
    let (has_initrd, has_modules) = (config.initrd.is_some(), !config.modules.is_empty());
    params::check_options(&loaded, has_initrd, has_modules, config.root.is_some()).map_err(of_kernel)?;
    let cmdline = match &config.cmdline {
        Some(cmdline) => cmdline,
        None => params::default_cmdline(&loaded, &config.linux_cmdline),
    };
    params::check_cmdline(cmdline, &loaded).map_err(ToolError::Cmdline)?;
    let modules = load_modules(config, &loaded, ram)?;
    let tables = AcpiConfig { cpus: config.cpus, keyboard: false };
    acpi::write(ram, tables).map_err(boot_area)?;
    let facts = KernelFacts {
        size: config.ram,
        kernel: &loaded,
        modules: &modules,
        cmdline,
        root: config.root.unwrap_or_default(),
        rsdp: &acpi::rsdp(tables),
    };
    params::write(ram, &facts).map_err(of_kernel)?;
    regs::write_tables(ram, loaded.entry).map_err(boot_area)?;
    firmware::write_reset_vector(ram).map_err(boot_area)?;
    Ok(loaded)
}

/// The initrd, if there is one, and then the modules.
fn load_modules(
    config: &PreparedRun,
    kernel: &LoadedKernel,
    ram: &GuestMemoryMmap<()>,
) -> Result<Vec<LoadedModule>, ToolError> {
    let mut space = ModuleSpace::new(kernel, config.ram);
    let mut loaded = Vec::new();
    if let Some((path, image)) = &config.initrd {
        loaded.push(space.load(image, "", ram).map_err(|e| ToolError::Initrd(path.clone(), e))?);
    }
    for (spec, image) in &config.modules {
        let module = space.load(image, &spec.args, ram);
        loaded.push(module.map_err(|e| ToolError::Module(spec.path.clone(), e))?);
    }
    Ok(loaded)
}
