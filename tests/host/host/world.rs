// SPDX-License-Identifier: GPL-2.0

//! The machine that the module's host is made of.

use super::file::Files;
use super::log::LogRate;
use super::notifier::Notifiers;
use super::page::TableStore;
use super::processor::{Cpu, Settings};
use super::rcu::Readers;
use super::timer::Timers;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::process::Process;
use kernel::sched;
use kernel::task::{self, Task};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ticks of the TSC in a microsecond.
pub(crate) const TICKS_PER_US: u64 = 2_000;
/// By how much the TSC moves on with each look.
const LOOK: u64 = 20;
/// What the TSC starts with.
const START: u64 = 1 << 32;
/// The nanoseconds of the monotonic clock when the TSC is 0.
const BOOT_NS: u64 = 5_000_000_000;
/// CPUs of a machine.
pub(crate) const CPUS: usize = 8;

/// A machine with one process. See the module's description.
pub(crate) struct World {
    pub(crate) process: Arc<Process>,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) settings: Mutex<Settings>,
    tsc: AtomicU64,
    pub(crate) timers: Timers,
    pub(crate) notifiers: Notifiers,
    pub(crate) files: Files,
    pub(crate) tables: TableStore,
    pub(crate) readers: Readers,
    pub(crate) log_rate: Mutex<LogRate>,
    /// Interrupts sent to other CPUs.
    pub(crate) kicks: AtomicU64,
    /// Numbers given to guests.
    pub(crate) guests: AtomicU64,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<World>>> = const { RefCell::new(None) };
}

/// Returns the world of the calling thread.
///
/// # Panics
/// Outside [`World::enter`].
pub(crate) fn world() -> Arc<World> {
    CURRENT.with(|c| c.borrow().clone()).expect("the thread is in a world: World::enter()")
}

/// Locks what a panic may have left locked.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`World::enter`].
pub(crate) struct Entered {
    before: Option<Arc<World>>,
    task: Arc<Task>,
    _task: task::Entered,
}

impl Entered {
    /// Returns the thread, for others to signal it.
    pub(crate) fn task(&self) -> &Arc<Task> {
        &self.task
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|c| c.replace(self.before.take()));
        sched::set_idle(None);
    }
}

impl World {
    /// A machine that has done nothing yet.
    pub(crate) fn new() -> Arc<World> {
        Arc::new(World {
            process: Process::new(42),
            cpus: (0..CPUS).map(|_| Cpu::default()).collect(),
            settings: Mutex::default(),
            tsc: AtomicU64::new(START),
            timers: Timers::default(),
            notifiers: Notifiers::default(),
            files: Files::default(),
            tables: TableStore::default(),
            readers: Readers::default(),
            log_rate: Mutex::default(),
            kicks: AtomicU64::new(0),
            guests: AtomicU64::new(0),
        })
    }

    /// Makes the calling thread one of the process, on CPU `cpu`, until the answer is dropped. While it waits, the
    /// clock goes on to what is due next.
    pub(crate) fn enter(self: &Arc<World>, cpu: u32) -> Entered {
        let task = Task::new(&self.process, cpu);
        self.enter_as(&task)
    }

    /// As [`World::enter`], as a thread that others know already.
    pub(crate) fn enter_as(self: &Arc<World>, task: &Arc<Task>) -> Entered {
        let entered = task::enter(task);
        let before = CURRENT.with(|c| c.replace(Some(self.clone())));
        let world = Arc::downgrade(self);
        sched::set_idle(Some(Arc::new(move || world.upgrade().is_some_and(|w| w.fire_next()))));
        Entered { before, task: task.clone(), _task: entered }
    }

    /// Returns the TSC, which moves on by that.
    pub(crate) fn rdtsc(&self) -> u64 {
        self.tsc.fetch_add(LOOK, SeqCst)
    }

    /// Returns the TSC.
    pub(crate) fn tsc(&self) -> u64 {
        self.tsc.load(SeqCst)
    }

    /// Returns the monotonic time.
    pub(crate) fn now(&self) -> u64 {
        World::ns_at(self.tsc())
    }

    /// Returns the monotonic time at a value of the TSC.
    pub(crate) fn ns_at(tsc: u64) -> u64 {
        BOOT_NS + tsc * 1_000 / TICKS_PER_US
    }

    /// Moves the clock to a value of the TSC, if it is not past that.
    pub(crate) fn run_to_tsc(&self, tsc: u64) {
        self.tsc.fetch_max(tsc, SeqCst);
    }

    fn tsc_at(ns: u64) -> u64 {
        (ns.saturating_sub(BOOT_NS) * TICKS_PER_US).div_ceil(1_000)
    }

    /// Lets `ns` nanoseconds go by; timers fire in time.
    pub(crate) fn advance(&self, ns: u64) {
        let end = self.now() + ns;
        while let Some(at) = self.timers.next().filter(|at| *at <= end) {
            self.run_to_tsc(World::tsc_at(at));
            self.timers.fire(self.now());
        }
        self.run_to_tsc(World::tsc_at(end));
    }

    /// Lets time go by until a timer has fired. Returns whether there was one.
    pub(crate) fn fire_next(&self) -> bool {
        let Some(at) = self.timers.next() else { return false };
        self.run_to_tsc(World::tsc_at(at));
        self.timers.fire(self.now());
        true
    }

    /// Returns whether a timer is due that has not fired.
    pub(crate) fn is_timer_due(&self) -> bool {
        self.timers.next().is_some_and(|at| at <= self.now())
    }

    /// Takes pages of the process away, as the host does when it wants the memory. Returns whether all went.
    pub(crate) fn evict(&self, hva: u64, bytes: u64) -> bool {
        self.notifiers.around(hva, hva + bytes, || self.process.swap_out(hva, bytes))
    }

    /// Writes pages of the process back, as the host does with those of files.
    pub(crate) fn write_back(&self, hva: u64, bytes: u64) {
        self.notifiers.around(hva, hva + bytes, || self.process.write_back(hva, bytes));
    }

    /// Takes pages of the process away for good, as munmap(2) does.
    pub(crate) fn unmap(&self, hva: u64, bytes: u64) {
        self.notifiers.around(hva, hva + bytes, || self.process.unmap(hva, bytes));
    }
}
