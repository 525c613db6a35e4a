// SPDX-License-Identifier: GPL-2.0

//! The backing file of a disk, in an array.

use super::file::{is_being_killed, FileLoan, FileRef, HostFile, WaitQueue};
use super::guest_ram::{self, HostPage};
use super::inflight::{EndedRing, InFlight};
use super::iovec::{each_part, outcome, IoVecCut, IoVecList, IoVecSlice};
use super::page::KernelPages;
use super::world::{locked, world};
use crate::arch::addr::{Hva, PAGE_SIZE};
use kernel::context::{in_interrupt, might_sleep};
use kernel::prelude::*;
use kernel::sched;
use kernel::sync::SpinLockIrq;
use std::collections::VecDeque;
use std::sync::{Arc as StdArc, Mutex};

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

/// How a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It has ended when the call that starts it returns.
    Now,
    /// It ends when the test says so: [`DiskFile::end_one`].
    Later,
    /// It would have to wait, where it was asked not to; else as [`Manner::Now`].
    Waits,
    /// It ends with this errno, nothing done.
    Fails(i32),
    /// It stops after so many bytes.
    Short(u64),
}

/// Something that was done to a disk's file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// Bytes were read there.
    Read(u64, u64),
    /// Bytes were written there; on stable storage.
    Write(u64, u64, bool),
    /// All that was written is on stable storage.
    Sync,
    /// A range was zeroed or deallocated.
    Clear(u64, u64, bool),
}

/// What ends a transfer that is under way.
type Ending = Box<dyn FnOnce(&DiskFile) + Send>;

struct Contents {
    bytes: Vec<u8>,
    /// How the next transfers go; the last for all that follow.
    manners: VecDeque<Manner>,
    pending: Vec<Ending>,
    done: Vec<Done>,
}

/// A disk's file.
pub(crate) struct DiskFile {
    contents: Mutex<Contents>,
    /// It was opened for reading and writing.
    pub(crate) modes: (bool, bool),
    /// It can be told not to wait.
    pub(crate) is_nowait: bool,
    /// Its block size is that power of two.
    pub(crate) block_shift: u32,
    /// Ranges can be deallocated.
    pub(crate) discards: bool,
    /// What it says of itself about that is true, and ranges can be zeroed in place.
    pub(crate) clears: bool,
}

impl DiskFile {
    /// One of that many bytes, of which each sector has its own number in each byte.
    pub(crate) fn new(bytes: usize) -> DiskFile {
        let bytes = (0..bytes).map(|i| (i / 512) as u8).collect();
        let contents = Contents { bytes, manners: VecDeque::new(), pending: Vec::new(), done: Vec::new() };
        DiskFile {
            contents: Mutex::new(contents),
            modes: (true, true),
            is_nowait: true,
            block_shift: 9,
            discards: true,
            clears: true,
        }
    }

    /// Says how the next transfers go, the last of these for all that follow.
    pub(crate) fn script(&self, manners: &[Manner]) {
        locked(&self.contents).manners = manners.iter().copied().collect();
    }

    fn manner(&self) -> Manner {
        let manners = &mut locked(&self.contents).manners;
        match manners.len() {
            0 => Manner::Now,
            1 => manners[0],
            _ => manners.pop_front().unwrap_or(Manner::Now),
        }
    }

    /// Ends one of the transfers that are under way, by its place among them. Returns whether there was one.
    pub(crate) fn end_one(&self, place: usize) -> bool {
        let next = {
            let pending = &mut locked(&self.contents).pending;
            (!pending.is_empty()).then(|| pending.remove(place % pending.len()))
        };
        match next {
            Some(end) => {
                in_interrupt(|| end(self));
                true
            }
            None => false,
        }
    }

    /// Returns how many transfers are under way.
    pub(crate) fn under_way(&self) -> usize {
        locked(&self.contents).pending.len()
    }

    /// Takes what was done since the last time.
    pub(crate) fn take_done(&self) -> Vec<Done> {
        core::mem::take(&mut locked(&self.contents).done)
    }

    /// Makes it as long as that.
    pub(crate) fn resize(&self, bytes: usize) {
        locked(&self.contents).bytes.resize(bytes, 0);
    }

    /// Returns the bytes there.
    pub(crate) fn bytes(&self, pos: usize, len: usize) -> Vec<u8> {
        locked(&self.contents).bytes[pos..pos + len].to_vec()
    }

    fn note(&self, what: Done) {
        locked(&self.contents).done.push(what);
    }

    /// Reads what there is; stops at the end.
    fn read(&self, pos: u64, len: u64) -> Vec<u8> {
        self.note(Done::Read(pos, len));
        let contents = locked(&self.contents);
        let end = contents.bytes.len().min((pos + len) as usize);
        contents.bytes.get(pos as usize..end).unwrap_or(&[]).to_vec()
    }

