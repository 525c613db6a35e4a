// SPDX-License-Identifier: GPL-2.0

//! Why `rvmmctl` does not do something.

use std::fmt;
use std::io;

use crate::control::client::ClientError;
use crate::errno::explain;
use crate::error::ToolError;

/// Why something is not done.
#[derive(Debug)]
pub enum CtlError {
    /// The VM does not do it.
    Client(ClientError),
    /// Its configuration is wrong.
    Tool(ToolError),
    /// Something of the host failed.
    Host(&'static str, io::Error),
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for CtlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(e) => e.fmt(f),
            Self::Tool(e) => e.fmt(f),
            Self::Host(what, e) => write!(f, "cannot {what}: {}", explain(e)),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for CtlError {}

impl From<ClientError> for CtlError {
    fn from(e: ClientError) -> Self {
        Self::Client(e)
    }
}
