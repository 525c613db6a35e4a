// SPDX-License-Identifier: GPL-2.0

//! How a VM's dirty logs are kept: what `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` chooses. The logs are their slots'
//! ([`crate::mmu::dirty`]).

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Marks stay when they are read, until they are cleared.
const MANUAL: u64 = 1 << 0;
/// A new log begins with all pages marked.
const STARTS_MARKED: u64 = 1 << 1;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct DirtyLogMode(AtomicU64);

impl DirtyLogMode {
    /// All that the capability can choose.
    pub(crate) const ALL: u64 = MANUAL | STARTS_MARKED;

    /// Marks are taken when they are read, and there are none to begin with.
    pub(crate) const fn new() -> DirtyLogMode {
        DirtyLogMode(AtomicU64::new(0))
    }

    /// Chooses. Returns whether that is possible: only marks that stay can be there from the start.
    pub(crate) fn choose(&self, options: u64) -> bool {
        let allowed = if options & MANUAL != 0 { Self::ALL } else { MANUAL };
        let is_possible = options & !allowed == 0;
        if is_possible {
            self.0.store(options, SeqCst);
        }
        is_possible
    }

    /// Returns whether marks stay when they are read.
    pub(crate) fn is_manual(&self) -> bool {
        self.0.load(SeqCst) & MANUAL != 0
    }

    /// Returns whether a new log begins with all pages marked.
    pub(crate) fn starts_marked(&self) -> bool {
        self.0.load(SeqCst) & STARTS_MARKED != 0
    }
}
