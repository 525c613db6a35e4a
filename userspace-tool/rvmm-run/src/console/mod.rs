// SPDX-License-Identifier: GPL-2.0

//! The guest's console, its first serial port or a virtio console, on the host: a new pseudo terminal, the tool's own terminal, a file, or nothing.
//!
//! A console outlives the VM, so that it stays attached over a reset of the guest: [`Console`] is opened once, and
//! [`pump::run`] carries bytes between it and the device of one VM.

pub mod escape;
pub mod pty;
pub mod pump;
pub mod ring;
pub mod stdio;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use self::pty::Pty;
use self::stdio::Stdio;
use crate::disk::on_or_off;

/// What `--console` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleSpec {
    /// A new pseudo terminal.
    Pty,
    /// Standard input and output.
    Stdio,
    /// Output to a file, no input.
    File(PathBuf),
    /// Nothing.
    None,
}

impl FromStr for ConsoleSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pty" => Ok(Self::Pty),
            "stdio" => Ok(Self::Stdio),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err(format!("'{text}' is no console: write pty, stdio, file:PATH or none")),
            },
        }
    }
}

/// The device of the guest's that a console is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleDevice {
    /// The first serial port.
    Uart,
    /// A virtio console.
    Virtio {
        /// Whether packed rings are offered.
        packed: bool,
    },
}

impl FromStr for ConsoleDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(',') {
            None if text == "uart" => Ok(Self::Uart),
            None if text == "virtio" => Ok(Self::Virtio { packed: false }),
            Some(("virtio", option)) if option.starts_with("packed=") => {
                let choice = option.trim_start_matches("packed=");
                Ok(Self::Virtio { packed: on_or_off(option, choice)? })
            }
            _ => Err(format!("'{text}' is no device for a console: write uart or virtio[,packed=on|off]")),
        }
    }
}

/// An open console.
#[derive(Debug)]
pub enum Console {
    /// A pseudo terminal.
    Pty(Pty),
    /// Standard input and output.
    Stdio(Stdio),
    /// A locked file.
    File(Flock<File>),
    /// Nothing.
    None,
}

/// What is wrong with a console.
#[derive(Debug)]
pub enum ConsoleError {
    /// The output file cannot be opened.
    File(PathBuf, io::Error),
    /// The output file is a terminal.
    FileIsTerminal(PathBuf),
    /// Another run has the output file.
    FileLocked(PathBuf),
    /// Another run has the terminal.
    TerminalTaken(PathBuf),
    /// The terminal refuses raw mode or a lock.
    Terminal(Errno),
    /// No pseudo terminal can be made.
    Pty(Errno),
}

impl ConsoleError {
    /// Whether the user can put it right by other arguments.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Pty(_) | Self::Terminal(_))
    }
}

impl fmt::Display for ConsoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, e) => write!(f, "file '{}': {}", path.display(), crate::error::os_error(e)),
            Self::FileIsTerminal(path) => write!(
                f,
                "'{}' is a terminal, which another program may use: give a regular file, or --console stdio in that terminal",
                path.display()
            ),
            Self::FileLocked(path) => {
                write!(f, "file '{}' is the console of another run (locked): give another file", path.display())
            }
            Self::TerminalTaken(path) => write!(
                f,
                "terminal {} is the console of another run: use another terminal, or --console pty",
                path.display()
            ),
            Self::Terminal(e) => write!(f, "cannot set up the terminal: {}; try --console pty", e.desc()),
            Self::Pty(e) => {
                write!(f, "cannot make a pseudo terminal: {}; is devpts mounted on /dev/pts? Try --console stdio", e.desc())
            }
        }
    }
}

impl std::error::Error for ConsoleError {}

impl Console {
    /// Opens a console. A file is emptied, so this comes after every other check of the input.
    ///
    /// # Errors
    /// Every `ConsoleError`.
    pub fn open(spec: &ConsoleSpec) -> Result<Self, ConsoleError> {
        match spec {
            ConsoleSpec::Pty => Pty::new().map(Self::Pty).map_err(ConsoleError::Pty),
            ConsoleSpec::Stdio => Stdio::new().map(Self::Stdio),
            ConsoleSpec::File(path) => open_file(path).map(Self::File),
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

/// Opens, locks and empties the output file.
fn open_file(path: &Path) -> Result<Flock<File>, ConsoleError> {
    let error = |e| ConsoleError::File(path.into(), e);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(error)?;
    if file.is_terminal() {
        return Err(ConsoleError::FileIsTerminal(path.into()));
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
