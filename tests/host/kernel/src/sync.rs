// SPDX-License-Identifier: GPL-2.0

//! Locks and shared values.
//!
//! Locks know the order in which they are taken, over all tests: whoever takes two in the order that is the other
//! way round elsewhere panics, and so does who takes a lock that it holds.

use crate::alloc::{AllocError, Flags};
use crate::context::{might_sleep, Atomic, IrqOff};
use crate::error::{Error, Result};
use crate::init::PinInit;
use crate::interrupt::LocalInterruptDisabled;
use crate::sched;
use core::cell::RefCell;
use core::fmt::{Debug, Formatter};
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use std::collections::HashSet;
use std::sync::{Mutex as StdMutex, MutexGuard as StdGuard, OnceLock, PoisonError, TryLockError};

/// A shared value.
pub struct Arc<T: ?Sized>(std::sync::Arc<T>);

impl<T> Arc<T> {
    /// Allocates and moves `value` in.
    ///
    /// # Errors
    /// As the tests want it.
    pub fn new(value: T, flags: Flags) -> Result<Arc<T>, AllocError> {
        crate::alloc::check(flags)?;
        Ok(Arc(std::sync::Arc::new(value)))
    }

    /// Allocates, and makes the value.
    ///
    /// # Errors
    /// As the tests want it, and the initializer says.
    pub fn pin_init<E>(init: impl PinInit<T, E>, flags: Flags) -> Result<Arc<T>>
    where
        Error: From<E>,
    {
        crate::alloc::check(flags)?;
        Ok(Arc(std::sync::Arc::new(init.make()?)))
    }

    /// Returns the same as the standard library has it, for the stand-ins.
    pub fn as_std(&self) -> &std::sync::Arc<T> {
        &self.0
    }

    /// Takes one of the standard library's, for the stand-ins.
    pub fn from_std(arc: std::sync::Arc<T>) -> Arc<T> {
        Arc(arc)
    }
}

impl<T: ?Sized> Clone for Arc<T> {
    fn clone(&self) -> Self {
        Arc(self.0.clone())
    }
}

impl<T: ?Sized> Deref for Arc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized + Debug> Debug for Arc<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// A value that is set at most once.
pub struct SetOnce<T>(OnceLock<T>);

impl<T> SetOnce<T> {
    /// Not set yet.
    pub const fn new() -> SetOnce<T> {
        SetOnce(OnceLock::new())
    }

    /// Sets it. Returns whether it was not set before.
    pub fn populate(&self, value: T) -> bool {
        sched::yield_point();
        self.0.set(value).is_ok()
    }

    /// Returns the value.
    pub fn as_ref(&self) -> Option<&T> {
        sched::yield_point();
        self.0.get()
    }
}

impl<T> Default for SetOnce<T> {
    fn default() -> Self {
        SetOnce::new()
    }
}

/// The place in the source where a lock is made.
pub type Class = &'static str;

thread_local! {
    static HELD: RefCell<Vec<(Class, usize)>> = const { RefCell::new(Vec::new()) };
}

/// Pairs of classes of which the second was taken under the first.
fn orders() -> StdGuard<'static, HashSet<(Class, Class)>> {
    static ORDERS: OnceLock<StdMutex<HashSet<(Class, Class)>>> = OnceLock::new();
    ORDERS.get_or_init(Default::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that the thread is about to take a lock. `waits`: it would wait for it.
#[track_caller]
fn note(class: Class, id: usize, waits: bool) {
    if std::thread::panicking() {
        return;
    }
    let held = HELD.with(|h| h.borrow().clone());
    if waits {
        assert!(!held.iter().any(|(_, i)| *i == id), "{class} is taken by who holds it");
        let mut orders = orders();
        for (outer, _) in &held {
            let mut reach = vec![class];
            let mut at = 0;
            while let Some(from) = reach.get(at).copied() {
                assert!(from != *outer, "{class} is taken under {outer}, and elsewhere the other way round");
                let more: Vec<_> =
                    orders.iter().filter(|(a, b)| *a == from && !reach.contains(b)).map(|o| o.1).collect();
                reach.extend(more);
                at += 1;
            }
            orders.insert((outer, class));
        }
    }
    HELD.with(|h| h.borrow_mut().push((class, id)));
}

fn forget(id: usize) {
    HELD.with(|h| {
        let mut held = h.borrow_mut();
        if let Some(at) = held.iter().rposition(|(_, i)| *i == id) {
            held.remove(at);
        }
    });
}

/// What all locks are.
pub struct RawLock<T: ?Sized> {
    class: Class,
    value: StdMutex<T>,
}

/// What all locks' guards hold.
pub struct RawGuard<'a, T: ?Sized> {
    id: usize,
    // An `Option`, so that it goes before another thread may run.
    value: Option<StdGuard<'a, T>>,
}

