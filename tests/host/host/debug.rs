// SPDX-License-Identifier: GPL-2.0

//! The debug registers.

use super::cpu::{host_dr7, PinnedCpu};
use super::processor::registers;

/// DR6 with nothing to report.
pub(crate) const DR6_IDLE: u64 = 0xffff_0ff0;

/// Takes a guest's status out of DR6.
pub(crate) fn reset_status() {
    registers(|r| r.dr6 = DR6_IDLE);
}

/// Returns DR0 to DR3.
pub(crate) fn read_addresses() -> [u64; 4] {
    registers(|r| r.dr)
}

/// Loads DR0 to DR3 for a guest.
pub(crate) fn write_addresses(dr: &[u64; 4], _cpu: &PinnedCpu) {
    registers(|r| r.dr = *dr);
}

/// The host's breakpoints, put back on drop.
pub(crate) struct HostDebug {
    dr7: u64,
    addresses: [u64; 4],
}

impl HostDebug {
    /// Saves them.
    pub(crate) fn save(cpu: &PinnedCpu) -> HostDebug {
        HostDebug { dr7: host_dr7(cpu), addresses: read_addresses() }
    }
}

impl Drop for HostDebug {
    fn drop(&mut self) {
        if self.dr7 != 0 {
            registers(|r| r.dr = self.addresses);
        }
    }
}
