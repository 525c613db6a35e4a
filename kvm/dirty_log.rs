// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a memory slot, for user space: KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, and what
//! KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 chooses.
//!
//! Under the VM's configuration lock, so that the slots stay as they are.

use super::user;
use crate::abi::vm::{ClearDirtyLog, DirtyLog as GetDirtyLog};
use crate::machine::dirty::DirtyLogMode;
use crate::mmu::dirty::{DirtyBitmap, WORD_PAGES};
use crate::mmu::slots::{MemSlot, MAX_SLOTS};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;
use kernel::sync::Arc;
use zerocopy::IntoBytes;

/// The words that are carried to or from user space at once.
const CHUNK: usize = 64;

/// Bytes of a word.
const WORD_BYTES: u64 = WORD_PAGES / 8;

/// A log whose marks are being read or taken.
struct OpenLog<'a, B: VendorBackend> {
    vm: &'a Vm<B>,
    slot: MemSlot,
    log: Arc<DirtyBitmap>,
    /// The marks taken so far, one over the other.
    taken: u64,
}

impl<'a, B: VendorBackend> OpenLog<'a, B> {
    /// Finds the log of a slot.
    ///
    /// # Errors
    /// `ENXIO` where marks come to rings, `EINVAL` for a number that no slot has, `ENOENT` where nothing is logged.
    fn of(vm: &'a Vm<B>, slot: u32) -> Result<OpenLog<'a, B>> {
        if vm.machine.ram.dirty_rings().is_some() {
            return Err(ENXIO);
        }
        let (slot, log) = vm.machine.ram.dirty_log(slot_id(slot)?).ok_or(ENOENT)?;
        Ok(OpenLog { vm, slot, log, taken: 0 })
    }

    /// Takes the marks in `wanted` of a word.
    fn take(&mut self, index: usize, wanted: u64) -> u64 {
        let mask = self.vm.space.take_dirty(&self.slot, &self.log, index, wanted);
        self.taken |= mask;
        mask
    }
}

impl<B: VendorBackend> Drop for OpenLog<'_, B> {
    /// Whatever became of the call, no page is written without a mark from here on.
    fn drop(&mut self) {
        if self.taken != 0 {
            self.vm.space.flush_protected();
        }
    }
}

/// Returns the number of a slot.
///
/// # Errors
/// `EINVAL` for one that no slot has.
fn slot_id(slot: u32) -> Result<u16> {
    u16::try_from(slot).ok().filter(|id| *id < MAX_SLOTS).ok_or(EINVAL)
}

/// Calls `each` for all chunks of `count` words of user space's bitmap at `bitmap`: with the number of a chunk's first
/// word, its words and their address.
fn by_chunks(bitmap: u64, count: usize, mut each: impl FnMut(usize, &mut [u64], u64) -> Result) -> Result {
    let mut words = [0u64; CHUNK];
    let mut first = 0usize;
    while first < count {
        let some = CHUNK.min(count.saturating_sub(first));
        let at = bitmap.wrapping_add((first as u64).wrapping_mul(WORD_BYTES));
        each(first, words.get_mut(..some).ok_or(EINVAL)?, at)?;
        first = first.saturating_add(some);
    }
    Ok(())
}

/// KVM_GET_DIRTY_LOG: gives the marks, and takes them unless they stay until they are cleared.
///
/// # Errors
/// As [`OpenLog::of`]; `EFAULT`, `ENOMEM`: no mark has gone then.
#[inline(never)]
pub(crate) fn get<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let asked: GetDirtyLog = user::read(arg)?;
    let open = OpenLog::of(vm, asked.slot)?;
    if vm.machine.ram.dirty_mode.is_manual() {
        by_chunks(asked.dirty_bitmap, open.log.len(), |first, words, at| {
            for (i, word) in words.iter_mut().enumerate() {
                *word = open.log.word(first.saturating_add(i));
            }
            user::write_bytes(at, words.as_bytes())
        })?;
    } else {
        take_all(open, asked.dirty_bitmap)?;
    }
    Ok(0)
}

/// Takes all marks of a log and gives them to user space; puts them back where it cannot be told of them.
fn take_all<B: VendorBackend>(mut open: OpenLog<'_, B>, bitmap: u64) -> Result {
    let log = Arc::clone(&open.log);
    let mut words = KVVec::with_capacity(log.len(), GFP_KERNEL_ACCOUNT)?;
    for index in 0..log.len() {
        words.push_within_capacity(open.take(index, u64::MAX))?;
    }
    // Before user space learns of a mark, nobody can write to its page without another one.
    drop(open);
    user::write_bytes(bitmap, words.as_bytes()).inspect_err(|_| {
        for (index, word) in words.iter().enumerate() {
            log.put_back(index, *word);
        }
    })
}

/// KVM_CLEAR_DIRTY_LOG: takes the marks that user space names.
///
/// # Errors
/// As [`OpenLog::of`]; `EINVAL` for pages that are not the slot's, or do not begin and end with words of the log;
/// `EFAULT`.
#[inline(never)]
pub(crate) fn clear<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let asked: ClearDirtyLog = user::read(arg)?;
    slot_id(asked.slot)?;
    // In KVM's order: what is wrong by itself comes before a slot that is missing.
    if asked.first_page % WORD_PAGES != 0 {
        return Err(EINVAL);
    }
    let mut open = OpenLog::of(vm, asked.slot)?;
    let pages = u64::from(asked.num_pages);
    let rest = open.slot.npages.checked_sub(asked.first_page).ok_or(EINVAL)?;
    if pages > rest || (pages < rest && pages % WORD_PAGES != 0) {
        return Err(EINVAL);
    }
    let base = usize::try_from(asked.first_page / WORD_PAGES)?;
    let count = usize::try_from(pages.div_ceil(WORD_PAGES))?;
    // All of the bitmap first: of one that cannot be read, no mark is taken.
    by_chunks(asked.dirty_bitmap, count, |_, words, at| user::read_bytes(at, words.as_mut_bytes()))?;
    by_chunks(asked.dirty_bitmap, count, |first, words, at| {
        user::read_bytes(at, words.as_mut_bytes())?;
        for (i, wanted) in words.iter().enumerate() {
            open.take(base.saturating_add(first).saturating_add(i), *wanted);
        }
        Ok(())
    })?;
    Ok(0)
}

/// What KVM_CHECK_EXTENSION answers for KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
pub(super) const MANUAL_OPTIONS: u32 = DirtyLogMode::ALL as u32;
