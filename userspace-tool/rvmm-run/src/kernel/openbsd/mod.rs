// SPDX-License-Identifier: GPL-2.0

//! Kernels of OpenBSD for amd64 and i386, as its boot(8) loads them.
//!
//! OpenBSD, `sys/lib/libsa/loadfile_elf.c`, `sys/arch/amd64/stand/libsa/exec_i386.c` and `locore0.S` of both
//! architectures. Addresses are taken modulo 256 MiB, so that it does not matter whether the linker had physical ones or
//! virtual ones of the kernel's window. A segment of random bytes is the seed of the kernel's generator. Symbols lie
//! behind the bss. The kernel is entered in flat 32-bit protected mode without paging, also that for amd64; what it is
//! told lies on the stack (`args`).

pub mod args;
pub mod howto;
mod symbols;

use std::fs::File;

use goblin::elf::header::ELFOSABI_OPENBSD;
use goblin::elf::program_header::{PF_R, PF_W, PF_X};
use goblin::elf::ProgramHeader;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::elf::header::ElfHeaders;
use super::elf::note::BootNotes;
use super::elf::segment::{check_entry, check_segments, copy_segments, end_of, ElfSegment};
use super::error::KernelError;
use super::image::KernelImage;
use super::loaded::{KernelEntry, KernelProtocol, LoadedKernel, OpenBsdKernel};
use crate::config::layout::CMDLINE_SPACE;
use crate::config::memory::RamSize;

/// Type of the segment that the loader fills with random bytes.
const PT_OPENBSD_RANDOMIZE: u32 = 0x65a3_dbe6;
/// Offset of the byte that names the system, in an ELF file's first bytes.
const OSABI: usize = 7;
/// The loader's addresses are what these bits leave.
const ADDRESS_MASK: u64 = 0x0fff_ffff;

/// Whether these are the headers of a kernel of OpenBSD: all that can be met have the segment of random bytes.
pub fn is_kernel(headers: &ElfHeaders, notes: BootNotes) -> bool {
    notes.is_openbsd
        || headers.file.e_ident[OSABI] == ELFOSABI_OPENBSD
        || headers.programs.iter().any(|h| h.p_type == PT_OPENBSD_RANDOMIZE)
}

/// Loads such a kernel.
///
/// # Errors
/// What is wrong with its segments or symbols or their fit into RAM; `RandomOutside`.
pub fn load(
    image: &(impl KernelImage + ?Sized),
    headers: &ElfHeaders,
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    let moved: Vec<(usize, ProgramHeader)> = headers
        .loadable()
        .filter(|(_, h)| h.p_flags & (PF_R | PF_W | PF_X) != 0)
        .map(|(n, h)| (n, ProgramHeader { p_paddr: h.p_paddr & ADDRESS_MASK, ..h.clone() }))
        .collect();
    let segments = check_segments(moved.iter().map(|(n, h)| (*n, h)), image.len(), size)?;
    let eip = headers.file.e_entry & ADDRESS_MASK;
    check_entry(&segments, eip)?;
    let randoms = random_ranges(headers, &segments)?;
    let symbols = symbols::read(image, headers, end_of(&segments))?;
    let end = symbols.as_ref().map_or(end_of(&segments), |s| s.end());
    if end > size.low() {
        return Err(KernelError::DoesNotFit { end, ram: size.low() });
    }
    copy_segments(image, &segments, ram)?;
    for (base, len) in randoms {
        write_random(ram, base, len)?;
    }
    if let Some(symbols) = &symbols {
        symbols.copy(image, ram)?;
    }
    Ok(LoadedKernel {
        entry: KernelEntry::OpenBsd { eip: eip as u32 },
        end,
        cmdline_max: CMDLINE_SPACE as u32 - 1,
        initrd_max: u64::from(u32::MAX),
        protocol: KernelProtocol::OpenBsd(OpenBsdKernel {
            is_amd64: headers.is_64,
            symbols_end: if symbols.is_some() { end as u32 } else { 0 },
        }),
    })
}

/// Where random bytes shall lie, which is inside what is loaded.
fn random_ranges(headers: &ElfHeaders, segments: &[ElfSegment]) -> Result<Vec<(u64, u64)>, KernelError> {
    let mut ranges = Vec::new();
    for header in headers.programs.iter().filter(|h| h.p_type == PT_OPENBSD_RANDOMIZE) {
        let (base, len) = (header.p_paddr & ADDRESS_MASK, header.p_filesz);
        let end = base.checked_add(len).ok_or(KernelError::RandomOutside(base))?;
        if !segments.iter().any(|s| s.base <= base && end <= s.end()) {
            return Err(KernelError::RandomOutside(base));
        }
        ranges.push((base, len));
    }
    Ok(ranges)
}

/// Random bytes of the host's.
fn write_random(ram: &GuestMemoryMmap<()>, base: u64, len: u64) -> Result<(), KernelError> {
    let mut source = File::open("/dev/urandom")?;
    ram.read_exact_volatile_from(GuestAddress(base), &mut source, len as usize)
        .map_err(|_| KernelError::RandomOutside(base))
}
