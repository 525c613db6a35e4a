// SPDX-License-Identifier: GPL-2.0

//! The other side: a client of a running VM.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::claim::{clean, look, SocketState};
use super::lines::LineReader;
use super::place;
use super::protocol::{call, Answer, Hello, Refusal, Request, VmStatus, VERSION};
use crate::config::name::VmName;
use crate::errno::explain;

/// How long a run may take to answer: longer than any request takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a VM.
#[derive(Debug)]
pub struct ControlClient {
    stream: UnixStream,
    lines: LineReader,
    next: u64,
    hello: Hello,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// No VM of that name runs.
    NotRunning(VmName),
    /// Its socket is another user's, or no socket.
    Socket(VmName, io::Error),
    /// It does not answer in time: it is stopped, or has too much to do.
    Silent(VmName),
    /// It speaks another version.
    Version(VmName, u32),
    /// It refuses.
    Refused(Refusal),
    /// It ended, or was killed.
    Gone,
    /// It said what is no answer.
    Nonsense(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning(name) => write!(f, "no VM '{name}' is running; 'rvmmctl list' shows what is"),
            Self::Socket(name, e) => write!(f, "the control socket of '{name}': {}", explain(e)),
            Self::Silent(name) => write!(f, "'{name}' does not answer: is its process stopped?"),
            Self::Version(name, version) => write!(
                f,
                "'{name}' speaks version {version} of the protocol, this program version {VERSION}: use the rvmmctl that belongs to it"
            ),
            Self::Refused(refusal) => f.write_str(&refusal.text),
            Self::Gone => write!(f, "the VM has ended"),
            Self::Nonsense(text) => write!(f, "an answer that is none: {text}"),
        }
    }
}

impl std::error::Error for ClientError {}

impl ControlClient {
    /// Connects to a VM of this user's. The socket of one that was killed is removed.
    ///
    /// # Errors
    /// `NotRunning`, `Socket`, `Silent`, `Version`, `Nonsense`.
    pub fn connect(folder: &Path, name: &VmName) -> Result<Self, ClientError> {
        let stream = match look(&place::socket(folder, name)) {
            SocketState::Absent => return Err(ClientError::NotRunning(name.clone())),
            SocketState::Stale => {
                clean(folder, name);
                return Err(ClientError::NotRunning(name.clone()));
            }
            SocketState::Alive(None) => return Err(ClientError::Silent(name.clone())),
            SocketState::Foreign(errno) => return Err(ClientError::Socket(name.clone(), errno.into())),
            SocketState::Alive(Some(stream)) => stream,
        };
        Self::over(stream, name)
    }

    /// Begins a conversation over a connection.
    fn over(stream: UnixStream, name: &VmName) -> Result<Self, ClientError> {
        let timeouts = stream.set_read_timeout(Some(PATIENCE));
        timeouts
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(|e| ClientError::Socket(name.clone(), e))?;
        let hello = Hello { rvmm: 0, name: name.to_string(), pid: 0 };
        let mut client = Self { stream, lines: LineReader::default(), next: 1, hello };
        // One that ended between the connection and its greeting runs no more.
        let first: Value = client.next_line().map_err(|e| match e {
            ClientError::Gone => ClientError::NotRunning(name.clone()),
            e => e,
        })?;
        if let Ok(Answer { error: Some(refusal), .. }) = Answer::deserialize_from(&first) {
            return Err(ClientError::Refused(refusal));
        }
        client.hello = from_value(first)?;
        if client.hello.rvmm != VERSION {
            return Err(ClientError::Version(name.clone(), client.hello.rvmm));
        }
        Ok(client)
    }

    /// What the VM said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks for something, and returns the answer as a `T`.
    ///
    /// # Errors
    /// `Refused`, `Gone`, `Silent`, `Nonsense`.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, ClientError> {
        let id = self.next;
        self.next += 1;
        if matches!(request, Request::Wait {}) {
            let _ = self.stream.set_read_timeout(None);
        }
        self.stream.write_all(&call(id, request)).map_err(|_| ClientError::Gone)?;
        loop {
            let value: Value = self.next_line()?;
            let Ok(answer) = Answer::deserialize_from(&value) else { continue };
            // Events come in between.
            if answer.id == Some(id) || answer.error.is_some() {
                return match answer {
                    Answer { error: Some(refusal), .. } => Err(ClientError::Refused(refusal)),
                    Answer { ok: Some(value), .. } => from_value(value),
                    _ => Err(ClientError::Nonsense(value.to_string())),
                };
            }
        }
    }

    /// Waits for the next line, however long that takes.
    ///
    /// # Errors
    /// `Gone`, `Nonsense`.
    pub fn next_event<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let _ = self.stream.set_read_timeout(None);
        self.next_line()
    }

    /// Gives the connection up, with what came over it already: the console's bytes, after it was asked for.
    pub fn into_stream(mut self) -> (UnixStream, Vec<u8>) {
        let rest = self.lines.take_rest();
        (self.stream, rest)
    }

    fn next_line<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let silent = |name: &str| name.parse().map_or(ClientError::Gone, ClientError::Silent);
        loop {
            let line =
                self.lines.next_line().map_err(|_| ClientError::Nonsense("a line without an end".into()))?;
            if let Some(line) = line {
                let text = || String::from_utf8_lossy(&line).into_owned();
                return serde_json::from_slice(&line).map_err(|_| ClientError::Nonsense(text()));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ClientError::Gone),
                Ok(len) => self.lines.push(&bytes[..len]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(silent(&self.hello.name)),
                Err(_) => return Err(ClientError::Gone),
            }
        }
    }
}

impl Answer {
    /// Reads an answer; an event is none.
    fn deserialize_from(value: &Value) -> Result<Self, serde_json::Error> {
        let answer: Self = serde_json::from_value(value.clone())?;
        match answer {
            Self { ok: None, error: None, .. } => Err(serde::de::Error::custom("neither ok nor error")),
            answer => Ok(answer),
        }
    }
}

fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ClientError> {
    let text = value.to_string();
    serde_json::from_value(value).map_err(|_| ClientError::Nonsense(text))
}

/// What a name stands for.
#[derive(Debug)]
pub struct Listed {
    /// The name.
    pub name: VmName,
    /// What the VM says of itself, or why it does not.
    pub status: Result<VmStatus, ClientError>,
}

/// Asks every VM of a folder for its status. Those that end meanwhile are left out, and what a killed one left is removed.
pub fn list(folder: &Path) -> Vec<Listed> {
    let ask = |name: VmName| {
        let status = ControlClient::connect(folder, &name).and_then(|mut vm| vm.ask(&Request::Status {}));
        match status {
            Err(ClientError::NotRunning(_) | ClientError::Gone) => None,
            status => Some(Listed { name, status }),
        }
    };
    place::names(folder).into_iter().filter_map(ask).collect()
}
