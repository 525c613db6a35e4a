// SPDX-License-Identifier: GPL-2.0

//! How long to look for the event that ends a HLT before the thread sleeps.
//!
//! Sleeping and waking up cost two context switches. Polling saves them where the event comes soon, and
//! wastes the CPU where it does not. So the time adapts: it grows when a sleep turns out to have been so
//! short that polling would have met the event, and ends when one was longer than polling may be.
//!
//! Only events of others count. That the vCPU's own timer will end a sleep soon is known beforehand, and the
//! CPU is better used meanwhile: where it alone ends them, polling fades out.
//!
//! Times are ticks of the host's TSC.

/// The first time that is tried, in nanoseconds.
const START_NS: u64 = 10_000;

/// How long to poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HaltPolling {
    /// The TSC's frequency.
    khz: u32,
    /// The shortest time that is tried.
    start: u64,
    /// The longest; 0 for never.
    limit: u64,
    /// The same in nanoseconds.
    limit_ns: u32,
    /// The time of the next poll.
    next: u64,
    /// When the last HLT began.
    began: u64,
}

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PollEnd {
    /// The vCPU's own timer and nothing else.
    Timer,
    /// Another vCPU, a device, the VMM.
    Other,
}

/// Returns nanoseconds in ticks of a TSC of `khz` kHz.
fn ticks(ns: u64, khz: u32) -> u64 {
    ns.saturating_mul(khz.into()) / 1_000_000
}

impl HaltPolling {
    /// Never polls longer than `limit` nanoseconds; the TSC has `khz` kHz.
    pub(crate) fn new(limit: u32, khz: u32) -> HaltPolling {
        let (start, limit_ns) = (ticks(START_NS, khz), limit);
        HaltPolling { khz, start, limit: ticks(limit.into(), khz), limit_ns, next: 0, began: 0 }
    }

    /// Never polls longer than `limit` nanoseconds from now on.
    #[inline]
    pub(crate) fn set_limit(&mut self, limit: u32) {
        if limit != self.limit_ns {
            self.limit_ns = limit;
            self.limit = ticks(limit.into(), self.khz);
            self.next = self.next.min(self.limit);
        }
    }

    /// The vCPU has halted at `now`. Returns whether it polls before it sleeps.
    #[inline]
    pub(crate) fn begin(&mut self, now: u64) -> bool {
        self.began = now;
        self.next != 0
    }

    /// Returns whether it has been long enough at `now`; also where the TSC went back, on another CPU.
    #[inline]
    pub(crate) fn is_over(&self, now: u64) -> bool {
        now.wrapping_sub(self.began) >= self.next
    }

    /// The poll was in vain, and `waker` has ended the sleep after it at `now`.
    pub(crate) fn slept(&mut self, now: u64, waker: PollEnd) {
        let waited = now.saturating_sub(self.began);
        self.next = match waker {
            _ if waited > self.limit => 0,
            PollEnd::Timer => Some(self.next / 2).filter(|&t| t >= self.start).unwrap_or(0),
            PollEnd::Other => self.next.saturating_mul(2).max(self.start).min(self.limit),
        };
    }
}
