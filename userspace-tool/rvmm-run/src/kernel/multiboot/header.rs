// SPDX-License-Identifier: GPL-2.0

//! The header by which a multiboot kernel is known, and what it asks for.
//!
//! "Multiboot Specification", "The layout of Multiboot header"; "Multiboot2 Specification", "The layout of Multiboot2
//! header" and "General tag structure". A header counts if its checksum is right; a kernel with both is taken for version 2,
//! which tells it more.

use crate::kernel::error::KernelError;
use crate::kernel::image::KernelImage;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultibootVersion {
    /// "Multiboot Specification", version 0.6.96.
    One,
    /// "Multiboot2 Specification", version 2.0.
    Two,
}

/// What the header of a kernel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultibootHeader {
    /// Which header it is.
    pub version: MultibootVersion,
    /// Where in the file.
    pub offset: u64,
    /// Where to load the file to, for what is no ELF file, or shall not be taken as one.
    pub addresses: Option<LoadAddresses>,
    /// The physical address to start at, where it is not the ELF file's.
    pub entry: Option<u32>,
    /// It could be moved and so wants to know where it is.
    pub is_movable: bool,
}

/// Physical addresses that the parts of a file are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadAddresses {
    /// The header's own, which ties file offsets to addresses.
    pub header: u32,
    /// The first byte to load; the file's first if there is none.
    pub load: Option<u32>,
    /// Behind the last byte to load, 0 for the file's end.
    pub load_end: u32,
    /// Behind the zeroes that follow, 0 for none.
    pub bss_end: u32,
}

/// The part of a file that may hold a header: all of it lies in the first 8 KiB, or 32 KiB.
const SEARCHED: [usize; 2] = [8 << 10, 32 << 10];

/// Version 1: magic number, and the flags.
const MAGIC_1: u32 = 0x1bad_b002;
/// Modules shall be page aligned, as ours always are.
const PAGE_ALIGN: u32 = 1 << 0;
/// The kernel needs the sizes of memory.
const MEMORY_INFO: u32 = 1 << 1;
/// It would like a video mode.
const VIDEO_MODE: u32 = 1 << 2;
/// The address fields count.
const ADDRESS_FIELDS: u32 = 1 << 16;
/// Flags that a loader must know, or give up.
const REQUIRED: u32 = 0xffff;

/// Version 2: magic number, and the number of x86 among architectures.
const MAGIC_2: u32 = 0xe852_50d6;
const ARCH_I386: u32 = 0;
/// Bytes of the header before its tags.
const FIXED_2: usize = 16;
/// A tag's flag: who does not know it may ignore it.
const OPTIONAL: u16 = 1;
/// The kernel does not want to live without a console that it knows.
const CONSOLE_REQUIRED: u32 = 1;

/// Finds and reads the header of a kernel; `None` if it has none.
///
/// # Errors
/// `MultibootFlags`, `MultibootTag`, `MultibootRequest`, `MultibootHeader` for what a header asks in vain; `Io`.
pub fn find(image: &(impl KernelImage + ?Sized)) -> Result<Option<MultibootHeader>, KernelError> {
    let [in_1, in_2] = SEARCHED.map(|most| image.len().min(most as u64) as usize);
    let mut head = vec![0; in_2];
    image.read_at(0, &mut head)?;
    for offset in (0..in_2).step_by(8) {
        if let Some(tags) = tags_of(&head, offset) {
            return read_2(offset, tags?).map(Some);
        }
    }
    for offset in (0..in_1).step_by(4) {
        if let Some(flags) = flags_of(&head[..in_1], offset) {
            return read_1(&head[..in_1], offset, flags).map(Some);
        }
    }
    Ok(None)
}

/// The 32-bit word at `at`.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The flags of a header of version 1, if there is one.
fn flags_of(head: &[u8], offset: usize) -> Option<u32> {
    let [magic, flags, checksum] = [word(head, offset)?, word(head, offset + 4)?, word(head, offset + 8)?];
    (magic == MAGIC_1 && magic.wrapping_add(flags).wrapping_add(checksum) == 0).then_some(flags)
}

