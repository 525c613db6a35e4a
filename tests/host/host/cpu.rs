// SPDX-License-Identifier: GPL-2.0

//! CPUs, held with their interrupts off.

use super::processor::{self, registers};
use super::rcu::Reading;
use super::world::{world, World, CPUS};
use crate::arch::cpuid::CpuidRegs;
use core::any::Any;
use core::cell::OnceCell;
use core::sync::atomic::Ordering::SeqCst;
use kernel::context;
use kernel::interrupt::{local_interrupt_disable, LocalInterruptDisabled};
use kernel::prelude::*;
use kernel::sched;
use kernel::task::{current, Task, FATAL, RESCHED, SIGNAL};
use std::sync::Arc;

/// A CPU with its interrupts off.
pub(crate) struct PinnedCpu {
    irq: LocalInterruptDisabled,
    id: u32,
    world: Arc<World>,
    /// Interrupts off hold RCU's grace periods up, too.
    _reads: Reading,
    kept: OnceCell<Box<Kept>>,
}

/// What is kept for as long as a CPU is held.
struct Kept {
    value: Arc<dyn Any + Send + Sync>,
    next: OnceCell<Box<Kept>>,
}

impl PinnedCpu {
    /// Turns interrupts off.
    pub(crate) fn pin() -> PinnedCpu {
        let (world, id) = (world(), cpu_id());
        let irq = local_interrupt_disable();
        world.cpus[id as usize].is_pinned.store(true, SeqCst);
        sched::yield_point();
        PinnedCpu { irq, id, _reads: world.readers.begin(), world, kept: OnceCell::new() }
    }

    /// Returns the number of this CPU.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Returns the proof that interrupts are off.
    pub(crate) fn irq(&self) -> &LocalInterruptDisabled {
        &self.irq
    }

    /// Returns whether an interrupt waits for them to be turned on.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.world.cpus[self.id as usize].is_interrupted() || self.world.is_timer_due()
    }

    /// Keeps a value until the CPU is let go.
    pub(super) fn keep<T: Any + Send + Sync>(&self, value: &Arc<T>) -> &T {
        let mut place = &self.kept;
        while let Some(kept) = place.get() {
            if let Some(found) = kept.value.downcast_ref::<T>().filter(|v| core::ptr::eq(*v, &**value)) {
                return found;
            }
            place = &kept.next;
        }
        let kept = place.get_or_init(|| Box::new(Kept { value: value.clone(), next: OnceCell::new() }));
        kept.value.downcast_ref::<T>().expect("put in as one")
    }
}

impl Drop for PinnedCpu {
    fn drop(&mut self) {
        let cpu = &self.world.cpus[self.id as usize];
        // A CPU may be pinned twice, with interrupts off throughout.
        cpu.is_pinned.store(false, SeqCst);
        cpu.take_interrupts();
        self.world.timers.fire(self.world.now());
        sched::yield_point();
    }
}

/// Returns the number of the calling CPU.
pub(crate) fn cpu_id() -> u32 {
    current().cpu.load(SeqCst)
}

/// Makes CPU `cpu` take an interrupt.
pub(crate) fn kick(cpu: u32) {
    let world = world();
    world.kicks.fetch_add(1, SeqCst);
    world.cpus[cpu as usize].interrupt();
}

/// Waits until CPU `cpu` has taken an interrupt.
pub(crate) fn sync(cpu: u32) {
    assert!(!context::are_interrupts_off(), "who waits for an interrupt elsewhere has its own on");
    let world = world();
    let cpu = &world.cpus[cpu as usize];
    let before = cpu.taken.load(SeqCst);
    cpu.interrupt();
    sched::wait_until("an interrupt to be taken", || cpu.taken.load(SeqCst) != before);
}

/// Returns whether the thread has something to do before it may run a guest.
pub(crate) fn is_work_pending() -> bool {
    sched::yield_point();
    current().has(SIGNAL | RESCHED | FATAL)
}

/// Returns whether another thread wants this CPU, or [`is_work_pending`].
pub(crate) fn is_wanted() -> bool {
    is_work_pending()
}

/// Where [`is_work_pending`] looks.
pub(crate) struct ThreadWork<'a> {
    task: Arc<Task>,
    _cpu: &'a PinnedCpu,
}

impl<'a> ThreadWork<'a> {
    /// Finds it for the calling thread.
    pub(crate) fn of_this_thread(cpu: &'a PinnedCpu) -> ThreadWork<'a> {
        ThreadWork { task: current(), _cpu: cpu }
    }

    /// Returns what [`is_work_pending`] does.
    pub(crate) fn is_pending(&self) -> bool {
        sched::yield_point();
        self.task.has(SIGNAL | RESCHED | FATAL)
    }
}

/// Does what [`is_work_pending`] found.
///
/// # Errors
/// `EINTR` for a signal.
pub(crate) fn handle_work() -> Result {
    context::might_sleep("handle_work()");
    let task = current();
    task.clear(RESCHED);
    if task.has(SIGNAL | FATAL) {
        return Err(EINTR);
    }
    Ok(())
}

/// Returns the number of CPUs that are online.
pub(crate) fn online() -> u32 {
    CPUS as u32
}

/// Returns whether two CPUs can share a core.
pub(crate) fn is_smt_possible() -> bool {
    false
}

/// Returns the DR7 that the host wants on this CPU.
pub(crate) fn host_dr7(_cpu: &PinnedCpu) -> u64 {
    registers(|r| r.dr7)
}

/// Asks for a barrier before the return to user space.
pub(crate) fn predictor_barrier_on_return(_cpu: &PinnedCpu) {
    registers(|r| r.barrier_on_return = true);
}

/// Executes CPUID.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidRegs {
    processor::cpuid(leaf, subleaf)
}
