// SPDX-License-Identifier: GPL-2.0

//! The memory of a process: pages that are there or not, each in a frame of its own.
//!
//! A page that goes away keeps its bytes and loses its frame; when it is touched again it gets another one. Frames
//! have numbers that are never used twice, so who still uses one after its page has gone is found.

use crate::context::might_sleep;
use crate::error::{code::*, Result};
use crate::sched::yield_point;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::boxed::Box;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Pages of a large one.
const LARGE: u64 = 512;

type Bytes = Box<[u8; PAGE as usize]>;

fn zeroes() -> Bytes {
    Box::new([0; PAGE as usize])
}

struct Page {
    /// Its frame, while it is there.
    pfn: Option<u64>,
    /// What is in it, while it is not.
    away: Bytes,
    writable: bool,
    /// Nobody can bring it.
    is_broken: bool,
    /// It is part of a large one.
    is_large: bool,
}

struct Frame {
    bytes: Bytes,
    /// References that keep it from going.
    pins: u32,
    dirty: bool,
    /// Who owns the page's contents on the disk, a file system say, was told that it becomes dirty.
    is_announced: bool,
    /// A guest has written it.
    is_written: bool,
}

impl Frame {
    /// The page goes: what a guest has written is lost if nobody was told.
    fn check(&self) {
        assert!(
            self.dirty || !self.is_written || std::thread::panicking(),
            "a page that is written is a dirty one"
        );
    }
}

#[derive(Default)]
struct Memory {
    pages: BTreeMap<u64, Page>,
    frames: HashMap<u64, Frame>,
    next_pfn: u64,
}

/// A process.
pub struct Process {
    /// Its number.
    pub pid: i32,
    memory: Mutex<Memory>,
    /// How often a copy that must not sleep found a page missing.
    pub misses: AtomicU64,
}

/// The first frame of all processes.
const FIRST_PFN: u64 = 0x10_0000;

impl Memory {
    fn page(&mut self, hva: u64) -> Result<&mut Page> {
        self.pages.get_mut(&(hva / PAGE)).ok_or(EFAULT)
    }

    /// Brings a page in. Returns its frame.
    fn bring(&mut self, hva: u64, write: bool, may_sleep: bool) -> Result<u64> {
        let page = self.page(hva)?;
        if page.is_broken || (write && !page.writable) {
            return Err(EFAULT);
        }
        if let Some(pfn) = page.pfn {
            return Ok(pfn);
        }
        if !may_sleep {
            return Err(EAGAIN);
        }
        let number = hva / PAGE;
        let (first, count) = if page.is_large { (number / LARGE * LARGE, LARGE) } else { (number, 1) };
        self.next_pfn = self.next_pfn.next_multiple_of(count);
        for i in 0..count {
            let pfn = self.next_pfn + i;
            if let Some(page) = self.pages.get_mut(&(first + i)) {
                page.pfn = Some(pfn);
                let bytes = core::mem::replace(&mut page.away, zeroes());
                self.frames.insert(
                    pfn,
                    Frame { bytes, pins: 0, dirty: false, is_announced: false, is_written: false },
                );
            }
        }
        self.next_pfn += count;
        self.page(hva)?.pfn.ok_or(EFAULT)
    }

    /// Takes a page out of its frame, unless somebody holds that. Returns whether it is away.
    fn take_away(&mut self, number: u64) -> bool {
        let Some(page) = self.pages.get_mut(&number) else { return true };
        let Some(pfn) = page.pfn else { return true };
        if self.frames.get(&pfn).is_some_and(|f| f.pins != 0) {
            return false;
        }
        if let Some(frame) = self.frames.remove(&pfn) {
            frame.check();
            page.away = frame.bytes;
        }
        page.pfn = None;
        true
    }
}

