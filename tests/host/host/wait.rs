// SPDX-License-Identifier: GPL-2.0

//! Blocking one thread until another context wakes it.

use super::file::WaitQueue;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use kernel::prelude::*;

/// The place where one thread waits.
pub(crate) struct ThreadWaiter {
    queue: WaitQueue,
    is_taken: AtomicBool,
}

impl ThreadWaiter {
    /// An empty place.
    pub(crate) fn new() -> ThreadWaiter {
        ThreadWaiter { queue: WaitQueue::empty(), is_taken: AtomicBool::new(false) }
    }

    /// Sleeps until `ready()` is true.
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(crate) fn wait<F: Fn() -> bool>(&self, ready: F) -> Result {
        assert!(!self.is_taken.swap(true, SeqCst), "one thread waits here");
        let done = self.queue.wait(ready);
        self.is_taken.store(false, SeqCst);
        done
    }

    /// Wakes the waiting thread, if there is one.
    pub(crate) fn wake(&self) {
        self.queue.wake();
    }
}
