// SPDX-License-Identifier: GPL-2.0

//! A UART's receive FIFO.

/// Bytes in the receive FIFO.
pub(super) const FIFO: usize = 16;

/// The receive FIFO; one byte deep while FIFOs are off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReceiveFifo {
    pub(super) bytes: [u8; FIFO],
    pub(super) len: usize,
}

impl ReceiveFifo {
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
