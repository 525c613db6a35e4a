// SPDX-License-Identifier: GPL-2.0

//! Where a console's bytes wait, on their way to the guest or from it.

use super::rule::rule;
use kernel::prelude::*;

/// A ring of bytes over a fixed, power of two number of them.
///
/// # Invariants
/// `len <= buf.len()`, and `buf.len()` is a power of two.
#[derive(Debug)]
pub(crate) struct ByteRing {
    buf: KVVec<u8>,
    head: usize,
    len: usize,
}

impl ByteRing {
    /// Makes a ring of `bytes`, which is a power of two.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(bytes: usize) -> Result<ByteRing> {
        Ok(ByteRing { buf: KVVec::from_elem(0, bytes, GFP_KERNEL_ACCOUNT)?, head: 0, len: 0 })
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        rule(self.len <= self.buf.len(), "a ring has no more bytes than room")?;
        rule(self.buf.len().is_power_of_two(), "a ring's room is a power of two")
    }

    /// Returns how many bytes there is room for.
    pub(crate) fn room(&self) -> usize {
        self.buf.len().wrapping_sub(self.len)
    }

    fn index(&self, n: usize) -> usize {
        self.head.wrapping_add(n) & self.buf.len().wrapping_sub(1)
    }

    /// Appends a byte. Returns whether there was room.
    pub(crate) fn push(&mut self, byte: u8) -> bool {
        if self.len >= self.buf.len() {
            return false;
        }
        let at = self.index(self.len);
        if let Some(slot) = self.buf.get_mut(at) {
            *slot = byte;
        }
        self.len = self.len.wrapping_add(1);
        true
    }

    /// Appends the first bytes, as many as there is room for. Returns how many.
    pub(crate) fn push_some(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.get(..self.room()).unwrap_or(bytes);
        for byte in taken {
            self.push(*byte);
        }
        taken.len()
    }

    /// Appends bytes, and forgets the oldest where there is no room: the newest output is what a reader
    /// wants, the prompt or the last words. Returns how many were forgotten.
    pub(crate) fn push_newest(&mut self, bytes: &[u8]) -> usize {
        let mut forgotten = 0usize;
        for byte in bytes {
            if self.room() == 0 {
                self.consume(1);
                forgotten = forgotten.saturating_add(1);
            }
            self.push(*byte);
        }
        forgotten
    }

    /// Copies bytes out from the `skip`-th oldest on, and leaves them in the ring. What is not there is left
    /// as it was in `out`.
    pub(crate) fn peek(&self, skip: usize, out: &mut [u8]) {
        let there = self.len.saturating_sub(skip);
        for (n, to) in out.iter_mut().take(there).enumerate() {
            if let Some(byte) = self.buf.get(self.index(skip.wrapping_add(n))) {
                *to = *byte;
            }
        }
    }

    /// Removes the `n` oldest bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.head = self.index(n);
        self.len = self.len.wrapping_sub(n);
    }

    /// Moves bytes to `out`, oldest first. Returns how many.
    pub(crate) fn drain(&mut self, out: &mut [u8]) -> usize {
        let n = self.len.min(out.len());
        self.peek(0, out);
        self.consume(n);
        n
    }

    /// Returns how many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Removes the oldest byte.
    pub(crate) fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.buf.get(self.head).copied();
        self.head = self.index(1);
        self.len = self.len.wrapping_sub(1);
        byte
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) {
        self.head = 0;
        self.len = 0;
    }
}
