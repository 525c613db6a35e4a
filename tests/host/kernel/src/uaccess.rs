// SPDX-License-Identifier: GPL-2.0

//! Copies from and to the memory of the calling process, for which pages are brought in.

use crate::error::{code::EFAULT, Result};
use crate::task::current;

/// An address of the process.
#[derive(Clone, Copy)]
pub struct UserPtr(usize);

impl UserPtr {
    /// Takes any number.
    pub fn from_addr(addr: usize) -> UserPtr {
        UserPtr(addr)
    }
}

/// A range of the process's memory.
pub struct UserSlice {
    at: UserPtr,
    len: usize,
}

impl UserSlice {
    /// Names the range.
    pub fn new(at: UserPtr, len: usize) -> UserSlice {
        UserSlice { at, len }
    }

    /// Reads it.
    pub fn reader(self) -> UserSliceReader {
        UserSliceReader(self)
    }

    /// Writes it.
    pub fn writer(self) -> UserSliceWriter {
        UserSliceWriter(self)
    }
}

/// See [`UserSlice::reader`].
pub struct UserSliceReader(UserSlice);

impl UserSliceReader {
    /// Copies out of it; sleeps.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn read_slice(&mut self, out: &mut [u8]) -> Result {
        if out.len() > self.0.len {
            return Err(EFAULT);
        }
        current().process.read(self.0.at.0 as u64, out, true)
    }
}

/// See [`UserSlice::writer`].
pub struct UserSliceWriter(UserSlice);

impl UserSliceWriter {
    /// Copies into it; sleeps.
    ///
    /// # Errors
    /// `EFAULT`.
    pub fn write_slice(&mut self, bytes: &[u8]) -> Result {
        if bytes.len() > self.0.len {
            return Err(EFAULT);
        }
        current().process.write(self.0.at.0 as u64, bytes, true)
    }
}
