// SPDX-License-Identifier: GPL-2.0

//! One shadow page: a table that the processor walks, and what it stands for.

use super::chain::IdList;
use super::role::ShadowRole;
use crate::arch::addr::{Gfn, Hpa};
use crate::mmu::tlb::TlbFlushes;

/// Whether the guest can write the table that a page follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyncState {
    /// It cannot, once the flush of this generation is done: entries agree with the guest's. A direct page follows no
    /// table, and is always so.
    Protected {
        /// The generation.
        since: u64,
    },
    /// It can. Entries may be what the guest's were since the last flush that the guest asked for.
    OutOfSync {
        /// How often in a row nothing was found to have changed.
        clean: u8,
    },
    /// It will not, once the flush of this generation is done; until then as out of sync.
    Settling {
        /// The generation.
        since: u64,
    },
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct ShadowPage {
    /// The processor's table.
    pub(super) table: Hpa,
    /// The frame of the guest's table, or of a direct page the first that it shows.
    pub(super) gfn: Gfn,
    /// What it is with that.
    pub(super) role: ShadowRole,
    pub(super) sync: SyncState,
    /// The entries that link to it.
    pub(super) parents: IdList,
    /// How many entries lead somewhere.
    pub(super) filled: u32,
    /// Writes to the guest's table since the page was last used.
    pub(super) writes: u8,
}

impl ShadowPage {
    /// One without entries.
    pub(super) fn new(table: Hpa, gfn: Gfn, role: ShadowRole) -> ShadowPage {
        let sync = SyncState::Protected { since: 0 };
        ShadowPage { table, gfn, role, sync, parents: IdList::EMPTY, filled: 0, writes: 0 }
    }

    /// Returns whether it follows a table of the guest's.
    pub(super) fn has_table(&self) -> bool {
        !self.role.is_direct()
    }

    /// Returns whether the guest may write the table that it follows.
    pub(super) fn lets_write(&self) -> bool {
        !self.has_table() || matches!(self.sync, SyncState::OutOfSync { .. })
    }

    /// Returns whether it is brought up to date when the guest flushes.
    pub(super) fn is_refreshed(&self) -> bool {
        !matches!(self.sync, SyncState::Protected { .. })
    }

    /// Returns whether entries may be filled in: no processor can still write the guest's table without an exit.
    pub(super) fn is_ready(&self, flushes: &TlbFlushes) -> bool {
        match self.sync {
            SyncState::Protected { since } => flushes.is_done(since),
            SyncState::OutOfSync { .. } | SyncState::Settling { .. } => true,
        }
    }
}
