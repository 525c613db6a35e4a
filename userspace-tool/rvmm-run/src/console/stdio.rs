// SPDX-License-Identifier: GPL-2.0

//! Standard input and output as console, the terminal in raw mode for the time of the run.
//!
//! The terminal's settings are saved in one place for the whole process, so that every way out can restore them: the drop
//! of [`StdioConsole`], the panic hook, and the stop signals. Only SIGKILL leaves a raw terminal behind (`stty sane` helps).
//!
//! A terminal belongs to the job in its foreground. In the background its settings stay as they are and nothing is read
//! from it, until SIGCONT says that the job was brought back.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};
use nix::unistd::{getpgrp, tcgetpgrp, ttyname};

use super::error::ConsoleError;

/// The terminal during a run.
struct Terminal {
    /// Its settings before.
    before: Termios,
    /// It is raw now.
    is_raw: bool,
}

static TERMINAL: Mutex<Option<Terminal>> = Mutex::new(None);

/// Standard input and output.
#[derive(Debug)]
pub struct StdioConsole {
    /// Held for the lock alone: one run per terminal.
    _lock: Option<Flock<File>>,
    terminal: bool,
    input: Option<io::Stdin>,
    output: Option<io::Stdout>,
}

impl StdioConsole {
    /// Locks the terminal and puts it into raw mode, when standard input is one and this job is in its foreground.
    ///
    /// # Errors
    /// `TerminalTaken`, `Terminal`.
    pub fn new() -> Result<Self, ConsoleError> {
        let terminal = io::stdin().is_terminal();
        let lock = if terminal { lock_terminal()? } else { None };
        if terminal {
            let before = tcgetattr(io::stdin()).map_err(ConsoleError::Terminal)?;
            *state() = Some(Terminal { before, is_raw: false });
            make_raw().map_err(ConsoleError::Terminal)?;
        }
        Ok(Self { _lock: lock, terminal, input: Some(io::stdin()), output: Some(io::stdout()) })
    }

    /// Whether a person types, so that the escape key has a meaning.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether the terminal is another job's for now.
    pub fn is_in_background(&self) -> bool {
        self.terminal && !is_raw()
    }

    /// Standard input until its end.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.is_in_background()).map(AsFd::as_fd)
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

impl Drop for StdioConsole {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal for good.
pub fn restore() {
    if let Some(terminal) = state().take().filter(|t| t.is_raw && is_in_foreground()) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &terminal.before);
    }
}

/// Restores the terminal for a pause; `resume` makes it raw again.
pub fn pause() {
    if let Some(terminal) = state().as_mut().filter(|t| t.is_raw) {
        terminal.is_raw = false;
        if is_in_foreground() {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &terminal.before);
        }
    }
}

/// Makes the terminal raw again after a pause, unless it is another job's now. Does nothing where the console is none.
pub fn resume() {
    let _ = make_raw();
}

/// Whether messages must end their lines with a carriage return too.
pub fn is_raw() -> bool {
    state().as_ref().is_some_and(|t| t.is_raw)
}

fn state() -> MutexGuard<'static, Option<Terminal>> {
    TERMINAL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether this job may use the terminal of standard input.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stdin()) == Ok(getpgrp())
}

/// Makes the console's terminal raw in the foreground; notes that it is not ours elsewhere.
fn make_raw() -> Result<(), Errno> {
    let mut state = state();
    let Some(terminal) = state.as_mut() else { return Ok(()) };
    terminal.is_raw = is_in_foreground();
    if terminal.is_raw {
        let mut raw = terminal.before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
    }
    Ok(())
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
