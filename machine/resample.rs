// SPDX-License-Identifier: GPL-2.0

//! Who is told of the ends of a GSI's interrupts: the resamplefds of irqfds.
//!
//! What the chips make of it is `chipset/resample.rs`. An eventfd is signalled without the chips' lock, for its waiters may
//! be irqfds, which take that lock; so the order is the list's lock, the eventfd's wait queue, a lock of chips. In the
//! vCPU's window or in any other context.

use crate::host::eventfd::EventFd;
use core::ptr;
use kernel::prelude::*;
use kernel::sync::{Arc, SpinLockIrq};

/// The most of a machine: all of them may be signalled with interrupts off.
const MAX_RESAMPLERS: usize = 256;

/// The resamplefds of a machine, by their GSIs.
#[pin_data]
pub(super) struct ResampleEvents {
    #[pin]
    events: SpinLockIrq<KVec<(u32, Arc<EventFd>)>>,
}

impl ResampleEvents {
    /// None yet.
    pub(super) fn new() -> impl PinInit<ResampleEvents> {
        pin_init!(ResampleEvents { events <- kernel::new_spinlock_irq!(KVec::new()) })
    }

    /// Signals those of `gsi`.
    pub(super) fn signal(&self, gsi: u32) {
        for (_, event) in self.events.lock().iter().filter(|(of, _)| *of == gsi) {
            event.signal();
        }
    }

    /// From here on the ends of the GSI's interrupts signal `event`.
    ///
    /// # Errors
    /// `ENOSPC` for too many, `ENOMEM`.
    pub(super) fn add(&self, gsi: u32, event: Arc<EventFd>) -> Result {
        let mut events = self.events.lock();
        if events.len() >= MAX_RESAMPLERS {
            return Err(ENOSPC);
        }
        // Atomic: under the lock. The first makes room for all.
        if events.is_empty() {
            *events = KVec::with_capacity(MAX_RESAMPLERS, GFP_ATOMIC)?;
        }
        events.push_within_capacity((gsi, event))?;
        Ok(())
    }

    /// `event` is not signalled any more once this returns.
    pub(super) fn remove(&self, gsi: u32, event: &Arc<EventFd>) {
        let mut events = self.events.lock();
        let is_it = |(of, e): &(u32, Arc<EventFd>)| *of == gsi && ptr::eq(&**e, &**event);
        let place = events.iter().position(is_it);
        let removed = place.and_then(|place| events.remove(place).ok());
        // Given up without the lock.
        drop(events);
        drop(removed);
    }
}
