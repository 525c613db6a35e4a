// SPDX-License-Identifier: GPL-2.0

//! Who must flush, and which page faults came too late: generations.
//!
//! Two races are decided by counters instead of by waiting:
//!
//! 1. A mapping is taken away while vCPUs run. Whoever takes it away bumps the VM's
//!    [`TlbGeneration`] after the change of the table and before it kicks the vCPUs. A vCPU first
//!    says that it is in guest mode, then compares the generation, flushes if it moved, and enters.
//!    So either it sees the new generation, or the kick sees it in guest mode.
//! 2. A page fault looks up the host page, which may sleep, while an MMU notifier takes that page
//!    away. The fault takes an [`Invalidations::snapshot`] first, looks up the page, and maps it
//!    under the MMU lock only if [`Invalidations::allows`] says that nothing happened in between.

use super::slots::GfnRange;
use crate::arch::addr::Gfn;
use core::sync::atomic::{fence, AtomicU64, Ordering};

/// Counts the changes of a VM's tables after which TLBs must be flushed.
#[derive(Debug)]
pub(crate) struct TlbGeneration(AtomicU64);

/// The generation that a vCPU has last flushed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SeenGeneration(u64);

#[allow(dead_code, reason = "for faults that are served without the lock of the table; used by the tests")]
impl TlbGeneration {
    /// Starts with a generation that no vCPU has seen.
    pub(crate) const fn new() -> TlbGeneration {
        TlbGeneration(AtomicU64::new(1))
    }

    /// Makes every vCPU flush before its next entry. Kick them afterwards.
    pub(crate) fn bump(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Returns whether the vCPU that owns `seen` must flush now, and takes note that it does.
    ///
    /// # Context
    /// Interrupts off, after the vCPU has been published as being in guest mode.
    pub(crate) fn must_flush(&self, seen: &mut SeenGeneration) -> bool {
        fence(Ordering::SeqCst);
        let now = self.0.load(Ordering::SeqCst);
        let moved = now != seen.0;
        seen.0 = now;
        moved
    }

    /// Returns whether the vCPU that owns `seen` has flushed for all changes up to now.
    pub(crate) fn is_seen(&self, seen: SeenGeneration) -> bool {
        self.0.load(Ordering::SeqCst) == seen.0
    }
}

/// The invalidations that a VM's MMU notifiers have made and are making. The MMU lock guards it,
/// except for what [`Invalidations::snapshot`] reads, which may be copied under the lock earlier.
#[derive(Debug)]
pub(crate) struct Invalidations {
    active: u32,
    finished: u64,
    /// Covers all active ones; grows while there are any.
    range: GfnRange,
}

/// What a page fault remembers from before it looked up the host page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(u64);

#[allow(dead_code, reason = "for faults that are served without the lock of the table; used by the tests")]
impl Invalidations {
    /// None so far.
    pub(crate) const fn new() -> Invalidations {
        Invalidations { active: 0, finished: 0, range: GfnRange { start: Gfn(0), end: Gfn(0) } }
    }

    /// Notes that `range` is being taken away from the guest: before its mappings are removed. Each
    /// call needs an [`Invalidations::end`], also for an empty range.
    pub(crate) fn begin(&mut self, range: GfnRange) {
        let idle = self.active == 0 || self.range.is_empty();
        self.active = self.active.saturating_add(1);
        self.range = if idle {
            range
        } else if range.is_empty() {
            self.range
        } else {
            GfnRange { start: self.range.start.min(range.start), end: self.range.end.max(range.end) }
        };
    }

    /// Notes that one invalidation is over: the host page tables say again what holds.
    pub(crate) fn end(&mut self) {
        self.active = self.active.saturating_sub(1);
        self.finished = self.finished.wrapping_add(1);
    }

    /// Returns what [`Invalidations::allows`] compares with; to be taken before the host page is
    /// looked up.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot(self.finished)
    }

    /// Returns whether a host page looked up after `snapshot` may be mapped at a frame of `range`
    /// now: no invalidation has ended since, and none that concerns it is going on. If not, look
    /// it up again.
    pub(crate) fn allows(&self, snapshot: Snapshot, range: GfnRange) -> bool {
        let concerned = self.active != 0 && self.range.overlaps(range);
        !concerned && self.finished == snapshot.0
    }
}