    /// Writes what there is room for.
    fn write(&self, pos: u64, data: &[u8], durable: bool) -> u64 {
        self.note(Done::Write(pos, data.len() as u64, durable));
        let mut contents = locked(&self.contents);
        let room = contents.bytes.len().saturating_sub(pos as usize);
        let n = data.len().min(room);
        let pos = pos as usize;
        contents.bytes[pos..pos + n].copy_from_slice(&data[..n]);
        n as u64
    }
}

/// A reference to the file of a disk.
pub(crate) struct BackingFile(StdArc<DiskFile>);

impl HostFile for BackingFile {
    fn of(file: FileRef) -> Result<BackingFile> {
        file.disk().map(BackingFile)
    }
}

impl BackingFile {
    /// Checks that it was opened for reading and, with `write`, for writing.
    ///
    /// # Errors
    /// `EBADF` if not.
    pub(crate) fn check_mode(&self, write: bool) -> Result {
        let (reads, writes) = self.0.modes;
        if reads && (writes || !write) {
            Ok(())
        } else {
            Err(EBADF)
        }
    }

    /// Returns size and block size.
    ///
    /// # Errors
    /// None here.
    pub(crate) fn properties(&self) -> Result<FileProperties> {
        let bytes = locked(&self.0.contents).bytes.len() as u64;
        Ok(FileProperties { bytes, block_shift: self.0.block_shift, discard: self.0.discards })
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// As the test wants it.
    pub(crate) fn sync(&self) -> Result {
        might_sleep("BackingFile::sync()");
        self.0.note(Done::Sync);
        match self.0.manner() {
            Manner::Fails(errno) => Err(Error::from_errno(-errno)),
            _ => Ok(()),
        }
    }

    /// Deallocates or zeroes a range.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where it cannot.
    pub(crate) fn clear(&self, pos: u64, len: u64, deallocate: bool) -> Result {
        might_sleep("BackingFile::clear()");
        if !self.0.clears || deallocate && !self.0.discards {
            return Err(EOPNOTSUPP);
        }
        self.0.note(Done::Clear(pos, len, deallocate));
        if let Some(range) = locked(&self.0.contents).bytes.get_mut(pos as usize..(pos + len) as usize) {
            range.fill(0);
        }
        Ok(())
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
    /// What would have to wait ends at once.
    pub(crate) nowait: bool,
}

/// Where the one who takes what has ended waits.
pub(crate) trait TransferWaker: Send + Sync {
    /// Wakes it.
    fn wake(&self);

    /// Returns what it can sleep on.
    fn waiting(&self) -> &WaitQueue;
}

/// What the ends of transfers come to.
struct Lane<W> {
    ended: SpinLockIrq<EndedRing>,
    waker: W,
}

impl<W: TransferWaker> Lane<W> {
    fn note(&self, slot: u16, result: Result<u64>) {
        let result = result.map_or_else(|e| i64::from(e.to_errno()), |n| n as i64);
        let mut ended = self.ended.lock();
        assert!(ended.push(slot, result), "there is room for every slot");
        self.waker.wake();
    }
}

/// What [`FileTransfers::start`] did.
#[must_use]
pub(crate) enum StartedTransfer<T> {
    /// It goes on.
    UnderWay,
    /// It has ended, with this many bytes or an error.
    Ended(T, Result<u64>),
}

/// Transfers of a file that are under way, each for an item.
pub(crate) struct FileTransfers<T, W: TransferWaker> {
    file: FileLoan<BackingFile>,
    lane: StdArc<Lane<W>>,
    items: InFlight<T>,
    pieces: IoVecList,
    page: KernelPages,
}

impl<T, W: TransferWaker + 'static> FileTransfers<T, W> {
    /// Returns none.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(room: u16, waker: W) -> Result<FileTransfers<T, W>> {
        let lane = Lane { ended: kernel::new_spinlock_irq!(EndedRing::new(room)?), waker };
        Ok(FileTransfers {
            file: FileLoan::empty(),
            lane: StdArc::new(lane),
            items: InFlight::new(room)?,
            pieces: IoVecList::new()?,
            page: KernelPages::new(0)?,
        })
    }

    /// Lends the file to transfer from and to.
    pub(crate) fn lend(&mut self, file: BackingFile) {
        self.file.fill(file);
    }

    /// Takes the file back. Waits for the transfers that are under way.
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
    pub(crate) fn is_nowait(&self) -> bool {
        self.file.get().is_some_and(|file| file.0.is_nowait)
    }

    /// Sets the memory of the next transfer. Returns whether the pieces fit into one.
    #[must_use]
    pub(crate) fn gather(&mut self, pieces: impl Iterator<Item = (Hva, u64)>) -> bool {
        self.pieces.set(pieces)
    }

