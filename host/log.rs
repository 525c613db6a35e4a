// SPDX-License-Identifier: GPL-2.0

//! The kernel's log, for lines that whoever calls the module can bring about again and again.

use super::ffi;

/// Returns whether such a line may be written now: ten may in five seconds. How many were not is said later.
pub(crate) fn may_write() -> bool {
    // SAFETY: No precondition.
    unsafe { ffi::rvmm_log_may_write() }
}
