// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters go when they are killed.
//!
//! The `kernel` crate's mutex waits until it has the lock, whatever signal comes. That is right where the
//! holder is done soon. It is not where the holder runs a guest, touches memory of user space (whose page may
//! be anybody's to bring) or waits for the host's files: there this one is used.

use super::ffi;
use core::cell::UnsafeCell;
use core::marker::PhantomPinned;
use core::ops::{Deref, DerefMut};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::LockClassKey;
use kernel::types::NotThreadSafe;

/// Guards a `T`.
///
/// # Invariants
/// `raw` is initialised, and whoever holds it is the only one to touch `data`.
#[pin_data]
pub(crate) struct KillableMutex<T> {
    #[pin]
    raw: UnsafeCell<bindings::mutex>,
    data: UnsafeCell<T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The lock hands the data from thread to thread.
unsafe impl<T: Send> Send for KillableMutex<T> {}
// SAFETY: By the invariant one thread at a time touches the data.
unsafe impl<T: Send> Sync for KillableMutex<T> {}

/// Makes a [`KillableMutex`] with a lock class of its own.
macro_rules! new_killable_mutex {
    ($value:expr, $name:literal) => {
        $crate::host::mutex::KillableMutex::new($value, $name, ::kernel::static_lock_class!())
    };
}
pub(crate) use new_killable_mutex;

impl<T> KillableMutex<T> {
    /// Makes one that nobody holds; see [`new_killable_mutex`].
    pub(crate) fn new(
        value: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<KillableMutex<T>> {
        // SAFETY: The closure initialises the lock at its final, pinned place; name and key are static.
        let raw = unsafe {
            pin_init::pin_init_from_closure(move |slot: *mut UnsafeCell<bindings::mutex>| {
                bindings::__mutex_init(slot.cast(), name.as_char_ptr(), key.as_ptr());
                Ok::<(), core::convert::Infallible>(())
            })
        };
        // INVARIANT: The lock is initialised, and only `MutexGuard` touches the data.
        pin_init!(KillableMutex { raw <- raw, data: UnsafeCell::new(value), _pin: PhantomPinned })
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// `EINTR` for a thread that is being killed.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>> {
        // SAFETY: Initialised by `new()`.
        kernel::error::to_result(unsafe { ffi::rvmm_mutex_lock_killable(self.raw.get()) })?;
        Ok(MutexGuard { lock: self, _here: NotThreadSafe })
    }

    /// Waits for the lock, whatever signal comes: for what must be put in order before the thread may go.
    pub(crate) fn lock_fully(&self) -> MutexGuard<'_, T> {
        // SAFETY: As in `lock()`.
        unsafe { bindings::mutex_lock(self.raw.get()) };
        MutexGuard { lock: self, _here: NotThreadSafe }
    }

    /// Takes the lock if nobody holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        // SAFETY: As in `lock()`.
        let taken = unsafe { bindings::mutex_trylock(self.raw.get()) } != 0;
        // No `then_some`: it would make the guard in any case, and drop it, which unlocks what another has locked.
        taken.then(|| MutexGuard { lock: self, _here: NotThreadSafe })
    }
}

/// The lock is held.
#[must_use = "the lock is free again when this is dropped"]
pub(crate) struct MutexGuard<'a, T> {
    lock: &'a KillableMutex<T>,
    _here: NotThreadSafe,
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: The lock is held.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held, and the guard is borrowed mutably.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: This thread holds the lock.
        unsafe { bindings::mutex_unlock(self.lock.raw.get()) };
    }
}
