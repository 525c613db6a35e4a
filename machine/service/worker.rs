// SPDX-License-Identifier: GPL-2.0

//! Who serves a queue: its worker, a thread of the VMM's, or for a moment the vCPU that wrote to it.
//!
//! A worker lets the guest go on meanwhile, and takes many buffers at a time from a driver that makes many
//! available. To wake it up for a single one costs two switches of the host's scheduler, more than the
//! work itself, while the driver waits. So a worker counts what it is woken for: after [`SINGLES`] times
//! in a row that were one buffer each, the next [`TURNS`] kicks are left to the vCPU. Then the
//! worker is woken again, to see whether it is still so.

use crate::host::blkio::TransferWaker;
use crate::host::eventfd::OnEvent;
use crate::host::file::WaitQueue;
use crate::machine::gate::{AtWork, RestGate};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering::*};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Awakenings for one buffer, in a row, after which the vCPU serves.
const SINGLES: u8 = 4;
/// Kicks that the vCPU serves then.
const TURNS: u8 = 64;
/// Buffers that a vCPU takes at most for one kick.
pub(crate) const MOST_AT_ONCE: u32 = 4;

/// Who is to serve a queue that the driver wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KickTarget {
    /// The worker, which has been woken.
    Worker,
    /// The caller, when it may sleep; or it wakes the worker.
    Caller,
}

/// What a vCPU has left to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemainingWork {
    /// Nothing.
    Nothing,
    /// Something that takes time.
    MayBlock,
    /// More than a vCPU should do.
    Backlog,
}

impl RemainingWork {
    /// Wakes the worker if there is something for it.
    pub(crate) fn leave_to(self, worker: &QueueWorker) {
        match self {
            RemainingWork::Nothing => {}
            RemainingWork::MayBlock => worker.wake(),
            RemainingWork::Backlog => worker.take_over(),
        }
    }
}

/// Where the worker of a queue waits for work.
#[pin_data]
pub(crate) struct QueueWorker {
    /// There may be work.
    work: AtomicBool,
    #[pin]
    queue: WaitQueue,
    /// A thread is the worker.
    taken: AtomicBool,
    /// It sleeps, and there was nothing left to do.
    idle: AtomicBool,
    /// Awakenings in a row for one buffer.
    singles: AtomicU8,
    /// Kicks that are left to the vCPU.
    turns: AtomicU8,
    /// It works: whatever it gave back, the driver may not have been told of yet.
    activity: AtWork,
    gate: Arc<RestGate>,
}

impl QueueWorker {
    /// Nobody's place, with no work, in the machine of `gate`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(gate: Arc<RestGate>) -> Result<Arc<QueueWorker>> {
        Arc::pin_init(
            pin_init!(QueueWorker {
                work: AtomicBool::new(false),
                queue <- WaitQueue::new(),
                taken: AtomicBool::new(false),
                idle: AtomicBool::new(false),
                singles: AtomicU8::new(0),
                turns: AtomicU8::new(0),
                activity: AtWork::none(),
                gate,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Says that there may be work. Any context but NMI.
    pub(crate) fn wake(&self) {
        // Who finds it set need not wake: the worker clears it before it looks at the queue.
        if !self.work.swap(true, AcqRel) {
            self.queue.wake();
        }
    }

    /// Says that the driver wrote to the queue: wakes the worker, or leaves it to the caller. Any context but
    /// NMI.
    #[inline]
    pub(crate) fn kick(&self) -> KickTarget {
        let turns = self.turns.load(Relaxed);
        if turns != 0 && self.idle.load(Relaxed) {
            // Kicks of two vCPUs may count as one.
            self.turns.store(turns.wrapping_sub(1), Relaxed);
            return KickTarget::Caller;
        }
        self.wake();
        KickTarget::Worker
    }

    /// As [`QueueWorker::wake`]; many buffers wait.
    fn take_over(&self) {
        self.singles.store(0, Relaxed);
        self.turns.store(0, Relaxed);
        self.wake();
    }

    /// Sleeps until there may be work. `done`: buffers that were taken out of the queue since the last time,
    /// of which there are no more; `None` where no vCPU could have done it.
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(crate) fn wait(&self, done: Option<u32>) -> Result {
        if let Some(n) = done {
            self.note(n);
            self.idle.store(true, Relaxed);
        }
        self.gate.end(&self.activity);
        let woken = self.queue.wait(|| self.work.load(Acquire));
        self.gate.begin(&self.activity);
        self.idle.store(false, Relaxed);
        woken?;
        // A full barrier: what the guest made available before a wake that found the flag still set is
        // seen after this.
        self.work.swap(false, SeqCst);
        Ok(())
    }

    /// Learns from a stretch of work.
    fn note(&self, done: u32) {
        let singles = match done {
            // Something else woke it.
            0 => return,
            1 => self.singles.load(Relaxed).saturating_add(1),
            _ => 0,
        };
        self.singles.store(singles, Relaxed);
        self.turns.store(if singles >= SINGLES { TURNS } else { 0 }, Relaxed);
    }

    /// Returns whether somebody works here.
    pub(super) fn is_active(&self) -> bool {
        self.activity.is_active()
    }

    /// Makes the calling thread the only worker while `body` runs.
    ///
    /// # Errors
    /// `EBUSY` when another thread is; those of `body`.
    pub(crate) fn alone<R>(&self, body: impl FnOnce() -> Result<R>) -> Result<R> {
        if self.taken.swap(true, Acquire) {
            return Err(EBUSY);
        }
        self.gate.begin(&self.activity);
        let done = body();
        self.gate.end(&self.activity);
        self.taken.store(false, Release);
        done
    }
}

impl TransferWaker for Arc<QueueWorker> {
    /// Always wakes: the worker may wait for just this, whatever work there is.
    fn wake(&self) {
        self.work.store(true, Release);
        self.queue.wake();
    }

    fn waiting(&self) -> &WaitQueue {
        &self.queue
    }
}

impl OnEvent for Arc<QueueWorker> {
    fn on_event(&self) {
        self.wake();
    }
}
