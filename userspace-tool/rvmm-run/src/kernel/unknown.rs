// SPDX-License-Identifier: GPL-2.0

//! What a file is that was given as a kernel and is none that can be started.

use std::fmt;
use std::io;

use super::image::KernelImage;

/// A file that people give for a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownImage {
    /// A kernel for another architecture.
    Other(&'static str),
    /// Compressed, by this program.
    Compressed(&'static str),
    /// A program for EFI that holds no kernel.
    Efi,
    /// An archive of an initramfs.
    Cpio,
    /// A script.
    Script,
    /// Nothing that is known.
    Nothing,
}

/// Magic numbers: where, what, and what has it.
const MAGIC: [(u64, &[u8], UnknownImage); 13] = [
    (0x38, b"ARM\x64", UnknownImage::Other("64-bit ARM")),
    (0x24, b"\x18\x28\x6f\x01", UnknownImage::Other("32-bit ARM")),
    (0x30, b"RISCV", UnknownImage::Other("RISC-V")),
    (0x38, b"LoongArch", UnknownImage::Other("LoongArch")),
    (0, b"\x27\x05\x19\x56", UnknownImage::Other("U-Boot (a uImage)")),
    (0, b"\x1f\x8b", UnknownImage::Compressed("gzip")),
    (0, b"\xfd7zXZ\0", UnknownImage::Compressed("xz")),
    (0, b"\x28\xb5\x2f\xfd", UnknownImage::Compressed("zstd")),
    (0, b"\x04\x22\x4d\x18", UnknownImage::Compressed("lz4")),
    (0, b"BZh", UnknownImage::Compressed("bzip2")),
    (0, b"0707", UnknownImage::Cpio),
    (0, b"#!", UnknownImage::Script),
    (0, b"MZ", UnknownImage::Efi),
];

impl UnknownImage {
    /// Says what `image` is.
    ///
    /// # Errors
    /// That of the read.
    pub fn of(image: &(impl KernelImage + ?Sized)) -> io::Result<Self> {
        let mut head = [0; 64];
        let len = usize::try_from(image.len()).unwrap_or(64).min(64);
        image.read_at(0, &mut head[..len])?;
        let found = MAGIC.iter().find(|(at, magic, _)| head[*at as usize..].starts_with(magic));
        Ok(found.map_or(Self::Nothing, |(_, _, what)| *what))
    }
}

impl fmt::Display for UnknownImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(machine) => {
                write!(f, "it is a kernel for {machine}: only x86 kernels can be started")
            }
            Self::Compressed(program) => {
                write!(f, "it is compressed by {program}: unpack it with '{program} -dc FILE > NEW'")
            }
            Self::Efi => {
                write!(f, "it is a program for EFI without a Linux kernel in it: give the kernel's own file")
            }
            Self::Cpio => write!(f, "it is an archive for --initrd: give the kernel first"),
            Self::Script => write!(f, "it is a script: give the vmlinuz or vmlinux of a Linux kernel"),
            Self::Nothing => {
                write!(
                    f,
                    "it is neither a bzImage nor an ELF file, and has no multiboot header: give the vmlinuz or vmlinux of a Linux kernel, or another system's"
                )
            }
        }
    }
}
