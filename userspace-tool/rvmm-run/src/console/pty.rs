// SPDX-License-Identifier: GPL-2.0

//! A pseudo terminal of which the tool has the master side and anyone may attach to the other.
//!
//! The tool has to know whether somebody is attached, without polling: while nobody is, the master reports a hang-up, and
//! an inotify watch on the slave's node tells when that may have changed. See tty_ioctl(4), pty(7), inotify(7).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, FdFlag, OFlag};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt, PtyMaster};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::termios::{cfmakeraw, tcgetattr, tcsetattr, SetArg};

/// The master side of a new pseudo terminal.
#[derive(Debug)]
pub struct PtyConsole {
    master: PtyMaster,
    name: PathBuf,
    watch: Inotify,
    /// Tells a second run that this terminal has an owner; see [`is_ours`].
    _owner: Option<UnixListener>,
}

/// Whether a running tool made this pseudo terminal, so that using it as one's own terminal would put two guests on it.
pub fn is_ours(name: &Path) -> bool {
    owner_address(name).and_then(|address| UnixStream::connect_addr(&address)).is_ok()
}

/// An abstract socket address: it needs no file and goes with its process. A lock on the node would need it open, and then
/// nobody could tell whether a reader is there.
fn owner_address(name: &Path) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name([b"rvmm-run:", name.as_os_str().as_encoded_bytes()].concat())
}

impl PtyConsole {
    /// Makes a pseudo terminal in raw mode.
    ///
    /// # Errors
    /// Without a free pseudo terminal, devpts or inotify.
    pub fn new() -> Result<Self, Errno> {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)?;
        fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = PathBuf::from(ptsname_r(&master)?);
        let watch = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let events = AddWatchFlags::IN_OPEN | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_CLOSE_NOWRITE;
        watch.add_watch(&name, events)?;
        let owner = owner_address(&name).and_then(|address| UnixListener::bind_addr(&address)).ok();
        let pty = Self { master, name, watch, _owner: owner };
        pty.make_raw()?;
        pty.hang_up_once()?;
        Ok(pty)
    }

    /// Name of the node to attach to.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// The master side, non-blocking.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Becomes readable when somebody opened or closed the other side.
    pub fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Forgets the events that made `watch` readable. Returns whether the other side was opened.
    pub fn take_events(&self) -> bool {
        let events = self.watch.read_events().unwrap_or_default();
        events.iter().any(|e| e.mask.contains(AddWatchFlags::IN_OPEN))
    }

    /// Whether somebody has the other side open.
    pub fn attached(&self) -> bool {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => !fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)),
            Err(_) => false,
        }
    }

    /// Puts the line discipline into raw mode. Without it the other side would echo the guest's output back to the guest.
    ///
    /// # Errors
    /// The error of `tcsetattr`.
    pub fn make_raw(&self) -> Result<(), Errno> {
        let mut attributes = tcgetattr(&self.master)?;
        cfmakeraw(&mut attributes);
        tcsetattr(&self.master, SetArg::TCSANOW, &attributes)
    }

    /// Opens the other side.
    ///
    /// # Errors
    /// The error of `open`.
    pub fn open_slave(&self) -> Result<File, Errno> {
        let flags = OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&self.name);
        opened.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))
    }

    /// Opens and closes the other side: from then on the master reports a hang-up while nobody is attached.
    fn hang_up_once(&self) -> Result<(), Errno> {
        drop(self.open_slave()?);
        self.take_events();
        Ok(())
    }
}
