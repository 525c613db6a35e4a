// SPDX-License-Identifier: GPL-2.0

//! Unified kernel images: a PE program for EFI that carries a kernel, its initrd and its command line in sections.
//!
//! Follows the UAPI Group's "Unified Kernel Image (UKI)", "UKI Components", and Microsoft's "PE Format", "COFF File Header"
//! and "Section Table". The program itself is not run: its parts are taken as if they had been given one by one.

use super::error::KernelError;
use super::image::KernelImage;

/// A range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// What a unified kernel image holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uki {
    /// `.linux`.
    pub kernel: Part,
    /// `.initrd`.
    pub initrd: Option<Part>,
    /// `.cmdline`, without the blanks around it.
    pub cmdline: Option<String>,
}

/// Offset of the field that says where the PE header is.
const PE_OFFSET: u64 = 0x3c;
/// Bytes of the signature and the COFF header.
const COFF: usize = 24;
/// Bytes of a section's header.
const SECTION: usize = 40;
/// Most bytes of a command line that are looked at.
const CMDLINE_MAX: u64 = 64 << 10;

/// Takes a unified kernel image apart; `None` for what is none.
///
/// # Errors
/// `Truncated`, `Io`.
pub fn read(image: &(impl KernelImage + ?Sized)) -> Result<Option<Uki>, KernelError> {
    let Some(sections) = sections(image)? else { return Ok(None) };
    let find = |name: &[u8; 8]| sections.iter().find(|(n, _)| n == name).map(|(_, part)| *part);
    let Some(kernel) = find(b".linux\0\0") else { return Ok(None) };
    let initrd = find(b".initrd\0");
    for part in [Some(kernel), initrd].into_iter().flatten() {
        let needs = part.offset + part.len;
        if needs > image.len() {
            return Err(KernelError::Truncated { needs, has: image.len() });
        }
    }
    let cmdline = match find(b".cmdline") {
        None => None,
        Some(Part { offset, len }) => {
            let mut text = vec![0; len.min(CMDLINE_MAX) as usize];
            image.read_at(offset, &mut text)?;
            Some(
                String::from_utf8_lossy(&text)
                    .trim_matches(|c: char| c == '\0' || c.is_whitespace())
                    .to_string(),
            )
        }
    };
    Ok(Some(Uki { kernel, initrd, cmdline }))
}

/// Sections of a PE file, by name.
type Sections = Vec<([u8; 8], Part)>;

/// The sections of a PE file; `None` for what is none.
fn sections(image: &(impl KernelImage + ?Sized)) -> Result<Option<Sections>, KernelError> {
    let mut start = [0; PE_OFFSET as usize + 4];
    if image.len() < start.len() as u64 {
        return Ok(None);
    }
    image.read_at(0, &mut start)?;
    let header = u64::from(word(&start, PE_OFFSET as usize));
    let mut coff = [0; COFF];
    if !start.starts_with(b"MZ") || header + COFF as u64 > image.len() {
        return Ok(None);
    }
    image.read_at(header, &mut coff)?;
    if !coff.starts_with(b"PE\0\0") {
        return Ok(None);
    }
    let half = |at: usize| u16::from_le_bytes([coff[at], coff[at + 1]]);
    let (count, optional) = (usize::from(half(6)), u64::from(half(20)));
    let at = header + COFF as u64 + optional;
    let mut table = vec![0; count * SECTION];
    if at + table.len() as u64 > image.len() {
        return Ok(None);
    }
    image.read_at(at, &mut table)?;
    let section = |bytes: &[u8]| {
        let mut name = [0; 8];
        name.copy_from_slice(&bytes[..8]);
        // What is in memory ends before the padding of the file.
        let len = word(bytes, 8).min(word(bytes, 16));
        (name, Part { offset: word(bytes, 20).into(), len: len.into() })
    };
    Ok(Some(table.chunks_exact(SECTION).map(section).collect()))
}

/// The 32-bit word at `at`, which lies in `bytes`.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
