// SPDX-License-Identifier: GPL-2.0

//! eventfds.

use super::file::FileRef;
use super::world::locked;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use kernel::context::{in_interrupt, might_sleep};
use kernel::prelude::*;
use kernel::sched;
use std::sync::{Arc, Mutex};

/// The count of an eventfd, and who consumes it.
pub(crate) struct EventCount {
    count: AtomicU64,
    listener: Mutex<Option<Arc<dyn Heard>>>,
}

/// A listener of whatever type.
trait Heard: Send + Sync {
    fn hear(&self);
    fn hang_up(&self);
}

impl EventCount {
    pub(super) fn new() -> Arc<EventCount> {
        Arc::new(EventCount { count: AtomicU64::new(0), listener: Mutex::new(None) })
    }

    /// Adds 1, as write(2) on it does: a listener takes it at once.
    pub(crate) fn signal(&self) {
        sched::yield_point();
        let listener = locked(&self.listener).clone();
        match listener {
            Some(listener) => in_interrupt(|| listener.hear()),
            None => {
                self.count.fetch_add(1, SeqCst);
            }
        }
    }

    /// Takes the count, as read(2) does.
    pub(crate) fn take(&self) -> u64 {
        self.count.swap(0, SeqCst)
    }

    /// The last fd is closed.
    pub(super) fn hang_up(&self) {
        let listener = locked(&self.listener).clone();
        if let Some(listener) = listener {
            listener.hang_up();
        }
    }

    /// Returns whether somebody listens.
    pub(crate) fn is_heard(&self) -> bool {
        locked(&self.listener).is_some()
    }
}

/// A reference to an eventfd.
pub(crate) struct EventFd(Arc<EventCount>);

impl EventFd {
    /// Takes a reference to the eventfd behind `fd`.
    ///
    /// # Errors
    /// `EBADF` for no such fd, `EINVAL` for one that is no eventfd.
    pub(crate) fn get(fd: i32) -> Result<EventFd> {
        FileRef::event(fd).map(EventFd)
    }

    /// Adds 1 to its count and wakes those who wait for it.
    pub(crate) fn signal(&self) {
        self.0.signal();
    }
}

impl PartialEq for EventFd {
    fn eq(&self, other: &EventFd) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a [`EventListener`] does when its eventfd is signalled.
pub(crate) trait OnEvent: Send + Sync + 'static {
    /// Called with interrupts off.
    fn on_event(&self);
}

struct ListenerEntry<T> {
    closed: AtomicBool,
    target: T,
}

impl<T: OnEvent> Heard for ListenerEntry<T> {
    fn hear(&self) {
        self.target.on_event();
    }

    fn hang_up(&self) {
        self.closed.store(true, Release);
    }
}

/// Calls its target whenever an eventfd is signalled, until it is dropped.
pub(crate) struct EventListener<T: OnEvent> {
    event: Arc<EventCount>,
    inner: Arc<ListenerEntry<T>>,
}

impl<T: OnEvent> EventListener<T> {
    /// Listens to the eventfd behind `fd`.
    ///
    /// # Errors
    /// `EBADF` for no such fd, `EINVAL` for one that is no eventfd, `EBUSY` for one that another listener consumes.
    pub(crate) fn new(fd: i32, target: T) -> Result<EventListener<T>> {
        might_sleep("Listener::new()");
        let event = FileRef::event(fd)?;
        drop(KBox::new((), GFP_KERNEL_ACCOUNT)?);
        let inner = Arc::new(ListenerEntry { closed: AtomicBool::new(false), target });
        {
            let mut place = locked(&event.listener);
            if place.is_some() {
                return Err(EBUSY);
            }
            *place = Some(inner.clone());
        }
        if event.take() != 0 {
            inner.target.on_event();
        }
        Ok(EventListener { event, inner })
    }

    /// Returns whether the eventfd is this one.
    pub(crate) fn hears(&self, event: &EventFd) -> bool {
        Arc::ptr_eq(&self.event, &event.0)
    }

    /// Returns what is called.
    pub(crate) fn target(&self) -> &T {
        &self.inner.target
    }

    /// Returns whether the eventfd's last fd is closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.inner.closed.load(Acquire)
    }
}

impl<T: OnEvent> Drop for EventListener<T> {
    fn drop(&mut self) {
        *locked(&self.event.listener) = None;
    }
}
