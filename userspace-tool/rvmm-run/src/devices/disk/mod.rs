// SPDX-License-Identifier: GPL-2.0

//! Disks of the host: opened, locked, and refused where they are none.

pub mod error;
pub mod format;
pub mod share;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{Flock, OFlag};

use self::error::DiskError;
use super::file_id::FileId;
use crate::config::disk::{DiskSpec, OnDiskError, SECTOR};
use crate::sys;

/// An open, locked disk. The lock goes when it is dropped.
#[derive(Debug)]
pub struct OpenDisk {
    /// The open file; the module gets its descriptor.
    pub file: Flock<File>,
    /// What the user calls it.
    pub path: PathBuf,
    /// Whether it is a block device.
    pub is_device: bool,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// What comes of an error of the host's.
    pub on_error: OnDiskError,
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

/// Opens the disks of a guest, in their order.
///
/// # Errors
/// Those of [`open`], with the path; `Twice`.
pub fn open_all(specs: &[DiskSpec]) -> Result<Vec<OpenDisk>, (PathBuf, DiskError)> {
    let mut disks: Vec<OpenDisk> = Vec::new();
    for spec in specs {
        let disk = open(spec).map_err(|e| {
            let is_ours = |id| disks.iter().any(|disk| FileId::of(&disk.file).is_ok_and(|ours| ours == id));
            let e = match e {
                DiskError::Locked { .. } if FileId::at(&spec.path).is_ok_and(is_ours) => DiskError::Twice,
                e => e,
            };
            (spec.path.clone(), e)
        })?;
        disks.push(disk);
    }
    Ok(disks)
}

/// Opens, locks and checks a disk: shared with other readers when read-only, else for this VM alone.
///
/// # Errors
/// Every `DiskError`. Nothing is written to the disk in any case.
pub fn open(spec: &DiskSpec) -> Result<OpenDisk, DiskError> {
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
    Ok(OpenDisk {
        file,
        path: spec.path.clone(),
        is_device: kind.is_block_device(),
        read_only: spec.read_only,
        on_error: spec.on_error,
        serial: spec.serial.clone(),
        packed: spec.packed,
        queues: spec.queues,
        size,
        direct,
        behind,
    })
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
