// SPDX-License-Identifier: GPL-2.0

//! Loads a kernel and its modules into guest memory.
//!
//! A kernel is told by its content, in this order:
//!
//! | what it is | how it is started | where |
//! |---|---|---|
//! | ELF with a mark of OpenBSD | that of its boot(8) | [`openbsd`] |
//! | ELF with a PVH note | Xen, "x86/HVM direct boot ABI" | [`elf`] |
//! | ELF with a multiboot header, or that of version 2 | "Multiboot Specification", "Multiboot2 Specification" | [`multiboot`] |
//! | any other ELF | Linux, "The Linux/x86 Boot Protocol", 64-bit entry | [`elf`] |
//! | bzImage | the same | [`bzimage`] |
//! | a multiboot header with addresses | as above | [`multiboot`] |
//!
//! Each of them may be compressed by [`gzip`]. Everything in an image is untrusted: offsets and sizes are checked against the
//! file, against guest RAM and against each other before a byte is copied.

mod blob;
pub mod bzimage;
pub mod elf;
pub mod error;
pub mod gzip;
pub mod image;
pub mod loaded;
pub mod modules;
pub mod multiboot;
pub mod openbsd;
pub mod params;
mod pvh;
pub mod uki;
pub mod unknown;

use vm_memory::GuestMemoryMmap;

use self::elf::header::{is_elf, ElfHeaders};
use self::elf::note;
use self::error::KernelError;
use self::image::KernelImage;
use self::loaded::LoadedKernel;
use crate::config::memory::RamSize;

/// Loads `image`, whichever format it has.
///
/// # Errors
/// Every `KernelError` but those of gzip, modules and command line.
pub fn load(
    image: &(impl KernelImage + ?Sized),
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    if is_elf(image)? {
        return load_elf(image, size, ram);
    }
    if !bzimage::is_bzimage(image)? {
        if let Some(header) = multiboot::header::find(image)? {
            return multiboot::load(image, &header, size, ram);
        }
    }
    bzimage::load(image, size, ram)
}

fn load_elf(
    image: &(impl KernelImage + ?Sized),
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    let headers = ElfHeaders::read(image)?;
    let notes = note::read(image, &headers)?;
    if openbsd::is_kernel(&headers, notes) {
        return openbsd::load(image, &headers, size, ram);
    }
    if let Some(eip) = notes.pvh_entry {
        return elf::load_pvh(image, &headers, eip, size, ram);
    }
    match multiboot::header::find(image)? {
        Some(header) => multiboot::load(image, &header, size, ram),
        None => elf::load_linux(image, &headers, size, ram),
    }
}
