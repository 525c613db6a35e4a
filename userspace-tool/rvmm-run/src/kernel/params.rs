// SPDX-License-Identifier: GPL-2.0

//! The structures that tell a kernel about its machine, by the protocol that it speaks.

use std::io;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::error::{KernelError, KernelOption};
use super::loaded::{KernelEntry, KernelProtocol, LoadedKernel, LoadedModule};
use super::multiboot::header::MultibootVersion;
use super::multiboot::{info1, info2};
use super::openbsd::args;
use super::openbsd::howto::BootHowto;
use super::pvh;
use crate::config::layout::{
    ACPI, BOOT_INFO, BOOT_INFO_SPACE, BOOT_PARAMS, CMDLINE, CMDLINE_SPACE, RSDP_SIZE,
};
use crate::config::memory::RamSize;
use crate::config::root::RootDevice;

/// `type_of_loader` of a boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// All that a kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct KernelFacts<'a> {
    /// RAM.
    pub size: RamSize,
    /// The kernel.
    pub kernel: &'a LoadedKernel,
    /// The initrd, and further modules for whom takes them.
    pub modules: &'a [LoadedModule],
    /// Its command line, which was checked.
    pub cmdline: &'a str,
    /// Its root device, for whom is told one.
    pub root: RootDevice,
    /// A copy of ACPI's root pointer.
    pub rsdp: &'a [u8; RSDP_SIZE],
}

/// Returns the command line of a kernel that the user has given none: `for_linux` for Linux, and for what is entered by its
/// PVH note; others have words of their own.
pub fn default_cmdline<'a>(kernel: &LoadedKernel, for_linux: &'a str) -> &'a str {
    match kernel.protocol {
        KernelProtocol::Linux(_) | KernelProtocol::Pvh => for_linux,
        KernelProtocol::Multiboot(_) | KernelProtocol::OpenBsd(_) => "",
    }
}

/// Checks that the protocol of `kernel` has a place for what is given.
///
/// # Errors
/// `NotTaken`.
pub fn check_options(
    kernel: &LoadedKernel,
    has_initrd: bool,
    has_modules: bool,
    has_root: bool,
) -> Result<(), KernelError> {
    let takes_root = matches!(kernel.protocol, KernelProtocol::OpenBsd(_));
    let takes_modules = matches!(kernel.protocol, KernelProtocol::Multiboot(_) | KernelProtocol::Pvh);
    let refused = [
        (has_root && !takes_root, KernelOption::Root),
        (has_modules && !takes_modules, KernelOption::Module),
        (has_initrd && takes_root, KernelOption::Initrd),
    ];
    match refused.into_iter().find(|(is_refused, _)| *is_refused) {
        Some((_, option)) => Err(KernelError::NotTaken(option)),
        None => Ok(()),
    }
}

/// Checks a command line against what the kernel and our layout take.
///
/// # Errors
/// `CmdlineTooLong`, `CmdlineZero`; `BootOption` for a kernel of OpenBSD.
pub fn check_cmdline(cmdline: &str, kernel: &LoadedKernel) -> Result<(), KernelError> {
    let max = kernel.cmdline_max.min(CMDLINE_SPACE as u32 - 1);
    if cmdline.len() > max as usize {
        return Err(KernelError::CmdlineTooLong { len: cmdline.len(), max });
    }
    if cmdline.bytes().any(|b| b == 0) {
        return Err(KernelError::CmdlineZero);
    }
    match kernel.protocol {
        KernelProtocol::OpenBsd(_) => BootHowto::parse(cmdline).map(drop),
        _ => Ok(()),
    }
}

/// Writes the command line and what the entry of the kernel points to.
///
/// # Errors
/// `InfoTooLarge`; `Io` when guest RAM does not hold the boot area, which `RamSize` excludes.
pub fn write(ram: &GuestMemoryMmap<()>, facts: &KernelFacts<'_>) -> Result<(), KernelError> {
    let info = boot_info(facts);
    if info.len() as u64 > BOOT_INFO_SPACE {
        return Err(KernelError::InfoTooLarge(info.len()));
    }
    write_all(ram, facts, &info).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput).into())
}

/// Modules with their arguments, and what else lies with them, as it will lie at `BOOT_INFO`.
fn boot_info(facts: &KernelFacts<'_>) -> Vec<u8> {
    let at = BOOT_INFO as u32;
    match (facts.kernel.entry, &facts.kernel.protocol) {
        (KernelEntry::Multiboot { version: MultibootVersion::One, .. }, _) => {
            info1::build(at, facts.size, facts.modules)
        }
        (_, KernelProtocol::Multiboot(load_base)) => {
            info2::build(at, (facts.size, facts.rsdp), facts.modules, facts.cmdline, *load_base)
        }
        (_, KernelProtocol::Pvh) => pvh::module_list(facts.modules),
        _ => Vec::new(),
    }
}

fn write_all(
    ram: &GuestMemoryMmap<()>,
    facts: &KernelFacts<'_>,
    info: &[u8],
) -> Result<(), GuestMemoryError> {
    let KernelFacts { size, kernel, modules, cmdline, root, .. } = *facts;
    ram.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    ram.write_obj(0u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;
    ram.write_slice(info, GuestAddress(BOOT_INFO))?;
    match kernel.protocol {
        KernelProtocol::Linux(header) => {
            ram.write_obj(boot_params_for(size, header, modules.first()), GuestAddress(BOOT_PARAMS))
        }
        KernelProtocol::Pvh => pvh::write(ram, size, modules.len() as u32),
        KernelProtocol::Multiboot(_) => Ok(()),
        KernelProtocol::OpenBsd(kernel) => {
            args::write(ram, size, kernel, BootHowto::parse(cmdline).unwrap_or_default(), root)
        }
    }
}

/// Fills `boot_params` as the 64-bit boot protocol asks: the image's header, then what a boot loader has to add.
fn boot_params_for(size: RamSize, header: setup_header, initrd: Option<&LoadedModule>) -> boot_params {
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: ACPI, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.base as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    let map = size.e820();
    let mut table = params.e820_table;
    for (slot, range) in table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: range.base, size: range.size, type_: range.kind as u32 };
    }
    params.e820_table = table;
    params.e820_entries = map.len() as u8;
    params
}
