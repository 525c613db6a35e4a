// SPDX-License-Identifier: GPL-2.0

//! The console, as the user asks for it: where it is on the host, and what the guest has it on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::options::on_or_off;

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

impl fmt::Display for ConsoleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pty => f.write_str("pty"),
            Self::Stdio => f.write_str("stdio"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::None => f.write_str("none"),
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

impl fmt::Display for ConsoleDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uart => "uart",
            Self::Virtio { packed: false } => "virtio",
            Self::Virtio { packed: true } => "virtio,packed=on",
        })
    }
}
