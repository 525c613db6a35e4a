// SPDX-License-Identifier: GPL-2.0

//! Carries bytes between the UART of one VM and the console, on a thread of its own.
//!
//! ```text
//!  UART device fd --read--> out (256 KiB, newest kept while nobody reads) --write--> console
//!  UART device fd <-write-- inp (4 KiB, console not read when full)       <--read--- console
//! ```
//!
//! The thread sleeps in `poll`, without a timeout unless input waits: it costs nothing while neither side has anything to say.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use super::escape::{Escape, Typed, HELP};
use super::ring::Ring;
use super::Console;

/// Output that is kept for a late reader.
const OUT_LIMIT: usize = 256 << 10;
/// Input that waits for the guest.
const IN_LIMIT: usize = 4 << 10;
/// Bytes per write: a terminal or pipe that polls writable takes them without blocking.
const WRITE_MAX: usize = 1024;
/// How long the end of a run waits for a slow reader.
const LINGER: Duration = Duration::from_secs(1);

/// Pause after a read that gave nothing although there should have been something.
const PAUSE: Duration = Duration::from_millis(5);

/// Milliseconds until the next look at a UART that has no room for input.
const INPUT_PAUSE: u16 = 20;

/// What the user asked for at the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// End the run.
    Quit,
    /// Press the power button.
    PowerButton,
}

/// A console and what is on its way; kept over resets of the guest.
#[derive(Debug)]
pub struct Pump {
    console: Console,
    out: Ring,
    inp: Ring,
    escape: Escape,
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
    output: bool,
}

/// Adds a descriptor to the poll, and says at which index.
fn add<'a>(fds: &mut Vec<PollFd<'a>>, fd: Option<BorrowedFd<'a>>, events: PollFlags) -> Option<usize> {
    fds.push(PollFd::new(fd?, events));
    Some(fds.len() - 1)
}

impl Pump {
    /// A pump for an open console.
    pub fn new(console: Console) -> Self {
        Self { console, out: Ring::new(OUT_LIMIT), inp: Ring::new(IN_LIMIT), escape: Escape::default() }
    }

    /// The console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Carries bytes until `stop` becomes readable, then delivers what is left. `uart` must be non-blocking.
    ///
    /// # Errors
    /// The error of `poll`; errors of either side only end the traffic with that side.
    pub fn run(&mut self, uart: &mut File, stop: &EventFd, request: impl Fn(Request)) -> io::Result<()> {
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
        while uart_open && self.read_some(uart) {}
        self.inp = Ring::new(IN_LIMIT);
        self.linger();
        Ok(())
    }

    /// Sleeps until something can be done.
    fn wait(&self, uart: Option<&File>, stop: &EventFd) -> io::Result<Ready> {
        let input = self.console.input().filter(|_| self.inp.room() > 0);
        let output = self.console.output().filter(|_| !self.out.is_empty());
        let watch = match &self.console {
            Console::Pty(pty) => Some(pty.watch()),
            _ => None,
        };
        // While somebody reads, a full queue makes the UART wait; while nobody does, the oldest output is dropped.
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
        let output_at = add(&mut fds, output, PollFlags::POLLOUT);
        // The guest takes input at its own pace, and the UART does not always tell when it has.
        let limit = if self.inp.is_empty() { PollTimeout::NONE } else { INPUT_PAUSE.into() };
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
            output: got(output_at, PollFlags::POLLOUT | gone),
        })
    }

    /// Somebody opened or closed the pseudo terminal: a new reader gets raw mode, whatever the last one left behind.
    fn attach_or_detach(&mut self) {
        if let Console::Pty(pty) = &self.console {
            if pty.take_events() {
                let _ = pty.make_raw();
            }
        }
    }

    /// Takes what the guest printed. Returns whether the UART is still there.
    fn read_uart(&mut self, uart: &mut File, gone: bool) -> bool {
        let mut buf = [0; 4096];
        match uart.read(&mut buf) {
            // The end only when the poll saw a hang-up too; otherwise there was nothing to read after all.
            Ok(0) if gone => false,
            Ok(0) => {
                std::thread::sleep(PAUSE);
                true
            }
            Ok(len) => {
                self.out.push(&buf[..len]);
                true
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// As `read_uart`, for the final drain: whether there may be more.
    fn read_some(&mut self, uart: &mut File) -> bool {
        let mut buf = [0; 4096];
        match uart.read(&mut buf) {
            Ok(len) => {
                self.out.push(&buf[..len]);
                len > 0
            }
            Err(e) => e.kind() == ErrorKind::Interrupted,
        }
    }

    /// Takes what the user typed.
    fn read_input(&mut self, request: &impl Fn(Request)) {
        let mut buf = [0; IN_LIMIT];
        let room = self.inp.room();
        let Some(fd) = self.console.input() else { return };
        let read = nix::unistd::read(fd, &mut buf[..room]);
        let typed = match read {
            Ok(len) if len > 0 => &buf[..len],
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            _ => {
                if let Console::Stdio(stdio) = &mut self.console {
                    stdio.close_input();
                }
                return;
            }
        };
        let escapes = matches!(&self.console, Console::Stdio(stdio) if stdio.is_terminal());
        if !escapes {
            self.inp.push(typed);
            return;
        }
        for &byte in typed {
            match self.escape.feed(byte) {
                None => {}
                Some(Typed::Guest(byte)) => self.inp.push(&[byte]),
                Some(Typed::Quit) => request(Request::Quit),
                Some(Typed::PowerButton) => request(Request::PowerButton),
                Some(Typed::Help) => self.out.push(HELP.as_bytes()),
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
            Err(_) => match &mut self.console {
                Console::Stdio(stdio) => stdio.close_output(),
                Console::File(_) => self.out.consume(usize::MAX),
                Console::Pty(_) | Console::None => {}
            },
        }
    }

    /// Delivers what is left to whoever reads, within limits.
    fn linger(&mut self) {
        let end = Instant::now() + LINGER;
        while !self.out.is_empty() && Instant::now() < end {
            let Some(fd) = self.console.output() else { return };
            let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
            match poll(&mut fds, 100u16) {
                Ok(0) | Err(_) => {}
                Ok(_) => self.write_output(),
            }
        }
    }

    /// Gives the reader of a pseudo terminal a moment to take the last bytes: they are lost when the master closes.
    pub fn close(self) {
        if matches!(&self.console, Console::Pty(pty) if pty.attached()) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
