// SPDX-License-Identifier: GPL-2.0

//! Being told when the process's memory changes.
//!
//! The callbacks may come from any thread that changes the process's address space, with or without
//! the right to sleep; so they take only spin locks. The kernel pairs each begin with an end of the same range, but
//! for a registration that ends in between.

use super::ffi;
use crate::arch::addr::Hva;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use kernel::bindings;
use kernel::prelude::*;
use kernel::sync::Arc;

/// What a VM does when the memory under it changes.
pub(crate) trait OnInvalidate: Send + Sync {
    /// The range from `start` to `end` is about to change: nothing of it may be mapped, in tables or
    /// TLBs, when this returns, nor be mapped anew before [`OnInvalidate::end`].
    fn begin(&self, start: Hva, end: Hva);
    /// The change of that range, which was told of before, is done.
    fn end(&self, start: Hva, end: Hva);
    /// The address space goes away; as `begin` for all of it, for ever.
    fn release(&self);
}

#[repr(C)]
struct RawNotifier<T> {
    mn: bindings::mmu_notifier,
    target: *const T,
}

/// A registration with the address space of the process that made it.
pub(crate) struct Notifier<T: OnInvalidate> {
    raw: KBox<UnsafeCell<RawNotifier<T>>>,
    mm: *mut bindings::mm_struct,
    _target: PhantomData<T>,
}

// SAFETY: Registration and its end may happen on different threads.
unsafe impl<T: OnInvalidate> Send for Notifier<T> {}
// SAFETY: No method changes the registration through a shared reference.
unsafe impl<T: OnInvalidate> Sync for Notifier<T> {}

impl<T: OnInvalidate> Notifier<T> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        invalidate_range_start: Some(Self::start),
        invalidate_range_end: Some(Self::finish),
        clear_flush_young: None,
        clear_young: None,
        test_young: None,
        arch_invalidate_secondary_tlbs: None,
        alloc_notifier: None,
        free_notifier: None,
    };

    /// Registers for the current process; sleeps.
    ///
    /// The target is not kept alive: whoever holds the notifier keeps it, by owning both with the
    /// notifier dropped first.
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`.
    ///
    /// # Safety
    /// The returned value is dropped before `target` is.
    unsafe fn register_raw(target: *const T) -> Result<Notifier<T>> {
        let raw =
            KBox::new(UnsafeCell::new(RawNotifier { mn: pin_init::zeroed(), target }), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: In process context `current->mm` is the caller's address space.
        let mm: *mut bindings::mm_struct = unsafe { ffi::rvmm_current_mm() }.cast();
        // A thread of the kernel's.
        if mm.is_null() {
            return Err(ESRCH);
        }
        // SAFETY: The box has a stable address until `drop()`, which unregisters first.
        unsafe {
            (*raw.get()).mn.ops = &Self::OPS;
            kernel::error::to_result(bindings::mmu_notifier_register(raw.get().cast(), mm))?;
        }
        Ok(Notifier { raw, mm, _target: PhantomData })
    }

    /// Registers `target` for the current process; sleeps. See [`RegisteredTarget`].
    ///
    /// # Errors
    /// `ENOMEM`, `EINTR`, `ESRCH` without an address space.
    pub(crate) fn register(target: Arc<T>) -> Result<RegisteredTarget<T>> {
        // SAFETY: `RegisteredTarget` drops its notifier before its target (field order).
        let notifier = unsafe { Self::register_raw(Arc::as_ptr(&target)) }?;
        Ok(RegisteredTarget { notifier, target })
    }

    /// # Safety
    /// Only the kernel calls this, for a notifier that `register_raw()` registered and with a valid
    /// range.
    unsafe extern "C" fn start(
        mn: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> i32 {
        // SAFETY: `mn` is the first field of our `RawNotifier<T>`; the target outlives the registration.
        unsafe {
            let raw: *const RawNotifier<T> = mn.cast();
            (*(*raw).target).begin(Hva((*range).start as u64), Hva((*range).end as u64));
        }
        0
    }

    /// # Safety
    /// As for `start()`.
    unsafe extern "C" fn finish(mn: *mut bindings::mmu_notifier, range: *const bindings::mmu_notifier_range) {
        // SAFETY: As in `start()`.
        unsafe {
            let raw: *const RawNotifier<T> = mn.cast();
            (*(*raw).target).end(Hva((*range).start as u64), Hva((*range).end as u64));
        }
    }

    /// # Safety
    /// Only the kernel calls this, for a notifier that `register_raw()` registered.
    unsafe extern "C" fn release(mn: *mut bindings::mmu_notifier, _mm: *mut bindings::mm_struct) {
        // SAFETY: As in `start()`.
        unsafe {
            let raw: *const RawNotifier<T> = mn.cast();
            (*(*raw).target).release();
        }
    }
}

impl<T: OnInvalidate> Drop for Notifier<T> {
    fn drop(&mut self) {
        // SAFETY: Registered in `register_raw()` with this address space, which the registration holds.
        unsafe { bindings::mmu_notifier_unregister(self.raw.get().cast(), self.mm) }
    }
}

/// A target together with its registration.
pub(crate) struct RegisteredTarget<T: OnInvalidate> {
    // Dropped first: no callback runs after this field is gone.
    notifier: Notifier<T>,
    target: Arc<T>,
}

impl<T: OnInvalidate> RegisteredTarget<T> {
    /// Returns whether the calling thread belongs to the address space registered with.
    pub(crate) fn is_current(&self) -> bool {
        // SAFETY: Reads `current->mm`.
        unsafe { ffi::rvmm_current_mm() }.cast() == self.notifier.mm
    }
}

impl<T: OnInvalidate> core::ops::Deref for RegisteredTarget<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.target
    }
}
