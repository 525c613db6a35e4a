// SPDX-License-Identifier: GPL-2.0

//! The backing file of a disk: transfers straight between the file and the VMM's memory.

use super::ffi;
use super::page::Pages;
use crate::arch::addr::{Hva, PAGE_SIZE};
use core::ffi::c_void;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;

/// Room for the pieces of one transfer; a longer one is done in several calls.
const SEGMENTS: usize = 128;

// Modes of fallocate(2), for which the `kernel` crate has no binding.
const FALLOC_FL_KEEP_SIZE: i32 = 1;
const FALLOC_FL_PUNCH_HOLE: i32 = 2;
const FALLOC_FL_ZERO_RANGE: i32 = 16;

/// What a backing file is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Properties {
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// log2 of its block size.
    pub(crate) block_shift: u32,
    /// Ranges can be deallocated.
    pub(crate) discard: bool,
}

/// A reference to an open regular file or block device.
pub(crate) struct BackingFile(NonNull<bindings::file>);

// SAFETY: A `struct file` is reference counted and usable from any thread.
unsafe impl Send for BackingFile {}
// SAFETY: As above; all calls give the position themselves.
unsafe impl Sync for BackingFile {}

impl BackingFile {
    /// Takes a reference to the file behind `fd` of the calling process.
    ///
    /// # Errors
    /// `EBADF` for no such fd, or one that was not opened for what is wanted.
    pub(crate) fn get(fd: i32, write: bool) -> Result<BackingFile> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        // SAFETY: Process context; a null answer means no such fd.
        let file = BackingFile(NonNull::new(unsafe { bindings::fget(fd) }).ok_or(EBADF)?);
        // SAFETY: The file is referenced.
        let may = unsafe {
            ffi::rvmm_file_may(file.0.as_ptr(), false)
                && (!write || ffi::rvmm_file_may(file.0.as_ptr(), true))
        };
        if may {
            Ok(file)
        } else {
            Err(EBADF)
        }
    }

    /// Returns size and block size.
    ///
    /// # Errors
    /// `EINVAL` for what is neither a regular file nor a block device.
    pub(crate) fn properties(&self) -> Result<Properties> {
        let mut p = Properties { bytes: 0, block_shift: 9, discard: false };
        // SAFETY: The file is referenced, the out pointers are valid.
        kernel::error::to_result(unsafe {
            ffi::rvmm_file_size(self.0.as_ptr(), &mut p.bytes, &mut p.block_shift, &mut p.discard)
        })?;
        Ok(p)
    }

    /// Transfers between the file at `pos` and pieces of the calling process's memory, in order; sleeps.
    /// `sync`: a write is durable when this returns. Returns the bytes transferred, fewer than asked at
    /// the end of the file or on a fault.
    ///
    /// # Errors
    /// Those of the file, when nothing was transferred.
    pub(crate) fn transfer(
        &self,
        pieces: impl Iterator<Item = (Hva, u64)>,
        pos: u64,
        write: bool,
        sync: bool,
    ) -> Result<u64> {
        let mut iov = [const { bindings::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 } }; SEGMENTS];
        let (mut n, mut bytes, mut done) = (0usize, 0u64, 0u64);
        for (hva, len) in pieces {
            if n == SEGMENTS {
                let got = self.call(&iov, n, bytes, pos.saturating_add(done), write, sync)?;
                done = done.saturating_add(got);
                if got != bytes {
                    return Ok(done);
                }
                (n, bytes) = (0, 0);
            }
            if let Some(slot) = iov.get_mut(n) {
                *slot = bindings::iovec { iov_base: hva.0 as *mut c_void, iov_len: len as usize };
                n = n.saturating_add(1);
                bytes = bytes.saturating_add(len);
            }
        }
        if n != 0 {
            let got = self.call(&iov, n, bytes, pos.saturating_add(done), write, sync)?;
            done = done.saturating_add(got);
        }
        Ok(done)
    }

    fn call(
        &self,
        iov: &[bindings::iovec; SEGMENTS],
        n: usize,
        bytes: u64,
        pos: u64,
        write: bool,
        sync: bool,
    ) -> Result<u64> {
        // SAFETY: The file is referenced; the first `n` pieces are set, and the callee checks that they
        // are addresses of the process.
        let got =
            unsafe { ffi::rvmm_file_io(self.0.as_ptr(), iov.as_ptr(), n as u32, bytes, pos, write, sync) };
        u64::try_from(got).map_err(|_| Error::from_errno(got as i32))
    }

    /// Transfers between the file and one piece of the process's memory through a page of the kernel's:
    /// for pieces that are not aligned to what direct I/O wants. Sleeps.
    ///
    /// # Errors
    /// As [`BackingFile::transfer`].
    pub(crate) fn transfer_copied(&self, hva: Hva, len: u64, pos: u64, write: bool) -> Result<u64> {
        let mut page = Pages::new(0)?;
        let mut done = 0u64;
        while done < len {
            let n = usize::try_from(len.saturating_sub(done).min(PAGE_SIZE))?;
            let at = hva.wrapping_add(done);
            let buf = page.bytes_mut().get_mut(..n).ok_or(EINVAL)?;
            if write {
                super::guest_ram::copy_in_sleeping(at, buf)?;
            }
            // SAFETY: The file is referenced, and `buf` is valid for `n` bytes.
            let got = unsafe {
                ffi::rvmm_file_copy(
                    self.0.as_ptr(),
                    buf.as_mut_ptr().cast(),
                    n as u64,
                    pos.saturating_add(done),
                    write,
                )
            };
            let got = usize::try_from(got).map_err(|_| Error::from_errno(got as i32))?;
            if !write {
                super::guest_ram::copy_out_sleeping(at, buf.get(..got).ok_or(EIO)?)?;
            }
            done = done.saturating_add(got as u64);
            if got != n {
                break;
            }
        }
        Ok(done)
    }

    /// Makes everything written so far durable; sleeps.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn sync(&self) -> Result {
        // SAFETY: The file is referenced.
        kernel::error::to_result(unsafe { bindings::vfs_fsync(self.0.as_ptr(), 1) })
    }

    /// Deallocates or zeroes a range; sleeps.
    ///
    /// # Errors
    /// Those of the file; `EOPNOTSUPP` where it cannot.
    pub(crate) fn clear(&self, pos: u64, len: u64, deallocate: bool) -> Result {
        let mode = FALLOC_FL_KEEP_SIZE | if deallocate { FALLOC_FL_PUNCH_HOLE } else { FALLOC_FL_ZERO_RANGE };
        let (pos, len) = (i64::try_from(pos)?, i64::try_from(len)?);
        // SAFETY: The file is referenced.
        kernel::error::to_result(unsafe { bindings::vfs_fallocate(self.0.as_ptr(), mode, pos, len) })
    }
}

impl Drop for BackingFile {
    fn drop(&mut self) {
        // SAFETY: The reference was taken by `get()`.
        unsafe { bindings::fput(self.0.as_ptr()) }
    }
}
