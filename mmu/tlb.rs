// SPDX-License-Identifier: GPL-2.0

//! Who must flush, and which page faults came too late: counters that decide races instead of waiting.
//!
//! 1. A mapping is taken away while vCPUs run. Whoever takes it away asks for a flush ([`TlbFlushes::request`]) before it
//!    releases the lock of the table, and makes the vCPUs that are in guest mode leave it afterwards. A vCPU first says
//!    that it is in guest mode, then compares the generation, flushes if it moved, and enters. So either it sees the
//!    new generation, or the other sees it in guest mode.
//! 2. Somebody else has taken a mapping away and not yet made the vCPUs forget it. Who finds the table empty must not
//!    return before they have: [`TlbFlushes::is_done`] tells.
//! 3. A page fault looks up the slot and the host page, which may sleep, while an MMU notifier takes that page away or
//!    the slots change. The fault takes an [`RamChanges::snapshot`] first, looks up both, and maps the page under
//!    the lock of the table only if [`RamChanges::allows`] says that nothing has changed in between. Who changes
//!    something begins before it takes the lock to unmap, and ends when it is over.

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

/// The flushes of a VM's translations: those that were asked for, and those that are over.
#[derive(Debug)]
pub(crate) struct TlbFlushes {
    requested: AtomicU64,
    done: AtomicU64,
    /// How often every vCPU was made to leave guest mode.
    waits: AtomicU64,
}

impl TlbFlushes {
    /// None so far.
    pub(crate) const fn new() -> TlbFlushes {
        TlbFlushes { requested: AtomicU64::new(0), done: AtomicU64::new(0), waits: AtomicU64::new(0) }
    }

    /// Makes every vCPU flush before its next entry. The caller holds the lock of the table, under which it has taken
    /// something out, so that whoever finds that gone finds this as well.
    pub(crate) fn request(&self) {
        self.requested.fetch_add(1, SeqCst);
    }

    /// Returns the generation of the last flush that was asked for.
    #[inline(always)]
    pub(crate) fn requested(&self) -> u64 {
        self.requested.load(SeqCst)
    }

    /// Returns whether no CPU uses what was taken out before `generation` was asked for.
    pub(crate) fn is_done(&self, generation: u64) -> bool {
        self.done.load(SeqCst) >= generation
    }

    /// Notes that every vCPU has been outside guest mode since `generation` was asked for.
    pub(crate) fn note_done(&self, generation: u64) {
        self.done.fetch_max(generation, SeqCst);
        self.waits.fetch_add(1, Relaxed);
    }

    /// Returns how often every vCPU was made to leave guest mode, for the statistics.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Relaxed)
    }
}

/// The changes of a VM's memory, those of the slots included.
#[derive(Debug)]
pub(crate) struct RamChanges {
    under_way: AtomicU64,
    ended: AtomicU64,
}

/// What a page fault remembers from before it looked up the slot and the host page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RamSnapshot(u64);

impl RamChanges {
    /// None so far.
    pub(crate) const fn new() -> RamChanges {
        RamChanges { under_way: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    /// A change begins; nothing is mapped any more until its [`RamChanges::end`].
    pub(crate) fn begin(&self) {
        self.under_way.fetch_add(1, SeqCst);
    }

    /// A change is over: what is looked up from now on holds.
    pub(crate) fn end(&self) {
        // First, so that who sees no change under way sees that there has been one.
        self.ended.fetch_add(1, SeqCst);
        self.under_way.fetch_sub(1, SeqCst);
    }

    /// Returns what [`RamChanges::allows`] compares with.
    #[inline(always)]
    pub(crate) fn snapshot(&self) -> RamSnapshot {
        RamSnapshot(self.ended.load(SeqCst))
    }

    /// Returns whether what was looked up after `snapshot` may be mapped. The caller holds the lock of the table.
    #[inline(always)]
    pub(crate) fn allows(&self, snapshot: RamSnapshot) -> bool {
        self.stable() == Some(snapshot.0)
    }

    /// Returns a number that stays the same as long as nothing changes; `None` while something does.
    #[inline(always)]
    pub(crate) fn stable(&self) -> Option<u64> {
        // In this order: after `ended`, the look would miss a change that begins and ends between the two.
        (self.under_way.load(SeqCst) == 0).then(|| self.ended.load(SeqCst))
    }
}
