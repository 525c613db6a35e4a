// SPDX-License-Identifier: GPL-2.0

//! The calling thread, as the kernel knows it.

use crate::process::Process;
use core::cell::RefCell;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::SeqCst};
use std::sync::Arc;

/// A signal waits.
pub const SIGNAL: u32 = 1 << 0;
/// It kills.
pub const FATAL: u32 = 1 << 1;
/// Another thread wants the CPU.
pub const RESCHED: u32 = 1 << 2;

/// A thread of a process.
pub struct Task {
    /// The process it belongs to.
    pub process: Arc<Process>,
    /// [`SIGNAL`], [`FATAL`], [`RESCHED`].
    pub flags: AtomicU32,
    /// The CPU it runs on.
    pub cpu: AtomicU32,
    /// Its number, which is no process's.
    tid: i32,
}

/// The number of the next thread.
static NEXT: AtomicI32 = AtomicI32::new(1 << 20);

impl Task {
    /// A thread of `process` on `cpu`.
    pub fn new(process: &Arc<Process>, cpu: u32) -> Arc<Task> {
        let tid = NEXT.fetch_add(1, SeqCst);
        Arc::new(Task { process: process.clone(), flags: AtomicU32::new(0), cpu: AtomicU32::new(cpu), tid })
    }

    /// Returns whether one of `flags` is set.
    pub fn has(&self, flags: u32) -> bool {
        self.flags.load(SeqCst) & flags != 0
    }

    /// Sets flags.
    pub fn set(&self, flags: u32) {
        self.flags.fetch_or(flags, SeqCst);
        crate::sched::yield_point();
    }

    /// Clears flags.
    pub fn clear(&self, flags: u32) {
        self.flags.fetch_and(!flags, SeqCst);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Task>>> = const { RefCell::new(None) };
}

/// Makes the calling thread be `task` until the answer is dropped.
pub fn enter(task: &Arc<Task>) -> Entered {
    Entered(CURRENT.with(|c| c.replace(Some(task.clone()))))
}

/// See [`enter`].
pub struct Entered(Option<Arc<Task>>);

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with(|c| c.replace(self.0.take()));
    }
}

/// Returns the calling thread.
///
/// # Panics
/// Outside [`enter`].
pub fn current() -> Arc<Task> {
    CURRENT.with(|c| c.borrow().clone()).expect("the thread is one of a process: task::enter()")
}

/// What `kernel::current!()` gives.
pub struct CurrentTask {
    tid: i32,
    leader: GroupLeader,
}

/// The first thread of a process.
pub struct GroupLeader(i32);

impl CurrentTask {
    /// The calling thread.
    pub fn get() -> CurrentTask {
        let task = current();
        CurrentTask { tid: task.tid, leader: GroupLeader(task.process.pid) }
    }

    /// Returns the first thread of its process.
    pub fn group_leader(&self) -> &GroupLeader {
        &self.leader
    }

    /// Returns its number.
    pub fn pid(&self) -> i32 {
        self.tid
    }
}

impl GroupLeader {
    /// Returns the number of its process.
    pub fn pid(&self) -> i32 {
        self.0
    }
}

/// As the kernel's.
#[macro_export]
macro_rules! current {
    () => {
        $crate::task::CurrentTask::get()
    };
}
