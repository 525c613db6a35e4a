// SPDX-License-Identifier: GPL-2.0

//! The files of the process: those of the module, and those that it is given.

use super::blkio::DiskFile;
use super::eventfd::EventCount;
use super::netio::{StreamSocket, TapDevice};
use super::world::{locked, world, World};
use core::fmt::Display;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::context::might_sleep;
use kernel::fmt::Formatter;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::mm::virt::{SharedBytes, VmaNew};
use kernel::prelude::*;
use kernel::sched;
use kernel::sync::Arc;
use kernel::task::{current, FATAL, SIGNAL};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc as StdArc, Mutex};

/// The file can be read at a position.
pub(crate) const FMODE_PREAD: u32 = 8;

/// The operations of a file whose private data is an `Arc<Self>`.
pub(crate) trait AnonFile: Send + Sync + Sized + 'static {
    /// The name in /proc/PID/fd.
    const NAME: &'static CStr;
    /// More file modes than reading and writing.
    const FMODE: u32 = 0;

    /// Handles an ioctl.
    ///
    /// # Errors
    /// Whatever the caller is to see.
    fn ioctl(this: &Arc<Self>, cmd: u32, arg: u64) -> Result<i64>;

    /// Handles mmap.
    ///
    /// # Errors
    /// `ENODEV` where nothing can be mapped.
    fn mmap(_this: &Arc<Self>, _vma: &VmaNew) -> Result {
        Err(ENODEV)
    }

    /// Handles read.
    ///
    /// # Errors
    /// `EINVAL` where the file cannot be read.
    fn read(
        _this: &Arc<Self>,
        _to: &mut IovIterDest<'_>,
        _position: &mut u64,
        _nonblock: bool,
    ) -> Result<usize> {
        Err(EINVAL)
    }

    /// Handles write.
    ///
    /// # Errors
    /// `EINVAL` where the file cannot be written.
    fn write(_this: &Arc<Self>, _from: &mut IovIterSource<'_>, _nonblock: bool) -> Result<usize> {
        Err(EINVAL)
    }

    /// Answers poll.
    fn poll(_this: &Arc<Self>) -> u32 {
        0
    }

    /// The queue that is woken when [`AnonFile::poll`] may answer otherwise.
    fn wait_queue(_this: &Self) -> Option<&WaitQueue> {
        None
    }

    /// Writes down what /proc/PID/fdinfo shows of the file.
    ///
    /// # Errors
    /// Those of the formatter.
    fn show(_this: &Arc<Self>, _f: &mut Formatter<'_>) -> kernel::fmt::Result {
        Ok(())
    }

    /// The last reference through an fd is gone.
    fn release(_this: &Arc<Self>) {}
}

