// SPDX-License-Identifier: GPL-2.0

//! Which file it is, whatever it is called.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A file or a device of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileId {
    /// By its file system and its number there.
    File(u64, u64),
    /// A device, which may have several nodes.
    Device(u64),
}

impl FileId {
    /// Says which file is open.
    ///
    /// # Errors
    /// That of `fstat`.
    pub fn of(file: &File) -> io::Result<Self> {
        file.metadata().map(|meta| Self::of_metadata(&meta))
    }

    /// Says which file a path names, without opening it.
    ///
    /// # Errors
    /// That of `stat`.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|meta| Self::of_metadata(&meta))
    }

    fn of_metadata(meta: &Metadata) -> Self {
        let kind = meta.file_type();
        if kind.is_block_device() || kind.is_char_device() {
            return Self::Device(meta.rdev());
        }
        Self::File(meta.dev(), meta.ino())
    }
}
