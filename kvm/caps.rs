// SPDX-License-Identifier: GPL-2.0

//! What the interface says that it can: KVM_CHECK_EXTENSION, on the node and on a VM, and the features that
//! KVM_GET_SUPPORTED_CPUID offers to guests.

use super::dirty_log;
use crate::abi::caps;
use crate::abi::run::COALESCED_PAGE;
use crate::abi::vcpu::GUESTDBG_VALID as GUEST_DEBUG;
use crate::arch::cpuid::KvmFeatures;
use crate::arch::mitigation::SpecFeatures;
use crate::chipset::lapic::BusPeriod;
use crate::host::fpu::supported_xcr0;
use crate::host::msr::has_tsc_aux;
use crate::host::{cpu, timer};
use crate::machine::choices::KvmQuirks;
use crate::machine::dirty_ring::MAX_BYTES;
use crate::machine::mailbox::MAX_VCPUS;
use crate::machine::settings::ModuleSettings;
use crate::mmu::slots::MAX_SLOTS;
use crate::vcpu::{cpuid, msr_table};

/// Answers KVM_CHECK_EXTENSION, on the node and on a VM, which may have chosen another input clock of its local APICs.
pub(super) fn check_extension(cap: u64, apic_bus: BusPeriod) -> i64 {
    let inputs = caps::CapInputs {
        run: true,
        host_cpus: cpu::online(),
        max_vcpus: MAX_VCPUS as u32,
        max_memslots: MAX_SLOTS.into(),
        mce_banks: msr_table::MCE_BANKS,
        irqchip: true,
        split_irqchip: true,
        enable_cap: true,
        quirks: KvmQuirks::all().bits() as u32,
        pit: true,
        irqfd: true,
        irqfd_resample: true,
        ioeventfd: true,
        clock: true,
        memory_region2: true,
        readonly_mem: true,
        guest_debug: GUEST_DEBUG,
        manual_dirty_log: dirty_log::MANUAL_OPTIONS,
        dirty_ring: MAX_BYTES,
        xcrs: true,
        sregs2: true,
        sync_regs: true,
        coalesced_page: COALESCED_PAGE as u32,
        msr_features: true,
        stats: true,
        apic_bus_ns: u32::try_from(apic_bus.ns()).unwrap_or(u32::MAX),
        devices: true,
        hyperv: true,
        ..caps::CapInputs::default()
    };
    i64::from(caps::answer(cap, &inputs))
}

/// What decides which features guests are offered; `hardware_paging` as [`cpuid::CpuidInputs::hardware_paging`].
pub(super) fn cpuid_facts(settings: &ModuleSettings, hardware_paging: bool) -> cpuid::CpuidInputs {
    let clock = KvmFeatures::CLOCKSOURCE | KvmFeatures::CLOCKSOURCE2 | KvmFeatures::CLOCKSOURCE_STABLE;
    let mut always = KvmFeatures::NOP_IO_DELAY | KvmFeatures::PV_SEND_IPI;
    if timer::counts_run_delay() {
        always |= KvmFeatures::STEAL_TIME;
    }
    if settings.offers_pv_eoi {
        always |= KvmFeatures::PV_EOI;
    }
    cpuid::CpuidInputs {
        tsc_khz: timer::tsc_khz(),
        hardware_paging,
        la57: false,
        // What second-level tables of four levels can show.
        max_phys_bits: 48,
        xcr0: supported_xcr0(),
        tsc_aux: has_tsc_aux(),
        spec_ctrl: SpecFeatures::of_this_cpu().control != 0,
        lapic: true,
        // The clock needs a TSC that the host itself trusts.
        pv: if timer::is_tsc_stable() { always | clock } else { always },
    }
}
