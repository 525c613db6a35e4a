// SPDX-License-Identifier: GPL-2.0

//! Signals, which arrive as events: they are blocked everywhere and read from a signalfd, so that every guard is dropped
//! on the way out.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// The signal that makes `KVM_RUN` and a disk's worker return.
pub const KICK: Signal = Signal::SIGUSR1;
/// Signals that end the run.
const STOP_SIGNALS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// Signals that mean something else: power button, and the pair around a pause.
const OTHER_SIGNALS: [Signal; 3] = [Signal::SIGPWR, Signal::SIGTSTP, Signal::SIGCONT];

/// The signals that the main thread reads. Made before any thread, which inherits the mask.
#[derive(Debug)]
pub struct Signals {
    /// Readable when one waits.
    pub fd: SignalFd,
}

impl Signals {
    /// Blocks the signals and opens the descriptor to read them from.
    ///
    /// # Errors
    /// `Host`.
    pub fn new() -> Result<Self, Error> {
        let host = |e| Error::Host("set up signals", e);
        let mut set = SigSet::empty();
        for signal in STOP_SIGNALS.into_iter().chain(OTHER_SIGNALS) {
            set.add(signal);
        }
        set.thread_block().map_err(host)?;
        crate::sys::install_kick_handler(KICK).map_err(host)?;
        SigSet::from_iter([KICK]).thread_unblock().map_err(host)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(host)?;
        Ok(Self { fd })
    }
}
