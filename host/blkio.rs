// SPDX-License-Identifier: GPL-2.0

//! The backing file of a disk: transfers straight between the file and the VMM's memory.
//!
//! A transfer is started by a thread of the VMM's, whose pages it pins, and goes on without the thread
//! if the file does asynchronous direct I/O: it was opened with `O_DIRECT` and its file system or device
//! can. Otherwise it has ended when the call that starts it returns. Its end comes in any context, even a
//! hard interrupt: [`ended`] notes it, without allocating, and calls the [`TransferWaker`].
//!
//! ```text
//! thread: FileTransfers::start ──> kiocb ──> file system, device
//! thread: FileTransfers::ended <── IoQueue::ended <── ended()    any context
//! ```

use super::ffi;
use super::file::{is_being_killed, FileLoan, FileRef, HostFile, WaitQueue};
use super::guest_ram;
use super::inflight::{EndedRing, InFlight};
use super::iovec::{each_part, outcome, IoVecCut, IoVecList, IoVecSlice};
use super::page::KernelPages;
use crate::arch::addr::Hva;
use core::cell::UnsafeCell;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::SpinLockIrq;

// What a transfer is; the same values as in shim.h.
const IO_WRITE: u32 = 1;
const IO_DURABLE: u32 = 2;
const IO_BUFFERED: u32 = 4;
const IO_NOWAIT: u32 = 8;

// Modes of fallocate(2), for which the `kernel` crate has no binding.
const FALLOC_FL_KEEP_SIZE: i32 = 1;
const FALLOC_FL_PUNCH_HOLE: i32 = 2;
const FALLOC_FL_ZERO_RANGE: i32 = 16;

/// What a backing file is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileProperties {
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// log2 of its block size.
    pub(crate) block_shift: u32,
    /// Ranges can be deallocated.
    pub(crate) discard: bool,
}

/// A reference to an open regular file or block device. All calls give the position themselves.
pub(crate) struct BackingFile {
    file: FileRef,
    is_nowait: bool,
}

// SAFETY: All calls give the position themselves; the file system has the locks.
unsafe impl HostFile for BackingFile {
    fn of(file: FileRef) -> Result<BackingFile> {
        // SAFETY: The file is referenced.
        let is_nowait = unsafe { ffi::rvmm_file_is_nowait(file.as_ptr()) };
        Ok(BackingFile { file, is_nowait })
    }
}

impl BackingFile {
    /// Checks that it was opened for reading and, with `write`, for writing.
    ///
    /// # Errors
    /// `EBADF` if not.
    pub(crate) fn check_mode(&self, write: bool) -> Result {
        // SAFETY: The file is referenced.
        let may = unsafe {
            ffi::rvmm_file_may(self.file.as_ptr(), false)
                && (!write || ffi::rvmm_file_may(self.file.as_ptr(), true))
        };
        if may {
            Ok(())
        } else {
            Err(EBADF)
        }
    }

    /// Returns size and block size.
    ///
    /// # Errors
    /// `EINVAL` for what is neither a regular file nor a block device.
    pub(crate) fn properties(&self) -> Result<FileProperties> {
        let mut p = FileProperties { bytes: 0, block_shift: 9, discard: false };
        // SAFETY: The file is referenced, the out pointers are valid.
        kernel::error::to_result(unsafe {
            ffi::rvmm_file_size(self.file.as_ptr(), &mut p.bytes, &mut p.block_shift, &mut p.discard)
        })?;
        Ok(p)
    }

