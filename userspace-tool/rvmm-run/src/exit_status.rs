// SPDX-License-Identifier: GPL-2.0

//! Exit codes of the tool. They are documented in `--help` and in the manual page and are part of its interface.

use std::process::ExitCode;

/// How a run ended, as the exit code tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// The guest powered itself off (or `--check` found nothing missing).
    PowerOff,
    /// The input was bad; nothing was started.
    BadInput,
    /// The host, the module or this tool failed.
    HostError,
    /// The guest asked for a reset and `--no-reboot` was given.
    GuestReset,
    /// The guest's processor shut down after a triple fault.
    TripleFault,
    /// The module could not go on with this guest (entry failure, internal error).
    VcpuFailed,
    /// The user quit with the escape key.
    UserQuit,
    /// A signal ended the run.
    Signal(u8),
}

impl ExitStatus {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::BadInput => 1,
            Self::HostError => 2,
            Self::GuestReset => 3,
            Self::TripleFault => 4,
            Self::VcpuFailed => 5,
            Self::UserQuit => 6,
            Self::Signal(number) => 128u8.saturating_add(number),
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}
