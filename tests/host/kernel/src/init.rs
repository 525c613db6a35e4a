// SPDX-License-Identifier: GPL-2.0

//! Values that are made where they are to lie. Nothing here depends on the place, so they are made and moved.

use core::convert::Infallible;
use core::marker::PhantomData;

/// Makes a `T`, or says why not.
pub trait PinInit<T, E = Infallible>: Sized {
    /// Makes it.
    ///
    /// # Errors
    /// Whatever the parts say.
    fn make(self) -> Result<T, E>;
}

impl<T> PinInit<T, Infallible> for T {
    fn make(self) -> Result<T, Infallible> {
        Ok(self)
    }
}

/// What `pin_init!` makes.
struct Initializer<F, T, E>(F, PhantomData<fn() -> (T, E)>);

impl<F: FnOnce() -> Result<T, E>, T, E> PinInit<T, E> for Initializer<F, T, E> {
    fn make(self) -> Result<T, E> {
        (self.0)()
    }
}

/// Wraps what makes the value; for the macros.
pub fn initializer<F: FnOnce() -> Result<T, E>, T, E>(make: F) -> impl PinInit<T, E> {
    Initializer(make, PhantomData)
}

/// As the kernel's; the error is `Infallible` where none is named after a `?`.
#[macro_export]
macro_rules! pin_init {
    ($name:ident { $($fields:tt)* }) => {
        $crate::pin_init!($name { $($fields)* }? ::core::convert::Infallible)
    };
    ($name:ident { $($fields:tt)* } ? $error:ty) => {
        $crate::init::initializer::<_, _, $error>(move || $crate::__init_fields!($name [] $($fields)*))
    };
}

/// As the kernel's; the error is `Error` where none is named after a `?`.
#[macro_export]
macro_rules! try_pin_init {
    ($name:ident { $($fields:tt)* }) => {
        $crate::pin_init!($name { $($fields)* }? $crate::error::Error)
    };
    ($($all:tt)*) => { $crate::pin_init!($($all)*) };
}

/// Turns the fields of `pin_init!` into values, of which those that come later can use those before them.
#[doc(hidden)]
#[macro_export]
macro_rules! __init_fields {
    ($name:ident [$($done:ident)*]) => { Ok($name { $($done),* }) };
    ($name:ident [$($done:ident)*] $field:ident : $value:expr $(, $($rest:tt)*)?) => {{
        let $field = $value;
        $crate::__init_fields!($name [$($done)* $field] $($($rest)*)?)
    }};
    ($name:ident [$($done:ident)*] $field:ident <- $value:expr $(, $($rest:tt)*)?) => {{
        let $field = $crate::init::PinInit::make($value)?;
        $crate::__init_fields!($name [$($done)* $field] $($($rest)*)?)
    }};
    ($name:ident [$($done:ident)*] $field:ident $(, $($rest:tt)*)?) => {
        $crate::__init_fields!($name [$($done)* $field] $($($rest)*)?)
    };
}
