// SPDX-License-Identifier: GPL-2.0

//! The host's timer for the synthetic timers of one vCPU, of which the earliest counts.

use super::mailbox::{VcpuMailbox, VcpuRequests};
use super::pvclock::REFERENCE_UNIT_NS;
use crate::host::timer::{self, DeadlineTimer, OnTimer};
use kernel::prelude::*;
use kernel::sync::Arc;

/// Asks its vCPU to look at its timers when their time comes.
#[pin_data]
pub(crate) struct ReferenceTimer {
    /// The first of all, for that is the order in which they are dropped: it fires until then, and looks at the other.
    #[pin]
    timer: DeadlineTimer<ReferenceTimer>,
    mailbox: Arc<VcpuMailbox>,
}

impl ReferenceTimer {
    /// One of that vCPU's, not armed.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(mailbox: Arc<VcpuMailbox>) -> Result<Arc<ReferenceTimer>> {
        let this = Arc::pin_init(
            pin_init!(ReferenceTimer { mailbox, timer <- DeadlineTimer::new() }),
            GFP_KERNEL_ACCOUNT,
        )?;
        DeadlineTimer::bind(&this, |t| &t.timer)?;
        Ok(this)
    }

    /// Arms it for a reference time that is so many units from now, or disarms it.
    pub(crate) fn set(&self, units: Option<u64>) {
        match units {
            Some(units) => self.timer.arm(timer::now().after(units.saturating_mul(REFERENCE_UNIT_NS))),
            None => self.timer.disarm(),
        }
    }
}

impl OnTimer for ReferenceTimer {
    fn on_timer(&self) {
        self.mailbox.request(VcpuRequests::SYNIC);
    }
}
