// SPDX-License-Identifier: GPL-2.0

//! The calling thread's blocked signals.

use super::ffi;
use kernel::types::NotThreadSafe;

/// The signals that nobody can block, a bit each from signal 1 on: SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;

/// Other signals than the calling thread's own are blocked, until this is dropped: KVM_SET_SIGNAL_MASK. One at a time.
pub(crate) struct BlockedSignals(NotThreadSafe);

impl BlockedSignals {
    /// Blocks the signals of `mask`, a bit each from signal 1 on, and no others. Process context.
    pub(crate) fn block(mask: u64) -> BlockedSignals {
        // SAFETY: Process context; what it keeps of the thread's own is used by the drop alone, and by the thread itself.
        unsafe { ffi::rvmm_signals_block(mask & !UNBLOCKABLE) };
        BlockedSignals(NotThreadSafe)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: It is not `Send`, so this is the thread that called `block()`.
        unsafe { ffi::rvmm_signals_restore() };
    }
}