    /// Transfers between the file and kernel memory; sleeps. Returns the bytes transferred, fewer than
    /// asked at the end of the file.
    fn copy(&self, buf: &mut [u8], at: FilePos) -> Result<usize> {
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            // Why only a part was done, the call for the rest says.
            match self.copy_some(rest, FilePos { pos: at.pos.saturating_add(done as u64), ..at })? {
                0 => break,
                n => done = done.saturating_add(n),
            }
        }
        Ok(done)
    }

    fn copy_some(&self, buf: &mut [u8], at: FilePos) -> Result<usize> {
        let mut done = self.copy_as(buf, at.pos, at.how());
        if matches!(&done, Err(e) if *e == EINVAL) && self.is_regular() {
            // The file system wants larger blocks than 512 bytes for direct I/O. Not so on a block
            // device, whose block size the guest knows: there, stale pages in the cache could come back.
            done = self.copy_as(buf, at.pos, at.how() | IO_BUFFERED);
        }
        Ok(usize::try_from(done?)?)
    }

    fn copy_as(&self, buf: &mut [u8], pos: u64, how: u32) -> Result<u64> {
        let (ptr, len) = (buf.as_mut_ptr().cast(), buf.len() as u64);
        // SAFETY: The file is referenced, and `buf` is valid for `len` bytes.
        outcome(unsafe { ffi::rvmm_file_copy(self.file.as_ptr(), ptr, len, pos, how) })
    }

    fn is_regular(&self) -> bool {
        // SAFETY: The file is referenced.
        unsafe { ffi::rvmm_file_is_regular(self.file.as_ptr()) }
    }

    /// Makes everything written so far durable; sleeps.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn sync(&self) -> Result {
        // SAFETY: The file is referenced.
        kernel::error::to_result(unsafe { bindings::vfs_fsync(self.file.as_ptr(), 1) })
    }

    /// Deallocates or zeroes a range; sleeps.
    ///
    /// # Errors
    /// Those of the file; `EOPNOTSUPP` where it cannot.
    pub(crate) fn clear(&self, pos: u64, len: u64, deallocate: bool) -> Result {
        // The size of a disk does not change by what its guest asks; and a hole without this flag is refused.
        let mode = FALLOC_FL_KEEP_SIZE | if deallocate { FALLOC_FL_PUNCH_HOLE } else { FALLOC_FL_ZERO_RANGE };
        let (pos, len) = (i64::try_from(pos)?, i64::try_from(len)?);
        // SAFETY: The file is referenced.
        kernel::error::to_result(unsafe { bindings::vfs_fallocate(self.file.as_ptr(), mode, pos, len) })
    }
}

/// Where in the file a transfer takes place, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FilePos {
    /// First byte.
    pub(crate) pos: u64,
    /// To the file.
    pub(crate) write: bool,
    /// A write is on stable storage when it ends.
    pub(crate) durable: bool,
    /// What would have to wait ends at once, with an error or with only a part done. For files that
    /// [can be told so](FileTransfers::is_nowait).
    pub(crate) nowait: bool,
}

impl FilePos {
    fn how(self) -> u32 {
        let how = match (self.write, self.durable) {
            (false, _) => 0,
            (true, false) => IO_WRITE,
            (true, true) => IO_WRITE | IO_DURABLE,
        };
        how | if self.nowait { IO_NOWAIT } else { 0 }
    }
}

/// Where the one who takes what has ended waits.
pub(crate) trait TransferWaker: Send + Sync {
    /// Wakes it. Any context but NMI.
    fn wake(&self);

    /// Returns what it can sleep on.
    fn waiting(&self) -> &WaitQueue;
}

/// The place of one transfer while it is under way.
#[repr(C)]
struct TransferSlot<W> {
    /// First, so that a pointer to it is one to the slot.
    iocb: bindings::kiocb,
    queue: *const IoQueue<W>,
    number: u16,
    write: bool,
}

/// What the ends of transfers come to.
///
/// # Invariants
/// A slot is used by its transfer from [`IoQueue::start`] until its number is in `ended`; else by nobody.
#[pin_data]
struct IoQueue<W> {
    slots: KVec<UnsafeCell<TransferSlot<W>>>,
    /// Also held around waking: whoever has seen an end here knows that [`ended`] is done with the queue
    /// once it has let go of the lock.
    #[pin]
    ended: SpinLockIrq<EndedRing>,
    waker: W,
}

// SAFETY: All but the slots may go to any thread; a slot is used by one at a time, by the invariant.
unsafe impl<W: TransferWaker> Send for IoQueue<W> {}
// SAFETY: As above.
unsafe impl<W: TransferWaker> Sync for IoQueue<W> {}

impl<W: TransferWaker> IoQueue<W> {
    fn new(room: u16, waker: W) -> Result<impl PinInit<IoQueue<W>>> {
        let mut slots = KVec::with_capacity(usize::from(room), GFP_KERNEL_ACCOUNT)?;
        for number in 0..room {
            slots.push_within_capacity(UnsafeCell::new(TransferSlot {
                iocb: pin_init::zeroed(),
                queue: core::ptr::null(),
                number,
                write: false,
            }))?;
        }
        let ended = EndedRing::new(room)?;
        Ok(pin_init!(IoQueue { slots, ended <- kernel::new_spinlock_irq!(ended), waker }))
    }

