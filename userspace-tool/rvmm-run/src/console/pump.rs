// SPDX-License-Identifier: GPL-2.0

//! Carries bytes between the UART of one VM and the console, on a thread of its own.
//!
//! ```text
//!  UART device fd --read--> out (256 KiB) --write--> console
//!  UART device fd <-write-- inp (64 KiB)  <--read--- console
//! ```
//!
//! Output is lost only where nobody takes it: while somebody reads, however slowly, a full queue makes the UART wait and so
//! the guest, and what is left at the end of the run is delivered to the last byte. While nobody reads, the newest output is
//! kept. What was lost is counted, and told at the end. A terminal is read all the time, for the escape key's sake.
//!
//! The thread sleeps in `poll`, without a timeout unless input waits: it costs nothing while neither side has anything to say.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use super::escape::{EscapeKey, TypedInput, HELP};
use super::hub::ConsoleHub;
use super::pty::PtyConsole;
use super::ring::ByteRing;
use super::HostConsole;
use crate::control::signals::{SignalQueue, SignalRequest};
use crate::events::{message, warning};
use crate::sys;

/// Output that is kept for a late reader.
const OUT_LIMIT: usize = 256 << 10;
/// Input that waits for the guest.
const IN_LIMIT: usize = 64 << 10;
/// Bytes per read of either side.
const READ_MAX: usize = 4 << 10;
/// Bytes per write: a terminal or pipe that polls writable takes them without blocking.
const WRITE_MAX: usize = 1024;
/// How long the end of a run waits for a slow reader when the user has asked for the end, or before it says that it waits.
const LINGER: Duration = Duration::from_secs(1);
/// Pause between two looks at the far end of a pseudo terminal.
const LOOK: Duration = Duration::from_millis(50);

/// Pause after a read that gave nothing although there should have been something.
const PAUSE: Duration = Duration::from_millis(5);

/// Milliseconds until the next look at a UART that has no room for input.
const INPUT_PAUSE: u16 = 20;
/// The same at a terminal that is another job's.
const LOOK_PAUSE: u16 = 200;

/// What the user asked for at the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PumpRequest {
    /// End the run.
    Quit,
    /// Press the power button.
    PowerButton,
    /// Go on after a pause.
    Continue,
}

/// A console and what is on its way; kept over resets of the guest.
#[derive(Debug)]
pub struct ConsolePump {
    console: HostConsole,
    /// Clients of the control socket, beside the console.
    hub: Option<Arc<ConsoleHub>>,
    out: ByteRing,
    inp: ByteRing,
    escape: EscapeKey,
    /// Bytes of output that nobody has taken.
    lost: u64,
    /// The console takes no more output, for this reason.
    failed: Option<Errno>,
}

/// Which side of a poll had something.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    stop: bool,
    uart_in: bool,
    uart_out: bool,
    uart_gone: bool,
    watch: bool,
    input: bool,
    typed: bool,
    output: bool,
}

/// Adds a descriptor to the poll, and says at which index.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, fd: Option<BorrowedFd<'a>>, events: PollFlags) -> Option<usize> {
    fds.push(PollFd::new(fd?, events));
    Some(fds.len() - 1)
}

impl ConsolePump {
    /// A pump for an open console.
    pub fn new(console: HostConsole) -> Self {
        let (out, inp) = (ByteRing::new(OUT_LIMIT), ByteRing::new(IN_LIMIT));
        Self { console, hub: None, out, inp, escape: EscapeKey::default(), lost: 0, failed: None }
    }

    /// Has clients of the control socket see the console from now on.
    pub fn set_hub(&mut self, hub: Arc<ConsoleHub>) {
        self.hub = Some(hub);
    }

    /// Whether there is anybody to carry bytes for.
    pub fn has_anybody(&self) -> bool {
        self.hub.is_some() || !matches!(self.console, HostConsole::None)
    }

    /// The console.
    pub fn console(&self) -> &HostConsole {
        &self.console
    }

    /// Adds output that was lost before it came here.
    pub fn count_lost(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_add(bytes);
    }

    /// Carries bytes until `stop` becomes readable, then takes what the guest has still put out. `uart` must be
    /// non-blocking.
    ///
    /// # Errors
    /// The error of `poll`; errors of either side only end the traffic with that side.
    pub fn run(&mut self, uart: &mut File, stop: &EventFd, request: impl Fn(PumpRequest)) -> io::Result<()> {
        let mut uart_open = true;
        loop {
            let ready = self.wait(uart_open.then_some(&*uart), stop)?;
            if ready.watch {
                self.attach_or_detach();
            }
            if ready.uart_in {
                uart_open = self.read_uart(uart, ready.uart_gone);
            } else if ready.uart_gone {
                uart_open = false;
            }
            if ready.input {
                self.read_input(&request);
            }
            if ready.typed {
                self.take_typed();
            }
            if ready.uart_out {
                self.write_uart(uart);
            }
            if ready.output {
                self.write_output();
            }
            if ready.stop {
                break;
            }
        }
        while uart_open && self.read_rest(uart) {}
        self.inp = ByteRing::new(IN_LIMIT);
        Ok(())
    }

