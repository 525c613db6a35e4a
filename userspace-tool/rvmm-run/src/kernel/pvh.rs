// SPDX-License-Identifier: GPL-2.0

//! What a kernel that is entered by its PVH note is told. Xen, "x86/HVM direct boot ABI".

use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::blob::Blob;
use super::loaded::LoadedModule;
use crate::config::layout::{ACPI, BOOT_INFO, CMDLINE, PVH_MEMMAP, PVH_START_INFO};
use crate::config::memory::RamSize;

/// Magic number of `hvm_start_info`.
const MAGIC: u32 = 0x336e_c578;

/// Builds the list of modules, which will lie at `BOOT_INFO`, with their command lines behind it.
pub(super) fn module_list(modules: &[LoadedModule]) -> Vec<u8> {
    const ENTRY: usize = size_of::<hvm_modlist_entry>();
    let mut blob = Blob::new(BOOT_INFO as u32);
    let list = blob.reserve(ENTRY * modules.len());
    for (n, module) in modules.iter().enumerate() {
        // The initrd has none.
        let args = if module.args.is_empty() { 0 } else { blob.add_text(&module.args) };
        for (word, value) in [module.base as u32, 0, module.size as u32, 0, args].into_iter().enumerate() {
            blob.put_u32(list + ENTRY * n + 4 * word, value);
        }
    }
    blob.bytes
}

/// Writes the start info and the memory map that it points to.
pub(super) fn write(ram: &GuestMemoryMmap<()>, size: RamSize, modules: u32) -> Result<(), GuestMemoryError> {
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
    let info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        flags: 0,
        nr_modules: modules,
        modlist_paddr: if modules > 0 { BOOT_INFO } else { 0 },
        cmdline_paddr: CMDLINE,
        rsdp_paddr: ACPI,
        memmap_paddr: PVH_MEMMAP,
        memmap_entries: map.len() as u32,
        reserved: 0,
    };
    ram.write_obj(info, GuestAddress(PVH_START_INFO))
}
