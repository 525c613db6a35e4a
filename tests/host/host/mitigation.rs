// SPDX-License-Identifier: GPL-2.0

//! What the kernel found about its processors.

use super::cpu::PinnedCpu;
use super::processor::registers;
use super::world::{locked, world};
use crate::arch::mitigation::HostFlags;
use crate::arch::msr::TEST_CTRL_SPLIT_LOCK;
use core::sync::atomic::Ordering::SeqCst;

/// Returns what the kernel found and wants.
pub(crate) fn host_flags() -> HostFlags {
    HostFlags::from_bits_truncate(locked(&world().settings).host_flags)
}

/// What one vCPU is called among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestId(u64);

impl GuestId {
    /// Makes one that no other has.
    pub(crate) fn new() -> GuestId {
        GuestId(world().guests.fetch_add(1, SeqCst) + 1)
    }

    /// Keeps the vCPU apart from the one that ran here last.
    pub(crate) fn separate(self, _cpu: &PinnedCpu) {
        registers(|r| {
            if r.last_guest != self.0 {
                r.last_guest = self.0;
                r.barriers += 1;
            }
        });
    }
}

/// Gives the kernel a machine check.
pub(crate) fn machine_check(_cpu: &PinnedCpu) {
    registers(|r| {
        r.machine_checks += 1;
        r.machine_check_pkru = r.pkru;
    });
}

/// Split locks go through until it is dropped.
pub(crate) struct SplitLocks {
    host: u64,
}

impl SplitLocks {
    /// Lets them through. `None` where they are not detected.
    pub(crate) fn allow(_cpu: &PinnedCpu) -> Option<SplitLocks> {
        registers(|r| {
            let host = r.test_ctrl;
            let is_on = host & TEST_CTRL_SPLIT_LOCK != 0;
            r.test_ctrl &= !TEST_CTRL_SPLIT_LOCK;
            is_on.then_some(SplitLocks { host })
        })
    }
}

impl Drop for SplitLocks {
    fn drop(&mut self) {
        registers(|r| r.test_ctrl = self.host);
    }
}
