// SPDX-License-Identifier: GPL-2.0

//! ELF kernel loader: segments go to their physical addresses.
//!
//! A kernel with the note `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, "x86/HVM direct boot ABI") is entered there in 32-bit mode, any
//! other at its ELF entry point in long mode as a Linux `vmlinux` wants it. Only headers and notes are held in memory; the
//! segments are copied from the file piece by piece.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{ELFCLASS64, ELFDATA2LSB, EM_X86_64, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PT_LOAD, PT_NOTE};
use goblin::elf::{Elf, ProgramHeader};
use linux_loader::loader::bootparam::setup_header;
use vm_memory::GuestMemoryMmap;

use super::error::KernelError;
use super::image::{copy_to_guest, KernelImage};
use super::loaded::{KernelEntry, LoadedKernel};
use crate::config::layout::HIGH_RAM;
use crate::config::memory::RamSize;

/// Size of an ELF64 file header.
const EHDR: u64 = 64;
/// Size of an ELF64 program header.
const PHDR: u16 = 56;
/// More program headers than any kernel has.
const MAX_SEGMENTS: u16 = 128;
/// Bytes of notes that are searched per segment.
const MAX_NOTES: u64 = 1 << 20;
/// Note type of the 32-bit entry point, with owner `Xen`.
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// No physical address reaches so far; kernels' virtual ones begin at 0xffff8000_00000000.
const VIRTUAL: u64 = 1 << 52;
/// Longest command line of a Linux kernel on x86, terminator not counted.
const LINUX_CMDLINE_MAX: u32 = 2047;

/// Loads an ELF kernel.
///
/// # Errors
/// What is wrong with its headers, its segments or their fit into RAM.
pub fn load(
    image: &(impl KernelImage + ?Sized),
    size: RamSize,
    ram: &GuestMemoryMmap<()>,
) -> Result<LoadedKernel, KernelError> {
    let (elf_entry, headers) = read_headers(image)?;
    let segments = check_segments(&headers, image.len(), size)?;
    let entry = match pvh_entry(image, &headers)? {
        Some(eip) => KernelEntry::Pvh { eip },
        None => KernelEntry::Linux64 { rip: elf_entry },
    };
    let start = match entry {
        KernelEntry::Pvh { eip } => u64::from(eip),
        KernelEntry::Linux64 { rip } => rip,
    };
    if !segments.iter().any(|s| s.contains(start)) {
        return Err(KernelError::EntryOutside(start));
    }
    for segment in &segments {
        copy_to_guest(image, segment.offset, segment.file_len, ram, segment.base)?;
    }
    Ok(LoadedKernel {
        entry,
        end: segments.iter().map(Segment::end).max().unwrap_or(HIGH_RAM),
        cmdline_max: LINUX_CMDLINE_MAX,
        initrd_max: u64::from(u32::MAX),
        header: setup_header { boot_flag: 0xaa55, header: 0x5372_6448, version: 0x20f, ..Default::default() },
    })
}

/// A segment to load. Invariant: it lies in the file, and `base + mem_len` in RAM at or above 1 MiB.
#[derive(Clone, Copy, Debug)]
struct Segment {
    index: usize,
    offset: u64,
    file_len: u64,
    base: u64,
    mem_len: u64,
}

impl Segment {
    fn end(&self) -> u64 {
        self.base + self.mem_len
    }

    fn contains(&self, gpa: u64) -> bool {
        gpa >= self.base && gpa < self.end()
    }
}

/// Entry point and program headers.
fn read_headers(image: &(impl KernelImage + ?Sized)) -> Result<(u64, Vec<ProgramHeader>), KernelError> {
    let has = image.len();
    let mut ident = [0; EHDR as usize];
    let readable = has.min(EHDR) as usize;
    image.read_at(0, &mut ident[..readable])?;
    if readable > 4 && ident[4] != ELFCLASS64 {
        return Err(KernelError::Elf32);
    }
    if has < EHDR {
        return Err(KernelError::Truncated { needs: EHDR, has });
    }
    if ident[5] != ELFDATA2LSB {
        return Err(KernelError::ElfHeader("byte order"));
    }
    let header = Elf::parse_header(&ident).map_err(|_| KernelError::ElfHeader("file header"))?;
    if header.e_machine != EM_X86_64 {
        return Err(KernelError::ElfMachine(header.e_machine));
    }
    if header.e_type != ET_EXEC && header.e_type != ET_DYN {
        return Err(KernelError::ElfType(header.e_type));
    }
    if header.e_phnum == 0 {
        return Err(KernelError::NoSegments);
    }
    if header.e_phentsize != PHDR || header.e_phnum > MAX_SEGMENTS {
        return Err(KernelError::ElfHeader("program headers"));
    }
    let len = u64::from(header.e_phnum) * u64::from(PHDR);
    let needs = header.e_phoff.checked_add(len).ok_or(KernelError::ElfHeader("program headers"))?;
    if needs > has {
        return Err(KernelError::Truncated { needs, has });
    }
    let mut table = vec![0; len as usize];
    image.read_at(header.e_phoff, &mut table)?;
    let ctx = Ctx::new(Container::Big, Endian::Little);
    let headers = ProgramHeader::parse(&table, 0, usize::from(header.e_phnum), ctx);
    Ok((header.e_entry, headers.map_err(|_| KernelError::ElfHeader("program headers"))?))
}

/// The segments to load, each checked against file and RAM and against the others.
fn check_segments(headers: &[ProgramHeader], file: u64, size: RamSize) -> Result<Vec<Segment>, KernelError> {
    let mut segments = Vec::new();
    for (index, header) in headers.iter().enumerate() {
        if header.p_type != PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        segments.push(check_segment(index, header, file, size)?);
    }
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
) -> Result<Segment, KernelError> {
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
    Ok(Segment {
        index,
        offset: header.p_offset,
        file_len: header.p_filesz,
        base: header.p_paddr,
        mem_len: header.p_memsz,
    })
}

/// The PVH entry point, when a note names one.
fn pvh_entry(
    image: &(impl KernelImage + ?Sized),
    headers: &[ProgramHeader],
) -> Result<Option<u32>, KernelError> {
    for header in headers.iter().filter(|h| h.p_type == PT_NOTE) {
        let len = header.p_filesz.min(MAX_NOTES);
        let needs = header.p_offset.checked_add(len).ok_or(KernelError::ElfHeader("note segment"))?;
        if needs > image.len() {
            return Err(KernelError::Truncated { needs, has: image.len() });
        }
        let mut notes = vec![0; len as usize];
        image.read_at(header.p_offset, &mut notes)?;
        let align = if header.p_align == 8 { 8 } else { 4 };
        if let Some(eip) = find_pvh_note(&notes, align) {
            return Ok(Some(eip));
        }
    }
    Ok(None)
}

/// Searches a note segment. Notes that reach beyond its end finish the search.
fn find_pvh_note(notes: &[u8], align: usize) -> Option<u32> {
    let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let mut at = 0usize;
    loop {
        let name_len = word(at)? as usize;
        let desc_len = word(at.checked_add(4)?)? as usize;
        let kind = word(at.checked_add(8)?)?;
        let name_at = at.checked_add(12)?;
        let desc_at = name_at.checked_add(name_len)?.checked_next_multiple_of(align)?;
        let next = desc_at.checked_add(desc_len)?.checked_next_multiple_of(align)?;
        let name = notes.get(name_at..name_at.checked_add(name_len)?)?;
        if name == b"Xen\0" && kind == XEN_ELFNOTE_PHYS32_ENTRY && desc_len >= 4 {
            return word(desc_at);
        }
        at = next;
    }
}