    /// Starts a transfer. `None`: it is under way, and its end comes to `ended`; else it has ended with
    /// this result.
    ///
    /// # Safety
    /// - The slot is not in use, and the queue stays where it is until it is not in use again.
    /// - So long, `file` is referenced.
    unsafe fn start(
        &self,
        slot: u16,
        file: &BackingFile,
        pieces: IoVecSlice<'_>,
        at: FilePos,
    ) -> Option<Result<u64>> {
        let Some(place) = self.slots.get(usize::from(slot)).map(UnsafeCell::get) else {
            return Some(Err(EINVAL));
        };
        // SAFETY: By contract nobody else uses the slot.
        unsafe {
            (*place).queue = self;
            (*place).write = at.write;
        }
        let iov = pieces.iov();
        // SAFETY: The first field of a slot; by contract it stays, and so does the file. The pieces are
        // read during the call only, and the callee checks that they are addresses of the process.
        let result = unsafe {
            ffi::rvmm_file_start(
                place.cast(),
                ended::<W>,
                file.file.as_ptr(),
                iov.as_ptr(),
                iov.len() as u32,
                pieces.bytes(),
                at.pos,
                at.how(),
            )
        };
        if result == i64::from(EIOCBQUEUED.to_errno()) {
            None
        } else {
            Some(outcome(result))
        }
    }
}

/// Notes the end of a transfer that was under way. Any context but NMI.
///
/// # Safety
/// Only the kernel calls this, once for each `iocb` of which [`IoQueue::start`] said that it is under way.
unsafe extern "C" fn ended<W: TransferWaker>(iocb: *mut bindings::kiocb, result: isize) {
    // SAFETY: `iocb` is the first field of a slot in use, which stays until it is in `ended`.
    let (queue, number, write) = unsafe {
        let slot = iocb.cast::<TransferSlot<W>>();
        ((*slot).queue, (*slot).number, (*slot).write)
    };
    // Before the end can be seen: who sees it may close the file, whose file system this is about.
    if write {
        // SAFETY: Starting the write took what this gives back.
        unsafe { ffi::rvmm_file_end_write(iocb) };
    }
    // SAFETY: Set by `start()`, and the queue stays while a slot is in use. The number is pushed below with
    // the lock held, and nobody takes it out before the lock is free.
    let queue = unsafe { &*queue };
    let mut ended = queue.ended.lock();
    // There is room for every slot.
    let _ = ended.push(number, result as i64);
    queue.waker.wake();
}

/// What [`FileTransfers::start`] did.
#[must_use]
pub(crate) enum StartedTransfer<T> {
    /// It goes on; [`FileTransfers::ended`] gives the item back.
    UnderWay,
    /// It has ended, with this many bytes or an error.
    Ended(T, Result<u64>),
}

/// Transfers of a file that are under way, each for an item.
///
/// Whoever takes the file back waits for all that are under way, and drops their items.
pub(crate) struct FileTransfers<T, W: TransferWaker> {
    file: FileLoan<BackingFile>,
    queue: Pin<KBox<IoQueue<W>>>,
    items: InFlight<T>,
    pieces: IoVecList,
    page: KernelPages,
}

