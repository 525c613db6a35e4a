// SPDX-License-Identifier: GPL-2.0

//! A bounded byte queue that keeps the newest bytes.

use std::collections::VecDeque;

/// Bytes on their way.
#[derive(Clone, Debug)]
pub struct ByteRing {
    bytes: VecDeque<u8>,
    limit: usize,
}

impl ByteRing {
    /// An empty queue for `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit }
    }

    /// Appends `data` and forgets the oldest bytes beyond the limit. Returns how many.
    pub fn push(&mut self, data: &[u8]) -> usize {
        self.append(data);
        let excess = self.bytes.len().saturating_sub(self.limit);
        self.consume(excess);
        excess
    }

    /// Appends `data`, whatever the limit.
    pub fn append(&mut self, data: &[u8]) {
        self.bytes.extend(data);
    }

    /// The oldest bytes, as many as lie together.
    pub fn front(&self) -> &[u8] {
        self.bytes.as_slices().0
    }

    /// Removes `count` of the oldest bytes.
    pub fn consume(&mut self, count: usize) {
        self.bytes.drain(..count.min(self.bytes.len()));
    }

    /// Number of bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that fit without loss.
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes.len())
    }
}
