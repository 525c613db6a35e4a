// SPDX-License-Identifier: GPL-2.0

//! What a vCPU leaves behind of its exits: the last ones, how many of each class, and how long each
//! class takes.
//!
//! Only the vCPU's own thread writes, so a plain load and store count; whoever reads meanwhile may find
//! the newest exit half written. Times are taken only in a module that was loaded to take them
//! (parameter `exit_times`), for they cost two looks at the clock for each exit.

use super::exit::{Exit, RawExit, VirtInsn};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::prelude::*;

/// How many exits the flight recorder keeps.
pub(crate) const RECORDED: usize = 64;

struct Place {
    rip: AtomicU64,
    reason: AtomicU64,
    info1: AtomicU64,
    info2: AtomicU64,
}

impl Place {
    const fn new() -> Place {
        Place {
            rip: AtomicU64::new(0),
            reason: AtomicU64::new(0),
            info1: AtomicU64::new(0),
            info2: AtomicU64::new(0),
        }
    }

    fn raw(&self) -> RawExit {
        RawExit {
            reason: self.reason.load(Relaxed),
            info1: self.info1.load(Relaxed),
            info2: self.info2.load(Relaxed),
        }
    }
}

/// The last exits, for whoever has to find out why a guest died.
pub(crate) struct Recorder {
    ring: KBox<[Place; RECORDED]>,
    /// Exits so far.
    pub(crate) count: AtomicU64,
}

impl Recorder {
    /// Nothing yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Recorder> {
        let ring = KBox::new([const { Place::new() }; RECORDED], GFP_KERNEL_ACCOUNT)?;
        Ok(Recorder { ring, count: AtomicU64::new(0) })
    }

    /// Notes an exit at `rip`.
    #[inline(always)]
    pub(crate) fn note(&self, rip: u64, raw: RawExit) {
        let n = self.count.load(Relaxed);
        let place = &self.ring[n as usize % RECORDED];
        place.rip.store(rip, Relaxed);
        place.reason.store(raw.reason, Relaxed);
        place.info1.store(raw.info1, Relaxed);
        place.info2.store(raw.info2, Relaxed);
        self.count.store(n.wrapping_add(1), Relaxed);
    }

    /// Returns the cause of the last exit.
    pub(crate) fn last(&self) -> RawExit {
        let n = self.count.load(Relaxed).wrapping_sub(1);
        self.ring[n as usize % RECORDED].raw()
    }

    /// Returns RIP and cause of the last exits, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, RawExit)> + '_ {
        let count = self.count.load(Relaxed);
        let known = count.min(RECORDED as u64);
        (0..known).map(move |i| {
            let n = count.wrapping_sub(known).wrapping_add(i);
            let place = &self.ring[n as usize % RECORDED];
            (place.rip.load(Relaxed), place.raw())
        })
    }
}

/// Kinds of exits that are told apart in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// CPUID.
    Cpuid,
    /// RDMSR, WRMSR.
    Msr,
    /// IN, OUT and their string forms.
    Port,
    /// Faults of the second-level table: first touches and devices.
    Memory,
    /// VMMCALL, VMCALL.
    Hypercall,
    /// HLT, without the sleep.
    Halt,
    /// The host's interrupts.
    HostInterrupt,
    /// All others.
    Other,
}

impl Class {
    /// All of them, with the names of their histograms.
    pub(crate) const ALL: [(Class, &'static [u8]); 8] = [
        (Class::Cpuid, b"cpuid_cycles"),
        (Class::Msr, b"msr_cycles"),
        (Class::Port, b"io_cycles"),
        (Class::Memory, b"pf_cycles"),
        (Class::Hypercall, b"hypercall_cycles"),
        (Class::Halt, b"halt_cycles"),
        (Class::HostInterrupt, b"irq_cycles"),
        (Class::Other, b"other_cycles"),
    ];

    /// Returns the class of an exit.
    pub(crate) fn of(exit: &Exit) -> Class {
        match exit {
            Exit::Cpuid => Class::Cpuid,
            Exit::Msr(_) => Class::Msr,
            Exit::Pio(_) => Class::Port,
            Exit::GuestPageFault(_) => Class::Memory,
            Exit::VirtInsn(VirtInsn::Hypercall) => Class::Hypercall,
            Exit::Hlt => Class::Halt,
            Exit::HostInterrupt => Class::HostInterrupt,
            _ => Class::Other,
        }
    }
}

/// How many buckets a histogram has: bucket 0 counts 0, bucket `n` what has `n` bits, the last one all
/// that have more.
pub(crate) const BUCKETS: usize = 32;

/// Ticks of the TSC from an exit until the guest goes on or the CPU is given back, by class.
pub(crate) struct Times(KVec<AtomicU64>);

impl Times {
    /// Nothing yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Times> {
        let mut counts = KVec::with_capacity(Class::ALL.len().saturating_mul(BUCKETS), GFP_KERNEL_ACCOUNT)?;
        for _ in 0..Class::ALL.len().saturating_mul(BUCKETS) {
            counts.push_within_capacity(AtomicU64::new(0))?;
        }
        Ok(Times(counts))
    }

    /// Counts an exit that took `ticks`.
    pub(crate) fn note(&self, class: Class, ticks: u64) {
        let bits = u64::BITS.saturating_sub(ticks.leading_zeros()) as usize;
        let bucket = bits.min(BUCKETS.saturating_sub(1));
        if let Some(c) = self.of(class).get(bucket) {
            c.store(c.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Returns the buckets of a class.
    pub(crate) fn of(&self, class: Class) -> &[AtomicU64] {
        let from = (class as usize).saturating_mul(BUCKETS);
        self.0.get(from..from.saturating_add(BUCKETS)).unwrap_or(&[])
    }
}
