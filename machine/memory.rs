// SPDX-License-Identifier: GPL-2.0

//! The guest's memory, where memslots say that it lies.
//!
//! What knows the slots ([`SlotLookup`]) can be read and written. An access that lies in one slot, as nearly all
//! do, is one copy; when that fails, or for an access across slots, it is done page by page, which tells
//! which page is missing.

use super::dirty_ring::DirtyRings;
use crate::arch::addr::{Gpa, Hva};
use crate::host::guest_ram;
use crate::mmu::dirty::LoggedPage;
use crate::mmu::mem::{GuestMem, MemError};
use crate::mmu::slots::{HvaSpan, MemSlot, MemSlots};
use core::cell::Cell;
use core::ops::Range;
use kernel::prelude::*;
use kernel::sync::SetOnce;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Guest memory whose places in the VMM are known.
pub(crate) trait SlotLookup {
    /// Calls `access` with where `gpa` lies in the VMM; `None`: in no slot. A slot does not go away meanwhile:
    /// who deletes one waits until `access` has returned. It must not sleep.
    fn with_span<R>(&self, gpa: Gpa, access: impl FnOnce(Option<HvaSpan>) -> R) -> R;

    /// Calls `access` with the slots, which stay as they are meanwhile. It must not sleep.
    fn with_slots<R>(&self, access: impl FnOnce(&MemSlots) -> R) -> R;

    /// Returns who is told of pages that are marked in logs, where that is not left to user space.
    fn rings(&self) -> Option<&DirtyRings>;

    /// As [`SlotLookup::with_span`], with where the page at `gpa` is logged, if its slot logs what is written.
    #[cold]
    #[inline(never)]
    fn with_logged_span<R>(
        &self,
        gpa: Gpa,
        access: impl FnOnce(Option<HvaSpan>, Option<LoggedPage<'_>>) -> R,
    ) -> R {
        self.with_slots(|slots| match slots.lookup(gpa.gfn(), &mut 0) {
            Some(slot) => access(slot.span(gpa), slots.logged_page(slot, gpa.gfn())),
            None => access(None, None),
        })
    }

    /// Returns where `gpa` lies in the VMM process and how many bytes of the slot follow, for I/O that
    /// goes there directly; `None`: in no slot, or in one that is not to be written. The slot may go away before the
    /// I/O is done, which then goes to whatever memory the VMM has there.
    #[inline]
    fn user_range(&self, gpa: Gpa, write: bool) -> Option<(Hva, u64)> {
        let span = self.with_span(gpa, |span| span)?;
        (!write || span.is_writable()).then_some((span.hva, span.left))
    }
}

/// Guest memory for as long as a CPU is held, which makes many small accesses cheaper.
pub(crate) struct PinnedRam<'a> {
    slots: &'a MemSlots,
    rings: &'a SetOnce<DirtyRings>,
    /// The slot of the last access.
    last: Cell<Option<&'a MemSlot>>,
}

impl<'a> PinnedRam<'a> {
    /// Returns the memory in `slots`; `hint`: the place of a slot that is likely to be the one.
    #[inline(always)]
    pub(crate) fn new(slots: &'a MemSlots, rings: &'a SetOnce<DirtyRings>, hint: usize) -> PinnedRam<'a> {
        PinnedRam { slots, rings, last: Cell::new(slots.as_slice().get(hint)) }
    }

    #[cold]
    #[inline(never)]
    fn find(&self, gpa: Gpa) -> Option<HvaSpan> {
        let slot = self.slots.lookup(gpa.gfn(), &mut 0)?;
        self.last.set(Some(slot));
        slot.span(gpa)
    }
}

impl SlotLookup for PinnedRam<'_> {
    #[inline(always)]
    fn with_slots<R>(&self, access: impl FnOnce(&MemSlots) -> R) -> R {
        access(self.slots)
    }

    fn rings(&self) -> Option<&DirtyRings> {
        self.rings.as_ref()
    }

    #[inline(always)]
    fn with_span<R>(&self, gpa: Gpa, access: impl FnOnce(Option<HvaSpan>) -> R) -> R {
        // Not by combinators: so the compiler makes one way for the hit.
        if let Some(slot) = self.last.get() {
            if let Some(span) = slot.span(gpa) {
                return access(Some(span));
            }
        }
        access(self.find(gpa))
    }
}

impl<T: SlotLookup> GuestMem for T {
    #[inline]
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        let is_done = self.with_span(gpa, |span| match span {
            Some(span) => buf.len() as u64 <= span.left && guest_ram::copy_in(span.hva, buf).is_ok(),
            None => false,
        });
        if is_done {
            return Ok(());
        }
        by_pages(self, gpa, buf.len(), false, |hva, part| {
            guest_ram::copy_in(hva, buf.get_mut(part).ok_or(EINVAL)?)
        })
    }

    #[inline]
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        let is_done = self.with_span(gpa, |span| match span {
            Some(span) => {
                let fits = span.is_plain() && buf.len() as u64 <= span.left;
                fits && guest_ram::copy_out(span.hva, buf).is_ok()
            }
            None => false,
        });
        if is_done {
            return Ok(());
        }
        by_pages(self, gpa, buf.len(), true, |hva, part| {
            guest_ram::copy_out(hva, buf.get(part).ok_or(EINVAL)?)
        })
    }

    fn cmpxchg(&self, gpa: Gpa, bytes: usize, old: u64, new: u64) -> Result<u64, MemError> {
        let fits = |span: &HvaSpan| span.is_plain() && span.left >= bytes as u64;
        let found = self.with_span(gpa, |span| {
            let span = span.filter(fits)?;
            Some(guest_ram::cmpxchg(span.hva, bytes, old, new).map_err(|_| MemError::NotResident(gpa)))
        });
        match found {
            Some(found) => found,
            None => cmpxchg_logged(self, gpa, bytes, old, new),
        }
    }

    #[inline(always)]
    fn note_written(&self, parts: impl Iterator<Item = (Gpa, u64)>) {
        if self.with_slots(MemSlots::has_logs) {
            parts.for_each(|(gpa, len)| log_written(self, gpa, len));
        }
    }

    // As by default, but that the size is known where it is compiled.
    #[inline(always)]
    fn read_obj<V: FromBytes + IntoBytes>(&self, gpa: Gpa) -> Result<V, MemError> {
        let mut value = V::new_zeroed();
        self.read(gpa, value.as_mut_bytes())?;
        Ok(value)
    }

    #[inline(always)]
    fn write_obj<V: IntoBytes + Immutable>(&self, gpa: Gpa, value: &V) -> Result<(), MemError> {
        self.write(gpa, value.as_bytes())
    }
}

