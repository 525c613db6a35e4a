// SPDX-License-Identifier: GPL-2.0

//! A value that is replaced as a whole while readers go on with the old one.

use super::cpu::PinnedCpu;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::prelude::*;
use kernel::sync::rcu;

/// Owns a `T` that [`RcuBox::read`] sees whole, before or after a replacement.
pub(crate) struct RcuBox<T> {
    ptr: AtomicPtr<T>,
}

// SAFETY: The box owns its `T`.
unsafe impl<T: Send + Sync> Send for RcuBox<T> {}
// SAFETY: Readers get `&T`; replacement hands the old value back after all readers are gone.
unsafe impl<T: Send + Sync> Sync for RcuBox<T> {}

impl<T> RcuBox<T> {
    /// Boxes `value`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(value: T) -> Result<RcuBox<T>> {
        Ok(RcuBox { ptr: AtomicPtr::new(KBox::into_raw(KBox::new(value, GFP_KERNEL_ACCOUNT)?)) })
    }

    /// Calls `f` with the current value. `f` must not sleep.
    #[inline(always)]
    pub(crate) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let _guard = rcu::read_lock();
        // SAFETY: The pointer came from a box; `replace()` frees that box only after a grace period,
        // which the read lock holds off.
        f(unsafe { &*self.ptr.load(Ordering::Acquire) })
    }

    /// Returns the current value, for as long as interrupts stay off: a grace period waits for that, too.
    #[inline(always)]
    pub(crate) fn pinned<'a>(&'a self, _cpu: &'a PinnedCpu) -> &'a T {
        // SAFETY: As in `read()`; while `_cpu` is borrowed interrupts are off, so preemption is, and
        // `synchronize_rcu()` waits for regions without preemption as for read locks.
        unsafe { &*self.ptr.load(Ordering::Acquire) }
    }

    /// Puts `value` in place and returns once no reader can see the old one. Sleeps.
    ///
    /// # Errors
    /// `ENOMEM`; the old value then stays.
    pub(crate) fn replace(&self, value: T) -> Result {
        let new = KBox::into_raw(KBox::new(value, GFP_KERNEL_ACCOUNT)?);
        let old = self.ptr.swap(new, Ordering::AcqRel);
        rcu::synchronize_rcu();
        // SAFETY: `old` came from a box, was unpublished above, and the grace period has passed.
        drop(unsafe { KBox::from_raw(old) });
        Ok(())
    }
}

impl<T> Drop for RcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: Nobody else can reach the value any more: `self` is borrowed mutably.
        drop(unsafe { KBox::from_raw(*self.ptr.get_mut()) });
    }
}
