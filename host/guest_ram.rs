// SPDX-License-Identifier: GPL-2.0

//! The memory of the VMM process, of which guest memory is made.
//!
//! Copies never sleep: a page that is not there is an error, and the caller faults it in with
//! [`fault_in`] once it may sleep. All functions act on the current process; the vCPU and worker
//! threads belong to the VMM (checked when they enter the kernel).

use super::cpu::PinnedCpu;
use super::ffi;
use super::file::is_being_killed;
use crate::arch::addr::{Hva, Pfn};
use core::ffi::c_void;
use kernel::bindings;
use kernel::prelude::*;
use kernel::uaccess::{UserPtr, UserSlice};

/// Returns the result of a copy that answers 0 for done.
#[inline(always)]
fn done(ret: i32) -> Result {
    if ret == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Up to so many bytes are copied word by word. The same value as in shim.h.
const FEW: usize = 64;

/// Copies from the process at `hva`; does not sleep. A word, aligned, is copied in one access.
///
/// # Errors
/// `EFAULT` when a page is not resident or not readable.
#[inline(always)]
pub(crate) fn copy_in(hva: Hva, buf: &mut [u8]) -> Result {
    // Indices and flags of virtqueues, which are read most, have a way of their own.
    if let Ok(two) = <&mut [u8; 2]>::try_from(&mut *buf) {
        let mut value = 0;
        // SAFETY: `value` is valid; the user address is checked and faults are handled.
        done(unsafe { ffi::rvmm_user_load_u16(hva.0, &mut value) })?;
        *two = value.to_ne_bytes();
        return Ok(());
    }
    let (to, bytes) = (buf.as_mut_ptr().cast(), buf.len());
    if bytes <= FEW {
        // SAFETY: `buf` is valid for its length; the user address is checked and faults are handled.
        return done(unsafe { ffi::rvmm_user_load(hva.0, bytes as u32, to) });
    }
    // SAFETY: As above.
    done(unsafe { bindings::copy_from_user_nofault(to, hva.0 as *const c_void, bytes) } as i32)
}

/// Copies into the process at `hva`; does not sleep. A word, aligned, is copied in one access.
///
/// # Errors
/// As [`copy_in`].
#[inline(always)]
pub(crate) fn copy_out(hva: Hva, buf: &[u8]) -> Result {
    if let Ok(two) = <&[u8; 2]>::try_from(buf) {
        // SAFETY: The user address is checked and faults are handled.
        return done(unsafe { ffi::rvmm_user_store_u16(hva.0, u16::from_ne_bytes(*two)) });
    }
    let (from, bytes) = (buf.as_ptr().cast(), buf.len());
    if bytes <= FEW {
        // SAFETY: `buf` is valid for its length; the user address is checked and faults are handled.
        return done(unsafe { ffi::rvmm_user_store(hva.0, bytes as u32, from) });
    }
    // SAFETY: As above.
    done(unsafe { bindings::copy_to_user_nofault(hva.0 as *mut c_void, from, bytes) } as i32)
}

/// Compares and exchanges a naturally aligned value of 1, 2, 4 or 8 bytes; does not sleep.
/// Returns the value found.
///
/// # Errors
/// `EFAULT` as above, `EINVAL` for another size.
pub(crate) fn cmpxchg(hva: Hva, bytes: usize, old: u64, new: u64) -> Result<u64> {
    let mut found = old;
    // SAFETY: `found` outlives the call; the user address is checked and faults are handled.
    let ret = unsafe { ffi::rvmm_user_cmpxchg(hva.0, bytes as u32, &mut found, new) };
    kernel::error::to_result(ret)?;
    Ok(found)
}

/// Eight bytes of the process and the value that they had.
///
/// # Invariants
/// `hva` is an address of user space, or 0 for no word.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserWord {
    /// Where; any alignment.
    hva: u64,
    /// What was there.
    value: u64,
}

impl UserWord {
    /// Reads the eight bytes at `hva`; does not sleep.
    ///
    /// # Errors
    /// As [`copy_in`].
    pub(crate) fn read(hva: Hva) -> Result<UserWord> {
        let mut value = [0; 8];
        copy_in(hva, &mut value)?;
        // INVARIANT: Only addresses of user space can be copied from.
        Ok(UserWord { hva: hva.0, value: u64::from_le_bytes(value) })
    }