impl Process {
    /// One without memory.
    pub fn new(pid: i32) -> Arc<Process> {
        let memory = Memory { next_pfn: FIRST_PFN, ..Memory::default() };
        Arc::new(Process { pid, memory: Mutex::new(memory), misses: AtomicU64::new(0) })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Maps pages of zeroes that are not there yet.
    pub fn map(&self, hva: u64, bytes: u64, writable: bool, is_large: bool) {
        let mut memory = self.memory();
        for number in hva / PAGE..(hva + bytes).div_ceil(PAGE) {
            memory
                .pages
                .insert(number, Page { pfn: None, away: zeroes(), writable, is_broken: false, is_large });
        }
    }

    /// Brings pages in.
    pub fn populate(&self, hva: u64, bytes: u64) {
        for at in (hva..hva + bytes).step_by(PAGE as usize) {
            let _ = self.memory().bring(at, false, true);
        }
    }

    /// Makes a page be one that cannot be brought, or be a good one again.
    pub fn set_broken(&self, hva: u64, is_broken: bool) {
        if let Ok(page) = self.memory().page(hva) {
            page.is_broken = is_broken;
        }
    }

    /// Takes pages out of their frames; who calls this has told the notifiers. Returns whether all are away.
    pub fn swap_out(&self, hva: u64, bytes: u64) -> bool {
        let mut memory = self.memory();
        (hva / PAGE..(hva + bytes).div_ceil(PAGE)).fold(true, |all, number| memory.take_away(number) & all)
    }

    /// Takes pages away for good; who calls this has told the notifiers.
    pub fn unmap(&self, hva: u64, bytes: u64) {
        let mut memory = self.memory();
        for number in hva / PAGE..(hva + bytes).div_ceil(PAGE) {
            if let Some(page) = memory.pages.remove(&number) {
                let held = page.pfn.and_then(|pfn| memory.frames.get(&pfn)).is_some_and(|f| f.pins != 0);
                if let Some(frame) = page.pfn.filter(|_| !held).and_then(|pfn| memory.frames.remove(&pfn)) {
                    frame.check();
                }
            }
        }
    }

    /// Returns whether a page is there.
    pub fn is_resident(&self, hva: u64) -> bool {
        self.memory().page(hva).is_ok_and(|p| p.pfn.is_some())
    }

    /// Returns the frame of a page that is there.
    pub fn pfn(&self, hva: u64) -> Option<u64> {
        self.memory().page(hva).ok().and_then(|p| p.pfn)
    }

    /// Takes a reference to the frame of a page.
    ///
    /// # Errors
    /// `EAGAIN` where the page would have to be brought and `may_sleep` is not set; `EFAULT` for no page.
    pub fn get(&self, hva: u64, write: bool, may_sleep: bool) -> Result<u64> {
        if may_sleep {
            might_sleep("a page look-up");
        }
        yield_point();
        let found = {
            let mut memory = self.memory();
            let pfn = memory.bring(hva, write, may_sleep);
            if let Some(frame) = pfn.as_ref().ok().and_then(|pfn| memory.frames.get_mut(pfn)) {
                frame.pins += 1;
                frame.is_announced |= write;
            }
            pfn
        };
        yield_point();
        found
    }

    /// Gives a reference back.
    pub fn put(&self, pfn: u64) {
        let mut memory = self.memory();
        if let Some(frame) = memory.frames.get_mut(&pfn) {
            frame.pins -= 1;
            let is_free = frame.pins == 0 && !memory.pages.values().any(|p| p.pfn == Some(pfn));
            if is_free {
                memory.frames.remove(&pfn);
            }
        }
    }

    /// Notes that a frame changes from now on.
    ///
    /// # Panics
    /// Nobody was told since it was written back.
    pub fn mark_dirty(&self, pfn: u64) {
        if let Some(frame) = self.memory().frames.get_mut(&pfn) {
            assert!(
                frame.is_announced || std::thread::panicking(),
                "a page that was written back becomes dirty only after it was looked up once more"
            );
            frame.dirty = true;
        }
    }

    /// Writes pages back, as a file system does: they are clean, and it expects to be told before they are dirty again.
    /// Who calls this has told the notifiers.
    pub fn write_back(&self, hva: u64, bytes: u64) {
        let mut memory = self.memory();
        for number in hva / PAGE..(hva + bytes).div_ceil(PAGE) {
            let pfn = memory.pages.get(&number).and_then(|page| page.pfn);
            if let Some(frame) = pfn.and_then(|pfn| memory.frames.get_mut(&pfn)) {
                frame.check();
                (frame.dirty, frame.is_announced, frame.is_written) = (false, false, false);
            }
        }
    }

    /// Returns log2 of the size of the page that maps an address.
    pub fn mapping_shift(&self, hva: u64) -> u32 {
        yield_point();
        match self.memory().page(hva) {
            Ok(page) if page.is_large && page.pfn.is_some() => 21,
            _ => 12,
        }
    }

    fn each_page(
        &self,
        hva: u64,
        len: usize,
        (write, may_sleep): (bool, bool),
        mut f: impl FnMut(&mut [u8], core::ops::Range<usize>),
    ) -> Result {
        if may_sleep {
            might_sleep("a copy");
        }
        yield_point();
        let mut memory = self.memory();
        let mut done = 0;
        while done < len {
            let at = hva.checked_add(done as u64).ok_or(EFAULT)?;
            let offset = (at % PAGE) as usize;
            let n = (len - done).min(PAGE as usize - offset);
            let pfn = memory.bring(at, write, may_sleep).inspect_err(|_| {
                self.misses.fetch_add(1, Relaxed);
            });
            let frame = memory.frames.get_mut(&pfn.map_err(|_| EFAULT)?).ok_or(EFAULT)?;
            f(&mut frame.bytes[offset..offset + n], done..done + n);
            done += n;
        }
        Ok(())
    }

    /// Copies out of the process.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read(&self, hva: u64, out: &mut [u8], may_sleep: bool) -> Result {
        self.each_page(hva, out.len(), (false, may_sleep), |bytes, at| out[at].copy_from_slice(bytes))
    }

