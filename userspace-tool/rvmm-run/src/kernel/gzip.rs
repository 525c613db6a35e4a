// SPDX-License-Identifier: GPL-2.0

//! Kernels that are compressed by gzip as a whole, as OpenBSD's `bsd.rd` is and multiboot kernels often are.
//!
//! (A bzImage unpacks itself.) RFC 1952, "Member format". One member is read; what lies behind it is left alone.

use std::io::{self, BufReader, Read};

use flate2::read::GzDecoder;

use super::error::KernelError;
use super::image::KernelImage;

/// Most bytes of an unpacked kernel: larger than any, smaller than what makes the host suffer.
const UNPACKED_MAX: u64 = 1 << 30;

/// An image from its first byte to its last.
struct ImageReader<'a, I: ?Sized> {
    image: &'a I,
    at: u64,
}

impl<I: KernelImage + ?Sized> Read for ImageReader<'_, I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let now = (self.image.len() - self.at).min(buf.len() as u64) as usize;
        self.image.read_at(self.at, &mut buf[..now])?;
        self.at += now as u64;
        Ok(now)
    }
}

/// Unpacks an image; `None` for one that is not compressed.
///
/// # Errors
/// `Gzip` for data that are damaged or end early, `UnpackedTooLarge`, `Io`.
pub fn unpack(image: &(impl KernelImage + ?Sized)) -> Result<Option<Vec<u8>>, KernelError> {
    unpack_at_most(image, UNPACKED_MAX)
}

/// The same with another limit.
///
/// # Errors
/// The same.
pub fn unpack_at_most(image: &(impl KernelImage + ?Sized), max: u64) -> Result<Option<Vec<u8>>, KernelError> {
    let mut magic = [0; 3];
    if image.len() < magic.len() as u64 {
        return Ok(None);
    }
    image.read_at(0, &mut magic)?;
    // Deflate is the only method there is.
    if magic != [0x1f, 0x8b, 8] {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let unpacked = GzDecoder::new(BufReader::new(ImageReader { image, at: 0 }));
    unpacked.take(max + 1).read_to_end(&mut bytes).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            KernelError::Gzip(e.to_string())
        }
        _ => KernelError::Io(e),
    })?;
    if bytes.len() as u64 > max {
        return Err(KernelError::UnpackedTooLarge(max));
    }
    Ok(Some(bytes))
}
