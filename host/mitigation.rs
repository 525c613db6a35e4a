// SPDX-License-Identifier: GPL-2.0

//! What the host's kernel found out about its processors, and what is done about it on the way in and out.

use super::cpu::PinnedCpu;
use super::ffi;
use super::msr::{rdmsr, wrmsr};
use crate::arch::mitigation::HostFlags;
use crate::arch::msr::{PRED_CMD, TEST_CTRL, TEST_CTRL_SPLIT_LOCK};

/// Returns what the kernel found and wants.
pub(crate) fn host_flags() -> HostFlags {
    // SAFETY: Reads what was found at boot.
    HostFlags::from_bits_truncate(unsafe { ffi::rvmm_host_flags() })
}

/// What one vCPU is called among all that there ever were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestId(u64);

impl GuestId {
    /// Makes one that no other has, had or will have.
    pub(crate) fn new() -> GuestId {
        // SAFETY: Counts.
        GuestId(unsafe { ffi::rvmm_new_guest_id() })
    }

    /// The vCPU is about to run on this CPU: its indirect branches shall not follow what another vCPU trained
    /// there. Only where the processor has the barrier.
    pub(crate) fn separate(self, _cpu: &PinnedCpu) {
        // SAFETY: Compares and sets a variable of this CPU, which `_cpu` holds still.
        if unsafe { ffi::rvmm_guest_changed(self.0) } {
            // SAFETY: The caller knows that the processor has the MSR; the barrier has no effect but on
            // predictions.
            unsafe { wrmsr(PRED_CMD, 1) };
        }
    }
}

/// Gives the host's kernel the machine check that ended a guest, as an error of the calling process: its context
/// was no code of the kernel's.
#[cold]
pub(crate) fn machine_check(_cpu: &PinnedCpu) {
    // SAFETY: In process context, on the thread's own stack, interrupts off, on the CPU where the error was.
    unsafe { ffi::rvmm_machine_check() };
}

/// Locked accesses that split a cache line go through on this CPU until it is dropped.
pub(crate) struct SplitLocks {
    host: u64,
}

impl SplitLocks {
    /// Lets them through. `None` where they are not detected. The processor has the detection.
    pub(crate) fn allow(_cpu: &PinnedCpu) -> Option<SplitLocks> {
        // SAFETY: The kernel found the detection, so the MSR exists.
        let host = unsafe { rdmsr(TEST_CTRL) };
        if host & TEST_CTRL_SPLIT_LOCK == 0 {
            return None;
        }
        // SAFETY: As above; the bit is put back in `drop()`, with interrupts off until then.
        unsafe { wrmsr(TEST_CTRL, host & !TEST_CTRL_SPLIT_LOCK) };
        Some(SplitLocks { host })
    }
}

impl Drop for SplitLocks {
    fn drop(&mut self) {
        // SAFETY: The value found.
        unsafe { wrmsr(TEST_CTRL, self.host) };
    }
}
