// SPDX-License-Identifier: GPL-2.0

//! Files without a name: the fds of VMs, vCPUs and devices.

use super::ffi;
use core::ffi::{c_int, c_uint, c_void};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::{from_err_ptr, from_result};
use kernel::fmt::{Display, Formatter};
use kernel::fs::file::FileDescriptorReservation;
use kernel::fs::File;
use kernel::iov::{IovIterDest, IovIterSource};
use kernel::mm::virt::VmaNew;
use kernel::prelude::*;
use kernel::seq_file::{seq_print, SeqFile};
use kernel::sync::aref::ARef;
use kernel::sync::Arc;

/// The file can be read at a position (pread).
pub(crate) const FMODE_PREAD: u32 = 8;

/// The operations of a file whose private data is an `Arc<Self>`.
pub(crate) trait AnonFile: Send + Sync + Sized + 'static {
    /// The name in /proc/PID/fd.
    const NAME: &'static CStr;
    /// More file modes than reading and writing: [`FMODE_PREAD`].
    const FMODE: u32 = 0;

    /// Handles an ioctl of the 64-bit ABI.
    ///
    /// # Errors
    /// Whatever the caller is to see; `ENOTTY` for an unknown command.
    fn ioctl(this: &Arc<Self>, cmd: u32, arg: u64) -> Result<i64>;

    /// Handles mmap.
    ///
    /// # Errors
    /// `ENODEV` where nothing can be mapped.
    fn mmap(_this: &Arc<Self>, _vma: &VmaNew) -> Result {
        Err(ENODEV)
    }

    /// Handles read from `position`, which it moves on; `nonblock` is O_NONBLOCK.
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

    /// Answers poll: the events that hold now. The wait queue to watch is [`AnonFile::wait_queue`].
    fn poll(_this: &Arc<Self>) -> u32 {
        0
    }

    /// The queue that is woken when [`AnonFile::poll`] may answer otherwise.
    fn wait_queue(_this: &Self) -> Option<&WaitQueue> {
        None
    }

    /// Writes down what /proc/PID/fdinfo shows of the file. May sleep, but not for long: the reader holds the file.
    ///
    /// # Errors
    /// Those of the formatter.
    fn show(_this: &Arc<Self>, _f: &mut Formatter<'_>) -> kernel::fmt::Result {
        Ok(())
    }

    /// The last reference through an fd is gone.
    fn release(_this: &Arc<Self>) {}
}

/// A reference to an open file of whatever kind.
///
/// A file may hold any other: the queue of a UNIX socket does, and what a file system or a block device is made
/// of may. One that an fd of ours held could hold that fd, and then nobody could ever free either. So a file is
/// held by a system call only, which ends at the latest when its thread is killed. The type says so: it goes
/// to no other thread, and nothing that threads share can have it, but for a [`FileLoan`].
pub(crate) struct FileRef(NonNull<bindings::file>);

impl FileRef {
    /// Takes a reference to the file behind `fd` of the calling process.
    ///
    /// # Errors
    /// `EBADF` for no such fd.
    pub(super) fn get(fd: i32) -> Result<FileRef> {
        let fd = u32::try_from(fd).map_err(|_| EBADF)?;
        // SAFETY: Process context; a null answer means no such fd.
        NonNull::new(unsafe { bindings::fget(fd) }).map(FileRef).ok_or(EBADF)
    }

    /// Returns the file, which stays open as long as the reference lives.
    pub(super) fn as_ptr(&self) -> *mut bindings::file {
        self.0.as_ptr()
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        // SAFETY: The reference is ours and given up here.
        unsafe { bindings::fput(self.0.as_ptr()) }
    }
}

/// A kind of file that devices work with.
///
/// # Safety
/// What the type does with the file may be done by any thread, and by several at once.
pub(crate) unsafe trait HostFile: Sized {
    /// Makes one of an open file.
    ///
    /// # Errors
    /// `EINVAL` for a file of another kind.
    fn of(file: FileRef) -> Result<Self>;
}

/// A file that a device works with but does not hold: the process's number for it, and what tells it from
/// another one that gets the number later.
pub(crate) struct KnownFile<T> {
    fd: i32,
    device: u32,
    inode: u64,
    kind: PhantomData<fn() -> T>,
}