    /// Sleeps until something can be done.
    fn wait(&self, uart: Option<&File>, stop: &EventFd) -> io::Result<Ready> {
        let input = self.console.input().filter(|_| self.inp.room() > 0 || self.has_escape());
        let output = self.console.output().filter(|_| !self.out.is_empty());
        let watch = match &self.console {
            HostConsole::Pty(pty) => Some(pty.watch()),
            _ => None,
        };
        let typed = self.hub.as_deref().filter(|_| self.inp.room() > 0).map(ConsoleHub::typed);
        let mut uart_events = PollFlags::empty();
        if self.out.room() > 0 || self.console.output().is_none() {
            uart_events |= PollFlags::POLLIN;
        }
        if !self.inp.is_empty() {
            uart_events |= PollFlags::POLLOUT;
        }
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let uart_at = add(&mut fds, uart.map(AsFd::as_fd), uart_events);
        let watch_at = add(&mut fds, watch, PollFlags::POLLIN);
        let input_at = add(&mut fds, input, PollFlags::POLLIN);
        let typed_at = add(&mut fds, typed, PollFlags::POLLIN);
        let output_at = add(&mut fds, output, PollFlags::POLLOUT);
        // The guest takes input at its own pace, and the UART does not always tell when it has.
        let limit = match &self.console {
            _ if !self.inp.is_empty() => INPUT_PAUSE.into(),
            // Nothing but time tells when the job is brought back.
            HostConsole::Stdio(stdio) if stdio.is_in_background() => LOOK_PAUSE.into(),
            _ => PollTimeout::NONE,
        };
        match poll(&mut fds, limit) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let got = |at: Option<usize>, flags: PollFlags| {
            at.and_then(|at| fds[at].revents()).is_some_and(|r| r.intersects(flags))
        };
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        Ok(Ready {
            stop: got(Some(0), PollFlags::POLLIN),
            uart_in: got(uart_at, PollFlags::POLLIN),
            uart_out: got(uart_at, PollFlags::POLLOUT),
            uart_gone: got(uart_at, gone),
            watch: got(watch_at, PollFlags::POLLIN),
            input: got(input_at, PollFlags::POLLIN | gone),
            typed: got(typed_at, PollFlags::POLLIN),
            output: got(output_at, PollFlags::POLLOUT | gone),
        })
    }

    /// Somebody opened or closed the pseudo terminal: a new reader gets raw mode, whatever the last one left behind.
    fn attach_or_detach(&mut self) {
        if let HostConsole::Pty(pty) = &self.console {
            if pty.take_events() {
                let _ = pty.make_raw();
            }
        }
    }

