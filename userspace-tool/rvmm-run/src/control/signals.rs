// SPDX-License-Identifier: GPL-2.0

//! Signals, which arrive as events: they are blocked everywhere and read from a signalfd, so that every guard is dropped
//! on the way out.
//!
//! What was ignored when the program started stays ignored, as for nohup(1) and for jobs that a script puts into the
//! background. SIGTTIN and SIGTTOU are blocked: in the background the terminal is left alone, and nothing stops the run.
//! SIGXFSZ is ignored: a file that must not grow any more is an error of the disk or console that it is.

use nix::sys::signal::{raise, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::console::stdio;
use crate::error::ToolError;

/// The signal that makes `KVM_RUN` and a disk's worker return.
pub const KICK: Signal = Signal::SIGUSR1;
/// Signals that end the run.
const STOP_SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// Signals that mean something else: power button, and the pair around a pause.
const OTHER_SIGNALS: [Signal; 3] = [Signal::SIGPWR, Signal::SIGTSTP, Signal::SIGCONT];
/// What a terminal sends to a job in the background that touches it.
const JOB_SIGNALS: [Signal; 2] = [Signal::SIGTTIN, Signal::SIGTTOU];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRequest {
    /// End the run at once.
    Stop(Signal),
    /// End the run as a service manager asks for it.
    Terminate,
    /// Press the power button.
    PowerButton,
    /// Go on after a pause.
    Continue,
}

/// The signals that the main thread reads. Made before any thread, which inherits the mask.
#[derive(Debug)]
pub struct SignalQueue {
    /// Readable when one waits.
    pub fd: SignalFd,
}

impl SignalQueue {
    /// Blocks the signals and opens the descriptor to read them from.
    ///
    /// # Errors
    /// `Host`.
    pub fn new() -> Result<Self, ToolError> {
        let host = |e| ToolError::Host("set up signals", e);
        let mut read = SigSet::empty();
        for signal in STOP_SIGNALS.into_iter().chain(OTHER_SIGNALS) {
            if !crate::sys::is_ignored(signal).map_err(host)? {
                read.add(signal);
            }
        }
        let mut blocked = read;
        blocked.extend(JOB_SIGNALS);
        blocked.thread_block().map_err(host)?;
        crate::sys::install_kick_handler(KICK).map_err(host)?;
        crate::sys::ignore(Signal::SIGXFSZ).map_err(host)?;
        SigSet::from_iter([KICK]).thread_unblock().map_err(host)?;
        let fd = SignalFd::with_flags(&read, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(host)?;
        Ok(Self { fd })
    }

    /// Takes the next signal that asks for something; stops and goes on where one says so.
    pub fn take(&self) -> Option<SignalRequest> {
        while let Ok(Some(info)) = self.fd.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGTERM) => return Some(SignalRequest::Terminate),
                Ok(Signal::SIGPWR) => return Some(SignalRequest::PowerButton),
                Ok(Signal::SIGCONT) => {
                    stdio::resume();
                    return Some(SignalRequest::Continue);
                }
                Ok(Signal::SIGTSTP) => {
                    stdio::pause();
                    let _ = raise(Signal::SIGSTOP);
                    stdio::resume();
                }
                Ok(signal) => return Some(SignalRequest::Stop(signal)),
                Err(_) => {}
            }
        }
        None
    }
}
