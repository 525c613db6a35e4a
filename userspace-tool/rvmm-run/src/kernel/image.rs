// SPDX-License-Identifier: GPL-2.0

//! Read access to a kernel or initrd image at any offset, so that large images are never held in memory twice.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes copied into the guest at a time.
const CHUNK: usize = 1 << 20;

/// An image of known length.
pub trait KernelImage {
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

/// A file as an image, or a part of one. Its length is taken once, when it is opened. What has no length, as a pipe, is read
/// into memory, once.
#[derive(Clone, Debug)]
pub struct FileImage {
    source: Arc<Source>,
    start: u64,
    len: u64,
}

#[derive(Debug)]
struct Source {
    file: File,
    /// All of it, where it can be read once only, or was unpacked.
    bytes: Option<Vec<u8>>,
}

/// Most bytes of a pipe that are taken for an image.
const PIPE_MAX: u64 = 4 << 30;

impl FileImage {
    /// Takes an open file.
    ///
    /// # Errors
    /// The error of `fstat` or `read`; `IsADirectory` for a directory, `Unsupported` for a device, `FileTooLarge` for a pipe
    /// without end.
    pub fn new(file: File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let kind = meta.file_type();
        if kind.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if kind.is_char_device() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        if !kind.is_fifo() && !kind.is_socket() {
            return Ok(Self { source: Arc::new(Source { file, bytes: None }), start: 0, len: meta.len() });
        }
        let mut bytes = Vec::new();
        (&file).take(PIPE_MAX + 1).read_to_end(&mut bytes)?;
        let len = bytes.len() as u64;
        if len > PIPE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Self { source: Arc::new(Source { file, bytes: Some(bytes) }), start: 0, len })
    }

    /// A part of it, as far as it reaches.
    pub fn part(&self, offset: u64, len: u64) -> Self {
        let offset = offset.min(self.len);
        Self { source: Arc::clone(&self.source), start: self.start + offset, len: len.min(self.len - offset) }
    }

    /// Other contents of the same file: what was unpacked of it.
    ///
    /// # Errors
    /// That of `dup`.
    pub fn with_bytes(&self, bytes: Vec<u8>) -> io::Result<Self> {
        let (file, len) = (self.source.file.try_clone()?, bytes.len() as u64);
        Ok(Self { source: Arc::new(Source { file, bytes: Some(bytes) }), start: 0, len })
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.source.file
    }
}

impl KernelImage for FileImage {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &self.source.bytes {
            Some(bytes) => bytes.as_slice().read_at(self.start + offset, buf),
            None => self.source.file.read_exact_at(buf, self.start + offset),
        }
    }
}

impl KernelImage for [u8] {
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
    image: &(impl KernelImage + ?Sized),
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
