// SPDX-License-Identifier: GPL-2.0

//! Structures for a kernel that point into each other, as bytes with a place in guest memory.

/// Bytes that will lie at a guest physical address below 4 GiB. They are few: who builds them checks their sum at the end.
#[derive(Clone, Debug)]
pub struct Blob {
    base: u32,
    /// What there is so far.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Nothing, at `base`.
    pub fn new(base: u32) -> Self {
        Self { base, bytes: Vec::new() }
    }

    /// The address of what is added next.
    pub fn here(&self) -> u32 {
        self.base.wrapping_add(self.bytes.len() as u32)
    }

    /// Adds `len` zero bytes and returns their offset.
    pub fn reserve(&mut self, len: usize) -> usize {
        let at = self.bytes.len();
        self.bytes.resize(at + len, 0);
        at
    }

    /// Adds zero bytes up to a multiple of `to`.
    pub fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Adds a number.
    pub fn add_u32(&mut self, value: u32) {
        self.add_bytes(&value.to_le_bytes());
    }

    /// Adds a number.
    pub fn add_u64(&mut self, value: u64) {
        self.add_bytes(&value.to_le_bytes());
    }

    /// Adds a text with a zero behind it, and what is missing to a multiple of four. Returns its address.
    pub fn add_text(&mut self, text: &str) -> u32 {
        let at = self.here();
        self.add_bytes(text.as_bytes());
        self.add_bytes(&[0]);
        self.align(4);
        at
    }

    /// Overwrites the number at `offset`, which is there.
    pub fn put_u32(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}
