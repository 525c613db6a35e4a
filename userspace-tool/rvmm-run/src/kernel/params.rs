// SPDX-License-Identifier: GPL-2.0

//! The structures that tell a kernel about its machine: command line, and `boot_params` or `hvm_start_info`.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::error::KernelError;
use super::loaded::{KernelEntry, LoadedInitrd, LoadedKernel};
use crate::config::layout::{
    ACPI, BOOT_PARAMS, CMDLINE, CMDLINE_SPACE, PVH_MEMMAP, PVH_MODULES, PVH_START_INFO,
};
use crate::config::memory::RamSize;

/// Magic number of `hvm_start_info`.
const PVH_MAGIC: u32 = 0x336e_c578;
/// `type_of_loader` of a boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// Checks a command line against what the kernel and our layout take.
///
/// # Errors
/// `CmdlineTooLong`, `CmdlineZero`.
pub fn check_cmdline(cmdline: &str, kernel: &LoadedKernel) -> Result<(), KernelError> {
    let max = kernel.cmdline_max.min(CMDLINE_SPACE as u32 - 1);
    if cmdline.len() > max as usize {
        return Err(KernelError::CmdlineTooLong { len: cmdline.len(), max });
    }
    if cmdline.bytes().any(|b| b == 0) {
        return Err(KernelError::CmdlineZero);
    }
    Ok(())
}

/// Writes the command line and the structure that the entry of `kernel` expects.
///
/// # Errors
/// When guest RAM does not hold the boot area, which `RamSize` excludes.
pub fn write(
    ram: &GuestMemoryMmap<()>,
    size: RamSize,
    kernel: &LoadedKernel,
    initrd: Option<LoadedInitrd>,
    cmdline: &str,
) -> Result<(), GuestMemoryError> {
    ram.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    ram.write_obj(0u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;
    match kernel.entry {
        KernelEntry::Linux64 { .. } => {
            ram.write_obj(boot_params_for(size, kernel, initrd), GuestAddress(BOOT_PARAMS))
        }
        KernelEntry::Pvh { .. } => write_start_info(ram, size, initrd),
    }
}

/// Fills `boot_params` as the 64-bit boot protocol asks: the image's header, then what a boot loader has to add.
fn boot_params_for(size: RamSize, kernel: &LoadedKernel, initrd: Option<LoadedInitrd>) -> boot_params {
    let mut params = boot_params { hdr: kernel.header, acpi_rsdp_addr: ACPI, ..Default::default() };
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

fn write_start_info(
    ram: &GuestMemoryMmap<()>,
    size: RamSize,
    initrd: Option<LoadedInitrd>,
) -> Result<(), GuestMemoryError> {
    let map = size.e820();
    let mut at = PVH_MEMMAP;
    for range in &map {
        let entry = hvm_memmap_table_entry {
            addr: range.base,
            size: range.size,
            type_: range.kind as u32,
            reserved: 0,
        };
        ram.write_obj(entry, GuestAddress(at))?;
        at += size_of::<hvm_memmap_table_entry>() as u64;
    }
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry { paddr: initrd.base, size: initrd.size, ..Default::default() };
        ram.write_obj(module, GuestAddress(PVH_MODULES))?;
    }
    let info = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        flags: 0,
        nr_modules: u32::from(initrd.is_some()),
        modlist_paddr: if initrd.is_some() { PVH_MODULES } else { 0 },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: ACPI,
        memmap_paddr: PVH_MEMMAP,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    ram.write_obj(info, GuestAddress(PVH_START_INFO))
}
