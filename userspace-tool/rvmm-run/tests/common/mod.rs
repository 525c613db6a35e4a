// SPDX-License-Identifier: GPL-2.0

//! Images and files for the tests.

#![allow(dead_code)] // Each test binary uses its own part.

use rvmm_run::config::layout::MIB;
use rvmm_run::config::memory::RamSize;
use rvmm_run::kernel::error::KernelError;
use rvmm_run::kernel::load;
use rvmm_run::kernel::loaded::LoadedKernel;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// One ELF program header and the bytes that it points to.
#[derive(Clone, Debug)]
pub struct Segment {
    pub kind: u32,
    pub vaddr: u64,
    pub paddr: u64,
    pub data: Vec<u8>,
    pub mem_len: u64,
}

pub const PT_LOAD: u32 = 1;
pub const PT_NOTE: u32 = 4;
pub const PT_OPENBSD_RANDOMIZE: u32 = 0x65a3_dbe6;

impl Segment {
    pub fn load(paddr: u64, data: &[u8]) -> Self {
        Self { kind: PT_LOAD, vaddr: paddr, paddr, data: data.to_vec(), mem_len: data.len() as u64 }
    }

    pub fn note(data: Vec<u8>) -> Self {
        let mem_len = data.len() as u64;
        Self { kind: PT_NOTE, vaddr: 0, paddr: 0, data, mem_len }
    }

    pub fn random(paddr: u64, len: usize) -> Self {
        Self { kind: PT_OPENBSD_RANDOMIZE, ..Self::load(paddr, &vec![0; len]) }
    }
}

/// An x86-64 executable with these segments.
pub fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    elf_of(true, entry, segments)
}

/// An executable for i386 with these segments.
pub fn elf32(entry: u32, segments: &[Segment]) -> Vec<u8> {
    elf_of(false, entry.into(), segments)
}

/// Bytes of a file header, of a program header and of a section header, by class.
pub fn header_sizes(is_64: bool) -> (usize, usize, usize) {
    if is_64 {
        (64, 56, 64)
    } else {
        (52, 32, 40)
    }
}

/// A number as long as the class has it.
fn add_word(bytes: &mut Vec<u8>, is_64: bool, value: u64) {
    bytes.extend(&value.to_le_bytes()[..if is_64 { 8 } else { 4 }]);
}

fn elf_of(is_64: bool, entry: u64, segments: &[Segment]) -> Vec<u8> {
    let (ehdr, phdr, shdr) = header_sizes(is_64);
    let mut header = vec![0x7f, b'E', b'L', b'F', if is_64 { 2 } else { 1 }, 1, 1];
    header.resize(16, 0);
    header.extend(2u16.to_le_bytes());
    header.extend(if is_64 { 62u16 } else { 3 }.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    for word in [entry, ehdr as u64, 0] {
        add_word(&mut header, is_64, word);
    }
    header.extend(0u32.to_le_bytes());
    for half in [ehdr, phdr, segments.len(), shdr, 0, 0] {
        header.extend((half as u16).to_le_bytes());
    }
    let mut offset = (ehdr + phdr * segments.len()) as u64;
    let mut data: Vec<u8> = Vec::new();
    for segment in segments {
        let len = segment.data.len() as u64;
        header.extend(segment.kind.to_le_bytes());
        if is_64 {
            header.extend(7u32.to_le_bytes());
        }
        for word in [offset, segment.vaddr, segment.paddr, len, segment.mem_len] {
            add_word(&mut header, is_64, word);
        }
        if !is_64 {
            header.extend(7u32.to_le_bytes());
        }
        add_word(&mut header, is_64, 4);
        data.extend(&segment.data);
        offset += len;
    }
    header.extend(data);
    header
}

/// Puts section headers behind an ELF file, with a section for each of these: type, name, contents. The last has the names.
pub fn add_sections(image: &mut Vec<u8>, sections: &[(u32, &str, &[u8])]) {
    let is_64 = image[4] == 2;
    let (_, _, size) = header_sizes(is_64);
    let mut headers = vec![0; size];
    let mut name = 1u32;
    for (kind, text, contents) in sections {
        headers.extend(name.to_le_bytes());
        headers.extend(kind.to_le_bytes());
        for word in [0, 0, image.len() as u64, contents.len() as u64] {
            add_word(&mut headers, is_64, word);
        }
        headers.resize(headers.len().next_multiple_of(size), 0);
        image.extend(*contents);
        name += text.len() as u32 + 1;
    }
    let table = (image.len() as u64).to_le_bytes();
    image.extend(headers);
    let count = sections.len() as u16;
    let (shoff, shnum) = if is_64 { (40, 60) } else { (32, 48) };
    put(image, shoff, &table[..if is_64 { 8 } else { 4 }]);
    put(image, shnum, &(count + 1).to_le_bytes());
    put(image, shnum + 2, &count.to_le_bytes());
}

/// The contents of a note segment: one foreign note, then the PVH entry.
pub fn pvh_note(entry: u32) -> Vec<u8> {
    let mut note = Vec::new();
    for (name, kind, desc) in [(&b"GNU\0"[..], 3u32, &[1u8, 2, 3][..]), (b"Xen\0", 18, &entry.to_le_bytes())]
    {
        note.extend((name.len() as u32).to_le_bytes());
        note.extend((desc.len() as u32).to_le_bytes());
        note.extend(kind.to_le_bytes());
        note.extend(name);
        note.extend(desc);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// A bzImage whose protected-mode part is `code`, padded to 16 bytes.
pub fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut code = code.to_vec();
    code.resize(code.len().next_multiple_of(16), 0);
    let mut image = vec![0; 1024];
    image[0x1f1] = 1;
    put(&mut image, 0x1f4, &(code.len() as u32 / 16).to_le_bytes());
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20fu16.to_le_bytes());
    image[0x211] = 1;
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    image[0x234] = 1;
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x80_0000u32.to_le_bytes());
    image.extend(code);
    image
}

/// Overwrites part of an image.
pub fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A folder that goes away with its contents.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rvmm-run-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary folder");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).expect("temporary file");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Returns RAM of that many MiB, and its size.
pub fn ram(mib: u64) -> (RamSize, GuestMemoryMmap<()>) {
    let size = RamSize::from_bytes(mib * MIB).unwrap();
    (size, size.allocate().unwrap())
}

/// Loads a kernel into that many MiB of RAM.
pub fn load_in(mib: u64, image: &[u8]) -> Result<(LoadedKernel, GuestMemoryMmap<()>), KernelError> {
    let (size, ram) = ram(mib);
    load(image, size, &ram).map(|loaded| (loaded, ram))
}

/// Returns bytes of RAM.
pub fn read(ram: &GuestMemoryMmap<()>, gpa: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    ram.read_slice(&mut buf, GuestAddress(gpa)).unwrap();
    buf
}

/// Returns a word of RAM.
pub fn u32_at(ram: &GuestMemoryMmap<()>, gpa: u64) -> u32 {
    ram.read_obj(GuestAddress(gpa)).unwrap()
}
