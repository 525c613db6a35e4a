// SPDX-License-Identifier: GPL-2.0

//! What all machines count together, for whoever looks into debugfs.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts over all disks since the module was loaded.
pub(crate) struct DiskCounters {
    /// Reads and writes that went on without the worker.
    pub(crate) asynchronous: AtomicU64,
    /// Reads and writes that had ended when the call that starts them returned, or that the worker did
    /// itself.
    pub(crate) synchronous: AtomicU64,
    /// The most that were under way at a time for one queue.
    pub(crate) max_in_flight: AtomicU64,
    /// The most that were given back with one interrupt.
    pub(crate) most_given_back: AtomicU64,
}

impl DiskCounters {
    /// Nothing counted yet.
    pub(crate) const fn new() -> DiskCounters {
        DiskCounters {
            asynchronous: AtomicU64::new(0),
            synchronous: AtomicU64::new(0),
            max_in_flight: AtomicU64::new(0),
            most_given_back: AtomicU64::new(0),
        }
    }

    /// Writes them down, a name and a number a line.
    pub(crate) fn show(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let DiskCounters { asynchronous, synchronous, max_in_flight, most_given_back } = self;
        writeln!(f, "asynchronous {}", asynchronous.load(Relaxed))?;
        writeln!(f, "synchronous {}", synchronous.load(Relaxed))?;
        writeln!(f, "max_in_flight {}", max_in_flight.load(Relaxed))?;
        writeln!(f, "most_given_back {}", most_given_back.load(Relaxed))
    }
}