    /// Returns the value.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }
}

/// Returns whether all words still have their values; does not sleep. A word that cannot be read
/// counts as changed, and so does one that never was.
pub(crate) fn is_unchanged(words: &[UserWord]) -> bool {
    // SAFETY: `words` is valid for its length and laid out as the callee's struct; the addresses are
    // those of user space (type invariant; page 0 is never mapped) and faults are handled.
    unsafe { ffi::rvmm_user_unchanged(words.as_ptr().cast(), words.len() as u32) }
}

/// The same of five words, a little faster.
#[inline(always)]
pub(crate) fn are_unchanged(words: &[UserWord; 5]) -> bool {
    // SAFETY: As in `is_unchanged()`.
    unsafe { ffi::rvmm_user_unchanged5(words.as_ptr().cast()) }
}

/// Makes the page at `hva` resident; may sleep.
///
/// Others may take the page away again at once, so callers try again and again. For that a thread that is
/// being killed gets no page.
///
/// # Errors
/// `EFAULT` when there is no such page or it may not be written; `EINTR` for a thread that is being killed.
pub(crate) fn fault_in(hva: Hva, write: bool) -> Result {
    if is_being_killed() {
        return Err(EINTR);
    }
    HostPage::get(hva, write, true).map(drop)
}

/// A page of the process, held by a reference.
///
/// # Invariants
/// `page` is a page that the value holds a reference to.
pub(crate) struct HostPage {
    page: *mut c_void,
    pfn: Pfn,
}

impl HostPage {
    /// Looks the page at `hva` up, for writing where `write`. Sleeps only if `may_sleep`.
    ///
    /// # Errors
    /// `EAGAIN` when it would have to sleep and may not; `EFAULT` when there is no such page.
    pub(crate) fn get(hva: Hva, write: bool, may_sleep: bool) -> Result<HostPage> {
        let mut page = core::ptr::null_mut();
        let mut pfn = 0;
        // SAFETY: The out pointers are valid; the address is checked by the callee.
        let ret = unsafe { ffi::rvmm_gup(hva.0, write, may_sleep, &mut page, &mut pfn) };
        kernel::error::to_result(ret)?;
        // INVARIANT: The callee took the reference.
        Ok(HostPage { page, pfn: Pfn(pfn) })
    }

    /// Returns the frame number.
    pub(crate) fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Notes that the page, which was looked up for writing, changes from now on. To be called while it is mapped and
    /// cannot be unmapped, so under the lock of the table: a file system that writes the page back first has it
    /// unmapped, then takes it for clean, and does not expect it to become dirty without asking for it again.
    pub(crate) fn mark_dirty(&self) {
        // SAFETY: The page is there by the type invariant.
        unsafe { ffi::rvmm_gup_dirty(self.page) }
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        // SAFETY: The reference is the value's (type invariant).
        unsafe { ffi::rvmm_gup_put(self.page) }
    }
}

/// Returns the end of what can be an address of user space, in any process.
pub(crate) fn user_end() -> Hva {
    // SAFETY: Reads what was found at boot.
    Hva(unsafe { ffi::rvmm_user_end() })
}

/// Returns log2 of the size of the page that maps `hva` in the process now: 12, 21 or 30.
///
/// The answer holds only while no invalidation has begun; callers compare the notifier's counter.
pub(crate) fn mapping_shift(_cpu: &PinnedCpu, hva: Hva) -> u32 {
    // SAFETY: Interrupts are off, which keeps the page tables from being freed during the walk.
    unsafe { ffi::rvmm_mapping_shift(hva.0) }
}

/// As [`copy_in`], but makes pages resident; may sleep.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn copy_in_sleeping(hva: Hva, buf: &mut [u8]) -> Result {
    let at = usize::try_from(hva.0).map_err(|_| EFAULT)?;
    UserSlice::new(UserPtr::from_addr(at), buf.len()).reader().read_slice(buf)
}

/// As [`copy_out`], but makes pages resident; may sleep.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn copy_out_sleeping(hva: Hva, buf: &[u8]) -> Result {
    let at = usize::try_from(hva.0).map_err(|_| EFAULT)?;
    UserSlice::new(UserPtr::from_addr(at), buf.len()).writer().write_slice(buf)
}