/// A file of the module's, of whatever type.
trait Anon: Send + Sync {
    fn ioctl(&self, cmd: u32, arg: u64) -> Result<i64>;
    fn mmap(&self, vma: &VmaNew) -> Result;
    fn read(&self, to: &mut IovIterDest<'_>, position: &mut u64, nonblock: bool) -> Result<usize>;
    fn write(&self, from: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize>;
    fn poll(&self) -> u32;
    fn has_wait_queue(&self) -> bool;
    fn show(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result;
}

struct AnonOf<T: AnonFile>(Arc<T>);

impl<T: AnonFile> Anon for AnonOf<T> {
    fn ioctl(&self, cmd: u32, arg: u64) -> Result<i64> {
        T::ioctl(&self.0, cmd, arg)
    }

    fn mmap(&self, vma: &VmaNew) -> Result {
        T::mmap(&self.0, vma)
    }

    fn read(&self, to: &mut IovIterDest<'_>, position: &mut u64, nonblock: bool) -> Result<usize> {
        T::read(&self.0, to, position, nonblock)
    }

    fn write(&self, from: &mut IovIterSource<'_>, nonblock: bool) -> Result<usize> {
        T::write(&self.0, from, nonblock)
    }

    fn poll(&self) -> u32 {
        T::poll(&self.0)
    }

    fn has_wait_queue(&self) -> bool {
        T::wait_queue(&self.0).is_some()
    }

    fn show(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        T::show(&self.0, f)
    }
}

/// What [`Anon::show`] writes.
struct ShownFile(StdArc<dyn Anon>);

impl Display for ShownFile {
    fn fmt(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        self.0.show(f)
    }
}

impl<T: AnonFile> Drop for AnonOf<T> {
    fn drop(&mut self) {
        T::release(&self.0);
    }
}

/// An open file.
#[derive(Clone)]
enum Open {
    Anon(StdArc<dyn Anon>),
    Event(StdArc<EventCount>),
    Disk(StdArc<DiskFile>),
    Tap(StdArc<TapDevice>),
    Stream(StdArc<StreamSocket>),
}

impl Open {
    /// What tells the file from all others.
    fn identity(&self) -> usize {
        match self {
            Open::Anon(f) => StdArc::as_ptr(f).cast::<()>() as usize,
            Open::Event(f) => StdArc::as_ptr(f) as usize,
            Open::Disk(f) => StdArc::as_ptr(f) as usize,
            Open::Tap(f) => StdArc::as_ptr(f) as usize,
            Open::Stream(f) => StdArc::as_ptr(f) as usize,
        }
    }
}

/// The fds of the process.
#[derive(Default)]
pub(crate) struct Files {
    open: Mutex<BTreeMap<i32, Open>>,
    reserved: Mutex<BTreeSet<i32>>,
    /// No more fds are given out.
    pub(crate) is_full: core::sync::atomic::AtomicBool,
}

impl Files {
    fn reserve(&self) -> i32 {
        let (open, mut reserved) = (locked(&self.open), locked(&self.reserved));
        let fd = (3..).find(|fd| !open.contains_key(fd) && !reserved.contains(fd)).unwrap_or(3);
        reserved.insert(fd);
        fd
    }

    fn add(&self, file: Open) -> i32 {
        let fd = self.reserve();
        locked(&self.open).insert(fd, file);
        locked(&self.reserved).remove(&fd);
        fd
    }

    fn get(&self, fd: i32) -> Result<Open> {
        locked(&self.open).get(&fd).cloned().ok_or(EBADF)
    }
}

impl World {
    /// Opens an eventfd.
    pub(crate) fn eventfd(&self) -> (i32, StdArc<EventCount>) {
        let event = EventCount::new();
        (self.files.add(Open::Event(event.clone())), event)
    }

    /// Opens a disk's file.
    pub(crate) fn open_disk(&self, disk: &StdArc<DiskFile>) -> i32 {
        self.files.add(Open::Disk(disk.clone()))
    }

    /// Opens a tap.
    pub(crate) fn open_tap(&self, tap: &StdArc<TapDevice>) -> i32 {
        self.files.add(Open::Tap(tap.clone()))
    }

    /// Opens a stream.
    pub(crate) fn open_stream(&self, stream: &StdArc<StreamSocket>) -> i32 {
        self.files.add(Open::Stream(stream.clone()))
    }

    fn anon(&self, fd: i64) -> Result<StdArc<dyn Anon>> {
        match self.files.get(i32::try_from(fd)?)? {
            Open::Anon(file) => Ok(file),
            _ => Err(ENOTTY),
        }
    }

    /// ioctl(2).
    pub(crate) fn ioctl(&self, fd: i64, cmd: u32, arg: u64) -> Result<i64> {
        self.anon(fd)?.ioctl(cmd, arg)
    }

    /// mmap(2) from the start of a file. Returns the pages.
    pub(crate) fn mmap(&self, fd: i64, bytes: usize) -> Result<Vec<(u64, SharedBytes)>> {
        self.mmap_from(fd, 0, bytes)
    }

    /// The same, from a page of the file on.
    pub(crate) fn mmap_from(&self, fd: i64, page: usize, bytes: usize) -> Result<Vec<(u64, SharedBytes)>> {
        let vma = VmaNew::new(0x10_0000, 0x10_0000 + bytes, page);
        self.anon(fd)?.mmap(&vma)?;
        Ok(vma.into_pages())
    }

    /// pread(2).
    pub(crate) fn read(&self, fd: i64, room: usize, position: u64, nonblock: bool) -> Result<Vec<u8>> {
        let (mut to, mut position) = (IovIterDest::new(room), position);
        let n = self.anon(fd)?.read(&mut to, &mut position, nonblock)?;
        let bytes = to.into_bytes();
        assert_eq!(bytes.len(), n);
        Ok(bytes)
    }

    /// write(2).
    pub(crate) fn write(&self, fd: i64, bytes: &[u8], nonblock: bool) -> Result<usize> {
        self.anon(fd)?.write(&mut IovIterSource::new(bytes), nonblock)
    }

    /// Reads what /proc/PID/fdinfo shows of a file.
    pub(crate) fn fdinfo(&self, fd: i64) -> Result<String> {
        Ok(ShownFile(self.anon(fd)?).to_string())
    }

    /// poll(2).
    pub(crate) fn poll(&self, fd: i64) -> Result<(u32, bool)> {
        let file = self.anon(fd)?;
        Ok((file.poll(), file.has_wait_queue()))
    }

    /// close(2).
    pub(crate) fn close(&self, fd: i64) {
        let file = locked(&self.files.open).remove(&(fd as i32));
        if let Some(Open::Event(event)) = &file {
            event.hang_up();
        }
    }
}

/// A reference to an open file.
pub(crate) struct FileRef(Open);

impl FileRef {
    fn get(fd: i32) -> Result<FileRef> {
        sched::yield_point();
        world().files.get(fd).map(FileRef)
    }

    pub(super) fn event(fd: i32) -> Result<StdArc<EventCount>> {
        match FileRef::get(fd)?.0 {
            Open::Event(event) => Ok(event),
            _ => Err(EINVAL),
        }
    }

    pub(super) fn disk(self) -> Result<StdArc<DiskFile>> {
        match self.0 {
            Open::Disk(disk) => Ok(disk),
            _ => Err(EINVAL),
        }
    }

    pub(super) fn tap(self) -> Result<StdArc<TapDevice>> {
        match self.0 {
            Open::Tap(tap) => Ok(tap),
            _ => Err(EINVAL),
        }
    }

    pub(super) fn stream(self) -> Result<StdArc<StreamSocket>> {
        match self.0 {
            Open::Stream(stream) => Ok(stream),
            _ => Err(EINVAL),
        }
    }
}

/// A kind of file that devices work with.
pub(crate) trait HostFile: Sized {
    /// Makes one of an open file.
    ///
    /// # Errors
    /// `EINVAL` for a file of another kind.
    fn of(file: FileRef) -> Result<Self>;
}

/// A file that a device works with but does not hold.
pub(crate) struct KnownFile<T> {
    fd: i32,
    identity: usize,
    kind: PhantomData<fn() -> T>,
}

impl<T: HostFile> KnownFile<T> {
    /// Looks at the file behind `fd`.
    ///
    /// # Errors
    /// `EBADF` for no such fd, and those of [`HostFile::of`].
    pub(crate) fn look_up(fd: i32) -> Result<(KnownFile<T>, T)> {
        let file = FileRef::get(fd)?;
        Ok((KnownFile { fd, identity: file.0.identity(), kind: PhantomData }, T::of(file)?))
    }

    /// Takes a reference to the file, of which the process still has the fd.
    ///
    /// # Errors
    /// `EBADF` where the fd is closed, or another file's by now.
    pub(crate) fn get(&self) -> Result<T> {
        let (found, file) = KnownFile::look_up(self.fd)?;
        if found.identity == self.identity {
            Ok(file)
        } else {
            Err(EBADF)
        }
    }
}

/// The place of a file in what threads share.
pub(crate) struct FileLoan<T>(Option<T>);

impl<T: HostFile> FileLoan<T> {
    /// An empty place.
    pub(crate) const fn empty() -> FileLoan<T> {
        FileLoan(None)
    }

    /// Puts a file in.
    pub(crate) fn fill(&mut self, file: T) {
        self.0 = Some(file);
    }

    /// Takes the file out.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    /// Returns the file.
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

/// A wait queue. Who sleeps in it looks again when it is woken, and not before.
pub(crate) struct WaitQueue {
    wakes: AtomicU64,
}

impl WaitQueue {
    /// An empty queue.
    pub(crate) fn new() -> impl PinInit<WaitQueue> {
        WaitQueue::empty()
    }

    pub(super) const fn empty() -> WaitQueue {
        WaitQueue { wakes: AtomicU64::new(0) }
    }

    /// Returns how often it was woken.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes.load(SeqCst)
    }

    fn sleep(&self, ready: impl Fn() -> bool, signals: u32) -> Result {
        might_sleep("WaitQueue::wait()");
        let task = current();
        loop {
            // The thread is in the queue before it looks.
            let before = self.wakes();
            sched::yield_point();
            if ready() {
                return Ok(());
            }
            if task.has(signals) {
                return Err(EINTR);
            }
            sched::wait_until("a wait queue", || self.wakes() != before || task.has(signals));
        }
    }

    /// Sleeps until `ready()`.
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(crate) fn wait<F: Fn() -> bool>(&self, ready: F) -> Result {
        self.sleep(ready, SIGNAL | FATAL)
    }

    /// As [`WaitQueue::wait`], but only a signal that kills ends it.
    ///
    /// # Errors
    /// `EINTR` on such a signal.
    pub(crate) fn wait_killable<F: Fn() -> bool>(&self, ready: F) -> Result {
        self.sleep(ready, FATAL)
    }

    /// As [`WaitQueue::wait`], but no signal ends it.
    pub(crate) fn wait_fully<F: Fn() -> bool>(&self, ready: F) {
        let _ = self.sleep(ready, 0);
    }

    /// Wakes everyone.
    pub(crate) fn wake(&self) {
        self.wakes.fetch_add(1, SeqCst);
        sched::yield_point();
    }
}

/// Returns whether a signal waits for the calling thread.
pub(crate) fn signal_pending() -> bool {
    sched::yield_point();
    current().has(SIGNAL | FATAL)
}

/// Returns whether the calling thread is being killed.
pub(crate) fn is_being_killed() -> bool {
    current().has(FATAL)
}

/// A file with its number, which the process does not have yet.
pub(crate) struct PreparedFile {
    fd: i32,
    file: Option<Open>,
    world: StdArc<World>,
}

impl PreparedFile {
    /// Makes a file for `this`.
    ///
    /// # Errors
    /// `EMFILE`, as the tests want it.
    pub(crate) fn new<T: AnonFile>(this: Arc<T>) -> Result<PreparedFile> {
        let world = world();
        if world.files.is_full.load(SeqCst) {
            return Err(EMFILE);
        }
        let fd = world.files.reserve();
        Ok(PreparedFile { fd, file: Some(Open::Anon(StdArc::new(AnonOf(this)))), world })
    }

    /// Returns the number that the file will have.
    pub(crate) fn fd(&self) -> u32 {
        self.fd as u32
    }

    /// Gives the file to the process. Returns its number.
    pub(crate) fn install(mut self) -> i64 {
        if let Some(file) = self.file.take() {
            locked(&self.world.files.open).insert(self.fd, file);
        }
        i64::from(self.fd)
    }
}

impl Drop for PreparedFile {
    fn drop(&mut self) {
        locked(&self.world.files.reserved).remove(&self.fd);
    }
}

/// Makes an fd for `this`.
///
/// # Errors
/// Those of [`PreparedFile::new`].
pub(crate) fn install<T: AnonFile>(this: Arc<T>) -> Result<i64> {
    PreparedFile::new(this).map(PreparedFile::install)
}
