// SPDX-License-Identifier: GPL-2.0

//! The claim of a name: the socket of a VM, which is its own for as long as it runs.
//!
//! A socket whose run was killed stays in the folder, but nobody listens there: a connection is refused. Whoever wants its
//! name, or lists what runs, removes it. That is done under a lock of the folder, so that nobody removes the socket that
//! another has just made in its place.

use std::fmt;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::sockopt::{PeerCredentials, SendTimeout};
use nix::sys::socket::{
    connect, getsockopt, setsockopt, socket, AddressFamily, SockFlag, SockType, UnixAddr,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::place;
use crate::config::name::VmName;
use crate::devices::file_id::FileId;
use crate::errno::explain;

/// How long a connection may take, in seconds: one that is accepted late is one to a run that is stopped.
const CONNECT_SECONDS: i64 = 2;

/// A listening socket with a VM's name. It is removed when this is dropped.
#[derive(Debug)]
pub struct Claim {
    listener: UnixListener,
    path: PathBuf,
    id: FileId,
}

/// Why a name cannot be had.
#[derive(Debug)]
pub enum ClaimError {
    /// Another run has it.
    Taken {
        /// The name.
        name: VmName,
        /// Process of the run.
        pid: Option<i32>,
    },
    /// The folder cannot be made or locked.
    Folder(PathBuf, io::Error),
    /// The socket cannot be made.
    Socket(PathBuf, io::Error),
    /// What has the socket's name is none.
    NoSocket(PathBuf),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { name, pid } => {
                let holder =
                    pid.map_or_else(|| "another process".to_string(), |pid| format!("process {pid}"));
                write!(
                    f,
                    "a VM '{name}' is running already, by {holder}: stop it, or give this one another --name"
                )
            }
            Self::Folder(path, e) => write!(
                f,
                "the folder of control sockets '{}': {}; {} names another",
                path.display(),
                explain(e),
                place::VARIABLE
            ),
            Self::Socket(path, e) => write!(f, "the control socket '{}': {}", path.display(), explain(e)),
            Self::NoSocket(path) => {
                write!(f, "'{}' is where the control socket goes, but it is none: remove it", path.display())
            }
        }
    }
}

impl std::error::Error for ClaimError {}

/// Who answers at a socket.
#[derive(Debug)]
pub enum SocketState {
    /// There is no such file.
    Absent,
    /// Nobody does: its run was killed.
    Stale,
    /// A run does, or would if it were not stopped.
    Alive(Option<UnixStream>),
    /// It is no socket, or none of this user's.
    Foreign(Errno),
}

/// Looks who answers at a socket.
pub fn look(path: &Path) -> SocketState {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return SocketState::Absent,
        Ok(meta) if !meta.file_type().is_socket() => return SocketState::Foreign(Errno::ENOTSOCK),
        _ => {}
    }
    match connect_to(path) {
        Ok(stream) => SocketState::Alive(Some(stream)),
        Err(Errno::ECONNREFUSED) => SocketState::Stale,
        Err(Errno::ENOENT) => SocketState::Absent,
        // It has as many clients as may wait.
        Err(Errno::EAGAIN) => SocketState::Alive(None),
        Err(errno) => SocketState::Foreign(errno),
    }
}

/// Connects, but does not wait for long.
fn connect_to(path: &Path) -> Result<UnixStream, Errno> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, SendTimeout, &TimeVal::seconds(CONNECT_SECONDS))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

/// The process at the other end of a connection.
pub fn peer(stream: &UnixStream) -> Option<(i32, u32)> {
    getsockopt(stream, PeerCredentials).ok().map(|peer| (peer.pid(), peer.uid()))
}

/// Removes the socket of a run that was killed, if it is one.
pub fn clean(folder: &Path, name: &VmName) {
    let path = place::socket(folder, name);
    if let Ok(_lock) = lock(folder) {
        if matches!(look(&path), SocketState::Stale) {
            let _ = fs::remove_file(path);
        }
    }
}

fn lock(folder: &Path) -> io::Result<Flock<File>> {
    let file = File::open(folder)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
}

impl Claim {
    /// Takes a name: makes its socket in `folder`, which is made if it does not exist, for this user alone.
    ///
    /// # Errors
    /// Every `ClaimError`.
    pub fn new(folder: &Path, name: &VmName) -> Result<Self, ClaimError> {
        let of_folder = |e| ClaimError::Folder(folder.into(), e);
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(of_folder)?;
        let _lock = lock(folder).map_err(of_folder)?;
        let path = place::socket(folder, name);
        match look(&path) {
            SocketState::Absent => {}
            SocketState::Stale => {
                fs::remove_file(&path).map_err(|e| ClaimError::Socket(path.clone(), e))?;
            }
            SocketState::Alive(stream) => {
                let pid = stream.as_ref().and_then(peer).map(|(pid, _)| pid);
                return Err(ClaimError::Taken { name: name.clone(), pid });
            }
            SocketState::Foreign(Errno::ENOTSOCK) => return Err(ClaimError::NoSocket(path)),
            SocketState::Foreign(errno) => return Err(ClaimError::Socket(path, errno.into())),
        }
        Self::bind(&path).map_err(|e| ClaimError::Socket(path, e))
    }

    fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let claim = Self { listener, path: path.into(), id: FileId::at(path)? };
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        claim.listener.set_nonblocking(true)?;
        Ok(claim)
    }

    /// Where clients come in; it never waits.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _lock = self.path.parent().map(lock);
        // Somebody may have removed it, and another taken the name since.
        if FileId::at(&self.path).is_ok_and(|id| id == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
