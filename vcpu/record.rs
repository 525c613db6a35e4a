// SPDX-License-Identifier: GPL-2.0

//! What a vCPU leaves behind of its exits: the last ones, how many of each class, and how long each
//! class takes ([`VcpuRecord`]).
//!
//! Only the vCPU's own thread writes, so a plain load and store count; whoever reads meanwhile may find
//! the newest exit half written. Times are taken only in a module that was loaded to take them
//! (parameter `exit_times`), for they cost two looks at the clock for each exit.

use super::exit::{RawExit, VirtInsn, VmExit};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use kernel::prelude::*;

/// How many exits the flight recorder keeps.
pub(crate) const RECORDED: usize = 64;

struct RecordedExit {
    rip: AtomicU64,
    reason: AtomicU64,
    info1: AtomicU64,
    info2: AtomicU64,
}

impl RecordedExit {
    const fn new() -> RecordedExit {
        RecordedExit {
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

/// The record of one vCPU's exits: written by its own thread, read by anyone.
pub(crate) struct VcpuRecord {
    /// The vCPU's number.
    pub(crate) id: u32,
    /// The process that made it.
    pub(crate) pid: i32,
    /// How many exits of each kind.
    pub(crate) stats: ExitStats,
    /// The last ones.
    pub(crate) recorder: ExitRecorder,
    /// How long they take, where that is asked for.
    pub(crate) times: Option<ExitTimes>,
}

impl VcpuRecord {
    /// Nothing recorded yet of vCPU `id` of process `pid`; `timed` says whether exits are.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(id: u32, pid: i32, timed: bool) -> Result<VcpuRecord> {
        let times = if timed { Some(ExitTimes::new()?) } else { None };
        Ok(VcpuRecord { id, pid, stats: ExitStats::default(), recorder: ExitRecorder::new()?, times })
    }
}

/// Exits by which performance is judged.
#[derive(Default)]
pub(crate) struct ExitStats {
    /// Returns to user space for the guest's sake.
    pub(crate) user_exits: AtomicU64,
    /// Host interrupts that ended guest mode.
    pub(crate) host_interrupts: AtomicU64,
    /// Faults of the second-level table.
    pub(crate) page_faults: AtomicU64,
    /// Instructions emulated.
    pub(crate) emulated: AtomicU64,
    /// CPUID.
    pub(crate) cpuid: AtomicU64,
    /// RDMSR and WRMSR.
    pub(crate) msr: AtomicU64,
    /// VMMCALL and VMCALL.
    pub(crate) hypercalls: AtomicU64,
    /// Accesses to the memory of devices.
    pub(crate) mmio: AtomicU64,
    /// Port accesses.
    pub(crate) pio: AtomicU64,
    /// HLT.
    pub(crate) halts: AtomicU64,
    /// Waits for an event that began by polling.
    pub(crate) polls: AtomicU64,
    /// Of those, the ones that needed no sleep.
    pub(crate) polls_met: AtomicU64,
    /// Interrupts injected.
    pub(crate) interrupts: AtomicU64,
    /// NMIs injected.
    pub(crate) nmis: AtomicU64,
    /// Signals that ended KVM_RUN.
    pub(crate) signals: AtomicU64,
    /// Instructions that could not be emulated.
    pub(crate) emulation_failures: AtomicU64,
}

/// Adds one to a counter that only this thread writes.
#[inline]
pub(crate) fn count(c: &AtomicU64) {
    c.store(c.load(Relaxed).wrapping_add(1), Relaxed);
}

/// The last exits, for whoever has to find out why a guest died.
pub(crate) struct ExitRecorder {
    ring: KBox<[RecordedExit; RECORDED]>,
    /// Exits so far.
    pub(crate) count: AtomicU64,
}

impl ExitRecorder {
    /// Nothing yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<ExitRecorder> {
        let ring = KBox::new([const { RecordedExit::new() }; RECORDED], GFP_KERNEL_ACCOUNT)?;
        Ok(ExitRecorder { ring, count: AtomicU64::new(0) })
    }

    /// Notes an exit at `rip`.
    #[inline(always)]
    pub(crate) fn record_exit(&self, rip: u64, raw: RawExit) {
        let n = self.count.load(Relaxed);
        let at = &self.ring[n as usize % RECORDED];
        at.rip.store(rip, Relaxed);
        at.reason.store(raw.reason, Relaxed);
        at.info1.store(raw.info1, Relaxed);
        at.info2.store(raw.info2, Relaxed);
        self.count.store(n.wrapping_add(1), Relaxed);
    }

    /// Returns the cause of the last exit.
    pub(crate) fn last(&self) -> RawExit {
        let n = self.count.load(Relaxed).wrapping_sub(1);
        self.ring[n as usize % RECORDED].raw()
    }

    /// Returns where the guest was at the last exit.
    pub(crate) fn last_rip(&self) -> u64 {
        let n = self.count.load(Relaxed).wrapping_sub(1);
        self.ring[n as usize % RECORDED].rip.load(Relaxed)
    }

    /// Returns RIP and cause of the last exits, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, RawExit)> + '_ {
        let count = self.count.load(Relaxed);
        let known = count.min(RECORDED as u64);
        (0..known).map(move |i| {
            let n = count.wrapping_sub(known).wrapping_add(i);
            let at = &self.ring[n as usize % RECORDED];
            (at.rip.load(Relaxed), at.raw())
        })
    }
}

