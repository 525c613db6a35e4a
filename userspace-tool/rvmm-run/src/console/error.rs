// SPDX-License-Identifier: GPL-2.0

//! What is wrong with a console, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::errno;

/// What is wrong with a console.
#[derive(Debug)]
pub enum ConsoleError {
    /// The output file cannot be opened.
    File(PathBuf, io::Error),
    /// The output file is a terminal.
    FileIsTerminal(PathBuf),
    /// Nobody reads the pipe.
    NoReader(PathBuf),
    /// The output file is a disk.
    FileIsDisk(PathBuf),
    /// The guest is started from the output file; it is called the second.
    FileIsInput(PathBuf, &'static str),
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
            Self::File(path, e) => write!(f, "file '{}': {}", path.display(), errno::explain(e)),
            Self::FileIsTerminal(path) => write!(
                f,
                "'{}' is a terminal, which another program may use: give a regular file, or --console stdio in that terminal",
                path.display()
            ),
            Self::NoReader(path) => {
                write!(f, "nobody reads the pipe '{}': start its reader first", path.display())
            }
            Self::FileIsDisk(path) => {
                write!(f, "'{}' is a disk, which would be overwritten: give a regular file", path.display())
            }
            Self::FileIsInput(path, what) => {
                write!(f, "file '{}' is also {what}, and would be emptied: give another file", path.display())
            }
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