    /// Takes what the guest printed. Returns whether the UART is still there.
    fn read_uart(&mut self, uart: &mut File, gone: bool) -> bool {
        let mut buf = [0; READ_MAX];
        // Somebody who reads gets all of it.
        let most = if self.console.output().is_some() { self.out.room().min(READ_MAX) } else { READ_MAX };
        match uart.read(&mut buf[..most]) {
            // The end only when the poll saw a hang-up too; otherwise there was nothing to read after all.
            Ok(0) if gone => false,
            Ok(0) => {
                std::thread::sleep(PAUSE);
                true
            }
            Ok(len) => {
                self.show(&buf[..len]);
                let forgotten = self.out.push(&buf[..len]);
                self.count_lost(forgotten as u64);
                true
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// As `read_uart` after the end, when the guest cannot wait any more: whether there may be more.
    fn read_rest(&mut self, uart: &mut File) -> bool {
        let mut buf = [0; READ_MAX];
        match uart.read(&mut buf) {
            Ok(len) => {
                self.show(&buf[..len]);
                self.out.append(&buf[..len]);
                len > 0
            }
            Err(e) => e.kind() == ErrorKind::Interrupted,
        }
    }

    /// Shows output to the clients of the control socket, whoever else takes it.
    fn show(&self, bytes: &[u8]) {
        if let Some(hub) = &self.hub {
            hub.put_out(bytes);
        }
    }

    /// Takes what such a client typed.
    fn take_typed(&mut self) {
        if let Some(hub) = &self.hub {
            let typed = hub.take_typed(self.inp.room());
            self.inp.append(&typed);
        }
    }

    /// Whether what is typed may be the escape key.
    fn has_escape(&self) -> bool {
        matches!(&self.console, HostConsole::Stdio(stdio) if stdio.is_terminal())
    }

    /// Takes what the user typed. What the guest does not take in time is lost, like on a line, but never a key that is for
    /// us.
    fn read_input(&mut self, request: &impl Fn(PumpRequest)) {
        let mut buf = [0; READ_MAX];
        let has_escape = self.has_escape();
        let most = if has_escape { READ_MAX } else { self.inp.room().min(READ_MAX) };
        let Some(fd) = self.console.input() else { return };
        let read = nix::unistd::read(fd, &mut buf[..most]);
        let typed = match read {
            Ok(len) if len > 0 => &buf[..len],
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            // A terminal that has become another job's; SIGTTIN is blocked.
            Err(Errno::EIO) if has_escape => return std::thread::sleep(PAUSE),
            _ => {
                if let HostConsole::Stdio(stdio) = &mut self.console {
                    stdio.close_input();
                }
                return;
            }
        };
        if !has_escape {
            self.inp.append(typed);
            return;
        }
        for &byte in typed {
            match self.escape.feed(byte) {
                None => {}
                Some(TypedInput::Guest(byte)) if self.inp.room() > 0 => self.inp.append(&[byte]),
                Some(TypedInput::Guest(_)) => {}
                Some(TypedInput::Quit) => request(PumpRequest::Quit),
                Some(TypedInput::PowerButton) => request(PumpRequest::PowerButton),
                Some(TypedInput::Continue) => request(PumpRequest::Continue),
                Some(TypedInput::Help | TypedInput::Detach) => self.out.append(HELP.as_bytes()),
            }
        }
    }

    fn write_uart(&mut self, uart: &mut File) {
        match uart.write(self.inp.front()) {
            Ok(len) => self.inp.consume(len),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // A UART that takes no input loses it, as a cable would.
            Err(_) => self.inp.consume(usize::MAX),
        }
    }

    fn write_output(&mut self) {
        let Some(fd) = self.console.output() else { return };
        let front = self.out.front();
        match nix::unistd::write(fd, &front[..front.len().min(WRITE_MAX)]) {
            Ok(len) => self.out.consume(len),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // A pty whose reader went away keeps its output for the next one.
            Err(_) if matches!(self.console, HostConsole::Pty(_)) => {}
            Err(errno) => self.fail(errno),
        }
    }

    /// The console takes no more output: says so, once, and lets the guest go on.
    fn fail(&mut self, errno: Errno) {
        let what = match &mut self.console {
            HostConsole::Stdio(stdio) => {
                stdio.close_output();
                "standard output"
            }
            _ => {
                self.console = HostConsole::None;
                "its file"
            }
        };
        self.failed = Some(errno);
        warning(&format!("console: cannot write to {what}: {}; further output is lost", errno.desc()));
    }

    /// Ends the console: delivers what is left to whoever reads, and tells what nobody has taken. The user may have asked
    /// for the end, and then does not want to wait long; otherwise every byte is delivered, however long that takes, unless
    /// a signal or the escape key ends it.
    ///
    /// # Errors
    /// Why output was lost, where the console failed. It has been told.
    pub fn finish(mut self, signals: &SignalQueue, is_asked_for: bool) -> Result<(), Errno> {
        self.deliver(signals, is_asked_for);
        if let HostConsole::Pty(pty) = &self.console {
            wait_for_reader(pty);
        }
        let lost = self.lost.saturating_add(self.out.len() as u64);
        let is_wanted = self.failed.is_some() || !matches!(self.console, HostConsole::None);
        if lost > 0 && is_wanted {
            warning(&format!("console: {lost} bytes of the guest's output had no reader and are lost"));
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn deliver(&mut self, signals: &SignalQueue, is_asked_for: bool) {
        let limit = Instant::now() + LINGER;
        let mut is_told = false;
        let asked = Cell::new(is_asked_for);
        while !self.out.is_empty() {
            let is_late = Instant::now() >= limit;
            if is_late && asked.get() {
                return;
            }
            if is_late && !is_told {
                is_told = true;
                let left = self.out.len();
                message(&format!(
                    "console: the guest has ended; {left} bytes of its output wait for their reader (a signal ends this)"
                ));
            }
            let Some(output) = self.console.output() else { return };
            let mut fds = vec![
                PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN),
                PollFd::new(output, PollFlags::POLLOUT),
            ];
            let input_at =
                add(&mut fds, self.console.input().filter(|_| self.has_escape()), PollFlags::POLLIN);
            let _ = poll(&mut fds, LOOK_PAUSE);
            let got = |at: usize| fds[at].any().unwrap_or(false);
            let (is_signalled, is_writable, is_typed) = (got(0), got(1), input_at.is_some_and(got));
            if is_signalled
                && matches!(signals.take(), Some(SignalRequest::Stop(_) | SignalRequest::Terminate))
            {
                return;
            }
            if is_typed {
                self.read_input(&|request| asked.set(asked.get() || request == PumpRequest::Quit));
            }
            if is_writable {
                self.write_output();
            }
        }
    }
}

/// Gives the reader of a pseudo terminal the time to take the last bytes, which are lost when the master closes.
fn wait_for_reader(pty: &PtyConsole) {
    if !pty.attached() {
        return;
    }
    let Ok(slave) = pty.open_slave() else { return };
    let (mut left, mut limit) = (usize::MAX, Instant::now() + LINGER);
    loop {
        let now_left = sys::unread(slave.as_fd());
        if now_left < left {
            (left, limit) = (now_left, Instant::now() + LINGER);
        }
        if left == 0 || Instant::now() >= limit {
            // What was just taken may not be shown yet.
            return std::thread::sleep(LOOK);
        }
        std::thread::sleep(LOOK);
    }
}
