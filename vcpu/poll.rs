// SPDX-License-Identifier: GPL-2.0

//! Looking for the event that ends a HLT for a little while, before the thread sleeps.
//!
//! Sleeping and waking up cost two context switches. Polling saves them where the event comes soon, and
//! wastes the CPU where it does not. So the time adapts: it grows when a sleep turns out to have been
//! so short that polling would have met the event, and ends when one was longer than polling may be. It
//! stops at once when the host has other work for the CPU. Off unless the module was loaded with
//! `halt_poll_ns`.

use super::shared::VcpuShared;
use crate::host::cpu;
use crate::host::timer;

/// The first time that is tried, in nanoseconds.
const START_NS: u64 = 10_000;

/// How long to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Polling {
    /// The longest time in nanoseconds; 0 for never.
    limit: u64,
    /// The time of the next poll.
    now: u64,
    /// When the last one began.
    began: u64,
}

impl Polling {
    /// Never polls longer than `limit` nanoseconds.
    pub(crate) fn new(limit: u32) -> Polling {
        Polling { limit: limit.into(), now: 0, began: 0 }
    }

    /// Polls until something is asked of the vCPU. Returns whether that happened in time.
    #[inline]
    pub(crate) fn wait(&mut self, shared: &VcpuShared) -> bool {
        if self.limit == 0 {
            return false;
        }
        self.began = timer::now().0;
        let end = self.began.saturating_add(self.now);
        loop {
            if shared.has_requests() {
                return true;
            }
            if cpu::is_work_pending() || timer::now().0 >= end {
                return false;
            }
            core::hint::spin_loop();
        }
    }

    /// The poll was in vain, and the sleep after it has ended.
    #[inline]
    pub(crate) fn slept(&mut self) {
        if self.limit != 0 {
            self.now = adapted(self.now, self.limit, timer::now().0.saturating_sub(self.began));
        }
    }
}

/// Returns how long to poll next, after a poll of `now` was in vain and the event came `waited` after its
/// begin.
fn adapted(now: u64, limit: u64, waited: u64) -> u64 {
    if waited > limit {
        return 0;
    }
    now.saturating_mul(2).max(START_NS).min(limit)
}
