// SPDX-License-Identifier: GPL-2.0

//! The guest's console, its first serial port or a virtio console, on the host: a new pseudo terminal, the tool's own terminal, a file, or nothing.
//!
//! A console outlives the VM, so that it stays attached over a reset of the guest: [`HostConsole`] is opened once, and
//! [`pump::run`] carries bytes between it and the device of one VM.

pub mod error;
pub mod escape;
pub mod hub;
pub mod pty;
pub mod pump;
pub mod ring;
pub mod stdio;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use self::error::ConsoleError;
use self::pty::PtyConsole;
use self::stdio::StdioConsole;
use crate::config::console::ConsoleSpec;
use crate::devices::file_id::FileId;

/// An open console.
#[derive(Debug)]
pub enum HostConsole {
    /// A pseudo terminal.
    Pty(PtyConsole),
    /// Standard input and output.
    Stdio(StdioConsole),
    /// A locked file.
    File(Flock<File>),
    /// Nothing.
    None,
}

impl HostConsole {
    /// Opens a console. A file is emptied, so this comes after every other check of the input; it must be none of
    /// `inputs`, from which the guest is started.
    ///
    /// # Errors
    /// Every `ConsoleError`.
    pub fn open(spec: &ConsoleSpec, inputs: &[(FileId, &'static str)]) -> Result<Self, ConsoleError> {
        match spec {
            ConsoleSpec::Pty => PtyConsole::new().map(Self::Pty).map_err(ConsoleError::Pty),
            ConsoleSpec::Stdio => StdioConsole::new().map(Self::Stdio),
            ConsoleSpec::File(path) => open_file(path, inputs).map(Self::File),
            ConsoleSpec::None => Ok(Self::None),
        }
    }

    /// Where the guest's output can be written now: `None` when nobody would read it.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Pty(pty) => pty.attached().then(|| pty.master()),
            Self::Stdio(stdio) => stdio.output(),
            Self::File(file) => Some(file.as_fd()),
            Self::None => None,
        }
    }

    /// Where input for the guest comes from, when there is any to come.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Pty(pty) => pty.attached().then(|| pty.master()),
            Self::Stdio(stdio) => stdio.input(),
            Self::File(_) | Self::None => None,
        }
    }
}

/// Opens, locks and empties the output file. Never waits, so a pipe must have its reader.
fn open_file(path: &Path, inputs: &[(FileId, &'static str)]) -> Result<Flock<File>, ConsoleError> {
    let error = |e: io::Error| match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENXIO) => ConsoleError::NoReader(path.into()),
        _ => ConsoleError::File(path.into(), e),
    };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    let file = options.open(path).map_err(error)?;
    if file.is_terminal() {
        return Err(ConsoleError::FileIsTerminal(path.into()));
    }
    if file.metadata().map_err(error)?.file_type().is_block_device() {
        return Err(ConsoleError::FileIsDisk(path.into()));
    }
    let id = FileId::of(&file).map_err(error)?;
    if let Some((_, what)) = inputs.iter().find(|(input, _)| *input == id) {
        return Err(ConsoleError::FileIsInput(path.into(), what));
    }
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => ConsoleError::FileLocked(path.into()),
        errno => error(errno.into()),
    })?;
    if file.metadata().map_err(error)?.is_file() {
        file.set_len(0).map_err(error)?;
    }
    Ok(file)
}
