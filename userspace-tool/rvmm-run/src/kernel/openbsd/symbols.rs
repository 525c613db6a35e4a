// SPDX-License-Identifier: GPL-2.0

//! The symbols that the kernel's debugger and /dev/ksyms read behind the bss.
//!
//! OpenBSD, `sys/ddb/db_elf.c`: the file header, behind it all section headers, behind them the contents of the sections
//! that are wanted, each at a multiple of the machine's word. Their offsets count from that file header.

use goblin::elf::section_header::{SHT_STRTAB, SHT_SYMTAB};
use goblin::elf::SectionHeader;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::kernel::elf::header::{context, file_header_size, ElfHeaders};
use crate::kernel::error::KernelError;
use crate::kernel::image::{copy_to_guest, KernelImage};

/// More sections than any kernel has.
const MAX_SECTIONS: u16 = 1024;
/// Most bytes of section names that are looked at.
const NAMES_MAX: u64 = 1 << 20;
/// Sections that are wanted for their names: line numbers and types.
const WANTED: [&[u8]; 2] = [b".debug_line", b".SUNW_ctf"];
/// A section's flag: it is in memory.
const SHF_ALLOC: u64 = 2;

/// Offsets and sizes of the fields that change, which differ by class.
struct Fields {
    word: usize,
    /// Of the file header: where its tables are; how large and how many program headers are.
    phoff: usize,
    shoff: usize,
    phentsize: usize,
    /// Of a section header.
    flags: usize,
    offset: usize,
}

const FIELDS_32: Fields = Fields { word: 4, phoff: 28, shoff: 32, phentsize: 42, flags: 8, offset: 16 };
const FIELDS_64: Fields = Fields { word: 8, phoff: 32, shoff: 40, phentsize: 54, flags: 8, offset: 24 };

/// Symbols on their way into guest memory.
pub(super) struct KernelSymbols {
    base: u64,
    /// File header and section headers.
    headers: Vec<u8>,
    /// From where in the file, how much, to where from `base`.
    sections: Vec<(u64, u64, u64)>,
    len: u64,
}

impl KernelSymbols {
    /// The first byte behind them.
    pub(super) fn end(&self) -> u64 {
        self.base + self.len
    }

    /// Copies them.
    pub(super) fn copy(
        &self,
        image: &(impl KernelImage + ?Sized),
        ram: &GuestMemoryMmap<()>,
    ) -> Result<(), KernelError> {
        ram.write_slice(&self.headers, GuestAddress(self.base))
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidInput))?;
        for (from, len, to) in &self.sections {
            copy_to_guest(image, *from, *len, ram, self.base + to)?;
        }
        Ok(())
    }
}

/// Reads what there is of symbols; `None` for a kernel that was stripped of them. `kernel_end` is the end of its bss.
///
/// # Errors
/// `ElfHeader` for headers that make no sense, `Truncated`, `Io`.
pub(super) fn read(
    image: &(impl KernelImage + ?Sized),
    elf: &ElfHeaders,
    kernel_end: u64,
) -> Result<Option<KernelSymbols>, KernelError> {
    let fields = if elf.is_64 { FIELDS_64 } else { FIELDS_32 };
    let Some((mut table, sections)) = read_sections(image, elf)? else { return Ok(None) };
    if !sections.iter().any(|s| s.sh_type == SHT_SYMTAB) {
        return Ok(None);
    }
    let names = read_names(image, elf, &sections)?;
    let round = |n: u64| n.next_multiple_of(fields.word as u64);
    let mut len = round(file_header_size(elf.is_64) + table.len() as u64);
    let mut wanted = Vec::new();
    let entry = table.len() / sections.len();
    for (section, bytes) in sections.iter().zip(table.chunks_exact_mut(entry)) {
        if !is_wanted(section, &names) {
            continue;
        }
        let needs = section.sh_offset.checked_add(section.sh_size);
        let needs = needs.ok_or(KernelError::ElfHeader("section headers"))?;
        if needs > image.len() {
            return Err(KernelError::Truncated { needs, has: image.len() });
        }
        wanted.push((section.sh_offset, section.sh_size, len));
        put(bytes, fields.offset, fields.word, len);
        put(bytes, fields.flags, fields.word, section.sh_flags | SHF_ALLOC);
        // Each of them lies in the file, and there are few: no sum overflows.
        len += round(section.sh_size);
    }
    let mut headers = file_header(image, elf, &fields)?;
    headers.extend(table);
    Ok(Some(KernelSymbols { base: round(kernel_end), headers, sections: wanted, len }))
}

fn is_wanted(section: &SectionHeader, names: &[u8]) -> bool {
    let name = names.get(section.sh_name..).and_then(|rest| rest.split(|b| *b == 0).next());
    matches!(section.sh_type, SHT_SYMTAB | SHT_STRTAB) || name.is_some_and(|name| WANTED.contains(&name))
}

/// The file header for what lies in memory: no program headers, the section headers right behind it.
fn file_header(
    image: &(impl KernelImage + ?Sized),
    elf: &ElfHeaders,
    fields: &Fields,
) -> Result<Vec<u8>, KernelError> {
    let size = file_header_size(elf.is_64);
    let mut header = vec![0; size as usize];
    image.read_at(0, &mut header)?;
    put(&mut header, fields.phoff, fields.word, 0);
    put(&mut header, fields.shoff, fields.word, size);
    put(&mut header, fields.phentsize, 4, 0);
    Ok(header)
}

/// Writes the lowest `size` bytes of a number.
fn put(bytes: &mut [u8], at: usize, size: usize, value: u64) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// Section headers, as they are in the file.
type Sections = (Vec<u8>, Vec<SectionHeader>);

/// The section headers; `None` if there are none.
fn read_sections(
    image: &(impl KernelImage + ?Sized),
    elf: &ElfHeaders,
) -> Result<Option<Sections>, KernelError> {
    let damaged = || KernelError::ElfHeader("section headers");
    let count = elf.file.e_shnum;
    if count == 0 || elf.file.e_shoff == 0 {
        return Ok(None);
    }
    let entry = SectionHeader::size(context(elf.is_64));
    if usize::from(elf.file.e_shentsize) != entry || count > MAX_SECTIONS {
        return Err(damaged());
    }
    let len = usize::from(count) * entry;
    let needs = elf.file.e_shoff.checked_add(len as u64).ok_or_else(damaged)?;
    if needs > image.len() {
        return Err(KernelError::Truncated { needs, has: image.len() });
    }
    // goblin takes a table at offset 0 for none.
    let mut table = vec![0; 1 + len];
    image.read_at(elf.file.e_shoff, &mut table[1..])?;
    let sections = SectionHeader::parse(&table, 1, usize::from(count), context(elf.is_64));
    table.remove(0);
    Ok(Some((table, sections.map_err(|_| damaged())?)))
}

/// The names of sections, as far as they are there.
fn read_names(
    image: &(impl KernelImage + ?Sized),
    elf: &ElfHeaders,
    sections: &[SectionHeader],
) -> Result<Vec<u8>, KernelError> {
    let Some(section) = sections.get(usize::from(elf.file.e_shstrndx)) else { return Ok(Vec::new()) };
    let there = image.len().saturating_sub(section.sh_offset);
    let mut names = vec![0; section.sh_size.min(there).min(NAMES_MAX) as usize];
    image.read_at(section.sh_offset.min(image.len()), &mut names)?;
    Ok(names)
}
