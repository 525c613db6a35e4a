// SPDX-License-Identifier: GPL-2.0

//! Being told when the process's memory changes.

use super::world::{locked, world, World};
use crate::arch::addr::Hva;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::prelude::*;
use kernel::sched;
use kernel::sync::Arc;
use kernel::task::current;
use std::sync::{Arc as StdArc, Mutex};

/// How long a change takes: so often another thread may run before it, and after.
const TAKES: usize = 6;

/// What a VM does when the memory under it changes.
pub(crate) trait OnInvalidate: Send + Sync {
    /// The range is about to change.
    fn begin(&self, start: Hva, end: Hva);
    /// The change is done.
    fn end(&self, start: Hva, end: Hva);
    /// The address space goes away.
    fn release(&self);
}

/// Those who are told.
#[derive(Default)]
pub(crate) struct Notifiers {
    listed: Mutex<Vec<(u64, StdArc<dyn OnInvalidate>)>>,
    next: AtomicU64,
    /// Changes under way.
    busy: AtomicU64,
}

impl Notifiers {
    fn all(&self) -> Vec<(u64, StdArc<dyn OnInvalidate>)> {
        locked(&self.listed).clone()
    }

    /// Does `change` between the begin and the end of all who are told.
    pub(super) fn around<R>(&self, start: u64, end: u64, change: impl FnOnce() -> R) -> R {
        self.busy.fetch_add(1, SeqCst);
        let told = self.all();
        for (_, target) in &told {
            target.begin(Hva(start), Hva(end));
        }
        for _ in 0..TAKES {
            sched::yield_point();
        }
        let done = change();
        for _ in 0..TAKES {
            sched::yield_point();
        }
        for (_, target) in &told {
            target.end(Hva(start), Hva(end));
        }
        self.busy.fetch_sub(1, SeqCst);
        done
    }

    /// The address space goes away.
    pub(crate) fn release(&self) {
        for (_, target) in self.all() {
            target.release();
        }
    }

    fn remove(&self, number: u64) {
        if !std::thread::panicking() {
            sched::wait_until("notifiers that are under way", || self.busy.load(SeqCst) == 0);
        }
        locked(&self.listed).retain(|(n, _)| *n != number);
    }
}

/// A registration.
pub(crate) struct Notifier;

impl Notifier {
    /// Registers `target` for the current process.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn register<T: OnInvalidate + 'static>(target: Arc<T>) -> Result<RegisteredTarget<T>> {
        drop(KBox::new((), GFP_KERNEL_ACCOUNT)?);
        let world = world();
        let number = world.notifiers.next.fetch_add(1, SeqCst);
        locked(&world.notifiers.listed).push((number, target.as_std().clone()));
        Ok(RegisteredTarget { target, number, world })
    }
}

/// A target together with its registration.
pub(crate) struct RegisteredTarget<T> {
    target: Arc<T>,
    number: u64,
    world: StdArc<World>,
}

impl<T> RegisteredTarget<T> {
    /// Returns whether the calling thread belongs to the address space registered with.
    pub(crate) fn is_current(&self) -> bool {
        StdArc::ptr_eq(&current().process, &self.world.process)
    }
}

impl<T> Drop for RegisteredTarget<T> {
    fn drop(&mut self) {
        self.world.notifiers.remove(self.number);
    }
}

impl<T> core::ops::Deref for RegisteredTarget<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.target
    }
}
