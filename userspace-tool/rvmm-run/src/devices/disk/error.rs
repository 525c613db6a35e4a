// SPDX-License-Identifier: GPL-2.0

//! Why a disk is refused, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use super::format::{DiskFormat, FormatRemedy};
use crate::config::disk::SECTOR;
use crate::errno;

/// What is wrong with a disk.
#[derive(Debug)]
pub enum DiskError {
    /// It cannot be opened for reading.
    Open(io::Error),
    /// It can be read but not written.
    NotWritable(Errno),
    /// It is neither a regular file nor a block device.
    NotADisk,
    /// It has no contents.
    Empty,
    /// Its size is no multiple of a sector.
    OddSize(u64),
    /// It has a format other than raw.
    NotRaw(DiskFormat),
    /// Another VM, or another disk of this one, has it.
    Locked {
        /// Whether we wanted to write.
        for_writing: bool,
    },
    /// This VM has it, which can be found by its name.
    HeldBy {
        /// Its name.
        name: String,
        /// Process of its run.
        pid: u32,
    },
    /// The guest has it already, and one of the two writes.
    Twice,
    /// A block device that the host uses (mounted, or part of a RAID or LVM).
    UsedByHost,
    /// The host uses the file through this loop device.
    UsedByLoop(PathBuf),
    /// The lock cannot be taken for another reason.
    Lock(Errno),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(e) => write!(f, "cannot open it: {}", errno::explain(e)),
            Self::NotWritable(e) => {
                write!(f, "it is not writable ({}): change its mode, or give it read-only as --disk PATH,ro", e.desc())
            }
            Self::NotADisk => write!(f, "it is neither a regular file nor a block device: give a disk image"),
            Self::Empty => write!(f, "it is empty: make an image of the size you want with 'truncate -s 4G PATH'"),
            Self::OddSize(size) => write!(
                f,
                "its size of {size} bytes is not a multiple of {SECTOR}: it is truncated or no disk image; 'truncate -s %512 PATH' pads it"
            ),
            Self::NotRaw(DiskFormat { name, cure }) => {
                match cure {
                    FormatRemedy::Convert(kind) => write!(
                        f,
                        "it is a {name} image: convert it with 'qemu-img convert -f {kind} -O raw PATH NEW'"
                    )?,
                    FormatRemedy::Unpack(program) => {
                        write!(f, "it is compressed by {name}: unpack it with '{program} -dc PATH > NEW'")?;
                    }
                    FormatRemedy::Extract(command) => {
                        write!(f, "it is a {name} file: take the image out of it with '{command}'")?;
                    }
                }
                write!(f, "; if it is a raw disk all the same, say --disk PATH,format=raw")
            }
            Self::Locked { for_writing: true } => write!(
                f,
                "it is in use by another VM (locked): stop that VM, or share the disk read-only in both as --disk PATH,ro"
            ),
            Self::Locked { for_writing: false } => {
                write!(f, "it is in use by another VM that writes to it (locked): stop that VM first")
            }
            Self::HeldBy { name, pid } => write!(
                f,
                "it is in use by the VM '{name}' (process {pid}): stop that VM with 'rvmmctl stop {name}', or share the disk read-only in both as --disk PATH,ro"
            ),
            Self::Twice => write!(
                f,
                "the guest has it twice: two disks can share it read-only alone, each as --disk PATH,ro"
            ),
            Self::UsedByLoop(node) => write!(
                f,
                "the host uses it as {0}: give that device, or detach it with 'losetup -d {0}'",
                node.display()
            ),
            Self::UsedByHost => write!(f, "the host uses this block device: unmount it first"),
            Self::Lock(e) => write!(f, "cannot lock it: {}", e.desc()),
        }
    }
}

impl std::error::Error for DiskError {}
