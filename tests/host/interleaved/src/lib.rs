// SPDX-License-Identifier: GPL-2.0

//! The core library, in which another thread of [`kernel::sched::run`] may run before each atomic access.
//!
//! The tests' crate takes this for its `core`. So the module's own atomics, compiled as they are, are places where
//! threads meet. They are sequentially consistent, whatever is asked for: orders between threads are found, what
//! weaker orderings allow is not.

pub use ::core::*;

/// As the core library's.
pub mod sync {
    pub use ::core::sync::*;

    /// As the core library's, but for the types that are here.
    pub mod atomic {
        use ::core::sync::atomic as real;
        pub use ::core::sync::atomic::*;
        use kernel::sched::yield_point;

        macro_rules! integers {
            ($($name:ident $value:ty),*) => {$(
                #[allow(missing_docs)]
                #[derive(Debug, Default)]
                pub struct $name(real::$name);

                #[allow(missing_docs)]
                impl $name {
                    pub const fn new(value: $value) -> $name {
                        $name(real::$name::new(value))
                    }
                    pub fn load(&self, _: Ordering) -> $value {
                        yield_point();
                        self.0.load(Ordering::SeqCst)
                    }
                    pub fn store(&self, value: $value, _: Ordering) {
                        yield_point();
                        self.0.store(value, Ordering::SeqCst);
                    }
                    pub fn swap(&self, value: $value, _: Ordering) -> $value {
                        yield_point();
                        self.0.swap(value, Ordering::SeqCst)
                    }
                    pub fn fetch_or(&self, value: $value, _: Ordering) -> $value {
                        yield_point();
                        self.0.fetch_or(value, Ordering::SeqCst)
                    }
                    pub fn fetch_and(&self, value: $value, _: Ordering) -> $value {
                        yield_point();
                        self.0.fetch_and(value, Ordering::SeqCst)
                    }
                    pub fn compare_exchange(
                        &self,
                        old: $value,
                        new: $value,
                        _: Ordering,
                        _: Ordering,
                    ) -> Result<$value, $value> {
                        yield_point();
                        self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
                    }
                }
            )*};
        }
        integers!(AtomicBool bool, AtomicU8 u8, AtomicU16 u16, AtomicU32 u32, AtomicU64 u64, AtomicUsize usize);

        macro_rules! sums {
            ($($name:ident $value:ty),*) => {$(
                #[allow(missing_docs)]
                impl $name {
                    pub fn fetch_add(&self, value: $value, _: Ordering) -> $value {
                        yield_point();
                        self.0.fetch_add(value, Ordering::SeqCst)
                    }
                    pub fn fetch_sub(&self, value: $value, _: Ordering) -> $value {
                        yield_point();
                        self.0.fetch_sub(value, Ordering::SeqCst)
                    }
                    pub fn fetch_max(&self, value: $value, _: Ordering) -> $value {
                        yield_point();
                        self.0.fetch_max(value, Ordering::SeqCst)
                    }
                }
            )*};
        }
        sums!(AtomicU8 u8, AtomicU16 u16, AtomicU32 u32, AtomicU64 u64, AtomicUsize usize);
    }
}
