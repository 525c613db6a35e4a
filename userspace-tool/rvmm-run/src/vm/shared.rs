// SPDX-License-Identifier: GPL-2.0

//! What the threads of one machine share: how it ends, and whether it stands still.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

use super::pause::PauseGate;
use super::vcpu_loop::VcpuEnd;
use crate::control::feed::VmEvent;
use crate::control::notify;
use crate::error::ToolError;
use crate::events::{feed, message, warning};

/// How a run ended.
#[derive(Debug)]
pub enum RunOutcome {
    /// A processor's loop ended for a reason of the guest or the module.
    Vcpu {
        /// Which one.
        id: usize,
        /// Why.
        end: VcpuEnd,
    },
    /// The user typed the escape, or had the end forced.
    Quit,
    /// A stop signal came.
    Signal(Signal),
    /// A thread of the tool failed.
    Failed(ToolError),
}

/// The guest was asked to end, and is ended by force when it takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPlan {
    /// When force comes.
    pub force_at: Instant,
    /// The signal that asked, if one did: it is what the run then ended by.
    pub signal: Option<Signal>,
}

/// What the threads of one machine share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    outcome: Mutex<Option<RunOutcome>>,
    /// Readable from the end on.
    pub(super) ended: EventFd,
    pub(super) gate: PauseGate,
    plan: Mutex<Option<StopPlan>>,
    /// Of each processor, what it was like when it came to the gate last.
    dumps: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// For a machine of so many processors, which may have been asked to end before a reset.
    pub(super) fn new(processors: usize, plan: Option<StopPlan>) -> Result<Self, ToolError> {
        let host = |e| ToolError::Host("make an eventfd", e);
        Ok(Self {
            stop: AtomicBool::new(false),
            outcome: Mutex::default(),
            ended: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(host)?,
            gate: PauseGate::new().map_err(host)?,
            plan: Mutex::new(plan),
            dumps: Mutex::new(vec![String::new(); processors]),
        })
    }

    /// Ends the run; the first reason counts.
    pub(super) fn end(&self, outcome: RunOutcome) {
        lock(&self.outcome).get_or_insert(outcome);
        self.stop.store(true, Ordering::Release);
        let _ = self.ended.write(1);
        self.gate.end();
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Takes how it ended.
    pub(super) fn take_outcome(&self) -> Option<RunOutcome> {
        lock(&self.outcome).take()
    }

    /// When and why the guest will be ended by force, if it was asked to end.
    pub(super) fn plan(&self) -> Option<StopPlan> {
        *lock(&self.plan)
    }

    /// Plans the end. The main thread sees to it; an earlier plan with less time stays.
    pub(super) fn plan_stop(&self, after: Duration, signal: Option<Signal>) {
        let new = StopPlan { force_at: Instant::now() + after, signal };
        let mut plan = lock(&self.plan);
        *plan = Some(plan.map_or(new, |old| if old.force_at < new.force_at { old } else { new }));
        self.gate.wake_main();
        notify::stopping(after);
    }

    /// Ends the run by force, if that was planned and the time has come. Returns how long there still is.
    pub(super) fn time_left(&self) -> Option<Duration> {
        let plan = self.plan()?;
        let left = plan.force_at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            warning("the guest did not end in time: it is ended by force");
            self.end(plan.signal.map_or(RunOutcome::Quit, RunOutcome::Signal));
        }
        Some(left)
    }

    /// A processor waits at the gate, if it is closed.
    pub(super) fn wait_as_processor(&self, id: usize, dump: &dyn Fn() -> String) {
        self.gate.wait(|| {
            if let Some(kept) = lock(&self.dumps).get_mut(id) {
                *kept = dump();
            }
        });
    }

    /// What each processor was like when it came to the gate last.
    pub(super) fn dumps(&self) -> Vec<String> {
        lock(&self.dumps).clone()
    }

    /// Ends a pause. Returns whether there was one.
    pub(super) fn go_on(&self) -> bool {
        let was_paused = self.gate.open();
        if was_paused {
            message("the guest goes on");
            feed().push(VmEvent::Resumed);
        }
        was_paused
    }
}

/// Ends the run when a thread panics, so that nobody waits for it.
pub(super) struct PanicGuard(pub(super) Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end(RunOutcome::Failed(ToolError::Host("go on after a panic", Errno::EFAULT)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_that_does_not_end_in_time_is_ended_by_force() {
        let shared = Shared::new(1, None).unwrap();
        assert_eq!(shared.time_left(), None);
        shared.plan_stop(Duration::from_secs(100), Some(Signal::SIGTERM));
        assert!(shared.time_left().is_some_and(|left| left > Duration::from_secs(90)));
        assert!(!shared.stopping());

        shared.plan_stop(Duration::ZERO, Some(Signal::SIGTERM));

        assert_eq!(shared.time_left(), Some(Duration::ZERO));
        assert!(matches!(shared.take_outcome(), Some(RunOutcome::Signal(Signal::SIGTERM))));
    }

    #[test]
    fn plan_is_kept_over_a_reset_and_more_time_is_not_given() {
        let first = Shared::new(1, None).unwrap();
        first.plan_stop(Duration::ZERO, None);
        let second = Shared::new(1, first.plan()).unwrap();

        second.plan_stop(Duration::from_secs(100), None);

        assert_eq!(second.time_left(), Some(Duration::ZERO));
        assert!(matches!(second.take_outcome(), Some(RunOutcome::Quit)));
    }

    #[test]
    fn processor_tells_what_it_is_like_before_it_waits() {
        let shared = Arc::new(Shared::new(2, None).unwrap());
        shared.wait_as_processor(1, &|| "not asked".into());
        shared.gate.close();
        let waiting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.wait_as_processor(1, &|| "rip 7".into())
        });
        while shared.gate.is_closing(1) {
            std::thread::yield_now();
        }

        assert_eq!(shared.dumps(), ["", "rip 7"]);
        assert!(shared.go_on());
        waiting.join().unwrap();
        assert!(!shared.go_on());
    }
}
