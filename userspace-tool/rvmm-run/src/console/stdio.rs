// SPDX-License-Identifier: GPL-2.0

//! Standard input and output as console, the terminal in raw mode for the time of the run.
//!
//! The terminal's settings are saved in one place for the whole process, so that every way out can restore them: the drop
//! of [`Stdio`], the panic hook, and the stop signals. Only SIGKILL leaves a raw terminal behind (`stty sane` helps).

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};
use nix::unistd::ttyname;

use super::error::ConsoleError;

/// Settings of the terminal before the run, while it is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input and output.
#[derive(Debug)]
pub struct Stdio {
    /// Held for the lock alone: one run per terminal.
    _lock: Option<Flock<File>>,
    terminal: bool,
    input: Option<io::Stdin>,
    output: Option<io::Stdout>,
}

impl Stdio {
    /// Locks the terminal and puts it into raw mode, when standard input is one.
    ///
    /// # Errors
    /// `TerminalTaken`, `Terminal`.
    pub fn new() -> Result<Self, ConsoleError> {
        let terminal = io::stdin().is_terminal();
        let lock = if terminal { lock_terminal()? } else { None };
        if terminal {
            save_and_make_raw().map_err(ConsoleError::Terminal)?;
        }
        Ok(Self { _lock: lock, terminal, input: Some(io::stdin()), output: Some(io::stdout()) })
    }

    /// Whether a person types, so that the escape key has a meaning.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Standard input until its end.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().map(AsFd::as_fd)
    }

    /// Standard output until it is closed.
    pub fn output(&self) -> Option<BorrowedFd<'_>> {
        self.output.as_ref().map(AsFd::as_fd)
    }

    /// Says that standard input has ended.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Says that nobody reads standard output any more.
    pub fn close_output(&mut self) {
        self.output = None;
    }
}

impl Drop for Stdio {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal for good.
pub fn restore() {
    if let Some(settings) = saved().take() {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &settings);
    }
}

/// Restores the terminal for a pause; `resume` makes it raw again.
pub fn pause() {
    if let Some(settings) = saved().as_ref() {
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
    }
}

/// Makes the terminal raw again after a pause. Does nothing when it was not raw.
pub fn resume() {
    if let Some(settings) = saved().as_ref() {
        let mut raw = settings.clone();
        cfmakeraw(&mut raw);
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &raw);
    }
}

/// Whether messages must end their lines with a carriage return too.
pub fn is_raw() -> bool {
    saved().is_some()
}

fn saved() -> MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn save_and_make_raw() -> Result<(), Errno> {
    let settings = tcgetattr(io::stdin())?;
    let mut raw = settings.clone();
    cfmakeraw(&mut raw);
    *saved() = Some(settings);
    tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).inspect_err(|_| {
        *saved() = None;
    })
}

/// Locks the terminal's node. The lock belongs to a description of its own: the one of standard input is shared with the
/// shell and with everything started from it.
fn lock_terminal() -> Result<Option<Flock<File>>, ConsoleError> {
    let Ok(name) = ttyname(io::stdin()) else { return Ok(None) };
    let path = PathBuf::from(&name);
    if super::pty::is_ours(&path) {
        return Err(ConsoleError::TerminalTaken(path));
    }
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) else {
        return Ok(None);
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Err(ConsoleError::TerminalTaken(path)),
        Err((_, errno)) => Err(ConsoleError::Terminal(errno)),
    }
}