impl<T: HostFile> KnownFile<T> {
    /// Looks at the file behind `fd` of the calling process.
    ///
    /// # Errors
    /// `EBADF` for no such fd, and those of [`HostFile::of`].
    pub(crate) fn look_up(fd: i32) -> Result<(KnownFile<T>, T)> {
        let file = FileRef::get(fd)?;
        let (mut device, mut inode) = (0, 0);
        // SAFETY: The file is referenced, the out pointers are valid.
        unsafe { ffi::rvmm_file_identity(file.as_ptr(), &mut device, &mut inode) };
        Ok((KnownFile { fd, device, inode, kind: PhantomData }, T::of(file)?))
    }

    /// Takes a reference to the file, of which the calling process still has the fd.
    ///
    /// # Errors
    /// `EBADF` where the fd is closed, or another file's by now.
    pub(crate) fn get(&self) -> Result<T> {
        let (found, file) = KnownFile::look_up(self.fd)?;
        if (found.device, found.inode) == (self.device, self.inode) {
            Ok(file)
        } else {
            Err(EBADF)
        }
    }
}

/// The place of a file in what threads share. It is empty but while a thread is lent to the device in a system
/// call: that thread fills it, and does not go before it has emptied it.
pub(crate) struct FileLoan<T>(Option<T>);

// SAFETY: A `struct file` is reference counted, and so is usable from any thread as the trait says.
unsafe impl<T: HostFile> Send for FileLoan<T> {}

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
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        self.0.take()
    }

    /// Returns the file.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_ref()
    }
}

/// A kernel wait queue, for pollers and blocking readers.
pub(crate) struct WaitQueue(core::cell::UnsafeCell<bindings::wait_queue_head>);

// SAFETY: Wait queues carry their own lock.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// An empty queue at its final place.
    pub(crate) fn new() -> impl PinInit<WaitQueue> {
        // SAFETY: `slot` is the value's final, pinned place; the name and key are static.
        unsafe {
            pin_init::pin_init_from_closure(|slot: *mut WaitQueue| {
                bindings::__init_waitqueue_head(
                    slot.cast(),
                    c"rvmm".as_char_ptr().cast(),
                    kernel::static_lock_class!().as_ptr(),
                );
                Ok(())
            })
        }
    }

    /// Sleeps until `ready()`, which is asked after every [`WaitQueue::wake`].
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(crate) fn wait<F: Fn() -> bool>(&self, ready: F) -> Result {
        // SAFETY: The queue is initialised; `ready` outlives the call and `call::<F>` takes what `arg` is.
        let ret = unsafe {
            ffi::rvmm_wait_queue(self.0.get(), call::<F>, core::ptr::from_ref(&ready).cast_mut().cast())
        };
        kernel::error::to_result(ret)
    }

    /// As [`WaitQueue::wait`], but only a signal that kills ends it.
    ///
    /// # Errors
    /// `EINTR` on such a signal.
    pub(crate) fn wait_killable<F: Fn() -> bool>(&self, ready: F) -> Result {
        // SAFETY: As in `wait()`.
        let ret = unsafe {
            ffi::rvmm_wait_queue_killable(
                self.0.get(),
                call::<F>,
                core::ptr::from_ref(&ready).cast_mut().cast(),
            )
        };
        kernel::error::to_result(ret).map_err(|_| EINTR)
    }

    /// As [`WaitQueue::wait`], but no signal ends it, not even one that kills: for what ends soon by
    /// itself.
    pub(crate) fn wait_fully<F: Fn() -> bool>(&self, ready: F) {
        // SAFETY: As in `wait()`.
        unsafe {
            ffi::rvmm_wait_queue_fully(self.0.get(), call::<F>, core::ptr::from_ref(&ready).cast_mut().cast())
        }
    }

    /// Wakes everyone. Any context but NMI.
    pub(crate) fn wake(&self) {
        // SAFETY: Initialised by `new()`.
        unsafe { bindings::__wake_up(self.0.get(), 3, 0, core::ptr::null_mut()) };
    }
}

