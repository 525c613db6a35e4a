// SPDX-License-Identifier: GPL-2.0

//! Where a UART's bytes wait: the console's rings and the receive FIFO.

use kernel::prelude::*;

/// Bytes in the receive FIFO.
pub(super) const FIFO: usize = 16;

/// A ring of bytes over a fixed, power of two number of them.
///
/// # Invariants
/// `len <= buf.len()`, and `buf.len()` is a power of two.
#[derive(Debug)]
pub(super) struct Ring {
    buf: KVVec<u8>,
    head: usize,
    pub(super) len: usize,
}

impl Ring {
    /// Makes a ring of `bytes`, which is a power of two.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(bytes: usize) -> Result<Ring> {
        Ok(Ring { buf: KVVec::from_elem(0, bytes, GFP_KERNEL_ACCOUNT)?, head: 0, len: 0 })
    }

    /// Returns how many bytes there is room for.
    pub(super) fn room(&self) -> usize {
        self.buf.len().wrapping_sub(self.len)
    }

    fn index(&self, n: usize) -> usize {
        self.head.wrapping_add(n) & self.buf.len().wrapping_sub(1)
    }

    /// Appends a byte. Returns whether there was room.
    pub(super) fn push(&mut self, byte: u8) -> bool {
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

    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let byte = self.buf.get(self.head).copied();
        self.head = self.index(1);
        self.len = self.len.wrapping_sub(1);
        byte
    }

    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(super) fn clear(&mut self) {
        self.head = 0;
        self.len = 0;
    }
}

/// The receive FIFO; one byte deep while FIFOs are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fifo {
    pub(super) bytes: [u8; FIFO],
    pub(super) len: usize,
}

impl Fifo {
    pub(super) fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len = self.len.wrapping_add(1);
        }
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        if self.len == 0 {
            return None;
        }
        let [first, ..] = self.bytes;
        self.bytes.rotate_left(1);
        self.len = self.len.wrapping_sub(1);
        Some(first)
    }

    /// A register, not a FIFO: the newest byte replaces what is there.
    pub(super) fn replace(&mut self, byte: u8) {
        let [first, ..] = &mut self.bytes;
        *first = byte;
        self.len = 1;
    }
}
