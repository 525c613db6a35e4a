// SPDX-License-Identifier: GPL-2.0

//! The gate that a machine's vCPUs pass before they enter the guest, and where whoever closed it waits for those that
//! are still inside.
//!
//! Who goes in says so first ([`AtWork`]) and then looks at the gate; who closes it closes first and then looks who
//! is active; both sequentially consistent. So nobody is inside unseen. The threads that serve a device's queues do
//! not stop at the gate: they find nothing to do in a device that is at rest.

use crate::host::file::WaitQueue;
use core::sync::atomic::{AtomicBool, Ordering::*};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Whether somebody is at work for the machine: a vCPU in KVM_RUN, the worker of a queue.
pub(crate) struct AtWork(AtomicBool);

impl AtWork {
    /// Nobody is.
    pub(crate) const fn none() -> AtWork {
        AtWork(AtomicBool::new(false))
    }

    /// Returns whether somebody is.
    pub(crate) fn is_active(&self) -> bool {
        self.0.load(SeqCst)
    }
}

/// See the module's description.
#[pin_data]
pub(crate) struct RestGate {
    closed: AtomicBool,
    /// Woken when the gate opens, and while it is closed whenever somebody has come to rest.
    #[pin]
    changed: WaitQueue,
}

impl RestGate {
    /// An open one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<RestGate>> {
        Arc::pin_init(
            pin_init!(RestGate { closed: AtomicBool::new(false), changed <- WaitQueue::new() }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns whether it is closed.
    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Closes it: nobody passes any more. Who is inside is to be asked out.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Opens it.
    pub(super) fn open(&self) {
        self.closed.store(false, SeqCst);
        self.changed.wake();
    }

    /// Waits until `is_at_rest()`, which is asked whenever somebody has come to rest.
    ///
    /// # Errors
    /// `EINTR` on a signal.
    pub(super) fn wait_for_rest(&self, is_at_rest: impl Fn() -> bool) -> Result {
        self.changed.wait(is_at_rest).map_err(|_| EINTR)
    }

    /// Goes in; waits while the gate is closed.
    ///
    /// # Errors
    /// `EINTR` on a signal: then it is not inside.
    pub(crate) fn pass(&self, who: &AtWork) -> Result {
        self.begin(who);
        while self.is_closed() {
            self.end(who);
            self.changed.wait(|| !self.is_closed()).map_err(|_| EINTR)?;
            self.begin(who);
        }
        Ok(())
    }

    /// Begins work that is no vCPU's.
    pub(crate) fn begin(&self, who: &AtWork) {
        who.0.store(true, SeqCst);
    }

    /// Has come to rest.
    pub(crate) fn end(&self, who: &AtWork) {
        who.0.store(false, SeqCst);
        if self.is_closed() {
            self.changed.wake();
        }
    }
}
