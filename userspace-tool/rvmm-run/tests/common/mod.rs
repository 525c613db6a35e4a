// SPDX-License-Identifier: GPL-2.0

//! Images and files for the tests.

#![allow(dead_code)] // Each test binary uses its own part.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// One ELF program header and the bytes that it points to.
#[derive(Clone, Debug)]
pub struct Segment {
    pub kind: u32,
    pub paddr: u64,
    pub data: Vec<u8>,
    pub mem_len: u64,
}

pub const PT_LOAD: u32 = 1;
pub const PT_NOTE: u32 = 4;

impl Segment {
    pub fn load(paddr: u64, data: &[u8]) -> Self {
        Self { kind: PT_LOAD, paddr, data: data.to_vec(), mem_len: data.len() as u64 }
    }

    pub fn note(data: Vec<u8>) -> Self {
        let mem_len = data.len() as u64;
        Self { kind: PT_NOTE, paddr: 0, data, mem_len }
    }
}

/// An x86-64 executable with these segments.
pub fn elf(entry: u64, segments: &[Segment]) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend(2u16.to_le_bytes());
    header.extend(62u16.to_le_bytes());
    header.extend(1u32.to_le_bytes());
    header.extend(entry.to_le_bytes());
    header.extend(64u64.to_le_bytes());
    header.extend(0u64.to_le_bytes());
    header.extend(0u32.to_le_bytes());
    for half in [64u16, 56, segments.len() as u16, 0, 0, 0] {
        header.extend(half.to_le_bytes());
    }
    let mut offset = 64 + 56 * segments.len() as u64;
    let mut data: Vec<u8> = Vec::new();
    for segment in segments {
        header.extend(segment.kind.to_le_bytes());
        header.extend(7u32.to_le_bytes());
        let len = segment.data.len() as u64;
        for word in [offset, segment.paddr, segment.paddr, len, segment.mem_len, 4] {
            header.extend(word.to_le_bytes());
        }
        data.extend(&segment.data);
        offset += len;
    }
    header.extend(data);
    header
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
