// SPDX-License-Identifier: GPL-2.0

//! Who else uses a disk: other VMs of ours and of QEMU, and the host itself.
//!
//! Two kinds of locks are taken, for neither program looks at the other's: a flock(2) of the whole file, and the bytes that
//! QEMU locks in an image (its source, "block/file-posix.c": a byte for each thing that a user does, and one for each that
//! it does not want others to do), both of the open file and gone with it. A loop device is its file.

use std::fs::{self, File};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, Flock, FlockArg};
use nix::libc;

use super::error::DiskError;
use crate::devices::file_id::FileId;

/// The byte of what a user does, and of what it forbids others, plus a [`Use`].
const DOES: i64 = 100;
const FORBIDS: i64 = 200;

/// What can be done with an image, by QEMU's numbers.
#[derive(Clone, Copy)]
enum Use {
    Read = 0,
    Write = 1,
    Resize = 3,
}

/// Takes every lock of an image for a reader, or for one that writes alone.
///
/// # Errors
/// `Locked`, `Lock`.
pub fn lock(file: File, read_only: bool) -> Result<Flock<File>, DiskError> {
    let how = if read_only { FlockArg::LockSharedNonblock } else { FlockArg::LockExclusiveNonblock };
    let file = Flock::lock(file, how).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => DiskError::Locked { for_writing: !read_only },
        errno => DiskError::Lock(errno),
    })?;
    lock_as_qemu(&file, read_only)?;
    Ok(file)
}

fn lock_as_qemu(file: &File, read_only: bool) -> Result<(), DiskError> {
    let does: &[Use] = if read_only { &[Use::Read] } else { &[Use::Read, Use::Write] };
    let forbids = [Use::Write, Use::Resize];
    let ours = does.iter().map(|u| DOES + *u as i64).chain(forbids.iter().map(|u| FORBIDS + *u as i64));
    for byte in ours {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_RDLCK, byte))) {
            // A file system without such locks has none of QEMU's either.
            Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP) => return Ok(()),
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(DiskError::Locked { for_writing: !read_only }),
            Err(errno) => return Err(DiskError::Lock(errno)),
            Ok(_) => {}
        }
    }
    // Who forbids what we do, or does what we forbid?
    let theirs = does.iter().map(|u| FORBIDS + *u as i64).chain(forbids.iter().map(|u| DOES + *u as i64));
    for byte in theirs {
        let mut lock = byte_lock(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock)).map_err(DiskError::Lock)?;
        if i32::from(lock.l_type) != libc::F_UNLCK {
            return Err(DiskError::Locked { for_writing: !read_only });
        }
    }
    Ok(())
}

fn byte_lock(kind: i32, byte: i64) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: byte, l_len: 1, l_pid: 0 }
}

/// A loop device of the host.
struct Loop {
    node: PathBuf,
    file: PathBuf,
    is_read_only: bool,
}

/// Every loop device that has a file.
fn loops() -> Vec<Loop> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let of = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let text = |file: &str| fs::read_to_string(entry.path().join(file)).ok();
        let file = text("loop/backing_file")?.trim_end_matches('\n').into();
        let is_read_only = text("ro").is_some_and(|ro| ro.trim() == "1");
        Some(Loop { node: PathBuf::from("/dev").join(name), file, is_read_only })
    };
    entries.flatten().filter_map(of).collect()
}

/// Refuses a file that the host uses through a loop device, where one of us writes; takes the locks of the file behind a
/// loop device that is given itself, which is returned.
///
/// # Errors
/// `UsedByLoop`, `Locked`, `Lock`.
pub fn check_loops(id: FileId, read_only: bool) -> Result<Option<Flock<File>>, DiskError> {
    for one in loops() {
        let Ok(file) = File::open(&one.file) else { continue };
        let is_file = FileId::of(&file).is_ok_and(|file| file == id);
        if is_file && !(read_only && one.is_read_only) {
            return Err(DiskError::UsedByLoop(one.node));
        }
        let is_node = FileId::at(&one.node).is_ok_and(|node| node == id);
        if is_node {
            return lock(file, read_only).map(Some);
        }
    }
    Ok(None)
}
