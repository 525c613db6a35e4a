// SPDX-License-Identifier: GPL-2.0

//! The clocks of a machine: the time that its devices go by, the TSC that its vCPUs begin with, and the paravirtual
//! clock.
//!
//! The machine's time is the host's monotonic one less an epoch, 0 to begin with. It stands still while the machine is
//! at rest, and goes on where it stopped: then the epoch is a later one. So nothing that a device or a local APIC holds
//! of times has to change for that, nor for going on on another host. Where the host's timers are armed, the epoch is
//! added again.
//!
//! The paravirtual clock is a straight line through one point with the slope of the TSC, the same for all vCPUs. So it
//! is written into guest memory once and stays true, and the guest may compare clocks of different vCPUs. It is
//! offered only while the host trusts its own TSC.

use super::pvclock::TscScale;
use crate::arch::time::{ratio, Ns};
use crate::host::timer::{self, rdtsc, tsc_khz};
use core::sync::atomic::{AtomicU64, Ordering::*};
use kernel::prelude::*;
use kernel::sync::Arc;

/// See the module's description.
pub(crate) struct MachineClock {
    /// What the devices go by.
    pub(crate) time: Arc<MachineTime>,
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
    /// `ENODEV` where the TSC's frequency is not known, `ENOMEM`.
    pub(crate) fn new() -> Result<MachineClock> {
        let (now, khz) = (rdtsc(), tsc_khz());
        Ok(MachineClock {
            time: Arc::new(MachineTime::new(), GFP_KERNEL_ACCOUNT)?,
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

    /// Returns what the paravirtual clock shows when the host's TSC is `tsc`.
    fn ns_at(&self, tsc: u64) -> u64 {
        let (host_tsc, ns) = self.point();
        ns.wrapping_add(self.scale.ns(tsc.saturating_sub(host_tsc)))
    }

    /// Returns one moment on all clocks.
    pub(crate) fn moment(&self) -> ClockMoment {
        // The wall clock is read between two looks at the TSC. The closest of a few pairs is one that no interrupt came into.
        let pair = || {
            let (before, wall_ns, after) = (rdtsc(), timer::wall_ns(), rdtsc());
            (after.wrapping_sub(before), before, wall_ns)
        };
        let (_, host_tsc, wall_ns) = (1..CLOCK_LOOKS).fold(pair(), |best, _| best.min(pair()));
        ClockMoment { ns: self.ns_at(host_tsc), wall_ns, host_tsc }
    }
}

/// How often [`MachineClock::moment`] looks.
const CLOCK_LOOKS: u32 = 4;

/// A moment, as each clock shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockMoment {
    /// The paravirtual clock.
    pub(crate) ns: u64,
    /// The host's wall clock, in nanoseconds since 1970.
    pub(crate) wall_ns: u64,
    /// The host's TSC.
    pub(crate) host_tsc: u64,
}

/// The time of a machine's devices and local APICs.
pub(crate) struct MachineTime {
    /// What the host's monotonic time is ahead of this one; wraps.
    epoch: AtomicU64,
    /// The time while it stands still, else [`RUNS`].
    stopped_at: AtomicU64,
}

/// The time does not stand still. No machine gets that old.
const RUNS: u64 = u64::MAX;

impl MachineTime {
    /// The host's time.
    fn new() -> MachineTime {
        MachineTime { epoch: AtomicU64::new(0), stopped_at: AtomicU64::new(RUNS) }
    }

    /// Returns the time. Any context.
    pub(crate) fn now(&self) -> Ns {
        match self.stopped_at.load(Relaxed) {
            RUNS => Ns(timer::now().0.wrapping_sub(self.epoch())),
            at => Ns(at),
        }
    }

    /// Returns what the host's monotonic time is ahead of this one; wraps.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Returns when the host's monotonic time is what this one is at `at`.
    pub(crate) fn to_host(&self, at: Ns) -> Ns {
        Ns(at.0.saturating_add_signed(self.epoch() as i64))
    }

    /// Returns whether it stands still.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped_at.load(Relaxed) != RUNS
    }

    /// Stops it, at a machine that is at rest.
    pub(super) fn stop(&self) {
        self.stopped_at.store(self.now().0, Relaxed);
    }

    /// Sets the time of a machine at rest.
    pub(super) fn set_stopped(&self, now: u64) {
        self.stopped_at.store(now, Relaxed);
    }

    /// Lets it go on from where it stopped, if it did.
    pub(super) fn go_on(&self) {
        let at = self.stopped_at.load(Relaxed);
        if at != RUNS {
            self.epoch.store(timer::now().0.wrapping_sub(at), Relaxed);
            self.stopped_at.store(RUNS, Relaxed);
        }
    }
}