/// Kinds of exits that are told apart in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitClass {
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

impl ExitClass {
    /// All of them, with the names of their histograms.
    pub(crate) const ALL: [(ExitClass, &'static [u8]); 8] = [
        (ExitClass::Cpuid, b"cpuid_cycles"),
        (ExitClass::Msr, b"msr_cycles"),
        (ExitClass::Port, b"io_cycles"),
        (ExitClass::Memory, b"pf_cycles"),
        (ExitClass::Hypercall, b"hypercall_cycles"),
        (ExitClass::Halt, b"halt_cycles"),
        (ExitClass::HostInterrupt, b"irq_cycles"),
        (ExitClass::Other, b"other_cycles"),
    ];

    /// Returns the class of an exit.
    pub(crate) fn of(exit: &VmExit) -> ExitClass {
        match exit {
            VmExit::Cpuid => ExitClass::Cpuid,
            VmExit::Msr(_) => ExitClass::Msr,
            VmExit::Pio(_) => ExitClass::Port,
            VmExit::GuestPageFault(_) | VmExit::PageFault(_) => ExitClass::Memory,
            VmExit::VirtInsn(VirtInsn::Hypercall) => ExitClass::Hypercall,
            VmExit::Hlt => ExitClass::Halt,
            VmExit::HostInterrupt => ExitClass::HostInterrupt,
            _ => ExitClass::Other,
        }
    }
}

/// How many buckets a histogram has: bucket 0 counts 0, bucket `n` what has `n` bits, the last one all
/// that have more.
pub(crate) const BUCKETS: usize = 32;

/// Ticks of the TSC from an exit until the guest goes on or the CPU is given back, by class.
pub(crate) struct ExitTimes(KVec<AtomicU64>);

impl ExitTimes {
    /// Nothing yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<ExitTimes> {
        let mut counts =
            KVec::with_capacity(ExitClass::ALL.len().saturating_mul(BUCKETS), GFP_KERNEL_ACCOUNT)?;
        for _ in 0..ExitClass::ALL.len().saturating_mul(BUCKETS) {
            counts.push_within_capacity(AtomicU64::new(0))?;
        }
        Ok(ExitTimes(counts))
    }

    /// Counts an exit that took `ticks`.
    pub(crate) fn note(&self, class: ExitClass, ticks: u64) {
        let bits = u64::BITS.saturating_sub(ticks.leading_zeros()) as usize;
        let bucket = bits.min(BUCKETS.saturating_sub(1));
        if let Some(c) = self.of(class).get(bucket) {
            c.store(c.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    /// Returns the buckets of a class.
    pub(crate) fn of(&self, class: ExitClass) -> &[AtomicU64] {
        let from = (class as usize).saturating_mul(BUCKETS);
        self.0.get(from..from.saturating_add(BUCKETS)).unwrap_or(&[])
    }
}
