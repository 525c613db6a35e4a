// SPDX-License-Identifier: GPL-2.0

//! The file header and the program headers of an ELF kernel. ELF, "ELF Header" and "Program Header".

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{ELFCLASS32, ELFCLASS64, ELFDATA2LSB, EM_386, EM_X86_64, ET_DYN, ET_EXEC};
use goblin::elf::program_header::PT_LOAD;
use goblin::elf::{Elf, Header, ProgramHeader};

use crate::kernel::error::KernelError;
use crate::kernel::image::KernelImage;

/// Offset of the class among the bytes that begin a file.
const CLASS: usize = 4;
/// Offset of the byte order.
const DATA: usize = 5;
/// Size of the larger of the two file headers.
const EHDR64: usize = 64;
/// More program headers than any kernel has.
const MAX_SEGMENTS: u16 = 128;

/// The headers of an ELF kernel for x86, of either class; fields are those of the wider one.
#[derive(Clone, Debug)]
pub struct ElfHeaders {
    /// Of the class that x86-64 has.
    pub is_64: bool,
    /// The file header.
    pub file: Header,
    /// The program headers.
    pub programs: Vec<ProgramHeader>,
}

/// Bytes of a file header.
pub const fn file_header_size(is_64: bool) -> u64 {
    if is_64 {
        EHDR64 as u64
    } else {
        52
    }
}

/// How goblin is told the class.
pub fn context(is_64: bool) -> Ctx {
    Ctx::new(if is_64 { Container::Big } else { Container::Little }, Endian::Little)
}

/// Whether `image` begins as an ELF file does.
///
/// # Errors
/// That of the read.
pub fn is_elf(image: &(impl KernelImage + ?Sized)) -> Result<bool, KernelError> {
    let mut magic = [0; 4];
    if image.len() < 4 {
        return Ok(false);
    }
    image.read_at(0, &mut magic)?;
    Ok(&magic == b"\x7fELF")
}

impl ElfHeaders {
    /// Reads the headers of an ELF file.
    ///
    /// # Errors
    /// `ElfHeader`, `ElfMachine`, `ElfType`, `Elf32` for the class that its machine does not have, `Truncated`.
    pub fn read(image: &(impl KernelImage + ?Sized)) -> Result<Self, KernelError> {
        let has = image.len();
        let mut bytes = [0; EHDR64];
        let readable = has.min(EHDR64 as u64) as usize;
        image.read_at(0, &mut bytes[..readable])?;
        let is_64 = match bytes[CLASS] {
            _ if readable <= CLASS => return Err(KernelError::Truncated { needs: EHDR64 as u64, has }),
            ELFCLASS32 => false,
            ELFCLASS64 => true,
            _ => return Err(KernelError::ElfHeader("class")),
        };
        let needs = file_header_size(is_64);
        if has < needs {
            return Err(KernelError::Truncated { needs, has });
        }
        if bytes[DATA] != ELFDATA2LSB {
            return Err(KernelError::ElfHeader("byte order"));
        }
        let file =
            Elf::parse_header(&bytes[..needs as usize]).map_err(|_| KernelError::ElfHeader("file header"))?;
        match (is_64, file.e_machine) {
            (true, EM_X86_64) | (false, EM_386) => {}
            (false, EM_X86_64) => return Err(KernelError::Elf32),
            (_, machine) => return Err(KernelError::ElfMachine(machine)),
        }
        if file.e_type != ET_EXEC && file.e_type != ET_DYN {
            return Err(KernelError::ElfType(file.e_type));
        }
        let programs = read_programs(image, is_64, &file)?;
        Ok(Self { is_64, file, programs })
    }

    /// The program headers of segments to load, with their numbers.
    pub fn loadable(&self) -> impl Iterator<Item = (usize, &ProgramHeader)> {
        self.programs.iter().enumerate().filter(|(_, h)| h.p_type == PT_LOAD && h.p_memsz > 0)
    }
}

fn read_programs(
    image: &(impl KernelImage + ?Sized),
    is_64: bool,
    file: &Header,
) -> Result<Vec<ProgramHeader>, KernelError> {
    let damaged = || KernelError::ElfHeader("program headers");
    let size = ProgramHeader::size(context(is_64));
    if file.e_phnum == 0 {
        return Err(KernelError::NoSegments);
    }
    if usize::from(file.e_phentsize) != size || file.e_phnum > MAX_SEGMENTS {
        return Err(damaged());
    }
    let len = usize::from(file.e_phnum) * size;
    let needs = file.e_phoff.checked_add(len as u64).ok_or_else(damaged)?;
    if needs > image.len() {
        return Err(KernelError::Truncated { needs, has: image.len() });
    }
    let mut table = vec![0; len];
    image.read_at(file.e_phoff, &mut table)?;
    ProgramHeader::parse(&table, 0, usize::from(file.e_phnum), context(is_64)).map_err(|_| damaged())
}
