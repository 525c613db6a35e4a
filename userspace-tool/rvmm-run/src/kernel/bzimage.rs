// SPDX-License-Identifier: GPL-2.0

//! bzImage loader, following Linux, "The Linux/x86 Boot Protocol", sections "The Real-Mode Kernel Header" and "64-bit Boot Protocol".
//!
//! The real-mode part is not loaded: the protected-mode part goes to the kernel's preferred address, or lower where RAM is
//! short and the kernel is relocatable, and is entered 0x200 bytes after its start in long mode.

use linux_loader::loader::bootparam::setup_header;
use vm_memory::{ByteValued, GuestMemoryMmap};

use super::error::KernelError;
use super::image::{copy_to_guest, KernelImage};
use super::loaded::{KernelEntry, KernelProtocol, LoadedKernel};
use super::unknown::UnknownImage;
use crate::config::layout::HIGH_RAM;
use crate::config::memory::RamSize;

/// File offset of the setup header.
const HEADER: u64 = 0x1f1;
/// File offset of the byte that, added to 0x202, gives the end of the header.
const HEADER_LEN: u64 = 0x201;
/// File offset of the boot flag; four bytes on is the magic number.
const BOOT_FLAG: u64 = 0x1fe;
/// `HdrS`.
const MAGIC: u32 = 0x5372_6448;
/// Boot protocol 2.12, the first with a 64-bit entry.
const PROTOCOL_2_12: u16 = 0x20c;
/// `loadflags`: the protected-mode part is loaded at or above 1 MiB.
const LOADED_HIGH: u8 = 1;
/// `xloadflags`: there is a 64-bit entry at offset 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Unit of `syssize`.
const PARAGRAPH: u64 = 16;
/// The 64-bit entry, counted from the load address.
const ENTRY_64: u64 = 0x200;

/// Loads a bzImage.
///
/// # Errors
/// `UnknownFormat` when the magic numbers are not there, else what is wrong with the header or its fit into RAM.
pub fn load(
    image: &(impl KernelImage + ?Sized),
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    let header = read_header(image)?;
    let (code_offset, code_len) = protected_mode_part(&header, image.len())?;
    let base = load_address(&header, code_len, size)?;
    copy_to_guest(image, code_offset, code_len, ram, base)?;
    let init_size = u64::from(header.init_size).max(code_len);
    Ok(LoadedKernel {
        entry: KernelEntry::Linux64 { rip: base + ENTRY_64 },
        end: base + init_size,
        cmdline_max: header.cmdline_size,
        initrd_max: u64::from(header.initrd_addr_max),
        protocol: KernelProtocol::Linux(header),
    })
}

/// Whether `image` has the magic numbers of one.
///
/// # Errors
/// That of the read.
pub fn is_bzimage(image: &(impl KernelImage + ?Sized)) -> Result<bool, KernelError> {
    let mut magic = [0; 8];
    if image.len() < BOOT_FLAG + magic.len() as u64 {
        return Ok(false);
    }
    image.read_at(BOOT_FLAG, &mut magic)?;
    Ok(magic.starts_with(&[0x55, 0xaa]) && magic.ends_with(&MAGIC.to_le_bytes()))
}

/// Reads the setup header as far as it says it reaches; fields beyond read as zero.
fn read_header(image: &(impl KernelImage + ?Sized)) -> Result<setup_header, KernelError> {
    let mut header = setup_header::default();
    let room = header.as_slice().len();
    if image.len() < HEADER + room as u64 {
        return Err(KernelError::UnknownFormat(UnknownImage::of(image)?));
    }
    let mut reach = [0];
    image.read_at(HEADER_LEN, &mut reach)?;
    let len = usize::from(reach[0]) + 0x202 - HEADER as usize;
    let len = len.min(room);
    image.read_at(HEADER, &mut header.as_mut_slice()[..len])?;
    if header.boot_flag != 0xaa55 || header.header != MAGIC {
        return Err(KernelError::UnknownFormat(UnknownImage::of(image)?));
    }
    if header.version < PROTOCOL_2_12 {
        return Err(KernelError::OldProtocol(header.version));
    }
    if header.xloadflags & XLF_KERNEL_64 == 0 || header.loadflags & LOADED_HIGH == 0 {
        return Err(KernelError::No64BitEntry);
    }
    Ok(header)
}

/// File offset and length of the protected-mode part.
fn protected_mode_part(header: &setup_header, file_len: u64) -> Result<(u64, u64), KernelError> {
    let sectors = match header.setup_sects {
        0 => 4,
        n => u64::from(n),
    };
    let offset = (sectors + 1) * 512;
    let len = u64::from(header.syssize) * PARAGRAPH;
    // Counted in whole paragraphs, of which the file may lack the end of the last.
    let there = file_len.saturating_sub(offset).min(len);
    if there <= ENTRY_64 || len - there >= PARAGRAPH {
        return Err(KernelError::Truncated { needs: offset + len.max(ENTRY_64 + PARAGRAPH), has: file_len });
    }
    Ok((offset, there))
}

/// The preferred address, or the lowest that is aligned as the kernel wants it when RAM ends before.
fn load_address(header: &setup_header, code_len: u64, size: RamSize) -> Result<u64, KernelError> {
    let need = u64::from(header.init_size).max(code_len);
    let preferred = header.pref_address;
    let fits = |base: u64| base >= HIGH_RAM && base.checked_add(need).is_some_and(|end| end <= size.low());
    if fits(preferred) {
        return Ok(preferred);
    }
    let align = u64::from(header.kernel_alignment).max(1);
    let lowest = HIGH_RAM.next_multiple_of(align);
    if header.relocatable_kernel != 0 && fits(lowest) {
        return Ok(lowest);
    }
    Err(KernelError::DoesNotFit { end: preferred.saturating_add(need), ram: size.low() })
}
