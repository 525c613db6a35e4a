// SPDX-License-Identifier: GPL-2.0

//! passt, a program that makes a network out of the host's own sockets and needs no rights.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::unistd::dup;

/// The name of the program.
pub const PASST: &str = "passt";

/// A passt that runs, and the socket that it carries packets through. It ends with this.
#[derive(Debug)]
pub struct PasstProcess {
    child: Child,
    /// Our end, for the module.
    pub socket: UnixStream,
}

impl PasstProcess {
    /// Starts one.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn start(arguments: &[String]) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        // A copy that stays open in the child. It is closed here before any other program is started.
        let theirs: OwnedFd = dup(theirs)?;
        let child = Command::new(PASST)
            .args(["--foreground", "--quiet", "--fd", &theirs.as_raw_fd().to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { child, socket })
    }
}

impl Drop for PasstProcess {
    fn drop(&mut self) {
        // It ends by itself when the socket is closed, but that comes later.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
