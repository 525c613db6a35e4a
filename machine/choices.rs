// SPDX-License-Identifier: GPL-2.0

//! What user space has chosen for a machine by KVM_ENABLE_CAP and its like, for its vCPUs to read.
//!
//! Documentation of KVM's API, "KVM_ENABLE_CAP". Written under the VM's configuration lock. Nothing here is looked at on
//! the way of an exit that is answered in the kernel.

use super::msr_filter::GuestMsrFilter;
use super::settings::ModuleSettings;
use crate::chipset::lapic::BusPeriod;
use crate::chipset::DestFormat;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::*};
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};

bitflags::bitflags! {
    /// KVM's quirks that can be turned off (`KVM_X86_QUIRK_*`), as far as they apply.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct KvmQuirks: u64 {
        /// LINT0 of the boot processor passes the 8259's interrupts on after reset.
        const LINT0_REENABLED = 1 << 0;
        /// The registers of a local APIC that is not in xAPIC mode are no hole in memory. That is never so here.
        const LAPIC_MMIO_HOLE = 1 << 2;
        /// CPUID's bit of MONITOR and MWAIT does not follow MISC_ENABLE.
        const MISC_ENABLE_NO_MWAIT = 1 << 4;
        /// The hypercall of the other vendor's processors becomes that of this one's.
        const FIX_HYPERCALL_INSN = 1 << 5;
        /// MONITOR and MWAIT do nothing where CPUID lacks them, and do not fault.
        const MWAIT_NEVER_UD_FAULTS = 1 << 6;
        /// All slots are unmapped where one goes. That is never so here.
        const SLOT_ZAP_ALL = 1 << 7;
    }
}

bitflags::bitflags! {
    /// What is chosen by yes or no.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct MachineOptions: u32 {
        /// APIC ids are 32 bits wide in MSIs and in KVM_GET_LAPIC.
        const WIDE_IDS = 1 << 0;
        /// 0xff is a destination of MSIs like any other.
        const NO_BROADCAST = 1 << 1;
        /// What an exception carries beside its error code travels with the vCPU's events.
        const PAYLOAD = 1 << 2;
        /// A triple fault that user space is to be told of travels with them too.
        const TRIPLE_FAULT_EVENT = 1 << 3;
        /// Instructions that cannot be carried out end KVM_RUN whoever ran them.
        const ENDS_ON_UNKNOWN_INSN = 1 << 4;
        /// The processor halts in guest mode.
        const HALTS_IN_GUEST = 1 << 5;
        /// The guest cannot read PLATFORM_INFO.
        const HIDES_PLATFORM_INFO = 1 << 6;
    }
}

/// See the module's description.
#[pin_data]
pub(crate) struct MachineChoices {
    /// Which MSRs the guest may use.
    #[pin]
    msr_filter: Mutex<Option<Arc<GuestMsrFilter>>>,
    /// Which refused accesses to MSRs are left to user space, `KVM_MSR_EXIT_REASON_*`.
    msr_exits: AtomicU32,
    /// The longest time in nanoseconds that a halted vCPU polls.
    halt_poll_ns: AtomicU32,
    /// A period of the local APICs' input clock in nanoseconds.
    apic_bus_ns: AtomicU64,
    /// The quirks that are off.
    quirks_off: AtomicU32,
    /// [`MachineOptions`].
    options: AtomicU32,
}

impl MachineChoices {
    /// What holds where user space has chosen nothing.
    pub(crate) fn new(settings: &ModuleSettings) -> impl PinInit<MachineChoices> {
        let halt_poll_ns = settings.halt_poll_ns;
        pin_init!(MachineChoices {
            msr_filter <- new_mutex!(None),
            msr_exits: AtomicU32::new(0),
            halt_poll_ns: AtomicU32::new(halt_poll_ns),
            apic_bus_ns: AtomicU64::new(BusPeriod::DEFAULT.ns()),
            quirks_off: AtomicU32::new(0),
            options: AtomicU32::new(0),
        })
    }

    /// Returns which MSRs the guest may use, if user space has said so.
    pub(crate) fn msr_filter(&self) -> Option<Arc<GuestMsrFilter>> {
        self.msr_filter.lock().clone()
    }

    /// Chooses that. The caller tells the vCPUs.
    pub(crate) fn set_msr_filter(&self, filter: Arc<GuestMsrFilter>) {
        let old = self.msr_filter.lock().replace(filter);
        // Freed without the lock.
        drop(old);
    }

    /// Returns which refused accesses to MSRs are left to user space.
    pub(crate) fn msr_exits(&self) -> u32 {
        self.msr_exits.load(Relaxed)
    }

    /// Chooses that.
    pub(crate) fn set_msr_exits(&self, reasons: u32) {
        self.msr_exits.store(reasons, Relaxed);
    }

    /// Returns the longest time in nanoseconds that a halted vCPU polls.
    pub(crate) fn halt_poll_ns(&self) -> u32 {
        self.halt_poll_ns.load(Relaxed)
    }

    /// Sets it.
    pub(crate) fn set_halt_poll_ns(&self, ns: u32) {
        self.halt_poll_ns.store(ns, Relaxed);
    }

    /// Returns the period of the input clock that local APICs are made with.
    pub(crate) fn apic_bus_period(&self) -> BusPeriod {
        BusPeriod::new(self.apic_bus_ns.load(Relaxed)).unwrap_or(BusPeriod::DEFAULT)
    }

    /// Sets it.
    pub(crate) fn set_apic_bus_period(&self, period: BusPeriod) {
        self.apic_bus_ns.store(period.ns(), Relaxed);
    }

    /// Returns whether an option is chosen.
    pub(crate) fn has(&self, option: MachineOptions) -> bool {
        self.options.load(Relaxed) & option.bits() != 0
    }

    /// Chooses options, or takes the choice back.
    pub(crate) fn set(&self, options: MachineOptions, on: bool) {
        if on {
            self.options.fetch_or(options.bits(), Relaxed);
        } else {
            self.options.fetch_and(!options.bits(), Relaxed);
        }
    }

    /// Returns how user space's MSIs name their destinations.
    pub(crate) fn msi_format(&self) -> DestFormat {
        match (self.has(MachineOptions::WIDE_IDS), self.has(MachineOptions::NO_BROADCAST)) {
            (false, false) => DestFormat::Narrow,
            (true, false) => DestFormat::Wide,
            (false, true) => DestFormat::NarrowOnly,
            (true, true) => DestFormat::WideOnly,
        }
    }

    /// Turns quirks off.
    pub(crate) fn turn_off(&self, quirks: KvmQuirks) {
        self.quirks_off.fetch_or(quirks.bits() as u32, Relaxed);
    }

    /// Returns whether a quirk is on.
    pub(crate) fn has_quirk(&self, quirk: KvmQuirks) -> bool {
        u64::from(self.quirks_off.load(Relaxed)) & quirk.bits() == 0
    }
}
