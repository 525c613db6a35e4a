// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters go when they are killed.

use kernel::context::might_sleep;
use kernel::prelude::*;
use kernel::sched;
use kernel::sync::{RawGuard, RawLock};
use kernel::task::{current, FATAL};

/// Guards a `T`.
pub(crate) struct KillableMutex<T>(RawLock<T>);

/// Makes a [`KillableMutex`].
macro_rules! new_killable_mutex {
    ($value:expr, $name:literal) => {
        $crate::host::mutex::KillableMutex::new($value, concat!(module_path!(), ":", line!()))
    };
}
pub(crate) use new_killable_mutex;

/// The lock is held.
pub(crate) type MutexGuard<'a, T> = RawGuard<'a, T>;

impl<T> KillableMutex<T> {
    /// Makes one that nobody holds.
    pub(crate) fn new(value: T, class: &'static str) -> KillableMutex<T> {
        KillableMutex(RawLock::new(value, class))
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// `EINTR` for a thread that is being killed.
    #[track_caller]
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>> {
        might_sleep("KillableMutex::lock()");
        let task = current();
        loop {
            if let Some(guard) = self.0.try_lock() {
                return Ok(guard);
            }
            if task.has(FATAL) {
                return Err(EINTR);
            }
            sched::wait_until("a killable mutex", || task.has(FATAL) || self.0.is_free());
        }
    }

    /// Waits for the lock, whatever signal comes.
    #[track_caller]
    pub(crate) fn lock_fully(&self) -> MutexGuard<'_, T> {
        might_sleep("KillableMutex::lock_fully()");
        self.0.lock()
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock()
    }
}
