// SPDX-License-Identifier: GPL-2.0

//! Notes in an ELF file, and the two that say how a kernel wants to be started. ELF, "Note Section".

use goblin::elf::program_header::PT_NOTE;

use super::header::ElfHeaders;
use crate::kernel::error::KernelError;
use crate::kernel::image::KernelImage;

/// Bytes of notes that are searched per segment.
const MAX_NOTES: u64 = 1 << 20;
/// Xen, "x86/HVM direct boot ABI": the note's type.
const PHYS32_ENTRY: u32 = 18;
/// The type of the note that names a system.
const IDENT: u32 = 1;

/// What the notes of a kernel say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootNotes {
    /// The 32-bit entry point of PVH.
    pub pvh_entry: Option<u32>,
    /// It is a program of OpenBSD.
    pub is_openbsd: bool,
}

/// Reads the notes of a kernel.
///
/// # Errors
/// `Truncated`, `ElfHeader`, `Io`.
pub fn read(image: &(impl KernelImage + ?Sized), headers: &ElfHeaders) -> Result<BootNotes, KernelError> {
    let mut found = BootNotes::default();
    for header in headers.programs.iter().filter(|h| h.p_type == PT_NOTE) {
        let len = header.p_filesz.min(MAX_NOTES);
        let needs = header.p_offset.checked_add(len).ok_or(KernelError::ElfHeader("note segment"))?;
        if needs > image.len() {
            return Err(KernelError::Truncated { needs, has: image.len() });
        }
        let mut notes = vec![0; len as usize];
        image.read_at(header.p_offset, &mut notes)?;
        let align = if header.p_align == 8 { 8 } else { 4 };
        let _ = search(&notes, align, &mut found);
    }
    Ok(found)
}

/// Searches a note segment. Notes that reach beyond its end finish the search.
fn search(notes: &[u8], align: usize, found: &mut BootNotes) -> Option<()> {
    let word = |at: usize| Some(u32::from_le_bytes(notes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let mut at = 0usize;
    loop {
        let name_len = word(at)? as usize;
        let desc_len = word(at.checked_add(4)?)? as usize;
        let kind = word(at.checked_add(8)?)?;
        let name_at = at.checked_add(12)?;
        let desc_at = name_at.checked_add(name_len)?.checked_next_multiple_of(align)?;
        let next = desc_at.checked_add(desc_len)?.checked_next_multiple_of(align)?;
        match (notes.get(name_at..name_at.checked_add(name_len)?)?, kind) {
            (b"Xen\0", PHYS32_ENTRY) if desc_len >= 4 && found.pvh_entry.is_none() => {
                found.pvh_entry = Some(word(desc_at)?);
            }
            (b"OpenBSD\0", IDENT) => found.is_openbsd = true,
            _ => {}
        }
        at = next;
    }
}
