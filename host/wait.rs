// SPDX-License-Identifier: GPL-2.0

//! Blocking one thread until another context wakes it.

use super::ffi;
use core::cell::UnsafeCell;
use core::ffi::c_void;
use kernel::bindings;
use kernel::prelude::*;

/// The place where one thread, and only one at a time, waits.
pub(crate) struct ThreadWaiter(UnsafeCell<bindings::rcuwait>);

// SAFETY: `rcuwait` is made to be woken from anywhere.
unsafe impl Send for ThreadWaiter {}
// SAFETY: As above; that one thread waits at a time is the contract of `wait()`.
unsafe impl Sync for ThreadWaiter {}

impl ThreadWaiter {
    /// An empty place.
    pub(crate) fn new() -> ThreadWaiter {
        ThreadWaiter(UnsafeCell::new(pin_init::zeroed()))
    }

    /// Sleeps until `ready()` is true; it is asked after every [`ThreadWaiter::wake`].
    ///
    /// Only the vCPU's own thread calls this, under the vCPU's mutex.
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(crate) fn wait<F: Fn() -> bool>(&self, ready: F) -> Result {
        /// # Safety
        /// `arg` points to an `F` that outlives the call.
        unsafe extern "C" fn call<F: Fn() -> bool>(arg: *mut c_void) -> bool {
            // SAFETY: By contract.
            unsafe { (*arg.cast::<F>())() }
        }
        // SAFETY: `self` and `ready` outlive the call, and `call::<F>` takes what `arg` points to.
        let ret =
            unsafe { ffi::rvmm_wait(self.0.get(), call::<F>, core::ptr::from_ref(&ready).cast_mut().cast()) };
        kernel::error::to_result(ret)
    }

    /// Wakes the waiting thread, if there is one. Any context.
    pub(crate) fn wake(&self) {
        // SAFETY: `self.0` is an initialised rcuwait (all zeroes is the empty one).
        unsafe { bindings::rcuwait_wake_up(self.0.get()) };
    }
}