/// Asks whether to end a wait.
///
/// # Safety
/// `arg` points to an `F` that outlives the call.
unsafe extern "C" fn call<F: Fn() -> bool>(arg: *mut c_void) -> bool {
    // SAFETY: By contract.
    unsafe { (*arg.cast::<F>())() }
}

/// Returns whether a signal waits for the calling thread, which should then return to user space.
pub(crate) fn signal_pending() -> bool {
    // SAFETY: Process context.
    unsafe { ffi::rvmm_signal_pending() }
}

/// Returns whether the calling thread is being killed: what it waits or tries for is nobody's any more.
pub(crate) fn is_being_killed() -> bool {
    // SAFETY: Process context.
    unsafe { ffi::rvmm_fatal_signal_pending() }
}

/// What [`AnonFile::show`] writes.
struct ShownFile<'a, T>(&'a Arc<T>);

impl<T: AnonFile> Display for ShownFile<'_, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> kernel::fmt::Result {
        T::show(self.0, f)
    }
}

struct FileOps<T>(PhantomData<T>);

impl<T: AnonFile> FileOps<T> {
    const TABLE: bindings::file_operations = bindings::file_operations {
        // The module's own object, by which its text stays while a file of it is open.
        owner: core::ptr::addr_of!(bindings::__this_module).cast_mut(),
        unlocked_ioctl: Some(Self::ioctl),
        compat_ioctl: bindings::compat_ptr_ioctl,
        mmap: Some(Self::mmap),
        release: Some(Self::release),
        read_iter: Some(Self::read),
        write_iter: Some(Self::write),
        poll: Some(Self::poll),
        show_fdinfo: Some(Self::show),
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };

