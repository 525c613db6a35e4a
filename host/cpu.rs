// SPDX-License-Identifier: GPL-2.0

//! One CPU with its interrupts off: the place where guests run.

use super::ffi;
use crate::arch::cpuid::CpuidRegs;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::interrupt::{local_interrupt_disable, LocalInterruptDisabled};
use kernel::prelude::*;

/// Proof that this thread cannot be interrupted or moved to another CPU.
///
/// Made by [`PinnedCpu::pin`], ended by dropping it.
pub(crate) struct PinnedCpu {
    irq: LocalInterruptDisabled,
    id: u32,
}

impl PinnedCpu {
    /// Turns interrupts off on the calling CPU until the value is dropped.
    pub(crate) fn pin() -> PinnedCpu {
        let irq = local_interrupt_disable();
        PinnedCpu { irq, id: cpu_id() }
    }

    /// Returns the number of this CPU.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Returns the proof that interrupts are off, as the kernel's locks take it.
    pub(crate) fn irq(&self) -> &LocalInterruptDisabled {
        &self.irq
    }
}

/// Returns the number of the calling CPU; it may change at once unless preemption is off.
pub(crate) fn cpu_id() -> u32 {
    // SAFETY: Reads a per-CPU variable; no precondition.
    unsafe { ffi::rvmm_cpu_id() }
}

/// Makes CPU `cpu` take an interrupt, so that a guest there exits. Any context.
pub(crate) fn kick(cpu: u32) {
    // SAFETY: Callers pass a number that `PinnedCpu::id` gave. An offline CPU ignores the interrupt.
    unsafe { ffi::rvmm_kick_cpu(cpu) }
}

/// Waits until CPU `cpu` has taken an interrupt. Interrupts must be on.
pub(crate) fn sync(cpu: u32) {
    // SAFETY: As for `kick()`; an offline CPU is an error that means it runs no guest.
    unsafe { ffi::rvmm_sync_cpu(cpu) }
}

/// Returns whether the thread has something to do before it may run a guest: a signal, a
/// reschedule, a task-work item.
pub(crate) fn is_work_pending() -> bool {
    // SAFETY: Reads the flags of the current thread.
    unsafe { ffi::rvmm_work_pending() }
}

/// Returns whether another thread wants this CPU, or [`is_work_pending`].
pub(crate) fn is_wanted() -> bool {
    // SAFETY: Reads the flags of the current thread and a counter of its CPU.
    unsafe { ffi::rvmm_cpu_wanted() }
}

/// Where [`is_work_pending`] looks, for who looks often.
pub(crate) struct ThreadWork<'a> {
    flags: &'a AtomicU64,
    mask: u64,
}

impl<'a> ThreadWork<'a> {
    /// Finds the flags of the calling thread, which stays the one that runs as long as `cpu` is held.
    pub(crate) fn of_this_thread(_cpu: &'a PinnedCpu) -> ThreadWork<'a> {
        // SAFETY: The flags live as long as the thread, which cannot end while it holds its CPU; others
        // change them atomically.
        let (flags, mask) =
            unsafe { (&*ffi::rvmm_thread_flags().cast::<AtomicU64>(), ffi::rvmm_work_flags()) };
        ThreadWork { flags, mask }
    }

    /// Returns what [`is_work_pending`] does.
    #[inline(always)]
    pub(crate) fn is_pending(&self) -> bool {
        self.flags.load(Relaxed) & self.mask != 0
    }
}

/// Does what [`is_work_pending`] found; may sleep.
///
/// # Errors
/// `EINTR` when a signal must be delivered.
pub(crate) fn handle_work() -> Result {
    // SAFETY: Called in process context with interrupts on: `PinnedCpu` values are not alive here,
    // since the run loop drops its window first.
    kernel::error::to_result(unsafe { ffi::rvmm_handle_work() })
}

/// Returns whether the host runs with 5-level page tables.
pub(crate) fn has_la57() -> bool {
    // SAFETY: Reads a constant of the running kernel.
    unsafe { ffi::rvmm_host_la57() }
}

/// Returns whether two CPUs can share a core.
pub(crate) fn is_smt_possible() -> bool {
    // SAFETY: Reads what was found at boot, or chosen since.
    unsafe { ffi::rvmm_smt_possible() }
}

/// Returns the number of CPUs that are online.
pub(crate) fn online() -> u32 {
    // SAFETY: Reads a counter.
    unsafe { ffi::rvmm_cpu_count() }
}

/// Reads an MSR of another CPU; may sleep.
///
/// # Errors
/// `ENXIO` when the CPU is offline, `EIO` when it has no such MSR.
pub(crate) fn rdmsr_on(cpu: u32, msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: `value` outlives the call; the read is done with fault handling.
    kernel::error::to_result(unsafe { ffi::rvmm_rdmsr_on_cpu(cpu, msr, &mut value) })?;
    Ok(value)
}

/// Writes an MSR of another CPU; may sleep.
///
/// # Errors
/// `ENXIO` when the CPU is offline, `EIO` when it refuses.
///
/// # Safety
/// The host can live with the value.
pub(crate) unsafe fn wrmsr_on(cpu: u32, msr: u32, value: u64) -> Result {
    // SAFETY: By this function's contract; the write is done with fault handling.
    kernel::error::to_result(unsafe { ffi::rvmm_wrmsr_on_cpu(cpu, msr, value) })
}

/// Executes CPUID on another CPU; may sleep.
///
/// # Errors
/// `ENXIO` when the CPU is offline.
pub(crate) fn cpuid_on(cpu: u32, leaf: u32, subleaf: u32) -> Result<CpuidRegs> {
    let mut r = [0u32; 4];
    // SAFETY: `r` has the four slots that are written, and outlives the call, which waits.
    kernel::error::to_result(unsafe { ffi::rvmm_cpuid_on_cpu(cpu, leaf, subleaf, r.as_mut_ptr()) })?;
    Ok(CpuidRegs { eax: r[0], ebx: r[1], ecx: r[2], edx: r[3] })
}

/// Returns whether the host's memory is encrypted by the processor (SME, SEV, TDX), so that addresses
/// given to the processor carry a key.
pub(crate) fn has_encrypted_memory() -> bool {
    // SAFETY: Reads what was found at boot.
    unsafe { ffi::rvmm_host_memory_encrypted() }
}

/// Returns the DR7 that the host wants on this CPU; 0 when it uses no breakpoints.
pub(crate) fn host_dr7(_cpu: &PinnedCpu) -> u64 {
    // SAFETY: Reads a per-CPU variable.
    unsafe { ffi::rvmm_host_dr7() }
}

/// Asks for a branch predictor barrier before this CPU next returns to user space, where the
/// processor needs one after guest code ran.
pub(crate) fn predictor_barrier_on_return(_cpu: &PinnedCpu) {
    // SAFETY: Writes a per-CPU flag of this CPU, which `_cpu` holds still.
    unsafe { ffi::rvmm_predictor_barrier_on_return() }
}

/// Returns one more than the largest CPU number that can ever be online.
pub(crate) fn limit() -> u32 {
    // SAFETY: Set once at boot.
    unsafe { ffi::rvmm_cpu_limit() }
}

/// Executes CPUID on the calling CPU.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidRegs {
    // SAFETY: CPUID exists on every x86-64 processor.
    let r = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
    CpuidRegs { eax: r.eax, ebx: r.ebx, ecx: r.ecx, edx: r.edx }
}

/// Returns CR4 of the calling CPU.
pub(crate) fn cr4() -> u64 {
    let value: u64;
    // SAFETY: The kernel may read it at any time.
    unsafe { core::arch::asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
