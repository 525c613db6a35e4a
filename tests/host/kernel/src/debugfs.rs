// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs, which tests read.

use core::ffi::CStr;
use core::fmt::{Display, Formatter, Result};
use std::boxed::Box;

type Show<T> = Box<dyn Fn(&T, &mut Formatter<'_>) -> Result + Send + Sync>;

/// A folder.
pub struct Dir(());

impl Dir {
    /// Makes it.
    pub fn new(_name: &CStr) -> Dir {
        Dir(())
    }

    /// Makes a file whose text `show` writes.
    pub fn read_callback_file<T, F>(&self, _name: &CStr, data: T, show: &'static F) -> File<T>
    where
        F: Fn(&T, &mut Formatter<'_>) -> Result + Send + Sync,
    {
        File { data, show: Box::new(show) }
    }
}

/// A file.
pub struct File<T> {
    data: T,
    show: Show<T>,
}

impl<T> Display for File<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        (self.show)(&self.data, f)
    }
}
