// SPDX-License-Identifier: GPL-2.0

//! Loads a kernel and its initrd into guest memory.
//!
//! Two formats are known: a bzImage (Linux, "The Linux/x86 Boot Protocol", 64-bit entry) and a 64-bit ELF image, entered by
//! its PVH note (Xen, "x86/HVM direct boot ABI") or, without one, at the 64-bit entry of Linux. Everything in an image is
//! untrusted: offsets and sizes are checked against the file, against guest RAM and against each other before a byte is copied.

pub mod bzimage;
pub mod elf;
pub mod error;
pub mod image;
pub mod loaded;
pub mod params;
pub mod uki;
pub mod unknown;

use vm_memory::GuestMemoryMmap;

use self::error::KernelError;
use self::image::{copy_to_guest, KernelImage};
use self::loaded::{LoadedInitrd, LoadedKernel};
use crate::config::layout::{HIGH_RAM, PAGE};
use crate::config::memory::RamSize;

/// Loads `image`, whichever format it has.
///
/// # Errors
/// Every `KernelError` but those of initrd and command line.
pub fn load(
    image: &(impl KernelImage + ?Sized),
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    let mut magic = [0; 4];
    if image.len() >= 4 {
        image.read_at(0, &mut magic)?;
    }
    if &magic == b"\x7fELF" {
        return elf::load(image, size, ram);
    }
    bzimage::load(image, size, ram)
}

/// Loads `image` as high as the kernel takes it, above everything the kernel uses.
///
/// # Errors
/// `EmptyInitrd`, `InitrdDoesNotFit`, `Io`.
pub fn load_initrd(
    image: &(impl KernelImage + ?Sized),
    kernel: &LoadedKernel,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedInitrd, KernelError> {
    let len = image.len();
    if len == 0 {
        return Err(KernelError::EmptyInitrd);
    }
    let top = size.low().min(kernel.initrd_max.saturating_add(1));
    let bottom = kernel.end.max(HIGH_RAM).next_multiple_of(PAGE);
    let room = top.saturating_sub(bottom);
    let base = top.checked_sub(len).map(|base| base & !(PAGE - 1)).filter(|base| *base >= bottom);
    let base = base.ok_or(KernelError::InitrdDoesNotFit { size: len, room })?;
    copy_to_guest(image, 0, len, ram, base)?;
    Ok(LoadedInitrd { base, size: len })
}
