// SPDX-License-Identifier: GPL-2.0

//! The memory of the VMM process.

use super::cpu::PinnedCpu;
use super::file::is_being_killed;
use super::iovec::IoVecSlice;
use super::processor::registers;
use crate::arch::addr::{Hva, Pfn};
use kernel::prelude::*;
use kernel::process::Process;
use kernel::task::current;
use std::sync::Arc;

/// The end of what can be an address of user space.
const USER_END: u64 = 0x7fff_ffff_f000;

fn process() -> Arc<Process> {
    current().process.clone()
}

/// Every access goes by PKRU, which must not be the guest's.
fn check_keys() {
    registers(|r| assert!(!r.has_guest_fpu || r.pkru == 0, "guest memory is accessed by the guest's keys"));
}

/// Copies from the process; does not sleep.
///
/// # Errors
/// `EFAULT` when a page is not resident or not readable.
pub(crate) fn copy_in(hva: Hva, buf: &mut [u8]) -> Result {
    check_keys();
    process().read(hva.0, buf, false)
}

/// Copies into the process; does not sleep.
///
/// # Errors
/// As [`copy_in`].
pub(crate) fn copy_out(hva: Hva, buf: &[u8]) -> Result {
    check_keys();
    process().write(hva.0, buf, false)
}

/// Compares and exchanges a naturally aligned value; does not sleep.
///
/// # Errors
/// `EFAULT` as above, `EINVAL` for another size.
pub(crate) fn cmpxchg(hva: Hva, bytes: usize, old: u64, new: u64) -> Result<u64> {
    check_keys();
    process().cmpxchg(hva.0, bytes, old, new)
}

/// Eight bytes of the process and the value that they had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserWord {
    hva: u64,
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
        Ok(UserWord { hva: hva.0, value: u64::from_le_bytes(value) })
    }

    /// Returns the value.
    pub(crate) fn value(&self) -> u64 {
        self.value
    }

    fn is_unchanged(&self) -> bool {
        let mut now = [0; 8];
        process().read(self.hva, &mut now, false).is_ok() && u64::from_le_bytes(now) == self.value
    }
}

/// Returns whether all words still have their values; does not sleep.
pub(crate) fn is_unchanged(words: &[UserWord]) -> bool {
    words.iter().all(UserWord::is_unchanged)
}

/// The same of five words. By the guest's keys it may be that none can be read.
pub(crate) fn are_unchanged(words: &[UserWord; 5]) -> bool {
    is_unchanged(words)
}

/// Makes the page at `hva` resident; may sleep.
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
pub(crate) struct HostPage {
    pfn: Pfn,
    process: Arc<Process>,
}

impl HostPage {
    /// Looks the page at `hva` up, for writing where `write`.
    ///
    /// # Errors
    /// `EAGAIN` when it would have to sleep and may not; `EFAULT` when there is no such page.
    pub(crate) fn get(hva: Hva, write: bool, may_sleep: bool) -> Result<HostPage> {
        let process = process();
        let pfn = process.get(hva.0, write, may_sleep)?;
        Ok(HostPage { pfn: Pfn(pfn), process })
    }

    /// Returns the frame number.
    pub(crate) fn pfn(&self) -> Pfn {
        self.pfn
    }

    /// Notes that the page changes from now on.
    pub(crate) fn mark_dirty(&self) {
        self.process.mark_dirty(self.pfn.0);
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        self.process.put(self.pfn.0);
    }
}

/// Returns the end of what can be an address of user space.
pub(crate) fn user_end() -> Hva {
    Hva(USER_END)
}

/// Returns log2 of the size of the page that maps `hva`.
pub(crate) fn mapping_shift(_cpu: &PinnedCpu, hva: Hva) -> u32 {
    process().mapping_shift(hva.0)
}

/// As [`copy_in`], but makes pages resident; may sleep.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn copy_in_sleeping(hva: Hva, buf: &mut [u8]) -> Result {
    process().read(hva.0, buf, true)
}

/// As [`copy_out`], but makes pages resident; may sleep.
///
/// # Errors
/// `EFAULT`.
pub(crate) fn copy_out_sleeping(hva: Hva, buf: &[u8]) -> Result {
    process().write(hva.0, buf, true)
}

/// Copies the pieces of a transfer out of the process; sleeps.
///
/// # Errors
/// `EFAULT`.
pub(super) fn gather(pieces: IoVecSlice<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for piece in pieces.iov() {
        let mut part = vec![0; piece.len];
        process().read(piece.base, &mut part, true)?;
        out.extend_from_slice(&part);
    }
    Ok(out)
}

/// Copies as much into the pieces of a transfer as there is room for; sleeps. Returns how much.
///
/// # Errors
/// `EFAULT`.
pub(super) fn scatter(pieces: IoVecSlice<'_>, bytes: &[u8]) -> Result<usize> {
    let mut left = bytes;
    for piece in pieces.iov() {
        let (part, later) = left.split_at(left.len().min(piece.len));
        process().write(piece.base, part, true)?;
        left = later;
    }
    Ok(bytes.len() - left.len())
}
