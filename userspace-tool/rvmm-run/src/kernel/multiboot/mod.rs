// SPDX-License-Identifier: GPL-2.0

//! Multiboot kernels of both versions: where they say to be loaded, or as ELF files.
//!
//! GNU, "Multiboot Specification" and "Multiboot2 Specification", "OS image format". The machine state at the entry is in
//! `vm/regs.rs`, what the kernel is told in `info1` and `info2`. There is no framebuffer and no text console of a PC: a kernel
//! that merely would like one is told nothing of it, one that requires a console is refused.

pub mod header;
pub mod info1;
pub mod info2;

use vm_memory::GuestMemoryMmap;

use self::header::{LoadAddresses, MultibootHeader};
use super::elf::header::{is_elf, ElfHeaders};
use super::elf::segment::{check_entry, check_segments, copy_segments, end_of, physical_entry};
use super::error::KernelError;
use super::image::{copy_to_guest, KernelImage};
use super::loaded::{KernelEntry, KernelProtocol, LoadedKernel};
use crate::config::layout::{CMDLINE_SPACE, HIGH_RAM};
use crate::config::memory::RamSize;

/// How the boot loader is called.
const LOADER_NAME: &str = "rvmm-run";

/// What of the image lies where.
struct Placed {
    base: u64,
    end: u64,
    entry: u64,
}

/// Loads a kernel with this header.
///
/// # Errors
/// What is wrong with its addresses or segments or their fit into RAM.
pub fn load(
    image: &(impl KernelImage + ?Sized),
    header: &MultibootHeader,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    let placed = match &header.addresses {
        Some(addresses) => load_addresses(image, header, addresses, size, ram)?,
        None if is_elf(image)? => load_elf(image, header, size, ram)?,
        None => return Err(KernelError::MultibootHeader("no load addresses, and the file is no ELF file")),
    };
    let narrow = |gpa: u64| u32::try_from(gpa).map_err(|_| KernelError::EntryOutside(gpa));
    Ok(LoadedKernel {
        entry: KernelEntry::Multiboot { eip: narrow(placed.entry)?, version: header.version },
        end: placed.end,
        cmdline_max: CMDLINE_SPACE as u32 - 1,
        initrd_max: u64::from(u32::MAX),
        protocol: KernelProtocol::Multiboot(if header.is_movable {
            Some(narrow(placed.base)?)
        } else {
            None
        }),
    })
}

fn load_elf(
    image: &(impl KernelImage + ?Sized),
    header: &MultibootHeader,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<Placed, KernelError> {
    let elf = ElfHeaders::read(image)?;
    let segments = check_segments(elf.loadable(), image.len(), size)?;
    // The header's own entry point is a physical address.
    let entry = header.entry.map_or_else(|| physical_entry(&segments, elf.file.e_entry), u64::from);
    check_entry(&segments, entry)?;
    copy_segments(image, &segments, ram)?;
    let base = segments.iter().map(|s| s.base).min().unwrap_or(HIGH_RAM);
    Ok(Placed { base, end: end_of(&segments), entry })
}

/// Loads what lies around the header, to where that says.
fn load_addresses(
    image: &(impl KernelImage + ?Sized),
    header: &MultibootHeader,
    addresses: &LoadAddresses,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<Placed, KernelError> {
    let impossible = || KernelError::MultibootHeader("its load addresses contradict each other");
    let at = u64::from(addresses.header);
    let base = match addresses.load {
        Some(load) => u64::from(load),
        None => at.checked_sub(header.offset).ok_or_else(impossible)?,
    };
    let before = at.checked_sub(base).ok_or_else(impossible)?;
    let from = header.offset.checked_sub(before).ok_or_else(impossible)?;
    let len = match addresses.load_end {
        0 => image.len() - from,
        end => u64::from(end).checked_sub(base).filter(|len| *len > before).ok_or_else(impossible)?,
    };
    if from + len > image.len() {
        return Err(KernelError::Truncated { needs: from + len, has: image.len() });
    }
    let loaded_end = base + len;
    let end = match addresses.bss_end {
        0 => loaded_end,
        end if u64::from(end) < loaded_end => return Err(impossible()),
        end => end.into(),
    };
    if base < HIGH_RAM {
        return Err(KernelError::MultibootHeader(
            "it asks for the first MiB, which holds the boot structures",
        ));
    }
    if end > size.low() {
        return Err(KernelError::DoesNotFit { end, ram: size.low() });
    }
    let entry = u64::from(header.entry.ok_or(KernelError::MultibootHeader("no entry point"))?);
    if entry < base || entry >= loaded_end {
        return Err(KernelError::EntryOutside(entry));
    }
    copy_to_guest(image, from, len, ram, base)?;
    Ok(Placed { base, end, entry })
}