    /// Starts the transfer of what [`FileTransfers::gather`] set.
    pub(crate) fn start(&mut self, item: T, at: FilePos) -> StartedTransfer<T> {
        might_sleep("Transfers::start()");
        let Ok(file) = self.file() else { return StartedTransfer::Ended(item, Err(EBADF)) };
        let file = file.0.clone();
        let Some(slot) = self.items.reserve() else { return StartedTransfer::Ended(item, Err(EBUSY)) };
        let all = self.pieces.all();
        let ended = match file.manner() {
            Manner::Fails(errno) => Some(Err(Error::from_errno(-errno))),
            Manner::Waits if at.nowait => Some(Err(EAGAIN)),
            Manner::Now | Manner::Waits => Some(transfer(&file, all, at, all.bytes())),
            Manner::Short(n) => Some(transfer(&file, all, at, n.min(all.bytes()))),
            Manner::Later => self.start_later(&file, slot, at),
        };
        sched::yield_point();
        match ended {
            None => {
                self.items.fill(slot, item);
                StartedTransfer::UnderWay
            }
            Some(result) => {
                self.items.release(slot);
                StartedTransfer::Ended(item, result)
            }
        }
    }

    /// Pins the pages, and leaves the rest for later. Returns why it could not.
    fn start_later(&self, file: &DiskFile, slot: u16, at: FilePos) -> Option<Result<u64>> {
        let mut parts = Vec::new();
        for piece in self.pieces.all().iov() {
            let (mut at_hva, mut left) = (piece.base, piece.len as u64);
            while left != 0 {
                let n = left.min(PAGE_SIZE - at_hva % PAGE_SIZE);
                match HostPage::get(Hva(at_hva), !at.write, true) {
                    Ok(page) => parts.push((page, (at_hva % PAGE_SIZE) as usize, n as usize)),
                    Err(e) => return Some(Err(e)),
                }
                (at_hva, left) = (at_hva + n, left - n);
            }
        }
        let (lane, process) = (self.lane.clone(), world().process.clone());
        locked(&file.contents).pending.push(Box::new(move |file| {
            let mut pos = at.pos;
            for (page, offset, len) in &parts {
                process.with_frame(page.pfn().0, |frame| {
                    let part = &mut frame[*offset..offset + len];
                    if at.write {
                        file.write(pos, part, at.durable);
                    } else {
                        let bytes = file.read(pos, *len as u64);
                        part[..bytes.len()].copy_from_slice(&bytes);
                    }
                });
                pos += *len as u64;
            }
            drop(parts);
            lane.note(slot, Ok(pos - at.pos));
        }));
        None
    }

    /// Returns whether none is under way, and none has ended that was not taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.items.len() == 0
    }

    /// Takes a transfer that has ended.
    pub(crate) fn ended(&mut self) -> Option<(T, Result<u64>)> {
        let (slot, result) = self.lane.ended.lock().pop()?;
        Some((self.items.end(slot)?, outcome(result)))
    }

    /// Returns how many are under way.
    pub(crate) fn under_way(&self) -> usize {
        let ended = self.lane.ended.lock().len();
        self.items.len() - ended
    }

    /// Sleeps until one has ended. Returns whether there is one.
    pub(crate) fn wait(&self) -> bool {
        if self.is_empty() {
            return false;
        }
        self.lane.waker.waiting().wait_fully(|| self.lane.ended.lock().len() != 0);
        true
    }

    /// Writes zeroes.
    ///
    /// # Errors
    /// As the test wants it.
    pub(crate) fn write_zeroes(&mut self, pos: u64, len: u64) -> Result {
        might_sleep("Transfers::write_zeroes()");
        let file = self.file()?.0.clone();
        match file.manner() {
            Manner::Fails(errno) => Err(Error::from_errno(-errno)),
            _ if file.write(pos, &vec![0; len as usize], false) == len => Ok(()),
            _ => Err(EIO),
        }
    }

    /// Transfers through a page of the kernel's.
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
            if is_being_killed() {
                return Err(EINTR);
            }
            let n = (bytes - done).min(self.page.len() as u64);
            let file = self.file.get().ok_or(EBADF)?.0.clone();
            let manner = file.manner();
            if let Manner::Fails(errno) = manner {
                return Err(Error::from_errno(-errno));
            }
            let mut buf = vec![0; n as usize];
            if at.write {
                each_part(&mut buf, &mut pieces, guest_ram::copy_in_sleeping)?;
                done += file.write(at.pos + done, &buf, at.durable);
            } else {
                let read = file.read(at.pos + done, n);
                if read.len() as u64 != n {
                    break;
                }
                buf.copy_from_slice(&read);
                each_part(&mut buf, &mut pieces, |hva, part| guest_ram::copy_out_sleeping(hva, part))?;
                done += n;
            }
        }
        Ok(done)
    }
}

/// Transfers the first `bytes`.
fn transfer(file: &DiskFile, pieces: IoVecSlice<'_>, at: FilePos, bytes: u64) -> Result<u64> {
    if at.write {
        let data = guest_ram::gather(pieces)?;
        Ok(file.write(at.pos, &data[..bytes as usize], at.durable))
    } else {
        let data = file.read(at.pos, bytes);
        guest_ram::scatter(pieces, &data).map(|n| n as u64)
    }
}

impl<T, W: TransferWaker> Drop for FileTransfers<T, W> {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.file.get().is_none(), "the file was taken back");
    }
}
