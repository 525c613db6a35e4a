// SPDX-License-Identifier: GPL-2.0

//! How people tell a VM from others in the log.

use kernel::fmt::{Formatter, Result};

/// The process that made the VM, and the number of its fd there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VmName {
    /// The process.
    pub(super) pid: i32,
    /// The fd.
    pub(super) fd: u32,
}

// By the path: the kernel's own trait of this name is another one, which writeln! does not take.
impl core::fmt::Display for VmName {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}-{}", self.pid, self.fd)
    }
}
