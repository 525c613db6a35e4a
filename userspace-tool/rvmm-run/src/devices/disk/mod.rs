// SPDX-License-Identifier: GPL-2.0

//! Disks of the host: opened, locked, and refused where they are none.

pub mod format;
pub mod share;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{Flock, OFlag};

use self::format::{Cure, Format};

use super::file_id::FileId;
use crate::config::disk::DiskSpec;
use crate::{errno, sys};

/// Virtio counts disks in sectors of this size.
pub const SECTOR: u64 = 512;

/// An open, locked disk. The lock goes when it is dropped.
#[derive(Debug)]
pub struct Disk {
    /// The open file; the module gets its descriptor.
    pub file: Flock<File>,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Serial number.
    pub serial: String,
    /// Whether packed rings are offered.
    pub packed: bool,
    /// Queues; without a number, one for each processor.
    pub queues: Option<u16>,
    /// Size in bytes, a multiple of `SECTOR`.
    pub size: u64,
    /// Whether the file is open with `O_DIRECT`.
    pub direct: bool,
    /// The file behind a loop device, held for its locks.
    pub behind: Option<Flock<File>>,
}

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
    NotRaw(Format),
    /// Another VM, or another disk of this one, has it.
    Locked {
        /// Whether we wanted to write.
        for_writing: bool,
    },
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
            Self::NotRaw(Format { name, cure }) => {
                match cure {
                    Cure::Convert(kind) => write!(
                        f,
                        "it is a {name} image: convert it with 'qemu-img convert -f {kind} -O raw PATH NEW'"
                    )?,
                    Cure::Unpack(program) => {
                        write!(f, "it is compressed by {name}: unpack it with '{program} -dc PATH > NEW'")?;
                    }
                    Cure::Extract(command) => {
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

/// Opens, locks and checks a disk: shared with other readers when read-only, else for this VM alone.
///
/// # Errors
/// Every `DiskError`. Nothing is written to the disk in any case.
pub fn open(spec: &DiskSpec) -> Result<Disk, DiskError> {
    let meta = std::fs::metadata(&spec.path).map_err(DiskError::Open)?;
    let kind = meta.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::NotADisk);
    }
    let exclusive = if kind.is_block_device() && !spec.read_only { OFlag::O_EXCL } else { OFlag::empty() };
    let (file, direct) = open_direct(spec, exclusive)?;
    if !spec.read_only && kind.is_block_device() && sys::is_read_only_device(file.as_fd()) {
        return Err(DiskError::NotWritable(Errno::EROFS));
    }
    let id = FileId::of(&file).map_err(DiskError::Open)?;
    let mut file = share::lock(file, spec.read_only)?;
    let behind = share::check_loops(id, spec.read_only)?;
    let size = file.seek(SeekFrom::End(0)).map_err(DiskError::Open)?;
    check_format(spec, size)?;
    check_size(size)?;
    let (read_only, serial) = (spec.read_only, spec.serial.clone());
    Ok(Disk { file, read_only, serial, packed: spec.packed, queues: spec.queues, size, direct, behind })
}

/// Opens with `O_DIRECT` where the file system has it, and says whether it had. With `O_NOATIME`, where the
/// user may: a guest's reads are not the host's.
fn open_direct(spec: &DiskSpec, extra: OFlag) -> Result<(File, bool), DiskError> {
    let open_as = |flags: OFlag| {
        let mut options = OpenOptions::new();
        options.read(true).write(!spec.read_only).custom_flags(flags.bits()).open(&spec.path)
    };
    let open = |flags: OFlag| match open_as(flags | OFlag::O_NOATIME) {
        Err(e) if e.raw_os_error() == Some(Errno::EPERM as i32) => open_as(flags),
        opened => opened,
    };
    match open(extra | OFlag::O_DIRECT) {
        Ok(file) => Ok((file, true)),
        Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {
            open(extra).map(|file| (file, false)).map_err(|e| open_error(spec, e))
        }
        Err(e) => Err(open_error(spec, e)),
    }
}

/// Tells a file that can be read but not written from one that cannot be opened at all.
fn open_error(spec: &DiskSpec, e: io::Error) -> DiskError {
    let errno = e.raw_os_error().map(Errno::from_raw);
    match errno {
        Some(Errno::EBUSY) => DiskError::UsedByHost,
        Some(errno @ (Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ETXTBSY))
            if !spec.read_only && File::open(&spec.path).is_ok() =>
        {
            DiskError::NotWritable(errno)
        }
        _ => DiskError::Open(e),
    }
}

fn check_size(size: u64) -> Result<(), DiskError> {
    match size {
        0 => Err(DiskError::Empty),
        size if size % SECTOR != 0 => Err(DiskError::OddSize(size)),
        _ => Ok(()),
    }
}

/// Refuses what a guest would see as garbage. Read through a descriptor without `O_DIRECT`, which would ask for an aligned
/// buffer.
fn check_format(spec: &DiskSpec, size: u64) -> Result<(), DiskError> {
    if spec.is_raw {
        return Ok(());
    }
    let found = File::open(&spec.path).and_then(|file| format::of(&file, size)).map_err(DiskError::Open)?;
    found.map_or(Ok(()), |format| Err(DiskError::NotRaw(format)))
}
