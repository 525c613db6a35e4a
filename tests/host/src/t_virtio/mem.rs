// SPDX-License-Identifier: GPL-2.0

//! Guest memory in an array, whose accesses can be made to miss a page.

use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use std::cell::{Cell, RefCell};

/// 1 MiB of memory at address 0.
pub(crate) struct Mem {
    bytes: RefCell<Vec<u8>>,
    accesses: Cell<u64>,
    miss: Cell<Option<u64>>,
}

pub(crate) const MEM_BYTES: usize = 1 << 20;

impl Mem {
    pub(crate) fn new() -> Mem {
        Mem { bytes: RefCell::new(vec![0; MEM_BYTES]), accesses: Cell::new(0), miss: Cell::new(None) }
    }

    /// Makes the `n`-th access from now miss its page, once; 0 is the next one.
    pub(crate) fn miss_nth(&self, n: u64) {
        self.miss.set(Some(self.accesses.get() + n));
    }

    /// Takes back [`Mem::miss_nth`]. Returns whether it had not happened yet.
    pub(crate) fn miss_none(&self) -> bool {
        self.miss.take().is_some()
    }

    pub(crate) fn accesses(&self) -> u64 {
        self.accesses.get()
    }

    pub(crate) fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        self.bytes.borrow()[at as usize..at as usize + N].try_into().unwrap()
    }

    pub(crate) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        self.bytes.borrow()[at as usize..at as usize + len].to_vec()
    }

    pub(crate) fn put(&self, at: u64, bytes: &[u8]) {
        self.bytes.borrow_mut()[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn u16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at))
    }

    pub(crate) fn u32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn check(&self, gpa: Gpa, len: usize) -> Result<usize, MemError> {
        let n = self.accesses.get();
        self.accesses.set(n + 1);
        if self.miss.get() == Some(n) {
            self.miss.set(None);
            return Err(MemError::NotResident(gpa));
        }
        let end = gpa.0.checked_add(len as u64).filter(|end| *end <= MEM_BYTES as u64);
        end.map(|_| gpa.0 as usize).ok_or(MemError::NoSlot(gpa))
    }
}

impl GuestMem for Mem {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        let at = self.check(gpa, buf.len())?;
        buf.copy_from_slice(&self.bytes.borrow()[at..at + buf.len()]);
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        let at = self.check(gpa, buf.len())?;
        self.bytes.borrow_mut()[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn cmpxchg(&self, _gpa: Gpa, _bytes: usize, _old: u64, _new: u64) -> Result<u64, MemError> {
        unreachable!("virtio needs no atomic exchange")
    }
}
