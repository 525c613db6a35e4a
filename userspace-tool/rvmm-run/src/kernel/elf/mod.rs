// SPDX-License-Identifier: GPL-2.0

//! ELF kernels: headers, segments and notes, whichever protocol the kernel speaks; and those of Linux and of PVH.
//!
//! ELF, "Object Files". A kernel with the note `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, "x86/HVM direct boot ABI") is entered there
//! in 32-bit mode; one without any mark of another protocol at its ELF entry point in long mode, as a Linux `vmlinux` wants
//! it. Only headers and notes are held in memory; the segments are copied from the file piece by piece.

pub mod header;
pub mod note;
pub mod segment;

use linux_loader::loader::bootparam::setup_header;
use vm_memory::GuestMemoryMmap;

use self::header::ElfHeaders;
use self::segment::{check_entry, check_segments, copy_segments, end_of};
use super::error::KernelError;
use super::image::KernelImage;
use super::loaded::{KernelEntry, KernelProtocol, LoadedKernel};
use crate::config::memory::RamSize;

/// Longest command line of a Linux kernel on x86, terminator not counted.
const LINUX_CMDLINE_MAX: u32 = 2047;

/// Loads a kernel of Linux.
///
/// # Errors
/// `Elf32`, and what is wrong with its segments or their fit into RAM.
pub fn load_linux(
    image: &(impl KernelImage + ?Sized),
    headers: &ElfHeaders,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    if !headers.is_64 {
        return Err(KernelError::Elf32);
    }
    let rip = headers.file.e_entry;
    let header =
        setup_header { boot_flag: 0xaa55, header: 0x5372_6448, version: 0x20f, ..Default::default() };
    load_at(image, headers, size, ram, (KernelEntry::Linux64 { rip }, KernelProtocol::Linux(header)))
}

/// Loads a kernel that is entered at `eip`, which its PVH note names.
///
/// # Errors
/// What is wrong with its segments or their fit into RAM.
pub fn load_pvh(
    image: &(impl KernelImage + ?Sized),
    headers: &ElfHeaders,
    eip: u32,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    load_at(image, headers, size, ram, (KernelEntry::Pvh { eip }, KernelProtocol::Pvh))
}

fn load_at(
    image: &(impl KernelImage + ?Sized),
    headers: &ElfHeaders,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
    (entry, protocol): (KernelEntry, KernelProtocol),
) -> Result<LoadedKernel, KernelError> {
    let segments = check_segments(headers.loadable(), image.len(), size)?;
    check_entry(&segments, entry.start())?;
    copy_segments(image, &segments, ram)?;
    Ok(LoadedKernel {
        entry,
        end: end_of(&segments),
        cmdline_max: LINUX_CMDLINE_MAX,
        initrd_max: u64::from(u32::MAX),
        protocol,
    })
}
