// SPDX-License-Identifier: GPL-2.0

//! Errors of the operating system in words.

use std::io;

use nix::errno::Errno;

/// The text of an error of the operating system without Rust's decoration.
pub fn explain(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(raw) => {
            let errno = Errno::from_raw(raw);
            match errno {
                Errno::ENOENT => format!("{}: check the path", errno.desc()),
                Errno::EACCES | Errno::EPERM => format!("{}: check its mode and owner", errno.desc()),
                _ => errno.desc().to_string(),
            }
        }
        None if e.kind() == io::ErrorKind::UnexpectedEof => {
            "the file became shorter while it was read".to_string()
        }
        None if e.kind() == io::ErrorKind::Unsupported => "it is a device: give a file".to_string(),
        None if e.kind() == io::ErrorKind::FileTooLarge => "the pipe has no end: give a file".to_string(),
        None if e.kind() == io::ErrorKind::IsADirectory => "it is a directory: give a file".to_string(),
        None => e.to_string(),
    }
}
