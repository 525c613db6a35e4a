// SPDX-License-Identifier: GPL-2.0

//! How people tell a VM from others: in the log, and as a folder in debugfs.

use crate::arch::slice::copy_common;
use kernel::fmt::{Formatter, Result, Write};
use kernel::prelude::CStr;

/// The process that made the VM, and the number of its fd there. A number that the process uses again while the VM
/// lives on in another process has a count behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VmName {
    /// The process.
    pub(super) pid: i32,
    /// The fd.
    pub(super) fd: u32,
    /// 0 for the first VM of this name, then 1 and so on.
    pub(super) again: u32,
}

// By the path: the kernel's own trait of this name is another one, which writeln! does not take.
impl core::fmt::Display for VmName {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}-{}", self.pid, self.fd)?;
        match self.again {
            0 => Ok(()),
            n => write!(f, ".{n}"),
        }
    }
}

/// Bytes of three numbers, what stands between them, and the 0 behind.
const NAME_BYTES: usize = 40;

/// A name as a C string.
pub(super) struct NameBuf {
    bytes: [u8; NAME_BYTES],
    used: usize,
}

impl NameBuf {
    /// Writes `name`.
    pub(super) fn new(name: VmName) -> NameBuf {
        let mut buf = NameBuf { bytes: [0; NAME_BYTES], used: 0 };
        let _ = write!(buf, "{name}");
        buf
    }

    /// Returns it.
    pub(super) fn as_c_str(&self) -> &CStr {
        // The last byte is never written.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"?")
    }
}

impl Write for NameBuf {
    fn write_str(&mut self, s: &str) -> Result {
        let room = self.bytes.get_mut(self.used..NAME_BYTES - 1).unwrap_or(&mut []);
        copy_common(room, s.as_bytes());
        self.used = self.used.saturating_add(s.len());
        Ok(())
    }
}