impl<T, W: TransferWaker> FileTransfers<T, W> {
    /// Returns none, with room for `room` at a time. Each that ends by itself wakes `waker`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(room: u16, waker: W) -> Result<FileTransfers<T, W>> {
        Ok(FileTransfers {
            file: FileLoan::empty(),
            queue: KBox::pin_init(IoQueue::new(room, waker)?, GFP_KERNEL_ACCOUNT)?,
            items: InFlight::new(room)?,
            pieces: IoVecList::new()?,
            page: KernelPages::new(0)?,
        })
    }

    /// Lends the file to transfer from and to, until it is taken back.
    pub(crate) fn lend(&mut self, file: BackingFile) {
        self.file.fill(file);
    }

    /// Takes the file back. Waits for the transfers that are under way; not even a signal that kills ends that.
    pub(crate) fn take_back(&mut self) -> Option<BackingFile> {
        while self.wait() {
            drop(self.ended());
        }
        self.file.take()
    }

    /// Returns the file.
    ///
    /// # Errors
    /// `EBADF` where none is lent.
    pub(crate) fn file(&self) -> Result<&BackingFile> {
        self.file.get().ok_or(EBADF)
    }

    /// Returns whether there is a file, and [`FileTransfers::start`] can be told not to wait.
    #[inline]
    pub(crate) fn is_nowait(&self) -> bool {
        self.file.get().is_some_and(|file| file.is_nowait)
    }

    /// Sets the memory of the next transfer: pieces of the calling process's memory, in order. Returns
    /// whether they fit into one.
    #[must_use]
    pub(crate) fn gather(&mut self, pieces: impl Iterator<Item = (Hva, u64)>) -> bool {
        self.pieces.set(pieces)
    }

    /// Starts the transfer of what [`FileTransfers::gather`] set. May sleep, for memory or for the device to
    /// take it. `EINVAL` as its end means that the file wants another alignment: see
    /// [`FileTransfers::copy`].
    pub(crate) fn start(&mut self, item: T, at: FilePos) -> StartedTransfer<T> {
        let Some(file) = self.file.get() else { return StartedTransfer::Ended(item, Err(EBADF)) };
        let Some(slot) = self.items.reserve() else { return StartedTransfer::Ended(item, Err(EBUSY)) };
        // SAFETY: A slot that `reserve()` gave is in use until it is given back: below, when it is not under
        // way, or after its end was seen. The queue is pinned, and neither it nor the file goes before all have
        // ended: `take_back()` and `drop()` wait for that, and without them they do not go at all.
        match unsafe { self.queue.start(slot, file, self.pieces.all(), at) } {
            None => {
                // Its end is looked for by this thread only, later.
                self.items.fill(slot, item);
                StartedTransfer::UnderWay
            }
            Some(result) => {
                self.items.release(slot);
                StartedTransfer::Ended(item, result)
            }
        }
    }

    /// Returns whether none is under way, and none has ended that was not taken.
    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.items.len() == 0
    }

    /// Takes a transfer that has ended: its item, and the bytes transferred or an error.
    pub(crate) fn ended(&mut self) -> Option<(T, Result<u64>)> {
        let (slot, result) = self.queue.ended.lock().pop()?;
        Some((self.items.end(slot)?, outcome(result)))
    }

    /// Returns whether [`FileTransfers::ended`] would give one.
    fn has_ended(&self) -> bool {
        self.queue.ended.lock().len() != 0
    }

    /// Returns how many are under way: not counting those that have ended and were not taken yet.
    pub(crate) fn under_way(&self) -> usize {
        let ended = self.queue.ended.lock().len();
        self.items.len().saturating_sub(ended)
    }

    /// Sleeps until one has ended; not even a signal that kills ends this. Returns whether there is one:
    /// `false` says that none is under way.
    pub(crate) fn wait(&self) -> bool {
        if self.is_empty() {
            return false;
        }
        self.queue.waker.waiting().wait_fully(|| self.has_ended());
        true
    }

    /// Writes zeroes, for files that [cannot do it otherwise](BackingFile::clear). Sleeps, as long as the writing takes:
    /// the caller bounds the length.
    ///
    /// # Errors
    /// Those of the file; `EINTR` for a thread that is being killed.
    pub(crate) fn write_zeroes(&mut self, pos: u64, len: u64) -> Result {
        let file = self.file.get().ok_or(EBADF)?;
        // Page by page, which takes long if each has to be on the disk before the next.
        let how = IO_WRITE | if file.is_regular() { IO_BUFFERED } else { 0 };
        let page = self.page.bytes_mut();
        page.fill(0);
        let mut done = 0u64;
        while done < len {
            if is_being_killed() {
                return Err(EINTR);
            }
            let n = len.saturating_sub(done).min(page.len() as u64);
            let part = page.get_mut(..usize::try_from(n)?).ok_or(EINVAL)?;
            match file.copy_as(part, pos.saturating_add(done), how)? {
                0 => return Err(EIO),
                n => done = done.saturating_add(n),
            }
        }
        Ok(())
    }

    /// Transfers between the file and pieces of the calling process's memory, through a page of the
    /// kernel's: for pieces of any alignment. Sleeps. Returns the bytes transferred.
    ///
    /// # Errors
    /// Those of the file, and `EFAULT`; `EINTR` for a thread that is being killed.
    pub(crate) fn copy(
        &mut self,
        pieces: impl Iterator<Item = (Hva, u64)>,
        bytes: u64,
        at: FilePos,
    ) -> Result<u64> {
        let mut pieces = IoVecCut::new(pieces);
        let mut done = 0u64;
        while done < bytes {
            // A large request would keep a killed process and its memory for as long as the file takes.
            if is_being_killed() {
                return Err(EINTR);
            }
            let n = bytes.saturating_sub(done).min(self.page.len() as u64);
            let here = FilePos { pos: at.pos.saturating_add(done), ..at };
            let buf = self.page.bytes_mut().get_mut(..usize::try_from(n)?).ok_or(EINVAL)?;
            if at.write {
                each_part(buf, &mut pieces, guest_ram::copy_in_sleeping)?;
            }
            // The end of the file, or a device that took less: the count says so to the caller.
            if self.file.get().ok_or(EBADF)?.copy(buf, here)? != buf.len() {
                break;
            }
            if !at.write {
                each_part(buf, &mut pieces, |hva, part| guest_ram::copy_out_sleeping(hva, part))?;
            }
            done = done.saturating_add(n);
        }
        Ok(done)
    }
}

impl<T, W: TransferWaker> Drop for FileTransfers<T, W> {
    fn drop(&mut self) {
        drop(self.take_back());
    }
}