    /// Copies into the process.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write(&self, hva: u64, data: &[u8], may_sleep: bool) -> Result {
        self.each_page(hva, data.len(), (true, may_sleep), |bytes, at| bytes.copy_from_slice(&data[at]))
    }

    /// Compares and exchanges a value. Returns the one that was found.
    ///
    /// # Errors
    /// `EFAULT`; `EINVAL` for another size than 1, 2, 4 and 8.
    pub fn cmpxchg(&self, hva: u64, len: usize, old: u64, new: u64) -> Result<u64> {
        if !matches!(len, 1 | 2 | 4 | 8) || hva % len as u64 != 0 {
            return Err(EINVAL);
        }
        let (mut found, mask) = ([0u8; 8], u64::MAX >> (64 - 8 * len));
        self.each_page(hva, len, (true, false), |bytes, _| {
            found[..len].copy_from_slice(bytes);
            if u64::from_le_bytes(found) == old & mask {
                bytes.copy_from_slice(&new.to_le_bytes()[..len]);
            }
        })?;
        Ok(u64::from_le_bytes(found))
    }

    /// Calls `f` with the bytes of a frame, as the processor does for a guest, or a device. `None`: it is nobody's.
    pub fn with_frame<R>(&self, pfn: u64, f: impl FnOnce(&mut [u8; PAGE as usize]) -> R) -> Option<R> {
        self.memory().frames.get_mut(&pfn).map(|frame| f(&mut frame.bytes))
    }

    /// Notes that a guest has written a frame.
    pub fn note_written(&self, pfn: u64) {
        if let Some(frame) = self.memory().frames.get_mut(&pfn) {
            frame.is_written = true;
        }
    }

    /// Returns how many references to frames there are.
    pub fn pins(&self) -> u32 {
        self.memory().frames.values().map(|f| f.pins).sum()
    }
}
