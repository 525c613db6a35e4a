// SPDX-License-Identifier: GPL-2.0

//! Tells the service manager how far the VM is: sd_notify(3), datagrams to the socket that `NOTIFY_SOCKET` names.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Time beyond the guest's own that the end of a run may take.
const REST: Duration = Duration::from_secs(15);

/// The guest's kernel is entered.
pub fn ready() {
    tell("READY=1\nSTATUS=The guest runs.");
}

/// The guest was asked to end, and may take so long.
pub fn stopping(timeout: Duration) {
    tell(&stopping_text(timeout));
}

fn stopping_text(timeout: Duration) -> String {
    let usec = timeout.saturating_add(REST).as_micros();
    format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={usec}\nSTATUS=The guest was asked to end.")
}

fn tell(text: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        // A manager that does not listen is no reason to do without the guest.
        let _ = send(&socket, text);
    }
}

/// Sends a message. A socket whose name begins with @ has no file.
///
/// # Errors
/// Those of the socket.
pub fn send(socket: &OsStr, text: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &UnixDatagram) -> String {
        let mut bytes = [0; 200];
        let len = receiver.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    #[test]
    fn message_comes_to_a_socket_with_and_without_a_file() {
        let path = std::env::temp_dir().join(format!("rvmm-notify-{}", std::process::id()));
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("rvmm-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();

        send(path.as_os_str(), "READY=1").unwrap();
        send(OsStr::new(&format!("@{name}")), "STOPPING=1").unwrap();

        assert_eq!((received(&by_path), received(&by_name)), ("READY=1".into(), "STOPPING=1".into()));
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1").is_err());
    }

    #[test]
    fn manager_waits_longer_than_the_guest_may_take() {
        let text = stopping_text(Duration::from_secs(60));

        assert!(text.contains("\nEXTEND_TIMEOUT_USEC=75000000\n"), "{text}");
    }
}
