// SPDX-License-Identifier: GPL-2.0

//! The calling thread's blocked signals. [`SIGNAL`] is SIGUSR1.

use kernel::task::{current, SIGNAL};

/// SIGUSR1 in a mask.
const USR1: u64 = 1 << 9;

/// Other signals than the calling thread's own are blocked, until this is dropped.
pub(crate) struct BlockedSignals {
    /// It waits for the thread to let it in again.
    waits: bool,
}

impl BlockedSignals {
    /// Blocks the signals of `mask`.
    pub(crate) fn block(mask: u64) -> BlockedSignals {
        let waits = mask & USR1 != 0 && current().has(SIGNAL);
        if waits {
            current().clear(SIGNAL);
        }
        BlockedSignals { waits }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        if self.waits {
            current().set(SIGNAL);
        }
    }
}