impl<T> RawLock<T> {
    /// A free one of this class.
    pub const fn new(value: T, class: Class) -> RawLock<T> {
        RawLock { class, value: StdMutex::new(value) }
    }
}

impl<T: ?Sized> RawLock<T> {
    fn id(&self) -> usize {
        core::ptr::from_ref(self).cast::<()>() as usize
    }

    /// Takes it.
    #[track_caller]
    pub fn lock(&self) -> RawGuard<'_, T> {
        note(self.class, self.id(), true);
        sched::yield_point();
        let mut found = self.attempt();
        if found.is_none() {
            sched::wait_until(self.class, || self.is_free());
            found = self.attempt();
        }
        RawGuard { id: self.id(), value: Some(found.expect("a lock that was free")) }
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<RawGuard<'_, T>> {
        sched::yield_point();
        let value = self.attempt()?;
        note(self.class, self.id(), false);
        Some(RawGuard { id: self.id(), value: Some(value) })
    }

    /// Returns whether nobody holds it.
    pub fn is_free(&self) -> bool {
        !matches!(self.value.try_lock(), Err(TryLockError::WouldBlock))
    }

    fn attempt(&self) -> Option<StdGuard<'_, T>> {
        match self.value.try_lock() {
            Ok(value) => Some(value),
            Err(TryLockError::Poisoned(value)) => Some(value.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: ?Sized> Deref for RawGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect("held until the drop")
    }
}

impl<T: ?Sized> DerefMut for RawGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("held until the drop")
    }
}

impl<T: ?Sized> Drop for RawGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        forget(self.id);
        sched::yield_point();
    }
}

/// A lock held, and what the thread must not do meanwhile.
pub struct Guard<'a, T: ?Sized> {
    raw: RawGuard<'a, T>,
    _context: (Option<Atomic>, Option<IrqOff>, PhantomData<*const ()>),
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.raw
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.raw
    }
}

/// A lock whose waiters sleep.
pub struct Mutex<T: ?Sized>(RawLock<T>);

impl<T> Mutex<T> {
    /// See [`crate::new_mutex`].
    pub const fn new(value: T, class: Class) -> Mutex<T> {
        Mutex(RawLock::new(value, class))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for it.
    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T> {
        might_sleep("Mutex::lock()");
        Guard { raw: self.0.lock(), _context: (None, None, PhantomData) }
    }
}

/// A lock whose waiters spin.
pub struct SpinLock<T: ?Sized>(RawLock<T>);

impl<T> SpinLock<T> {
    /// See [`crate::new_spinlock`].
    pub const fn new(value: T, class: Class) -> SpinLock<T> {
        SpinLock(RawLock::new(value, class))
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Takes it.
    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T> {
        let atomic = Atomic::new();
        Guard { raw: self.0.lock(), _context: (Some(atomic), None, PhantomData) }
    }
}

/// A lock that interrupts take, too.
pub struct SpinLockIrq<T: ?Sized>(RawLock<T>);

impl<T> SpinLockIrq<T> {
    /// See [`crate::new_spinlock_irq`].
    pub const fn new(value: T, class: Class) -> SpinLockIrq<T> {
        SpinLockIrq(RawLock::new(value, class))
    }
}

impl<T: ?Sized> SpinLockIrq<T> {
    /// Turns interrupts off and takes it.
    #[track_caller]
    pub fn lock(&self) -> Guard<'_, T> {
        let context = (Some(Atomic::new()), Some(IrqOff::new()), PhantomData);
        Guard { raw: self.0.lock(), _context: context }
    }

    /// Takes it where interrupts are off.
    #[track_caller]
    pub fn lock_with<'a>(&'a self, _off: &'a LocalInterruptDisabled) -> Guard<'a, T> {
        let context = (Some(Atomic::new()), None, PhantomData);
        Guard { raw: self.0.lock(), _context: context }
    }
}

/// Makes a [`Mutex`] with a class of its own.
#[macro_export]
macro_rules! new_mutex {
    ($value:expr $(, $name:literal)?) => {
        $crate::sync::Mutex::new($value, concat!(module_path!(), ":", line!()))
    };
}

/// Makes a [`SpinLock`] with a class of its own.
#[macro_export]
macro_rules! new_spinlock {
    ($value:expr $(, $name:literal)?) => {
        $crate::sync::SpinLock::new($value, concat!(module_path!(), ":", line!()))
    };
}

/// Makes a [`SpinLockIrq`] with a class of its own.
#[macro_export]
macro_rules! new_spinlock_irq {
    ($value:expr $(, $name:literal)?) => {
        $crate::sync::SpinLockIrq::new($value, concat!(module_path!(), ":", line!()))
    };
}
