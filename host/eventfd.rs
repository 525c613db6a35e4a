// SPDX-License-Identifier: GPL-2.0

//! eventfds of user space: signalled from the run loop, and heard without a thread.
//!
//! An eventfd's context outlives its file for as long as someone holds it. [`EventListener`] hangs a callback
//! into the context's wait queue; the queue's lock is held, interrupts are off, while it runs, and
//! removing it takes the same lock. So once a listener is dropped, its callback neither runs nor will.

use super::ffi;
use super::file::FileRef;
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_uint, c_void};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::*};
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;
use kernel::sync::Arc;

/// poll(2): the eventfd's count is not 0.
const POLLIN: u32 = 1;
/// poll(2): the eventfd's last fd is closed.
const POLLHUP: u32 = 0x10;

/// A reference to an eventfd.
pub(crate) struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: A context is reference counted and carries its own lock.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Takes a reference to the eventfd behind `fd` of the calling process.
    ///
    /// # Errors
    /// `EBADF` for no such fd, `EINVAL` for one that is no eventfd.
    pub(crate) fn get(fd: i32) -> Result<EventFd> {
        // SAFETY: Process context.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        NonNull::new(ctx).map(EventFd).ok_or(EBADF)
    }

    /// Adds 1 to its count and wakes those who wait for it. Any context but an NMI.
    #[inline]
    pub(crate) fn signal(&self) {
        // SAFETY: The context is referenced.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl PartialEq for EventFd {
    /// The same eventfd, maybe through another fd.
    fn eq(&self, other: &EventFd) -> bool {
        self.0 == other.0
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: The reference is ours and given up here.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// What a [`EventListener`] does when its eventfd is signalled.
pub(crate) trait OnEvent: Send + Sync + 'static {
    /// Called with interrupts off, maybe in an interrupt: must not sleep, nor signal an eventfd.
    fn on_event(&self);
}

/// The part of a listener that the kernel points to.
///
/// # Invariants
/// `entry` is the first field, so that a pointer to it is one to the whole.
#[repr(C)]
struct ListenerEntry<T> {
    entry: UnsafeCell<bindings::wait_queue_entry>,
    event: EventFd,
    closed: AtomicBool,
    target: T,
}

// SAFETY: `entry` is touched by the wait queue alone, under its lock; all else is shareable.
unsafe impl<T: Send + Sync> Send for ListenerEntry<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for ListenerEntry<T> {}

/// Calls its target whenever an eventfd is signalled, until it is dropped.
///
/// # Invariants
/// The entry of `inner` is in the wait queue of its eventfd.
pub(crate) struct EventListener<T: OnEvent> {
    inner: Arc<ListenerEntry<T>>,
}

impl<T: OnEvent> EventListener<T> {
    /// Listens to the eventfd behind `fd` of the calling process. One that has been signalled already
    /// calls the target at once. Sleeps.
    ///
    /// # Errors
    /// `EBADF` for no such fd, `EINVAL` for one that is no eventfd, `EBUSY` for one that another
    /// listener consumes; `ENOMEM`.
    pub(crate) fn new(fd: i32, target: T) -> Result<EventListener<T>> {
        let file = FileRef::get(fd)?;
        // SAFETY: The file is referenced.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fileget(file.as_ptr()) })?;
        let event = EventFd(NonNull::new(ctx).ok_or(EINVAL)?);
        let entry = bindings::wait_queue_entry { func: Some(wake::<T>), ..Default::default() };
        let inner =
            ListenerEntry { entry: UnsafeCell::new(entry), event, closed: AtomicBool::new(false), target };
        let inner = Arc::new(inner, GFP_KERNEL_ACCOUNT)?;
        let mut error = 0;
        // SAFETY: The file is referenced and an eventfd's, whose poll() hands its wait queue to the callback of
        // the call. The entry lies in an `Arc`, so it stays where it is until the listener's drop removes it.
        let events = unsafe { ffi::rvmm_eventfd_listen(file.as_ptr(), inner.entry.get(), &mut error) };
        to_result(error)?;
        let this = EventListener { inner };
        if events & POLLIN != 0 {
            this.inner.target.on_event();
        }
        Ok(this)
    }

    /// Returns whether the eventfd is this one.
    pub(crate) fn hears(&self, event: &EventFd) -> bool {
        self.inner.event == *event
    }

    /// Returns what is called.
    pub(crate) fn target(&self) -> &T {
        &self.inner.target
    }

    /// Returns whether the eventfd's last fd is closed: it will never be signalled again.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Acquire)
    }
}

impl<T: OnEvent> Drop for EventListener<T> {
    fn drop(&mut self) {
        let mut count = 0;
        // SAFETY: By the type's invariant the entry is in this queue. When this returns it is out of it, and the
        // callback, which runs under the queue's lock, is over.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.inner.event.0.as_ptr(),
                self.inner.entry.get(),
                &mut count,
            )
        };
    }
}

/// # Safety
/// Only the wait queue of an eventfd calls this, under its lock, with the entry of an [`ListenerEntry<T>`].
unsafe extern "C" fn wake<T: OnEvent>(
    entry: *mut bindings::wait_queue_entry,
    _mode: c_uint,
    _flags: c_int,
    key: *mut c_void,
) -> c_int {
    // SAFETY: By contract, and the type's invariant; the listener's drop waits for this call.
    let inner = unsafe { &*entry.cast::<ListenerEntry<T>>() };
    let events = key.addr() as u32;
    if events & POLLHUP != 0 {
        inner.closed.store(true, Release);
    }
    if events & POLLIN == 0 {
        return 0;
    }
    // The count goes with the event: left there, it would be a signal to the next listener as well.
    let mut count = 0;
    // SAFETY: The context is referenced, and by contract its queue's lock is held.
    unsafe { bindings::eventfd_ctx_do_read(inner.event.0.as_ptr(), &mut count) };
    inner.target.on_event();
    1
}
