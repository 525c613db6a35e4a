// SPDX-License-Identifier: GPL-2.0

//! Attaches the terminal to a console. Without a terminal, standard input is typed as it is.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg, Termios};
use serde_json::Value;

use super::error::CtlError;
use crate::console::escape::{EscapeKey, TypedInput};
use crate::control::client::ControlClient;
use crate::control::protocol::Request;

const HELP: &str =
    "\r\nCtrl-a d  detach\r\nCtrl-a h  this help\r\nCtrl-a Ctrl-a  send Ctrl-a to the guest\r\n";

/// A terminal in raw mode, for as long as this lives.
struct RawTerminal(Termios);

impl RawTerminal {
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}

/// Carries bytes between the terminal and a console until either ends.
///
/// # Errors
/// What the VM refuses, or the host.
pub fn attach(mut vm: ControlClient, write: bool, history: u32) -> Result<(), CtlError> {
    let name = vm.hello().name.clone();
    let answer: Value = vm.ask(&Request::Console { write, history })?;
    let writes = answer["writes"].as_bool().unwrap_or(false);
    let note = match (write, writes) {
        (true, false) => "; another client types, this one only reads",
        _ => "",
    };
    eprintln!("rvmmctl: attached to '{name}', Ctrl-a d detaches{note}");
    let host = |e| CtlError::Host("serve the terminal", e);
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]);
    signals.thread_block().map_err(|e| host(e.into()))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(|e| host(e.into()))?;
    let (stream, rest) = vm.into_stream();
    let terminal = io::stdin().is_terminal().then(RawTerminal::new).flatten();
    let is_terminal = terminal.is_some();
    let ended = carry(&stream, &rest, &signals, is_terminal);
    drop(terminal);
    if is_terminal {
        eprintln!("\nrvmmctl: detached from '{name}'");
    }
    ended.map_err(host)
}

fn carry(mut stream: &UnixStream, rest: &[u8], signals: &SignalFd, is_terminal: bool) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    let (mut out, mut escape) = (io::stdout().lock(), EscapeKey::default());
    let mut show = |bytes: &[u8]| out.write_all(bytes).and_then(|()| out.flush());
    let (mut bytes, mut has_input) = ([0; 4096], true);
    show(rest)?;
    loop {
        let stdin = io::stdin();
        let mut fds = vec![
            PollFd::new(stream.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if has_input {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let got = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        let (has_output, is_signalled, is_typed) = (got(0), got(1), got(2));
        if is_signalled {
            return Ok(());
        }
        if has_output {
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                len => show(&bytes[..len])?,
            }
        }
        if is_typed {
            let len = nix::unistd::read(stdin.as_fd(), &mut bytes).unwrap_or(0);
            // Whoever pipes something in still wants to see what comes of it.
            has_input = len > 0;
            match typed(&bytes[..len], &mut escape, is_terminal) {
                Typed::Detach => return Ok(()),
                Typed::Help => show(HELP.as_bytes())?,
                Typed::Guest(typed) => stream.write_all(&typed)?,
            }
        }
    }
}

/// What some typed bytes come to.
enum Typed {
    Guest(Vec<u8>),
    Help,
    Detach,
}

fn typed(bytes: &[u8], escape: &mut EscapeKey, is_terminal: bool) -> Typed {
    if !is_terminal {
        return Typed::Guest(bytes.to_vec());
    }
    let mut guest = Vec::new();
    for &byte in bytes {
        match escape.feed(byte) {
            None => {}
            Some(TypedInput::Guest(byte)) => guest.push(byte),
            Some(TypedInput::Detach | TypedInput::Quit) => return Typed::Detach,
            Some(_) => return Typed::Help,
        }
    }
    Typed::Guest(guest)
}
