// SPDX-License-Identifier: GPL-2.0

//! Fallible boxes and vectors with the kernel crate's signatures.

use core::cell::Cell;
use core::ops::{Deref, DerefMut};

/// An allocation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

/// The vector is full; holds the element.
#[derive(Debug, PartialEq, Eq)]
pub struct PushError<T>(pub T);

/// Allocation flags; the stand-in ignores them.
#[derive(Clone, Copy, Debug)]
pub struct Flags;

/// The flags that the module uses.
pub mod flags {
    #![allow(non_upper_case_globals)]
    use super::Flags;

    /// May sleep.
    pub const GFP_KERNEL: Flags = Flags;
    /// May sleep; charged to the caller's memory cgroup.
    pub const GFP_KERNEL_ACCOUNT: Flags = Flags;
    /// Must not sleep.
    pub const GFP_ATOMIC: Flags = Flags;
    /// Zeroes the memory.
    pub const __GFP_ZERO: Flags = Flags;

    impl core::ops::BitOr for Flags {
        type Output = Flags;
        fn bitor(self, _: Flags) -> Flags {
            Flags
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

fn check() -> Result<(), AllocError> {
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
    pub fn new(value: T, _flags: Flags) -> Result<KBox<T>, AllocError> {
        check()?;
        Ok(KBox(std::boxed::Box::new(value)))
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
    pub fn with_capacity(n: usize, _flags: Flags) -> Result<KVec<T>, AllocError> {
        let mut v = KVec::new();
        v.grow(n)?;
        Ok(v)
    }

    fn grow(&mut self, additional: usize) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() < additional {
            check()?;
            self.0.try_reserve(additional).map_err(|_| AllocError)?;
        }
        Ok(())
    }

    /// Appends `value`.
    pub fn push(&mut self, value: T, _flags: Flags) -> Result<(), AllocError> {
        self.grow(1)?;
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
    pub fn reserve(&mut self, additional: usize, _flags: Flags) -> Result<(), AllocError> {
        self.grow(additional)
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
    pub fn from_elem(value: T, n: usize, _flags: Flags) -> Result<KVec<T>, AllocError> {
        let mut v = KVec::new();
        v.grow(n)?;
        v.0.resize(n, value);
        Ok(v)
    }

    /// Appends copies of all of `other`.
    pub fn extend_from_slice(&mut self, other: &[T], _flags: Flags) -> Result<(), AllocError> {
        self.grow(other.len())?;
        self.0.extend_from_slice(other);
        Ok(())
    }

    /// Appends `n` copies of `value`.
    pub fn extend_with(&mut self, n: usize, value: T, _flags: Flags) -> Result<(), AllocError> {
        self.grow(n)?;
        self.0.resize(self.0.len() + n, value);
        Ok(())
    }

    /// Makes the length `len`, filling with copies of `value`.
    pub fn resize(&mut self, len: usize, value: T, _flags: Flags) -> Result<(), AllocError> {
        self.grow(len.saturating_sub(self.0.len()))?;
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
