// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs, which tests read.

use core::ffi::CStr;
use core::fmt::{Display, Formatter, Result};
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::sync::{Arc, Mutex};

type Read = Arc<dyn Fn() -> String + Send + Sync>;

/// What there is below a folder at the root, by path.
type Tree = Arc<Mutex<BTreeMap<String, Read>>>;

/// A folder.
#[derive(Clone)]
pub struct Dir {
    tree: Tree,
    path: String,
}

fn text(name: &CStr) -> &str {
    name.to_str().expect("a name in UTF-8")
}

impl Dir {
    /// Makes one at the root: each test has roots of its own.
    pub fn new(_name: &CStr) -> Dir {
        Dir { tree: Tree::default(), path: String::new() }
    }

    /// Makes one in this folder.
    pub fn subdir(&self, name: &CStr) -> Dir {
        Dir { tree: self.tree.clone(), path: std::format!("{}{}/", self.path, text(name)) }
    }

    /// Makes a file whose text `show` writes.
    pub fn read_callback_file<T, F>(&self, name: &CStr, data: T, show: &'static F) -> File<T>
    where
        T: Send + Sync + 'static,
        F: Fn(&T, &mut Formatter<'_>) -> Result + Send + Sync,
    {
        let path = std::format!("{}{}", self.path, text(name));
        let read = Arc::new(move || Shown(&data, show).to_string());
        let old = self.tree.lock().unwrap().insert(path.clone(), read);
        assert!(old.is_none(), "there is a {path}");
        File { tree: self.tree.clone(), path, data: core::marker::PhantomData }
    }

    /// Reads a file, as a test does. `None`: there is none at `path` below the folder.
    pub fn read(&self, path: &str) -> Option<String> {
        let path = std::format!("{}{path}", self.path);
        let file = self.tree.lock().unwrap().get(&path).cloned();
        file.map(|read| read())
    }

    /// Returns the paths of all files below the root.
    pub fn files(&self) -> std::vec::Vec<String> {
        self.tree.lock().unwrap().keys().cloned().collect()
    }
}

struct Shown<'a, T, F>(&'a T, &'a F);

impl<T, F: Fn(&T, &mut Formatter<'_>) -> Result> Display for Shown<'_, T, F> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        (self.1)(self.0, f)
    }
}

/// A file, which goes when this is dropped.
pub struct File<T> {
    tree: Tree,
    path: String,
    data: core::marker::PhantomData<fn() -> T>,
}

impl<T> Drop for File<T> {
    fn drop(&mut self) {
        // Dropped without the lock: what it shows may have files of its own.
        let file = self.tree.lock().unwrap().remove(&self.path);
        assert!(file.is_some(), "{} went twice", self.path);
    }
}
