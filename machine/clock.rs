// SPDX-License-Identifier: GPL-2.0

//! The clocks of a machine: the TSC that its vCPUs begin with, and the paravirtual clock.
//!
//! The paravirtual clock is a straight line through one point with the slope of the TSC, the same for all vCPUs. So it
//! is written into guest memory once and stays true, and the guest may compare clocks of different vCPUs. It is
//! offered only while the host trusts its own TSC.

use super::pvclock::TscScale;
use crate::arch::time::ratio;
use crate::host::timer::{rdtsc, tsc_khz};
use core::sync::atomic::{AtomicU64, Ordering::*};
use kernel::prelude::*;

/// See the module's description.
pub(crate) struct MachineClock {
    /// The host's TSC at the point that the paravirtual clock goes through.
    host_tsc: AtomicU64,
    /// What the paravirtual clock shows there.
    ns: AtomicU64,
    /// The TSC's frequency, as the guest turns ticks into time.
    pub(crate) scale: TscScale,
    /// The guest's TSC at creation minus the host's, so that all vCPUs agree.
    pub(crate) tsc_offset: u64,
    /// Nanoseconds for each tick of the guest's TSC, a 32.32 factor.
    pub(crate) ns_per_tick: u64,
}

impl MachineClock {
    /// All clocks begin now, at 0.
    ///
    /// # Errors
    /// `ENODEV` where the TSC's frequency is not known.
    pub(crate) fn new() -> Result<MachineClock> {
        let (now, khz) = (rdtsc(), tsc_khz());
        Ok(MachineClock {
            host_tsc: AtomicU64::new(now),
            ns: AtomicU64::new(0),
            scale: TscScale::from_khz(khz).ok_or(ENODEV)?,
            tsc_offset: 0u64.wrapping_sub(now),
            ns_per_tick: ratio(1_000_000, u64::from(khz)),
        })
    }

    /// Lets the paravirtual clock show `ns` now. The VM's configuration lock is held.
    pub(super) fn set_ns(&self, ns: u64) {
        self.host_tsc.store(rdtsc(), Relaxed);
        self.ns.store(ns, Relaxed);
    }

    /// Returns the point that the paravirtual clock goes through: the host's TSC, and what the clock shows then.
    pub(crate) fn point(&self) -> (u64, u64) {
        (self.host_tsc.load(Relaxed), self.ns.load(Relaxed))
    }

    /// Returns what the paravirtual clock shows now.
    pub(crate) fn ns(&self) -> u64 {
        let (host_tsc, ns) = self.point();
        ns.wrapping_add(self.scale.ns(rdtsc().saturating_sub(host_tsc)))
    }
}
