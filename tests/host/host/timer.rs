// SPDX-License-Identifier: GPL-2.0

//! The clock that tests move, and timers.

use super::world::{locked, world, World, TICKS_PER_US};
use crate::arch::time::Ns;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use kernel::context::in_interrupt;
use kernel::prelude::*;
use kernel::sched;
use kernel::sync::Arc;
use std::collections::HashMap;
use std::sync::{Arc as StdArc, Mutex, OnceLock, Weak};

/// The wall clock when a world begins.
const WALL_AT_0: u64 = 1_790_000_000_000_000_000;

/// Returns the host's monotonic time.
pub(crate) fn now() -> Ns {
    sched::yield_point();
    Ns(world().now())
}

/// Returns the host's wall clock.
pub(crate) fn wall_ns() -> u64 {
    WALL_AT_0 + world().now()
}

/// A moment, as the TSC and the wall clock show it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostMoment {
    /// The TSC.
    pub(crate) tsc: u64,
    /// The wall clock in nanoseconds since 1970 UTC.
    pub(crate) wall_ns: u64,
}

/// Returns what both clocks show now.
pub(crate) fn moment() -> HostMoment {
    sched::yield_point();
    let tsc = rdtsc();
    HostMoment { tsc, wall_ns: WALL_AT_0 + World::ns_at(tsc) }
}

/// How long a thread has waited for a CPU while it could have run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunDelay {
    /// The thread.
    pub(crate) thread: i32,
    /// Nanoseconds, all its life.
    pub(crate) ns: u64,
}

/// Returns whether the kernel counts these waits.
pub(crate) fn counts_run_delay() -> bool {
    true
}

/// Returns how long this thread has waited.
pub(crate) fn run_delay() -> RunDelay {
    RunDelay { thread: 1, ns: locked(&world().settings).run_delay_ns }
}

/// Returns how long this thread has run.
pub(crate) fn run_time_ns() -> u64 {
    locked(&world().settings).run_time_ns
}

/// Returns the frequency of the TSC in kHz.
pub(crate) fn tsc_khz() -> u32 {
    TICKS_PER_US as u32 * 1_000
}

/// Returns whether the host trusts its TSC.
pub(crate) fn is_tsc_stable() -> bool {
    locked(&world().settings).is_tsc_stable
}

/// Reads the TSC.
pub(crate) fn rdtsc() -> u64 {
    world().rdtsc()
}

/// Waits until the TSC has reached `tsc`.
pub(crate) fn wait_until(tsc: u64) {
    world().run_to_tsc(tsc);
}

/// The monotonic time, of a thread that stays on its CPU.
pub(crate) struct NearClock(());

impl NearClock {
    /// One that will look.
    pub(crate) const fn new() -> NearClock {
        NearClock(())
    }

    /// Says that the CPU may be another one.
    pub(crate) fn forget(&mut self) {}

    /// Returns the time.
    pub(crate) fn now(&mut self, _ns_per_tick: u64, epoch: impl FnOnce() -> u64) -> Ns {
        rdtsc();
        Ns(now().0.wrapping_sub(epoch()))
    }
}

type Callback = StdArc<dyn Fn() + Send + Sync>;

/// The timers that are armed.
#[derive(Default)]
pub(crate) struct Timers {
    next: AtomicU64,
    armed: Mutex<HashMap<u64, (u64, Callback)>>,
}

impl Timers {
    /// Returns when the next one is due.
    pub(super) fn next(&self) -> Option<u64> {
        locked(&self.armed).values().map(|(at, _)| *at).min()
    }

    /// Fires those that are due at `now`, in an interrupt.
    pub(super) fn fire(&self, now: u64) {
        loop {
            let due = {
                let mut armed = locked(&self.armed);
                let first =
                    armed.iter().min_by_key(|(id, (at, _))| (*at, **id)).map(|(id, (at, _))| (*id, *at));
                first.filter(|(_, at)| *at <= now).and_then(|(id, _)| armed.remove(&id))
            };
            let Some((_, callback)) = due else { return };
            in_interrupt(|| callback());
        }
    }

    /// Returns how many are armed.
    pub(crate) fn len(&self) -> usize {
        locked(&self.armed).len()
    }
}

/// What a [`DeadlineTimer`] calls when it fires.
pub(crate) trait OnTimer: Sync {
    /// The deadline has passed.
    fn on_timer(&self);
}

/// A one-shot timer that calls the object it belongs to.
pub(crate) struct DeadlineTimer<T: OnTimer> {
    id: u64,
    target: OnceLock<Weak<T>>,
}

impl<T: OnTimer + Send + Sync + 'static> DeadlineTimer<T> {
    /// One that is not yet tied to an object.
    pub(crate) fn new() -> impl PinInit<Self> {
        DeadlineTimer { id: world().timers.next.fetch_add(1, SeqCst), target: OnceLock::new() }
    }

    /// Ties the timer to the object that holds it.
    ///
    /// # Errors
    /// `EBUSY` when it is tied already.
    pub(crate) fn bind(owner: &Arc<T>, timer: impl Fn(&T) -> &DeadlineTimer<T>) -> Result {
        timer(owner).target.set(StdArc::downgrade(owner.as_std())).map_err(|_| EBUSY)
    }

    /// Arms for `at`, instead of any earlier arming.
    pub(crate) fn arm(&self, at: Ns) {
        let Some(target) = self.target.get().cloned() else { return };
        let callback: Callback = StdArc::new(move || {
            if let Some(target) = target.upgrade() {
                target.on_timer();
            }
        });
        locked(&world().timers.armed).insert(self.id, (at.0, callback));
        sched::yield_point();
    }

    /// Takes back [`DeadlineTimer::arm`].
    pub(crate) fn disarm(&self) {
        locked(&world().timers.armed).remove(&self.id);
        sched::yield_point();
    }
}
