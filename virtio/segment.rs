// SPDX-License-Identifier: GPL-2.0

//! Pieces of guest memory: what a buffer consists of.
//!
//! A buffer is a list of segments, and what is in it (a header, data, a status) lies anywhere across
//! them: VIRTIO 1.2, "Message Framing". The functions here cut and copy by position in the buffer.

use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use kernel::prelude::*;

/// A piece of guest memory, never empty in a `BufferChain`, never wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemSegment {
    /// First byte.
    pub(crate) gpa: Gpa,
    /// Bytes.
    pub(crate) len: u32,
}

/// A list of segments with a fixed room, made once and used again and again.
#[derive(Debug, Default)]
pub(crate) struct SegmentList {
    slots: KVVec<MemSegment>,
    len: usize,
}

impl SegmentList {
    /// Returns an empty list with room for `room` segments.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(room: usize) -> Result<SegmentList> {
        Ok(SegmentList { slots: KVVec::from_elem(MemSegment::default(), room, GFP_KERNEL_ACCOUNT)?, len: 0 })
    }

    /// Returns the segments.
    pub(crate) fn as_slice(&self) -> &[MemSegment] {
        self.slots.get(..self.len).unwrap_or(&[])
    }

    /// Returns how many segments there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Removes all but the first `len`.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends a segment; `None` means that the list is full.
    pub(crate) fn push(&mut self, segment: MemSegment) -> Option<()> {
        *self.slots.get_mut(self.len)? = segment;
        self.len = self.len.wrapping_add(1);
        Some(())
    }

    /// Removes all segments.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

/// Returns the bytes in `segments`.
#[inline]
pub(crate) fn total(segments: &[MemSegment]) -> u64 {
    segments.iter().fold(0u64, |sum, s| sum.saturating_add(u64::from(s.len)))
}

/// Returns the parts of `segments` that hold `len` bytes after the first `skip`.
pub(crate) fn slice(segments: &[MemSegment], skip: u64, len: u64) -> impl Iterator<Item = MemSegment> + '_ {
    let (mut skip, mut len) = (skip, len);
    segments.iter().filter_map(move |segment| {
        let bytes = u64::from(segment.len);
        let skipped = skip.min(bytes);
        skip = skip.saturating_sub(skipped);
        let taken = bytes.saturating_sub(skipped).min(len);
        len = len.saturating_sub(taken);
        let taken = u32::try_from(taken).unwrap_or(0);
        (taken != 0).then(|| MemSegment { gpa: segment.gpa.wrapping_add(skipped), len: taken })
    })
}

/// Copies `buf.len()` bytes out of `segments`, from byte `skip` on.
///
/// # Errors
/// As [`MemError`]. Fewer bytes there leave the rest of `buf` as it was.
pub(crate) fn read_segments<M: GuestMem>(
    mem: &M,
    segments: &[MemSegment],
    skip: u64,
    mut buf: &mut [u8],
) -> Result<(), MemError> {
    let len = buf.len() as u64;
    // All of it in one place, as headers are.
    if let Some(first) = segments.first().filter(|first| skip == 0 && u64::from(first.len) >= len) {
        return mem.read(first.gpa, buf);
    }
    for part in slice(segments, skip, len) {
        let Some((now, rest)) = buf.split_at_mut_checked(part.len as usize) else { break };
        mem.read(part.gpa, now)?;
        buf = rest;
    }
    Ok(())
}

/// Copies `buf` into `segments`, as much as fits. Returns the bytes copied.
///
/// # Errors
/// As [`MemError`]; a prefix may then have been written.
pub(crate) fn write_segments<M: GuestMem>(
    mem: &M,
    segments: &[MemSegment],
    buf: &[u8],
) -> Result<u32, MemError> {
    write_segments_at(mem, segments, 0, buf)
}

/// As [`write_segments`], from byte `skip` of the segments on.
///
/// # Errors
/// As [`write_segments`].
pub(crate) fn write_segments_at<M: GuestMem>(
    mem: &M,
    segments: &[MemSegment],
    skip: u64,
    mut buf: &[u8],
) -> Result<u32, MemError> {
    let mut written = 0u32;
    for part in slice(segments, skip, buf.len() as u64) {
        let Some((now, rest)) = buf.split_at_checked(part.len as usize) else { break };
        mem.write(part.gpa, now)?;
        written = written.saturating_add(part.len);
        buf = rest;
    }
    Ok(written)
}