/// Marks a page that was written.
pub(super) fn note_page(mem: &impl SlotLookup, logged: LoggedPage<'_>) {
    note_bytes(mem, logged, 0, 1);
}

/// Marks the pages that `len` written bytes lie in, from `offset` in the first on.
fn note_bytes(mem: &impl SlotLookup, logged: LoggedPage<'_>, offset: u64, len: u64) {
    logged.mark_bytes(offset, len, |page| {
        if let Some(rings) = mem.rings() {
            rings.note(logged.slot, page);
        }
    });
}

/// As [`GuestMem::cmpxchg`], in a slot that logs what is written, or that must not be.
#[cold]
#[inline(never)]
fn cmpxchg_logged(
    mem: &impl SlotLookup,
    gpa: Gpa,
    bytes: usize,
    old: u64,
    new: u64,
) -> Result<u64, MemError> {
    mem.with_logged_span(gpa, |span, logged| {
        let fits = |span: &HvaSpan| span.is_writable() && span.left >= bytes as u64;
        let span = span.filter(fits).ok_or(MemError::NoSlot(gpa))?;
        let found = guest_ram::cmpxchg(span.hva, bytes, old, new).map_err(|_| MemError::NotResident(gpa))?;
        if let Some(logged) = logged {
            note_page(mem, logged);
        }
        Ok(found)
    })
}

/// Marks what was written by other means than [`GuestMem`]. Where the slots have changed since, it is the slot that is
/// there now whose pages are marked.
#[cold]
#[inline(never)]
fn log_written(mem: &impl SlotLookup, gpa: Gpa, len: u64) {
    let mut done = 0u64;
    while done < len {
        let (at, rest) = (gpa.wrapping_add(done), len.saturating_sub(done));
        let part = mem.with_logged_span(at, |span, logged| {
            // Where there is no slot any more, the next page may have one.
            let part = span.map_or(at.left_in_page(), |span| span.left).min(rest);
            if let Some(logged) = logged {
                note_bytes(mem, logged, at.page_offset(), part);
            }
            part
        });
        done = done.saturating_add(part);
    }
}

/// Calls `copy` for the parts of `len` bytes at `gpa` that lie in one page each, with their places in the VMM and
/// among the bytes. `writes`: into memory that is to be written.
#[cold]
#[inline(never)]
fn by_pages(
    mem: &impl SlotLookup,
    gpa: Gpa,
    len: usize,
    writes: bool,
    mut copy: impl FnMut(Hva, Range<usize>) -> Result,
) -> Result<(), MemError> {
    let mut done = 0usize;
    while done < len {
        let at = gpa.wrapping_add(done as u64);
        done = mem.with_logged_span(at, |span, logged| {
            let span = span.filter(|span| !writes || span.is_writable()).ok_or(MemError::NoSlot(at))?;
            let left = usize::try_from(span.left.min(at.left_in_page())).unwrap_or(0);
            let end = done.saturating_add(left.min(len.saturating_sub(done)));
            copy(span.hva, done..end).map_err(|_| MemError::NotResident(at))?;
            // After the copy: a mark that is taken before it would not tell of it.
            if let Some(logged) = logged.filter(|_| writes) {
                note_page(mem, logged);
            }
            Ok(end)
        })?;
    }
    Ok(())
}

/// Returns where segments of guest memory lie in the VMM, split at the ends of memory slots; an error for
/// what is no memory.
pub(crate) fn split_at_slots<'a, M: SlotLookup>(
    mem: &'a M,
    segments: impl Iterator<Item = (Gpa, u64)> + 'a,
    to_guest: bool,
) -> impl Iterator<Item = Result<(Hva, u64), MemError>> + 'a {
    SplitAtSlots { mem, segments, rest: None, to_guest }
}

struct SplitAtSlots<'a, M, I> {
    mem: &'a M,
    segments: I,
    /// What is left of a segment that goes on in another slot.
    rest: Option<(Gpa, u64)>,
    to_guest: bool,
}

impl<M: SlotLookup, I: Iterator<Item = (Gpa, u64)>> Iterator for SplitAtSlots<'_, M, I> {
    type Item = Result<(Hva, u64), MemError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let (gpa, len) = self.rest.take().or_else(|| self.segments.next())?;
        let Some((hva, left)) = self.mem.user_range(gpa, self.to_guest) else {
            return Some(Err(MemError::NoSlot(gpa)));
        };
        let n = left.min(len);
        if n < len {
            self.rest = Some((gpa.wrapping_add(n), len.saturating_sub(n)));
        }
        Some(Ok((hva, n)))
    }
}
