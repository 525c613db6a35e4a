// SPDX-License-Identifier: GPL-2.0

//! The disks of a running machine: what the host cannot do for them, and how large they are.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::DeviceFd;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::abi::rvmm as abi;
use crate::config::disk::OnDiskError;
use crate::events::warning;

/// A disk of a running machine.
#[derive(Debug)]
pub struct RunningDisk {
    path: PathBuf,
    /// The descriptor behind it, which stays open as long as the run lasts.
    fd: i32,
    /// Whether it is a block device.
    is_device: bool,
    on_error: OnDiskError,
    device: Arc<DeviceFd>,
    /// Errors that the user was told of.
    told: Mutex<BTreeSet<i32>>,
}

impl RunningDisk {
    /// A disk whose data is in `file`.
    pub(super) fn new(
        path: &Path,
        file: &impl AsRawFd,
        is_device: bool,
        on_error: OnDiskError,
        device: Arc<DeviceFd>,
    ) -> Self {
        let (path, fd) = (path.into(), file.as_raw_fd());
        Self { path, fd, is_device, on_error, device, told: Mutex::default() }
    }

    /// Tells the user, the first time, that the host failed a request of the disk's. Returns whether the guest is to be
    /// paused.
    pub(super) fn report(&self, errno: i32) -> bool {
        let is_new = self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(errno);
        if is_new {
            warning(&format!("disk {}: {}", self.path.display(), explain(errno, self.on_error)));
        }
        self.on_error == OnDiskError::Stop
    }

    /// The user had the guest go on: what fails again is told again.
    pub(super) fn forget(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many requests the host failed.
    pub(super) fn failed(&self) -> u64 {
        crate::sys::device_counter(&*self.device, abi::GROUP_COUNTERS, abi::COUNT_FAILED).unwrap_or(0)
    }

    /// The line of the statistics: how many requests the host failed.
    pub(super) fn render(&self) -> String {
        format!("disk_failed      {:>14} {}\n", self.failed(), self.path.display())
    }

    fn look_at_size(&self) {
        let attr =
            kvm_device_attr { group: abi::GROUP_COMMAND, attr: abi::COMMAND_LOOK_AT_SIZE, addr: 0, flags: 0 };
        if let Err(e) = self.device.set_device_attr(&attr) {
            warning(&format!("disk {}: cannot look at its size: {e}", self.path.display()));
        }
    }
}

/// Says what the host's error is, and what comes of it.
fn explain(errno: i32, on_error: OnDiskError) -> String {
    let errno = Errno::from_raw(errno);
    let hint = match errno {
        Errno::ENOSPC => " (the file system under it is full)",
        Errno::EDQUOT => " (a quota is used up)",
        Errno::EFBIG => " (a limit on file sizes: see 'ulimit -f')",
        Errno::EIO => " (the medium failed, or the file has become shorter)",
        _ => "",
    };
    let consequence = match on_error {
        OnDiskError::Report => "the guest has I/O errors; this is told once".into(),
        OnDiskError::Stop => {
            format!("the guest is paused; 'kill -CONT {}' has it try again", std::process::id())
        }
    };
    format!("{}{hint}: {consequence}", errno.desc())
}

/// Notices that disks have grown.
///
/// Whoever makes a file larger opens and closes it, as truncate(1) and qemu-img(1) do, and inotify(7) tells of that. It also
/// tells of every write, but that is not asked for: the guest's own are among them, and each would wake the tool. A block
/// device tells nobody; its size is looked at now and then, which costs an ioctl.
#[derive(Debug)]
pub(super) struct GrowthWatch {
    disks: Vec<Arc<RunningDisk>>,
    pub(super) inotify: Inotify,
}

impl GrowthWatch {
    /// How often block devices are looked at, in milliseconds.
    const INTERVAL: u16 = 5000;

    /// Watches the files of `disks`.
    ///
    /// # Errors
    /// When no inotify instance is left.
    pub(super) fn new(disks: Vec<Arc<RunningDisk>>) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        for disk in &disks {
            // By the descriptor, for the name may be another file's by now. One that cannot be watched does not grow.
            let path = format!("/proc/self/fd/{}", disk.fd);
            let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ATTRIB;
            let _ = inotify.add_watch(path.as_str(), events);
        }
        Ok(Self { disks, inotify })
    }

    /// How long to wait for the next look, in milliseconds; `None` for as long as no event comes.
    pub(super) fn interval(&self) -> Option<u16> {
        self.disks.iter().any(|disk| disk.is_device).then_some(Self::INTERVAL)
    }

    /// Looks at the disks where something happened: an event, or time passed.
    pub(super) fn look(&self, is_time: bool) {
        let mut is_event = false;
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {
            is_event = true;
        }
        for disk in &self.disks {
            if is_event || is_time && disk.is_device {
                disk.look_at_size();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_what_comes_of_it() {
        let reported = explain(Errno::ENOSPC as i32, OnDiskError::Report);
        let stopped = explain(Errno::EIO as i32, OnDiskError::Stop);

        assert!(reported.contains("No space left") && reported.contains("I/O errors"), "{reported}");
        assert!(stopped.contains("kill -CONT") && stopped.contains("paused"), "{stopped}");
    }
}
