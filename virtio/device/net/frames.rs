// SPDX-License-Identifier: GPL-2.0

//! Packets in a stream of bytes: each has its length in front of it, four bytes, the highest first.
//!
//! That is how QEMU's socket back end carries packets, and what user-mode networks such as passt speak.

use crate::arch::rule::rule;
use kernel::prelude::*;

/// Bytes of the length in front of a packet.
pub(crate) const PREFIX: usize = 4;
/// The longest packet: an IPv6 packet of 64 KiB with Ethernet header and a VLAN tag.
pub(crate) const MAX_FRAME: usize = 65_535 + 40 + 18;
/// Room for bytes that were received: two packets of the longest.
const ROOM: usize = 2 * (PREFIX + MAX_FRAME);

/// Bytes that were received, of which whole packets are taken.
///
/// # Invariants
/// `start <= end <= bytes.len()`.
#[derive(Debug)]
pub(crate) struct FrameStream {
    bytes: KVVec<u8>,
    start: usize,
    end: usize,
}

impl FrameStream {
    /// Returns an empty one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<FrameStream> {
        Ok(FrameStream { bytes: KVVec::from_elem(0, ROOM, GFP_KERNEL_ACCOUNT)?, start: 0, end: 0 })
    }

    /// Returns where the next bytes go, never empty when [`FrameStream::next`] found no packet.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start != 0 {
            let left = self.end.saturating_sub(self.start);
            // Piece by piece, so that none overlaps the place that it goes to.
            let mut moved = 0;
            while moved < left {
                let step = left.saturating_sub(moved).min(self.start);
                let from = self.start.saturating_add(moved);
                let Some((before, rest)) = self.bytes.split_at_mut_checked(from) else { break };
                let to = before.get_mut(moved..).unwrap_or(&mut []);
                for (to, from) in to.iter_mut().zip(rest.iter().take(step)) {
                    *to = *from;
                }
                moved = moved.saturating_add(step);
            }
            self.end = left;
            self.start = 0;
        }
        self.bytes.get_mut(self.end..).unwrap_or(&mut [])
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    fn check(&self) -> Result<(), &'static str> {
        rule(self.start <= self.end && self.end <= self.bytes.len(), "what was received is in the buffer")
    }

    /// Notes that the first `n` bytes of the room were filled.
    pub(crate) fn filled(&mut self, n: usize) {
        self.end = self.end.saturating_add(n).min(self.bytes.len());
        debug_assert_eq!(self.check(), Ok(()));
    }

    /// Returns the first packet, if all of it was received.
    ///
    /// # Errors
    /// The length is none that a packet can have: the stream makes no sense.
    pub(crate) fn next(&self) -> Result<Option<&[u8]>, ()> {
        let received = self.bytes.get(self.start..self.end).unwrap_or(&[]);
        let Some((prefix, rest)) = received.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*prefix)).map_err(|_| ())?;
        if len == 0 || len > MAX_FRAME {
            return Err(());
        }
        Ok(rest.get(..len))
    }

    /// Removes the packet that [`FrameStream::next`] gave.
    pub(crate) fn consume(&mut self) {
        if let Ok(Some(frame)) = self.next() {
            let len = PREFIX.saturating_add(frame.len());
            self.start = self.start.saturating_add(len).min(self.end);
        }
        debug_assert_eq!(self.check(), Ok(()));
    }
}
