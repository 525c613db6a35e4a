// SPDX-License-Identifier: GPL-2.0

//! Fallible boxes and vectors with the kernel crate's signatures.

use crate::error::Error;
use crate::init::PinInit;
use core::cell::Cell;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;

/// An allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

/// The vector is full; holds the element.
#[derive(Debug, PartialEq, Eq)]
pub struct PushError<T>(pub T);

/// Allocation flags.
#[derive(Clone, Copy, Debug)]
pub struct Flags {
    may_sleep: bool,
}

/// The flags that the module uses.
pub mod flags {
    #![allow(non_upper_case_globals)]
    use super::Flags;

    /// May sleep.
    pub const GFP_KERNEL: Flags = Flags { may_sleep: true };
    /// May sleep; charged to the caller's memory cgroup.
    pub const GFP_KERNEL_ACCOUNT: Flags = Flags { may_sleep: true };
    /// Must not sleep.
    pub const GFP_ATOMIC: Flags = Flags { may_sleep: false };
    /// Zeroes the memory.
    pub const __GFP_ZERO: Flags = Flags { may_sleep: false };

    impl core::ops::BitOr for Flags {
        type Output = Flags;
        fn bitor(self, other: Flags) -> Flags {
            Flags { may_sleep: self.may_sleep || other.may_sleep }
        }
    }
}

thread_local! {
    static FAIL_IN: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Makes the `n`-th allocation from now on this thread fail, once; 0 is the next one.
pub fn fail_nth(n: u32) {
    FAIL_IN.with(|f| f.set(Some(n)));
}

/// Takes back [`fail_nth`]. Returns whether the failure had not been reached yet.
pub fn fail_none() -> bool {
    FAIL_IN.with(|f| f.take()).is_some()
}

/// Answers an allocation, as the tests want it.
///
/// # Errors
/// [`fail_nth`] says so.
pub fn check(flags: Flags) -> Result<(), AllocError> {
    if flags.may_sleep {
        crate::context::might_sleep("an allocation");
    }
    FAIL_IN.with(|f| match f.get() {
        Some(0) => {
            f.set(None);
            Err(AllocError)
        }
        Some(n) => {
            f.set(Some(n - 1));
            Ok(())
        }
        None => Ok(()),
    })
}

/// A box whose allocation can fail.
#[derive(Debug)]
pub struct KBox<T: ?Sized>(std::boxed::Box<T>);

impl<T> KBox<T> {
    /// Allocates and moves `value` in.
    pub fn new(value: T, flags: Flags) -> Result<KBox<T>, AllocError> {
        check(flags)?;
        Ok(KBox(std::boxed::Box::new(value)))
    }

    /// Allocates and makes the value.
    ///
    /// # Errors
    /// As the tests want it, and the initializer says.
    pub fn pin_init<E>(init: impl PinInit<T, E>, flags: Flags) -> Result<Pin<KBox<T>>, Error>
    where
        Error: From<E>,
        T: Unpin,
    {
        check(flags)?;
        Ok(Pin::new(KBox(std::boxed::Box::new(init.make()?))))
    }

    /// Moves the value out.
    pub fn into_inner(this: KBox<T>) -> T {
        *this.0
    }
}

impl<T: ?Sized> Deref for KBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for KBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A vector whose growth can fail.
#[derive(Debug, PartialEq, Eq)]
pub struct KVec<T>(std::vec::Vec<T>);

/// As [`KVec`]; in the kernel from vmalloc.
pub type VVec<T> = KVec<T>;
/// As [`KVec`]; in the kernel from kmalloc or vmalloc.
pub type KVVec<T> = KVec<T>;

impl<T> Default for KVec<T> {
    fn default() -> Self {
        KVec::new()
    }
}

impl<T> KVec<T> {
    /// An empty vector, without allocating.
    pub const fn new() -> KVec<T> {
        KVec(std::vec::Vec::new())
    }

    /// An empty vector with room for `n`.
    pub fn with_capacity(n: usize, flags: Flags) -> Result<KVec<T>, AllocError> {
        let mut v = KVec::new();
        v.grow(n, flags)?;
        Ok(v)
    }

    fn grow(&mut self, additional: usize, flags: Flags) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() < additional {
            check(flags)?;
            self.0.try_reserve(additional).map_err(|_| AllocError)?;
        }
        Ok(())
    }

    /// Appends `value`.
    pub fn push(&mut self, value: T, flags: Flags) -> Result<(), AllocError> {
        self.grow(1, flags)?;
        self.0.push(value);
        Ok(())
    }

    /// Appends `value` where it fits without allocating. The capacity is at least what was asked for,
    /// as in the kernel crate.
    pub fn push_within_capacity(&mut self, value: T) -> Result<(), PushError<T>> {
        if self.0.len() == self.0.capacity() {
            return Err(PushError(value));
        }
        self.0.push(value);
        Ok(())
    }

    /// Inserts `value` at `i` where it fits without allocating.
    pub fn insert_within_capacity(&mut self, i: usize, value: T) -> Result<(), PushError<T>> {
        if i > self.0.len() || self.0.len() == self.0.capacity() {
            return Err(PushError(value));
        }
        self.0.insert(i, value);
        Ok(())
    }

    /// Removes the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Removes the element at `i`.
    pub fn remove(&mut self, i: usize) -> Result<T, AllocError> {
        if i < self.0.len() {
            Ok(self.0.remove(i))
        } else {
            Err(AllocError)
        }
    }

    /// Makes room for `additional` more.
    pub fn reserve(&mut self, additional: usize, flags: Flags) -> Result<(), AllocError> {
        self.grow(additional, flags)
    }

    /// Drops all elements.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Drops elements from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Keeps the elements for which `f` holds.
    pub fn retain(&mut self, f: impl FnMut(&mut T) -> bool) {
        self.0.retain_mut(f);
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// The elements, mutably.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }

    /// Elements allocated.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<T: Clone> KVec<T> {
    /// `n` copies of `value`.
    pub fn from_elem(value: T, n: usize, flags: Flags) -> Result<KVec<T>, AllocError> {
        let mut v = KVec::new();
        v.grow(n, flags)?;
        v.0.resize(n, value);
        Ok(v)
    }

    /// Appends copies of all of `other`.
    pub fn extend_from_slice(&mut self, other: &[T], flags: Flags) -> Result<(), AllocError> {
        self.grow(other.len(), flags)?;
        self.0.extend_from_slice(other);
        Ok(())
    }

    /// Appends `n` copies of `value`.
    pub fn extend_with(&mut self, n: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        self.grow(n, flags)?;
        self.0.resize(self.0.len() + n, value);
        Ok(())
    }

    /// Makes the length `len`, filling with copies of `value`.
    pub fn resize(&mut self, len: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        self.grow(len.saturating_sub(self.0.len()), flags)?;
        self.0.resize(len, value);
        Ok(())
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<'a, T> IntoIterator for &'a KVec<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut KVec<T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

impl<T> IntoIterator for KVec<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
