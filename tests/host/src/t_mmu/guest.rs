// SPDX-License-Identifier: GPL-2.0

//! A small guest memory for the walker's tests.

use crate::arch::addr::Gpa;
use crate::mmu::mem::{GuestMem, MemError};
use std::cell::{Cell, RefCell};

/// Guest memory from address 0 on.
pub(crate) struct Ram {
    pub(crate) bytes: RefCell<Vec<u8>>,
    /// Reads work, updates find no slot.
    pub(crate) read_only: bool,
    /// What an update meets instead of memory.
    pub(crate) update_error: Option<MemError>,
    /// Before each of so many updates another vCPU flips bit 9, free for software, of the entry.
    pub(crate) interference: Cell<u32>,
}

impl Ram {
    pub(crate) fn new(pages: usize) -> Ram {
        Ram {
            bytes: RefCell::new(vec![0; pages << 12]),
            read_only: false,
            update_error: None,
            interference: Cell::new(0),
        }
    }

    pub(crate) fn put(&self, at: u64, entry: u64) {
        self.write(Gpa(at), &entry.to_le_bytes()).unwrap();
    }

    pub(crate) fn put32(&self, at: u64, entry: u32) {
        self.write(Gpa(at), &entry.to_le_bytes()).unwrap();
    }

    pub(crate) fn entry(&self, at: u64) -> u64 {
        self.read_obj(Gpa(at)).unwrap()
    }

    fn offset(&self, gpa: Gpa, len: usize) -> Result<usize, MemError> {
        let end = gpa.0.checked_add(len as u64).ok_or(MemError::NoSlot(gpa))?;
        if end > self.bytes.borrow().len() as u64 {
            return Err(MemError::NoSlot(gpa));
        }
        Ok(gpa.0 as usize)
    }
}

impl GuestMem for Ram {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        let at = self.offset(gpa, buf.len())?;
        buf.copy_from_slice(&self.bytes.borrow()[at..at + buf.len()]);
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        let at = self.offset(gpa, buf.len())?;
        self.bytes.borrow_mut()[at..at + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn cmpxchg(&self, gpa: Gpa, bytes: usize, old: u64, new: u64) -> Result<u64, MemError> {
        assert_eq!(gpa.0 & (bytes as u64 - 1), 0, "not aligned");
        if self.read_only {
            return Err(MemError::NoSlot(gpa));
        }
        if let Some(error) = self.update_error {
            return Err(error);
        }
        let mut buf = [0; 8];
        self.read(gpa, &mut buf[..bytes])?;
        if let Some(left) = self.interference.get().checked_sub(1) {
            self.interference.set(left);
            buf[1] ^= 2;
            self.write(gpa, &buf[..bytes])?;
        }
        let found = u64::from_le_bytes(buf);
        if found == old {
            self.write(gpa, &new.to_le_bytes()[..bytes])?;
        }
        Ok(found)
    }
}