fn read_1(head: &[u8], offset: usize, flags: u32) -> Result<MultibootHeader, KernelError> {
    let unknown = flags & REQUIRED & !(PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE);
    if unknown != 0 {
        return Err(KernelError::MultibootFlags(unknown as u16));
    }
    let mut header = MultibootHeader {
        version: MultibootVersion::One,
        offset: offset as u64,
        addresses: None,
        entry: None,
        is_movable: false,
    };
    if flags & ADDRESS_FIELDS != 0 {
        let field = |n: usize| {
            word(head, offset + 12 + 4 * n)
                .ok_or(KernelError::MultibootHeader("its address fields are cut off"))
        };
        header.addresses = Some(LoadAddresses {
            header: field(0)?,
            load: Some(field(1)?),
            load_end: field(2)?,
            bss_end: field(3)?,
        });
        header.entry = Some(field(4)?);
    }
    Ok(header)
}

/// The tags of a header of version 2, if there is one.
fn tags_of(head: &[u8], offset: usize) -> Option<Result<&[u8], KernelError>> {
    let field = |n: usize| word(head, offset + 4 * n);
    let [magic, arch, len, checksum] = [field(0)?, field(1)?, field(2)?, field(3)?];
    let sum = magic.wrapping_add(arch).wrapping_add(len).wrapping_add(checksum);
    if magic != MAGIC_2 || sum != 0 {
        return None;
    }
    if arch != ARCH_I386 {
        return Some(Err(KernelError::MultibootHeader("it is for another architecture")));
    }
    let end = offset.checked_add(len as usize)?;
    let tags = head.get(offset + FIXED_2..end);
    Some(tags.ok_or(KernelError::MultibootHeader("it reaches beyond the first 32 KiB, or the file")))
}

fn read_2(offset: usize, mut tags: &[u8]) -> Result<MultibootHeader, KernelError> {
    let cut_off = || KernelError::MultibootHeader("its tags are cut off");
    let mut header = MultibootHeader {
        version: MultibootVersion::Two,
        offset: offset as u64,
        addresses: None,
        entry: None,
        is_movable: false,
    };
    loop {
        let [kind, size] = [word(tags, 0).ok_or_else(cut_off)?, word(tags, 4).ok_or_else(cut_off)?];
        let (kind, flags) = (kind as u16, (kind >> 16) as u16);
        let tag = tags.get(..size as usize).filter(|tag| tag.len() >= 8).ok_or_else(cut_off)?;
        if kind == 0 {
            return Ok(header);
        }
        take_tag(&mut header, kind, flags & OPTIONAL != 0, tag)?;
        tags = tags.get(tag.len().next_multiple_of(8)..).ok_or_else(cut_off)?;
    }
}

/// Takes what a tag says into `header`.
fn take_tag(
    header: &mut MultibootHeader,
    kind: u16,
    is_optional: bool,
    tag: &[u8],
) -> Result<(), KernelError> {
    let field = |n: usize| word(tag, 8 + 4 * n).ok_or(KernelError::MultibootHeader("a tag is too short"));
    match kind {
        1 if is_optional => {}
        1 => return check_request(&tag[8..]),
        2 => {
            let load = Some(field(1)?).filter(|load| *load != u32::MAX);
            header.addresses =
                Some(LoadAddresses { header: field(0)?, load, load_end: field(2)?, bss_end: field(3)? });
        }
        3 => header.entry = Some(field(0)?),
        4 if !is_optional && field(0)? & CONSOLE_REQUIRED != 0 => return Err(KernelError::MultibootConsole),
        // Consoles and modes that would be liked, modules on page boundaries, entries for EFI alone.
        4..=6 | 8 | 9 => {}
        // It may be moved, and need not be.
        10 => header.is_movable = true,
        _ if is_optional => {}
        _ => return Err(KernelError::MultibootTag(kind)),
    }
    Ok(())
}

/// What this machine never has, so that there is nothing to tell: a BIOS's boot device, VBE, a framebuffer, APM, EFI,
/// SMBIOS, a network that it was loaded from. To ask for that is not to need it.
const ABSENT: [u32; 12] = [5, 7, 8, 10, 11, 12, 13, 16, 17, 18, 19, 20];
/// What `info2` tells: command line, loader, modules, sizes and map of memory, both kinds of RSDP, load base.
const TOLD: [u32; 8] = [1, 2, 3, 4, 6, 14, 15, 21];

/// Refuses a request for something that there is and that is not told.
fn check_request(kinds: &[u8]) -> Result<(), KernelError> {
    let words = kinds.chunks_exact(4).map(|kind| u32::from_le_bytes([kind[0], kind[1], kind[2], kind[3]]));
    match words.into_iter().find(|kind| !TOLD.contains(kind) && !ABSENT.contains(kind)) {
        Some(kind) => Err(KernelError::MultibootRequest(kind)),
        None => Ok(()),
    }
}
