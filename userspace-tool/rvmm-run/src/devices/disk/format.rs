// SPDX-License-Identifier: GPL-2.0

//! What a file is whose bytes are not those of a disk: containers of other programs, archives, compressed images.
//!
//! A guest would see them as garbage, and its first write would destroy their header. They are told by their magic
//! numbers, as file(1) does. What a raw disk may hold itself is not among them: file systems, partition tables, LUKS.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A format, and how its data becomes a raw image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFormat {
    /// What people call it.
    pub name: &'static str,
    /// The way to a raw image.
    pub cure: FormatRemedy,
}

/// What makes a raw image of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatRemedy {
    /// qemu-img, which knows it by this name.
    Convert(&'static str),
    /// This program, which writes what was compressed to its standard output.
    Unpack(&'static str),
    /// This command; the image is inside.
    Extract(&'static str),
}

/// Where a magic number stands.
#[derive(Clone, Copy)]
enum At {
    /// Bytes from the start.
    Start(usize),
    /// Bytes from the end.
    End(usize),
}

use At::{End, Start};
use FormatRemedy::{Convert, Extract, Unpack};

/// Longest prefix that is looked at.
const HEAD: usize = 512;

/// The magic numbers. A footer comes before the headers that stand at the start of the same file.
const MAGIC: [(At, &[u8], DiskFormat); 31] = {
    const fn f(name: &'static str, cure: FormatRemedy) -> DiskFormat {
        DiskFormat { name, cure }
    }
    [
        (Start(0), b"QFI\xfb", f("qcow2", Convert("qcow2"))),
        (Start(0), b"QED\0", f("QED", Convert("qed"))),
        (Start(0x40), b"\x7f\x10\xda\xbe", f("VDI (VirtualBox)", Convert("vdi"))),
        (Start(0), b"KDMV", f("VMDK (VMware)", Convert("vmdk"))),
        (Start(0), b"COWD", f("VMDK (VMware ESX)", Convert("vmdk"))),
        (Start(0), b"# Disk DescriptorFile", f("VMDK descriptor (VMware)", Convert("vmdk"))),
        (Start(0), b"vhdxfile", f("VHDX (Hyper-V)", Convert("vhdx"))),
        (Start(0), b"conectix", f("VHD (dynamic)", Convert("vpc"))),
        (End(512), b"conectix", f("VHD (fixed)", Convert("vpc"))),
        (End(511), b"conectix", f("VHD (fixed)", Convert("vpc"))),
        (Start(0), b"WithoutFreeSpace", f("Parallels", Convert("parallels"))),
        (Start(0), b"WithouFreSpacExt", f("Parallels", Convert("parallels"))),
        (Start(0), b"Bochs Virtual HD Image", f("Bochs", Convert("bochs"))),
        (Start(0), b"#!/bin/sh\n#V2.0 Format", f("cloop", Convert("cloop"))),
        (End(512), b"koly", f("DMG (Apple)", Convert("dmg"))),
        (Start(0), b"sprs", f("sparse image (Apple)", Convert("dmg"))),
        (Start(0), b"\x3a\xff\x26\xed", f("sparse image (Android)", Extract("simg2img PATH NEW"))),
        (Start(0), b"EVF\x09\x0d\x0a\xff\x00", f("EnCase (E01)", Extract("ewfexport PATH"))),
        (Start(0), b"partclone-image", f("partclone", Extract("partclone.restore -s PATH -o NEW"))),
        (Start(0), b"MSWIM\0\0\0", f("WIM (Windows)", Extract("wimlib-imagex extract PATH"))),
        (Start(0), b"\x1f\x8b\x08", f("gzip", Unpack("gzip"))),
        (Start(0), b"\xfd7zXZ\0", f("xz", Unpack("xz"))),
        (Start(0), b"BZh", f("bzip2", Unpack("bzip2"))),
        (Start(0), b"\x28\xb5\x2f\xfd", f("zstd", Unpack("zstd"))),
        (Start(0), b"\x04\x22\x4d\x18", f("lz4", Unpack("lz4"))),
        (Start(0), b"\x89LZO\0\r\n\x1a\n", f("lzop", Unpack("lzop"))),
        (Start(0), b"LZIP", f("lzip", Unpack("lzip"))),
        (Start(0), b"PK\x03\x04", f("zip", Extract("unzip PATH"))),
        (Start(0), b"7z\xbc\xaf\x27\x1c", f("7-Zip", Extract("7z x PATH"))),
        (Start(0), b"Rar!\x1a\x07", f("RAR", Extract("unrar x PATH"))),
        (Start(257), b"ustar", f("tar (an OVA is one)", Extract("tar xf PATH"))),
    ]
};

/// Says what `file` of `size` bytes is, if it is not to be taken for a disk.
///
/// # Errors
/// That of the read.
pub fn of(file: &File, size: u64) -> io::Result<Option<DiskFormat>> {
    let mut head = [0; HEAD];
    let mut tail = [0; HEAD];
    let len = usize::try_from(size).unwrap_or(HEAD).min(HEAD);
    file.read_exact_at(&mut head[..len], 0)?;
    file.read_exact_at(&mut tail[HEAD - len..], size - len as u64)?;
    let found = MAGIC.iter().find(|(at, magic, _)| match *at {
        Start(at) => head[at..].starts_with(magic),
        End(at) => tail[HEAD - at..].starts_with(magic),
    });
    Ok(found.map(|(_, _, format)| *format))
}
