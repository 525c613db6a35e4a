// SPDX-License-Identifier: GPL-2.0

//! The segments of an ELF kernel: checked against the file, against RAM and against each other, then copied.

use goblin::elf::ProgramHeader;
use vm_memory::GuestMemoryMmap;

use crate::config::layout::HIGH_RAM;
use crate::config::memory::RamSize;
use crate::kernel::error::KernelError;
use crate::kernel::image::{copy_to_guest, KernelImage};

/// No physical address reaches so far; kernels' virtual ones begin at 0xffff8000_00000000.
const VIRTUAL: u64 = 1 << 52;

/// A segment to load. Invariant: it lies in the file, and `base + mem_len` in RAM at or above 1 MiB.
#[derive(Clone, Copy, Debug)]
pub struct ElfSegment {
    index: usize,
    offset: u64,
    file_len: u64,
    /// Its first byte in guest memory.
    pub base: u64,
    mem_len: u64,
    /// The address that it is linked for.
    virt: u64,
}

impl ElfSegment {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.base + self.mem_len
    }

    /// Whether what is copied from the file covers `gpa`.
    fn holds(&self, gpa: u64) -> bool {
        gpa.checked_sub(self.base).is_some_and(|offset| offset < self.file_len)
    }

    /// The physical address of a virtual one.
    fn physical(&self, gva: u64) -> Option<u64> {
        gva.checked_sub(self.virt).filter(|offset| *offset < self.mem_len).map(|offset| self.base + offset)
    }
}

/// The segments of these headers, numbered as in the file.
///
/// # Errors
/// `NoSegments`, `Overlap`, and what is wrong with one of them.
pub fn check_segments<'a>(
    headers: impl Iterator<Item = (usize, &'a ProgramHeader)>,
    file: u64,
    size: RamSize,
) -> Result<Vec<ElfSegment>, KernelError> {
    let checked = headers.map(|(index, header)| check_segment(index, header, file, size));
    let segments = checked.collect::<Result<Vec<_>, _>>()?;
    if segments.is_empty() {
        return Err(KernelError::NoSegments);
    }
    let mut sorted = segments.clone();
    sorted.sort_by_key(|s| s.base);
    for pair in sorted.windows(2) {
        if let [a, b] = pair {
            if a.end() > b.base {
                return Err(KernelError::Overlap(a.index.min(b.index), a.index.max(b.index)));
            }
        }
    }
    Ok(segments)
}

fn check_segment(
    index: usize,
    header: &ProgramHeader,
    file: u64,
    size: RamSize,
) -> Result<ElfSegment, KernelError> {
    if header.p_filesz > header.p_memsz {
        return Err(KernelError::BadSegment(index));
    }
    let needs = header.p_offset.checked_add(header.p_filesz).ok_or(KernelError::BadSegment(index))?;
    if needs > file {
        return Err(KernelError::Truncated { needs, has: file });
    }
    let end = header.p_paddr.checked_add(header.p_memsz).ok_or(KernelError::BadSegment(index))?;
    if header.p_paddr >= VIRTUAL {
        return Err(KernelError::VirtualAddress(index, header.p_paddr));
    }
    if header.p_paddr < HIGH_RAM {
        return Err(KernelError::BelowOneMib(index));
    }
    if end > size.low() {
        return Err(KernelError::DoesNotFit { end, ram: size.low() });
    }
    Ok(ElfSegment {
        index,
        offset: header.p_offset,
        file_len: header.p_filesz,
        base: header.p_paddr,
        mem_len: header.p_memsz,
        virt: header.p_vaddr,
    })
}

/// Refuses an entry where nothing is copied to.
///
/// # Errors
/// `EntryOutside`.
pub fn check_entry(segments: &[ElfSegment], start: u64) -> Result<(), KernelError> {
    if segments.iter().any(|s| s.holds(start)) {
        Ok(())
    } else {
        Err(KernelError::EntryOutside(start))
    }
}

/// The physical address of an entry point, which some linkers' scripts make a virtual one.
pub fn physical_entry(segments: &[ElfSegment], entry: u64) -> u64 {
    segments.iter().find_map(|s| s.physical(entry)).unwrap_or(entry)
}

/// The first byte behind all of them.
pub fn end_of(segments: &[ElfSegment]) -> u64 {
    segments.iter().map(ElfSegment::end).max().unwrap_or(HIGH_RAM)
}

/// Copies what the file has of each; the rest of guest memory is zero already.
///
/// # Errors
/// That of the read.
pub fn copy_segments(
    image: &(impl KernelImage + ?Sized),
    segments: &[ElfSegment],
    ram: &GuestMemoryMmap<()>,
) -> Result<(), KernelError> {
    for segment in segments {
        copy_to_guest(image, segment.offset, segment.file_len, ram, segment.base)?;
    }
    Ok(())
}