    /// # Safety
    /// `file` is open and was made by [`install`] with this `T`.
    unsafe fn this(file: *mut bindings::file) -> core::mem::ManuallyDrop<Arc<T>> {
        // SAFETY: By contract the private data is the pointer of an `Arc<T>` that the file owns.
        core::mem::ManuallyDrop::new(unsafe { Arc::from_raw((*file).private_data.cast::<T>()) })
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `file` is one of ours.
    unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: usize) -> isize {
        // SAFETY: By contract.
        let this = unsafe { Self::this(file) };
        match T::ioctl(&this, cmd, arg as u64) {
            Ok(v) => v as isize,
            Err(e) => e.to_errno() as isize,
        }
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `file` is one of ours, and `vma` is being set up.
    unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
        // SAFETY: As in `ioctl()`.
        let this = unsafe { Self::this(file) };
        // SAFETY: `vma` is being set up by this very call.
        let vma = unsafe { VmaNew::from_raw(vma) };
        from_result(|| T::mmap(&this, vma).map(|()| 0))
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `iocb` is of one of our files, and `to` is a
    /// destination that is valid for the call.
    unsafe extern "C" fn read(iocb: *mut bindings::kiocb, to: *mut bindings::iov_iter) -> isize {
        // SAFETY: As in `ioctl()`; the iterator is valid for the call.
        unsafe {
            let file = (*iocb).ki_filp;
            let this = Self::this(file);
            let nonblock = (*file).f_flags & bindings::O_NONBLOCK != 0;
            let mut position = u64::try_from((*iocb).ki_pos).unwrap_or(0);
            let done = T::read(&this, dest(to), &mut position, nonblock);
            (*iocb).ki_pos = i64::try_from(position).unwrap_or(i64::MAX);
            match done {
                Ok(n) => n as isize,
                Err(e) => e.to_errno() as isize,
            }
        }
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `iocb` is of one of our files, and `from` is a
    /// source that is valid for the call.
    unsafe extern "C" fn write(iocb: *mut bindings::kiocb, from: *mut bindings::iov_iter) -> isize {
        // SAFETY: As in `read()`.
        unsafe {
            let file = (*iocb).ki_filp;
            let this = Self::this(file);
            let nonblock = (*file).f_flags & bindings::O_NONBLOCK != 0;
            match T::write(&this, source(from), nonblock) {
                Ok(n) => n as isize,
                Err(e) => e.to_errno() as isize,
            }
        }
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `file` is one of ours, and `table` is valid for
    /// the call.
    unsafe extern "C" fn poll(file: *mut bindings::file, table: *mut bindings::poll_table_struct) -> u32 {
        // SAFETY: As in `ioctl()`.
        let this = unsafe { Self::this(file) };
        // In this order: what happens between the look and the queue would wake nobody.
        if let Some(queue) = T::wait_queue(&this) {
            // SAFETY: The queue lives as long as the file, and the poll table is valid for the call.
            unsafe { bindings::poll_wait(file, queue.0.get(), table) };
        }
        T::poll(&this)
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `file` is one of ours and stays open, and nobody else uses
    /// `to` during the call.
    unsafe extern "C" fn show(to: *mut bindings::seq_file, file: *mut bindings::file) {
        // SAFETY: By contract.
        let (this, to) = unsafe { (Self::this(file), SeqFile::from_raw(to)) };
        seq_print!(to, "{}", ShownFile::<T>(&this));
    }

    /// # Safety
    /// Only the kernel calls this, through [`Self::TABLE`]: `file` is one of ours, and its last reference is gone.
    unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The file's own reference is given up here, once.
        let this = unsafe { Arc::from_raw((*file).private_data.cast::<T>()) };
        T::release(&this);
        0
    }
}

/// Returns the iterator of a read. One place for the check that the kernel crate makes.
///
/// # Safety
/// `to` is a destination that is valid for `'a`, and nothing else uses it meanwhile.
#[inline(never)]
unsafe fn dest<'a>(to: *mut bindings::iov_iter) -> &'a mut IovIterDest<'a> {
    // SAFETY: By contract.
    unsafe { IovIterDest::from_raw(to) }
}

/// Returns the iterator of a write; see [`dest`].
///
/// # Safety
/// `from` is a source that is valid for `'a`, and nothing else uses it meanwhile.
#[inline(never)]
unsafe fn source<'a>(from: *mut bindings::iov_iter) -> &'a mut IovIterSource<'a> {
    // SAFETY: By contract.
    unsafe { IovIterSource::from_raw(from) }
}

/// A file with its number, which the calling process does not have yet: whatever else may fail is done before
/// [`PreparedFile::install`], which cannot. Dropped, the file goes.
pub(crate) struct PreparedFile {
    fd: FileDescriptorReservation,
    file: ARef<File>,
}

impl PreparedFile {
    /// Makes a file for `this`, which owns the reference.
    ///
    /// # Errors
    /// `EMFILE` and those of `anon_inode_getfile()`.
    pub(crate) fn new<T: AnonFile>(this: Arc<T>) -> Result<PreparedFile> {
        let fd = FileDescriptorReservation::get_unused_fd_flags(bindings::O_CLOEXEC)?;
        let private = Arc::into_raw(this).cast_mut();
        let (name, table) = (T::NAME.as_char_ptr().cast(), &FileOps::<T>::TABLE);
        // SAFETY: The name and the table are static; the file takes over the reference.
        let file = unsafe { ffi::rvmm_anon_file(name, table, private.cast::<c_void>(), T::FMODE) };
        let file = from_err_ptr(file).inspect_err(|_| {
            // SAFETY: No file was made, so the reference is still ours.
            drop(unsafe { Arc::from_raw(private) });
        })?;
        let file = NonNull::new(file.cast::<File>()).ok_or(EINVAL)?;
        // SAFETY: The file is new, and its one reference is ours. Nobody looked up its position by an fd, so
        // it is no `LocalFile`.
        Ok(PreparedFile { fd, file: unsafe { ARef::from_raw(file) } })
    }

    /// Returns the number that the file will have.
    pub(crate) fn fd(&self) -> u32 {
        self.fd.reserved_fd()
    }

    /// Gives the file to the calling process. Returns its number.
    pub(crate) fn install(self) -> i64 {
        let fd = self.fd();
        self.fd.fd_install(self.file);
        i64::from(fd)
    }
}

/// Makes an fd for `this` in the calling process; the fd owns the reference.
///
/// # Errors
/// Those of [`PreparedFile::new`].
pub(crate) fn install<T: AnonFile>(this: Arc<T>) -> Result<i64> {
    PreparedFile::new(this).map(PreparedFile::install)
}
