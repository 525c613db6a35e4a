// SPDX-License-Identifier: GPL-2.0

//! Guest memory that remembers what each word was, and when.

use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Words of eight bytes from address 0 on, all zero in the beginning.
pub(crate) struct Memory {
    bytes: u64,
    words: RefCell<BTreeMap<u64, Vec<(u64, u64)>>>,
    /// Counts what happens.
    now: Cell<u64>,
    /// The frame of a page that is not there at the moment.
    pub(crate) absent: Cell<Option<u64>>,
}

impl Memory {
    pub(crate) fn new(frames: u64) -> Memory {
        Memory {
            bytes: frames << 12,
            words: RefCell::new(BTreeMap::new()),
            now: Cell::new(1),
            absent: Cell::new(None),
        }
    }

    /// Returns the time, which goes on.
    pub(crate) fn tick(&self) -> u64 {
        self.now.set(self.now.get() + 1);
        self.now.get()
    }

    /// Returns whether a frame is memory.
    pub(crate) fn has(&self, gfn: u64) -> bool {
        gfn < self.bytes >> 12
    }

    fn word(&self, at: u64) -> u64 {
        self.words.borrow().get(&at).and_then(|h| h.last()).map_or(0, |v| v.1)
    }

    fn set_word(&self, at: u64, value: u64) {
        let now = self.tick();
        self.words.borrow_mut().entry(at).or_insert_with(|| vec![(0, 0)]).push((now, value));
    }

    /// Returns each value of the entry of `bytes` at `gpa` from `since` on, with the first time at which it was there.
    pub(crate) fn values_since(&self, gpa: u64, bytes: usize, since: u64) -> Vec<(u64, u64)> {
        let words = self.words.borrow();
        let word = gpa & !7;
        let part = |v: u64| if bytes == 8 { v } else { v >> ((gpa & 4) * 8) & 0xffff_ffff };
        let Some(history) = words.get(&word) else { return vec![(since, 0)] };
        let last = history.iter().rposition(|(t, _)| *t <= since).unwrap_or(0);
        history[last..].iter().map(|(t, v)| ((*t).max(since), part(*v))).collect()
    }

    fn check(&self, gpa: Gpa, len: usize) -> Result<(), MemError> {
        if self.absent.get() == Some(gpa.0 >> 12) {
            return Err(MemError::NotResident(gpa));
        }
        match gpa.0.checked_add(len as u64) {
            Some(end) if end <= self.bytes => Ok(()),
            _ => Err(MemError::NoSlot(gpa)),
        }
    }

    /// Writes a word, as whoever makes a page resident first.
    pub(crate) fn put(&self, gpa: u64, value: u64, bytes: usize) {
        self.absent.set(None);
        self.write(Gpa(gpa), &value.to_le_bytes()[..bytes]).expect("memory");
    }

    /// Reads one.
    pub(crate) fn get(&self, gpa: u64, bytes: usize) -> u64 {
        self.absent.set(None);
        let mut buf = [0; 8];
        self.read(Gpa(gpa), &mut buf[..bytes]).expect("memory");
        u64::from_le_bytes(buf)
    }
}

impl GuestMem for Memory {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        self.check(gpa, buf.len())?;
        for (i, b) in buf.iter_mut().enumerate() {
            let at = gpa.0 + i as u64;
            *b = self.word(at & !7).to_le_bytes()[(at & 7) as usize];
        }
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        self.check(gpa, buf.len())?;
        let mut words = BTreeMap::new();
        for (i, b) in buf.iter().enumerate() {
            let at = gpa.0 + i as u64;
            let word: &mut [u8; 8] = words.entry(at & !7).or_insert_with(|| self.word(at & !7).to_le_bytes());
            word[(at & 7) as usize] = *b;
        }
        for (at, word) in words {
            self.set_word(at, u64::from_le_bytes(word));
        }
        Ok(())
    }

    fn cmpxchg(&self, gpa: Gpa, bytes: usize, old: u64, new: u64) -> Result<u64, MemError> {
        self.check(gpa, bytes)?;
        let found = self.get(gpa.0, bytes);
        if found == old {
            self.put(gpa.0, new, bytes);
        }
        Ok(found)
    }
}
