// SPDX-License-Identifier: GPL-2.0

//! Read access to a kernel or initrd image at any offset, so that large images are never held in memory twice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes copied into the guest at a time.
const CHUNK: usize = 1 << 20;

/// An image of known length.
pub trait Image {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, else the error of the read.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file as an image. Its length is taken once, when it is opened.
#[derive(Debug)]
pub struct FileImage {
    file: File,
    len: u64,
}

impl FileImage {
    /// Takes an open file.
    ///
    /// # Errors
    /// The error of `fstat`; `IsADirectory` for a directory.
    pub fn new(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self { file, len: meta.len() })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Image for FileImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

impl Image for [u8] {
    fn len(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let start = usize::try_from(offset).map_err(|_| eof())?;
        let end = start.checked_add(buf.len()).ok_or_else(eof)?;
        buf.copy_from_slice(self.get(start..end).ok_or_else(eof)?);
        Ok(())
    }
}

/// Copies `len` bytes of `image` at `offset` to guest physical address `gpa`.
///
/// # Errors
/// A read error of the image, or `InvalidInput` when the guest has no RAM there.
pub fn copy_to_guest(
    image: &(impl Image + ?Sized),
    offset: u64,
    len: u64,
    ram: &GuestMemoryMmap<()>,
    gpa: u64,
) -> io::Result<()> {
    let mut buf = vec![0; CHUNK.min(usize::try_from(len).unwrap_or(CHUNK))];
    let mut done = 0;
    while done < len {
        let now = (len - done).min(buf.len() as u64);
        let part = &mut buf[..now as usize];
        let from = offset.checked_add(done).ok_or(io::ErrorKind::InvalidInput)?;
        let to = gpa.checked_add(done).ok_or(io::ErrorKind::InvalidInput)?;
        image.read_at(from, part)?;
        ram.write_slice(part, GuestAddress(to)).map_err(|_| io::ErrorKind::InvalidInput)?;
        done += now;
    }
    Ok(())
}
