// SPDX-License-Identifier: GPL-2.0

//! A value that is replaced as a whole while readers go on with the old one, and one that lives as long as
//! the module is loaded.

use super::cpu::PinnedCpu;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::{rcu, Arc};

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
        // SAFETY: The pointer came from a box; `RetiredValue` frees that box only after a grace period,
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
        drop(self.publish(KBox::new(value, GFP_KERNEL_ACCOUNT)?));
        Ok(())
    }

    /// Puts `value` in place and returns the old one, which readers may still see. Any context.
    pub(crate) fn publish(&self, value: KBox<T>) -> RetiredValue<T> {
        let old = self.ptr.swap(KBox::into_raw(value), Ordering::AcqRel);
        // INVARIANT: `old` came from a box, and nobody can reach it any more who did not before.
        RetiredValue { old }
    }
}

/// A value that was replaced. Dropping it waits until no reader can see it: sleeps.
///
/// # Invariants
/// `old` came from a box that this value owns, and was reachable through an [`RcuBox`] before, not since.
#[must_use = "dropping it sleeps"]
pub(crate) struct RetiredValue<T> {
    old: *mut T,
}

impl<T> RetiredValue<T> {
    /// Returns the value once no reader can see it. Sleeps.
    pub(crate) fn take(self) -> KBox<T> {
        self.wait();
        let retired = core::mem::ManuallyDrop::new(self);
        // SAFETY: By the type invariant, and the grace period has passed. `drop()` does not run.
        unsafe { KBox::from_raw(retired.old) }
    }

    fn wait(&self) {
        // A grace period takes ten milliseconds or more, and a VMM that sets its machine up waits for hundreds. As KVM, who
        // waits here has it hurried, which interrupts the CPUs that run something.
        // SAFETY: May be called wherever sleeping is allowed, as the type says.
        unsafe { bindings::synchronize_rcu_expedited() };
    }
}

impl<T> Drop for RetiredValue<T> {
    fn drop(&mut self) {
        self.wait();
        // SAFETY: By the type invariant, and the grace period has passed.
        drop(unsafe { KBox::from_raw(self.old) });
    }
}

impl<T> Drop for RcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: Nobody else can reach the value any more: `self` is borrowed mutably.
        drop(unsafe { KBox::from_raw(*self.ptr.get_mut()) });
    }
}

/// A static's value for as long as the module is loaded. Nothing drops a static when a module is unloaded, so
/// what would be lost has an owner: the [`FilledCell`].
///
/// # Invariants
/// `ptr` is null, or the pointer of an `Arc<T>` that a [`FilledCell`] owns.
pub(crate) struct ModuleCell<T> {
    ptr: AtomicPtr<T>,
}

// SAFETY: Readers get an `Arc<T>` of their own.
unsafe impl<T: Send + Sync> Sync for ModuleCell<T> {}

impl<T: Send + Sync> ModuleCell<T> {
    /// An empty cell.
    pub(crate) const fn new() -> ModuleCell<T> {
        ModuleCell { ptr: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Returns the value.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        let _guard = rcu::read_lock();
        let ptr = self.ptr.load(Ordering::Acquire);
        if ptr.is_null() {
            return None;
        }
        // SAFETY: By the invariant; the owner gives its reference up only after a grace period, which the read
        // lock holds off, and this one does not give it up at all.
        let owned = core::mem::ManuallyDrop::new(unsafe { Arc::from_raw(ptr.cast_const()) });
        Some(Arc::clone(&owned))
    }

    /// Puts `value` in until the answer is dropped. The cell is empty.
    pub(crate) fn fill(&'static self, value: Arc<T>) -> FilledCell<T> {
        // INVARIANT: The answer owns it.
        self.ptr.store(Arc::into_raw(value).cast_mut(), Ordering::Release);
        FilledCell(self)
    }
}

/// Owns the value of a [`ModuleCell`].
pub(crate) struct FilledCell<T: Send + Sync + 'static>(&'static ModuleCell<T>);

impl<T: Send + Sync> Drop for FilledCell<T> {
    fn drop(&mut self) {
        let old = self.0.ptr.swap(core::ptr::null_mut(), Ordering::AcqRel);
        rcu::synchronize_rcu();
        if !old.is_null() {
            // SAFETY: By the invariant it is ours to drop, and no reader is at it any more.
            drop(unsafe { Arc::from_raw(old.cast_const()) });
        }
    }
}
