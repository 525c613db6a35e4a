// SPDX-License-Identifier: GPL-2.0

//! Everything that can go wrong before and around a run, and how it is told to the user.
//!
//! A message names the thing that failed, why, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::config::file::error::FileErrors;
use crate::config::memory::MemoryError;
use crate::config::net::NetKind;
use crate::config::spec::NoKernel;
use crate::console::error::ConsoleError;
use crate::control::claim::ClaimError;
use crate::devices::disk::error::DiskError;
use crate::devices::net::NetError;
use crate::errno;
use crate::exit_status::ExitStatus;
use crate::kernel::error::KernelError;
use crate::klog;

/// A failure of the tool.
#[derive(Debug)]
pub enum ToolError {
    /// The configuration file, or one that it includes.
    Config(FileErrors),
    /// The name is taken, or there can be no control socket.
    Claim(ClaimError),
    /// The file for the process' number.
    PidFile(PathBuf, io::Error),
    /// Nothing says what to start.
    NoKernel(NoKernel),
    /// The kernel image.
    Kernel(PathBuf, KernelError),
    /// The initrd.
    Initrd(PathBuf, KernelError),
    /// A module.
    Module(PathBuf, KernelError),
    /// The kernel command line.
    Cmdline(KernelError),
    /// A disk, by path.
    Disk(PathBuf, DiskError),
    /// The memory size.
    Memory(MemoryError),
    /// More processors than the module gives to a VM.
    TooManyCpus {
        /// Asked for.
        asked: u32,
        /// Possible.
        max: u32,
    },
    /// A network card.
    Net(NetKind, NetError),
    /// More disks and network cards than the PCI bus has room for.
    TooManyDevices {
        /// Asked for.
        asked: usize,
        /// Possible.
        max: usize,
    },
    /// The console.
    Console(ConsoleError),
    /// The node of the module cannot be opened.
    Node(PathBuf, Errno),
    /// The node speaks another ABI.
    ApiVersion(PathBuf, i32),
    /// The module does not have something that every run needs.
    Lacks(&'static str),
    /// The guest was reset and cannot be started again.
    Restart(Box<ToolError>),
    /// An operation of the host or the module failed.
    Host(&'static str, Errno),
}

impl ToolError {
    /// Wraps an error of the module for `what`, an operation in plain words.
    pub fn host(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |e| Self::Host(what, Errno::from_raw(e.errno()))
    }

    /// Wraps an error of the operating system for `what`.
    pub fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |e| Self::Host(what, Errno::from_raw(e.raw_os_error().unwrap_or(0)))
    }

    /// What the user is told: the failure and, where the module or the host failed, what the module has said of it.
    pub fn explanation(&self) -> String {
        let about_host = match self {
            Self::Restart(e) => matches!(**e, Self::Host(..)),
            e => matches!(e, Self::Host(..)),
        };
        match about_host.then(klog::newest).flatten() {
            Some(text) => format!("{self}; the module says: {text}"),
            None => self.to_string(),
        }
    }

    /// The exit code for this failure.
    pub fn status(&self) -> ExitStatus {
        match self {
            Self::Host(..) | Self::Restart(_) => ExitStatus::HostError,
            Self::Claim(ClaimError::Folder(..) | ClaimError::Socket(..)) => ExitStatus::HostError,
            Self::Console(e) if !e.is_bad_input() => ExitStatus::HostError,
            _ => ExitStatus::BadInput,
        }
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(e) => e.fmt(f),
            Self::Claim(e) => e.fmt(f),
            Self::PidFile(path, e) if e.kind() == io::ErrorKind::AlreadyExists => {
                write!(f, "pid file '{}': there is something else in it: give another file", path.display())
            }
            Self::PidFile(path, e) => write!(f, "pid file '{}': {}", path.display(), errno::explain(e)),
            Self::NoKernel(e) => e.fmt(f),
            Self::Kernel(path, e) => write!(f, "kernel '{}': {e}", path.display()),
            Self::Initrd(path, e) => write!(f, "initrd '{}': {e}", path.display()),
            Self::Module(path, e) => write!(f, "module '{}': {e}", path.display()),
            Self::Cmdline(e) => write!(f, "kernel command line: {e}"),
            Self::Disk(path, e) => write!(f, "disk '{}': {e}", path.display()),
            Self::Memory(e) => write!(f, "memory: {e}"),
            Self::TooManyCpus { asked, max } => {
                write!(f, "{asked} CPUs: the module gives a VM at most {max}; ask for fewer with --cpus")
            }
            Self::Net(kind, e) => write!(f, "{kind}: {e}"),
            Self::TooManyDevices { asked, max } => {
                write!(f, "{asked} disks and network cards: the PCI bus has room for {max}; give fewer")
            }
            Self::Console(e) => write!(f, "console: {e}"),
            Self::Node(path, errno) => write!(f, "{}: {}", path.display(), node_advice(*errno)),
            Self::ApiVersion(path, version) => write!(
                f,
                "{} speaks KVM API version {version}, not 12: is it the node of rvmm? Give the right one with --device",
                path.display()
            ),
            Self::Lacks(what) => write!(f, "the module lacks {what}: load the rvmm.ko that belongs to this tool"),
            Self::Restart(e) => write!(f, "the guest was reset and cannot be started again: {e}"),
            Self::Host(what, errno) => write!(f, "cannot {what}: {}", errno.desc()),
        }
    }
}

impl std::error::Error for ToolError {}

/// Why the node could not be opened, and what to do.
fn node_advice(errno: Errno) -> String {
    match errno {
        Errno::ENOENT | Errno::ENXIO | Errno::ENODEV => {
            format!("{}: load the module with 'insmod rvmm.ko', and see dmesg if that fails", errno.desc())
        }
        Errno::EACCES | Errno::EPERM => {
            format!("{}: run as root, or get access to the node (chgrp, udev rule)", errno.desc())
        }
        Errno::ENOTTY => "it is no KVM-like device: give the node of the module with --device".to_string(),
        _ => errno.desc().to_string(),
    }
}
