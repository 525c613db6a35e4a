// SPDX-License-Identifier: GPL-2.0

//! Values that are replaced under their readers.

use super::cpu::PinnedCpu;
use super::world::{locked, world};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::context::{might_sleep, Atomic};
use kernel::prelude::*;
use kernel::sched;
use kernel::sync::Arc;
use std::collections::BTreeSet;
use std::sync::{Arc as StdArc, Mutex};

/// Who reads.
#[derive(Default)]
pub(crate) struct Readers {
    next: AtomicU64,
    reading: StdArc<Mutex<BTreeSet<u64>>>,
}

/// A section that reads.
pub(super) struct Reading {
    number: u64,
    readers: StdArc<Mutex<BTreeSet<u64>>>,
}

impl Readers {
    /// Begins a section.
    pub(super) fn begin(&self) -> Reading {
        let number = self.next.fetch_add(1, SeqCst);
        locked(&self.reading).insert(number);
        Reading { number, readers: self.reading.clone() }
    }

    /// Waits until all sections have ended that have begun.
    fn synchronize(&self) {
        if std::thread::panicking() {
            return;
        }
        might_sleep("synchronize_rcu()");
        let end = self.next.load(SeqCst);
        sched::wait_until("RCU's readers", || locked(&self.reading).first().is_none_or(|n| *n >= end));
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        locked(&self.readers).remove(&self.number);
    }
}

/// Owns a `T` that [`RcuBox::read`] sees whole.
pub(crate) struct RcuBox<T> {
    value: Mutex<StdArc<T>>,
}

impl<T: Send + Sync + 'static> RcuBox<T> {
    /// Boxes `value`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(value: T) -> Result<RcuBox<T>> {
        let value = KBox::into_inner(KBox::new(value, GFP_KERNEL_ACCOUNT)?);
        Ok(RcuBox { value: Mutex::new(StdArc::new(value)) })
    }

    fn current(&self) -> StdArc<T> {
        locked(&self.value).clone()
    }

    /// Calls `f` with the current value.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        let (_atomic, _reads) = (Atomic::new(), world().readers.begin());
        sched::yield_point();
        let value = self.current();
        sched::yield_point();
        f(&value)
    }

    /// Returns the current value, for as long as interrupts stay off.
    pub(crate) fn pinned<'a>(&'a self, cpu: &'a PinnedCpu) -> &'a T {
        sched::yield_point();
        cpu.keep(&self.current())
    }

    /// Puts `value` in place and returns once no reader can see the old one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn replace(&self, value: T) -> Result {
        drop(self.publish(KBox::new(value, GFP_KERNEL_ACCOUNT)?));
        Ok(())
    }

    /// Puts `value` in place and returns the old one, which readers may still see.
    pub(crate) fn publish(&self, value: KBox<T>) -> RetiredValue<T> {
        sched::yield_point();
        let new = StdArc::new(KBox::into_inner(value));
        RetiredValue { old: Some(core::mem::replace(&mut *locked(&self.value), new)) }
    }
}

/// A value that was replaced. Dropping it waits until no reader can see it.
#[must_use = "dropping it sleeps"]
pub(crate) struct RetiredValue<T> {
    old: Option<StdArc<T>>,
}

impl<T> RetiredValue<T> {
    /// Returns the value once no reader can see it.
    pub(crate) fn take(mut self) -> KBox<T> {
        world().readers.synchronize();
        let old = self.old.take().and_then(StdArc::into_inner).expect("a reader is left");
        KBox::new(old, GFP_KERNEL_ACCOUNT).expect("a box that there was")
    }
}

impl<T> Drop for RetiredValue<T> {
    fn drop(&mut self) {
        let Some(old) = self.old.take() else { return };
        world().readers.synchronize();
        assert!(std::thread::panicking() || StdArc::strong_count(&old) == 1, "a reader is left");
    }
}

/// A static's value for as long as the module is loaded.
pub(crate) struct ModuleCell<T>(Mutex<Option<Arc<T>>>);

impl<T: Send + Sync> ModuleCell<T> {
    /// An empty cell.
    pub(crate) const fn new() -> ModuleCell<T> {
        ModuleCell(Mutex::new(None))
    }

    /// Returns the value.
    pub(crate) fn get(&self) -> Option<Arc<T>> {
        locked(&self.0).clone()
    }

    /// Puts `value` in until the answer is dropped.
    pub(crate) fn fill(&'static self, value: Arc<T>) -> FilledCell<T> {
        *locked(&self.0) = Some(value);
        FilledCell(self)
    }
}

/// Owns the value of a [`ModuleCell`].
pub(crate) struct FilledCell<T: Send + Sync + 'static>(&'static ModuleCell<T>);

impl<T: Send + Sync> Drop for FilledCell<T> {
    fn drop(&mut self) {
        *locked(&self.0 .0) = None;
    }
}
