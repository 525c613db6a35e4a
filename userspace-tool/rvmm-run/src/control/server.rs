// SPDX-License-Identifier: GPL-2.0

//! The thread that serves the control socket of a VM: it accepts clients, carries bytes, and sleeps otherwise.
//!
//! No client can hold up another, or the guest: nothing here waits for one, each has its bounds, and there are only so many.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use nix::unistd::Uid;

use super::claim::{peer, Claim};
use super::feed::EventFeed;
use super::protocol::{answer, EndReport, Refusal, RefusalKind};
use super::session::Session;
use super::steered::SteeredVm;

/// Clients at a time. One more is told so.
pub const MOST_CLIENTS: usize = 128;
/// Bytes per read.
const READ_MAX: usize = 4 << 10;
/// How long the end of the run waits for clients to take what it tells them.
const LINGER: Duration = Duration::from_secs(1);

/// The running server.
#[derive(Debug)]
pub struct ControlServer {
    thread: JoinHandle<()>,
    end: Arc<ServerEnd>,
}

/// How the server learns that the run is over.
#[derive(Debug)]
struct ServerEnd {
    report: Mutex<Option<EndReport>>,
    /// Readable when something is to be done beside the clients' own doing.
    wake: Arc<EventFd>,
}

impl ControlServer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the host has no thread or descriptor left.
    pub fn start(claim: Claim, vm: Arc<dyn SteeredVm>, feed: &'static EventFeed) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        feed.wakes(Arc::clone(&wake));
        if let Ok(hub) = vm.console() {
            hub.wakes(Arc::clone(&wake));
        }
        let end = Arc::new(ServerEnd { report: Mutex::default(), wake });
        let server = ServerLoop { claim, vm, feed, end: Arc::clone(&end), clients: Vec::new() };
        let thread = std::thread::Builder::new().name("control".into()).spawn(|| server.run())?;
        Ok(Self { thread, end })
    }

    /// Tells every client how the run ended, and removes the socket.
    pub fn finish(self, report: EndReport) {
        *self.end.report.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
        let _ = self.end.wake.write(1);
        let _ = self.thread.join();
    }
}

/// A client and its connection.
struct Client {
    stream: UnixStream,
    session: Session,
    /// Nothing can be sent any more.
    is_gone: bool,
}

struct ServerLoop {
    claim: Claim,
    vm: Arc<dyn SteeredVm>,
    feed: &'static EventFeed,
    end: Arc<ServerEnd>,
    clients: Vec<Client>,
}

impl ServerLoop {
    fn run(mut self) {
        // Signals are the main thread's. They may come before it has blocked them.
        let _ = SigSet::all().thread_block();
        loop {
            let report = self.end.report.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(report) = report {
                return self.finish(&report);
            }
            if self.step(PollTimeout::NONE, true).is_err() {
                return;
            }
        }
    }

    fn finish(mut self, report: &EndReport) {
        let limit = Instant::now() + LINGER;
        self.clients.iter_mut().for_each(|client| client.session.end(report));
        self.clients.iter_mut().for_each(Client::send);
        self.forget();
        while !self.clients.is_empty() && Instant::now() < limit {
            if self.step(PollTimeout::from(50u8), false).is_err() {
                return;
            }
        }
    }

    /// Waits until something can be done, and does it. New clients come only while the run goes on.
    fn step(&mut self, limit: PollTimeout, accepts: bool) -> Result<(), Errno> {
        let mut fds = vec![PollFd::new(self.end.wake.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.clients.iter().map(|client| PollFd::new(client.stream.as_fd(), client.events())));
        if accepts {
            fds.push(PollFd::new(self.claim.listener().as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, limit) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => return Err(errno),
        }
        let got: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        let (is_woken, got) = (!got[0].is_empty(), &got[1..]);
        if is_woken {
            let _ = self.end.wake.read();
        }
        for (client, got) in self.clients.iter_mut().zip(got) {
            client.serve(*got);
        }
        // What one client did may be news for another.
        self.clients.iter_mut().for_each(Client::tell);
        if accepts && got.last().is_some_and(|got| !got.is_empty()) {
            self.accept();
        }
        self.forget();
        Ok(())
    }

    fn forget(&mut self) {
        self.clients.retain(|client| {
            !(client.is_gone || client.session.is_over() && client.session.output().is_empty())
        });
    }

    /// Takes new clients: of this user, or root's.
    fn accept(&mut self) {
        loop {
            let mut stream = match self.claim.listener().accept() {
                Ok((stream, _)) => stream,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => {
                    // Without a descriptor the client stays where it is, and would wake this thread for ever.
                    if e.kind() != ErrorKind::WouldBlock {
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    return;
                }
            };
            let may = peer(&stream).is_some_and(|(_, user)| user == 0 || user == Uid::effective().as_raw());
            if !may || stream.set_nonblocking(true).is_err() {
                continue;
            }
            if self.clients.len() == MOST_CLIENTS {
                let refusal =
                    Refusal::new(RefusalKind::Failed, format!("there are {MOST_CLIENTS} clients already"));
                let _ = stream.write_all(&answer(None, Err(refusal)));
                continue;
            }
            let session = Session::new(Arc::clone(&self.vm), self.feed);
            let mut client = Client { stream, session, is_gone: false };
            client.send();
            self.clients.push(client);
        }
    }
}

impl Client {
    /// What to wait for.
    fn events(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        if self.session.takes_input() {
            events |= PollFlags::POLLIN;
        }
        if !self.session.output().is_empty() {
            events |= PollFlags::POLLOUT;
        }
        events
    }

    fn serve(&mut self, got: PollFlags) {
        if got.intersects(PollFlags::POLLIN) {
            self.receive();
        }
        if got.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)
            || got.contains(PollFlags::POLLHUP) && !got.contains(PollFlags::POLLIN)
        {
            self.is_gone = true;
        }
    }

    fn receive(&mut self) {
        let mut bytes = [0; READ_MAX];
        match self.stream.read(&mut bytes) {
            // It sends no more, but still takes what it asked for.
            Ok(0) => self.session.close(),
            Ok(len) => self.session.receive(&bytes[..len]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.is_gone = true,
        }
    }

    /// Sends what there is for the client, until it takes no more.
    fn tell(&mut self) {
        loop {
            self.session.pull();
            if self.session.output().is_empty() || self.is_gone {
                return;
            }
            self.send();
            if !self.session.output().is_empty() {
                return;
            }
        }
    }

    fn send(&mut self) {
        while !self.session.output().is_empty() && !self.is_gone {
            match self.stream.write(self.session.output()) {
                Ok(0) => self.is_gone = true,
                Ok(len) => self.session.sent(len),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.is_gone = true,
            }
        }
    }
}
