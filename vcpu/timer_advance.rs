// SPDX-License-Identifier: GPL-2.0

//! Having the timer's interrupt ready when its time comes.
//!
//! The host's timer fires, a thread wakes up, the guest is entered: that takes microseconds, and by so much
//! the guest's timer would be late. So the host's timer is set early, by the lead. What is left then is
//! waited for right before the entry, with the interrupt prepared. The lead follows from how early or late
//! the last entries were. No guest sees an interrupt before its TSC has reached the deadline.
//!
//! Deadlines are ticks of the host's TSC here, where not said otherwise.

use crate::arch::time::{ratio, scale, Ns};

/// The longest lead, and so the longest wait, in nanoseconds.
const MAX_NS: u64 = 8_000;

/// The lead of one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerAdvance {
    /// How much earlier the host's timer fires.
    ticks: u64,
    /// The same in nanoseconds.
    ns: u64,
    /// The longest lead.
    max: u64,
    /// Nanoseconds of a tick, a 32.32 factor.
    ns_per_tick: u64,
    /// The deadline of the interrupt that the next entry brings; 0 for none.
    due: u64,
}

impl TimerAdvance {
    /// None yet; the TSC has `khz` kHz.
    pub(crate) fn new(khz: u32) -> TimerAdvance {
        let max = (MAX_NS / 1_000).saturating_mul(khz.into()) / 1_000;
        TimerAdvance { ticks: 0, ns: 0, max, ns_per_tick: ratio(1_000_000, khz.into()), due: 0 }
    }

    /// Returns when the host's timer is to fire for a deadline at `at`.
    #[inline]
    pub(crate) fn before(&self, at: Ns) -> Ns {
        Ns(at.0.saturating_sub(self.ns))
    }

    /// The timer has fired at `now` for the deadline `due`. Returns whether the interrupt may be made pending:
    /// the next entry waits for the rest of the time.
    pub(crate) fn meet(&mut self, due: u64, now: u64) -> bool {
        // Signed, so that a deadline which has passed counts as near.
        let is_near = (due.wrapping_sub(now) as i64) <= self.max as i64;
        // A deadline of 0 has passed long ago.
        self.due = if is_near { due } else { 0 };
        is_near
    }

    /// Before an entry at `now`: returns until when it must wait, if an interrupt is due, and learns from how
    /// early or late it is.
    #[inline(always)]
    pub(crate) fn take_due(&mut self, now: u64) -> Option<u64> {
        if self.due == 0 {
            return None;
        }
        let due = core::mem::take(&mut self.due);
        self.learn(due, now);
        // More than that is another CPU's TSC.
        (due.wrapping_sub(now) <= self.max).then_some(due)
    }

    #[inline(never)]
    fn learn(&mut self, due: u64, now: u64) {
        let late = now.wrapping_sub(due) as i64;
        // Something else held it up.
        if late > self.max as i64 {
            return;
        }
        // An eighth of the error, and up rather than down.
        let step = late.saturating_add(7) >> 3;
        self.ticks = self.ticks.saturating_add_signed(step).min(self.max);
        self.ns = scale(self.ticks, self.ns_per_tick);
    }
}
