// SPDX-License-Identifier: GPL-2.0

//! KVM_ENABLE_CAP: what user space chooses of its VM before it runs.
//!
//! Documentation of KVM's API, "KVM_ENABLE_CAP" and the sections of the capabilities.

use super::{dirty_ring, eventfd, hyperv, user};
use crate::abi::{caps, run, vm as abi};
use crate::chipset::lapic::BusPeriod;
use crate::machine::choices::{KvmQuirks, MachineOptions};
use crate::machine::irqchip::IrqchipMode;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests, MAX_VCPUS};
use crate::machine::msr_filter::{GuestMsrFilter, MsrRange};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;
use kernel::sync::{Arc, Mutex};
use zerocopy::IntoBytes;

/// What is chosen once, under the VM's configuration lock.
#[derive(Default)]
pub(super) struct ChosenCaps {
    /// There is a device of the module's.
    pub(super) has_devices: bool,
    /// vCPU numbers are below this; 0 where that is not chosen yet.
    max_vcpu_ids: u64,
}

impl ChosenCaps {
    /// A vCPU of that number is about to be made, the highest possible number being settled with the first.
    ///
    /// # Errors
    /// `EINVAL` where it is too high.
    pub(super) fn settle_vcpu_id(&mut self, id: u64) -> Result {
        if self.max_vcpu_ids == 0 {
            self.max_vcpu_ids = MAX_VCPUS as u64;
        }
        if id >= self.max_vcpu_ids {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Returns whether a vCPU of that number could be the boot processor.
    fn could_boot(&self, id: u64) -> bool {
        // As KVM: the limits themselves pass, though no vCPU has such a number.
        id <= MAX_VCPUS as u64 && (self.max_vcpu_ids == 0 || id <= self.max_vcpu_ids)
    }

    fn choose_max_vcpu_id(&mut self, boot_cpu: u32, max: u64) -> Result {
        if max > MAX_VCPUS as u64 || u64::from(boot_cpu) > max {
            return Err(EINVAL);
        }
        match self.max_vcpu_ids {
            0 => self.max_vcpu_ids = max,
            chosen if chosen == max => {}
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}

/// Carries KVM_SET_BOOT_CPU_ID out.
///
/// # Errors
/// `EBUSY` after the first vCPU; `EINVAL` for a number that no vCPU can have.
pub(super) fn set_boot_cpu<B: VendorBackend>(
    vm: &Vm<B>,
    chosen: &ChosenCaps,
    vcpus: usize,
    id: u64,
) -> Result<i64> {
    if vcpus != 0 {
        return Err(EBUSY);
    }
    if !chosen.could_boot(id) {
        return Err(EINVAL);
    }
    vm.machine.interrupts.set_boot_cpu(id as u32);
    Ok(0)
}

/// Carries KVM_ENABLE_CAP of a VM out; `vcpus` have been made. The VM's configuration lock is held.
///
/// # Errors
/// `EINVAL` for flags, for what cannot be enabled, and for arguments or an order that cannot be; `EEXIST` for a second
/// choice of interrupt controllers, or after the first vCPU.
pub(super) fn enable<B: VendorBackend>(
    vm: &Vm<B>,
    chosen: &mut ChosenCaps,
    vcpus: usize,
    lines: &Mutex<eventfd::IrqFds>,
    cap: &abi::EnableCap,
) -> Result<i64> {
    let [arg, ..] = cap.args;
    let choices = &vm.machine.choices;
    if cap.flags != 0 {
        return Err(EINVAL);
    }
    match cap.cap {
        // The older of the two ignores what it does not know.
        caps::DISABLE_QUIRKS => choices.turn_off(KvmQuirks::from_bits_truncate(arg)),
        caps::DISABLE_QUIRKS2 => choices.turn_off(KvmQuirks::from_bits(arg).ok_or(EINVAL)?),
        caps::SPLIT_IRQCHIP => split_irqchip(vm, vcpus, arg)?,
        caps::X2APIC_API => {
            enable_x2apic_api(vm, arg)?;
            eventfd::reroute(lines);
        }
        caps::MAX_VCPU_ID => chosen.choose_max_vcpu_id(vm.machine.interrupts.boot_cpu(), arg)?,
        caps::X86_DISABLE_EXITS if arg & !caps::DISABLE_EXITS != 0 || vcpus != 0 => return Err(EINVAL),
        // PAUSE never exits. What was chosen before stays.
        caps::X86_DISABLE_EXITS if arg & caps::DISABLE_EXITS_HLT != 0 => {
            choices.set(MachineOptions::HALTS_IN_GUEST, true);
        }
        caps::X86_DISABLE_EXITS => {}
        caps::MANUAL_DIRTY_LOG_PROTECT2 if !vm.machine.ram.dirty_mode.choose(arg) => return Err(EINVAL),
        caps::MANUAL_DIRTY_LOG_PROTECT2 => {}
        caps::DIRTY_LOG_RING | caps::DIRTY_LOG_RING_ACQ_REL => {
            dirty_ring::enable(vm, vcpus != 0 || chosen.has_devices, arg as u32)?;
        }
        caps::EXCEPTION_PAYLOAD => choices.set(MachineOptions::PAYLOAD, arg != 0),
        caps::X86_USER_SPACE_MSR => {
            let known = run::MSR_EXIT_INVAL | run::MSR_EXIT_UNKNOWN | run::MSR_EXIT_FILTER;
            let reasons = u32::try_from(arg).ok().filter(|r| r & !known == 0).ok_or(EINVAL)?;
            choices.set_msr_exits(reasons);
        }
        caps::X86_APIC_BUS_CYCLES_NS => choose_apic_bus(vm, vcpus, arg)?,
        caps::MSR_PLATFORM_INFO => choices.set(MachineOptions::HIDES_PLATFORM_INFO, arg == 0),
        caps::X86_TRIPLE_FAULT_EVENT => choices.set(MachineOptions::TRIPLE_FAULT_EVENT, arg != 0),
        caps::HALT_POLL => choices.set_halt_poll_ns(u32::try_from(arg)?),
        caps::EXIT_ON_EMULATION_FAILURE if arg > 1 => return Err(EINVAL),
        caps::EXIT_ON_EMULATION_FAILURE => choices.set(MachineOptions::ENDS_ON_UNKNOWN_INSN, arg != 0),
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// Carries KVM_ENABLE_CAP of a vCPU out.
///
/// # Errors
/// `EINVAL` for flags, for what is not a vCPU's to enable, and for what needs local APICs; `ENOMEM`.
pub(super) fn enable_for_vcpu<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &Arc<VcpuMailbox>,
    core: &mut VcpuCore<B>,
    cap: &abi::EnableCap,
) -> Result {
    match cap.cap {
        _ if cap.flags != 0 => Err(EINVAL),
        caps::HYPERV_SYNIC => hyperv::activate_synic(vm, mailbox, core, false),
        caps::HYPERV_SYNIC2 if cap.args[0] != 0 => Err(EINVAL),
        caps::HYPERV_SYNIC2 => hyperv::activate_synic(vm, mailbox, core, true),
        caps::HYPERV_ENFORCE_CPUID => {
            core.hyperv.rights.is_enforced = cap.args[0] != 0;
            Ok(())
        }
        caps::ENFORCE_PV_FEATURE_CPUID => {
            core.pv.is_enforced = cap.args[0] != 0;
            Ok(())
        }
        _ => Err(EINVAL),
    }
}

/// Carries KVM_X86_SET_MSR_FILTER out. The VM's configuration lock is held, so that a vCPU that is made finds the newest.
///
/// # Errors
/// `EINVAL` for flags and ranges that cannot be, and for a filter that refuses all; `EFAULT`, `ENOMEM`.
pub(super) fn set_msr_filter<B: VendorBackend>(vm: &Vm<B>, given: &abi::MsrFilter) -> Result<i64> {
    let allows_others = given.flags & abi::MSR_FILTER_DEFAULT_DENY == 0;
    let is_empty = given.ranges.iter().all(|r| r.nmsrs == 0);
    if given.flags & !abi::MSR_FILTER_DEFAULT_DENY != 0 || (is_empty && !allows_others) {
        return Err(EINVAL);
    }
    let mut ranges = KVec::with_capacity(given.ranges.len(), GFP_KERNEL_ACCOUNT)?;
    for range in given.ranges.iter().filter(|r| r.nmsrs != 0) {
        ranges.push_within_capacity(msr_range(range)?)?;
    }
    let filter = Arc::new(GuestMsrFilter::new(allows_others, ranges), GFP_KERNEL_ACCOUNT)?;
    vm.machine.choices.set_msr_filter(filter);
    // After it is in place: who takes the request finds this filter or a newer one.
    for vcpu in vm.machine.mailboxes.iter() {
        vcpu.request(VcpuRequests::MSR_FILTER);
    }
    Ok(0)
}

fn msr_range(given: &abi::MsrFilterRange) -> Result<MsrRange> {
    let words = given.nmsrs.div_ceil(64) as usize;
    let bytes = words.saturating_mul(8);
    let is_known = given.flags & !abi::MSR_FILTER_USES == 0 && given.flags != 0;
    if !is_known || bytes > abi::MSR_FILTER_MAX_BITMAP {
        return Err(EINVAL);
    }
    let mut allowed = KVec::from_elem(0u64, words, GFP_KERNEL_ACCOUNT)?;
    user::read_bytes(given.bitmap, allowed.as_mut_bytes())?;
    Ok(MsrRange { uses: given.flags, base: given.base, count: given.nmsrs, allowed })
}

/// Gives the machine local APICs, and user space the pins of I/O APICs.
fn split_irqchip<B: VendorBackend>(vm: &Vm<B>, vcpus: usize, pins: u64) -> Result {
    let pins = u32::try_from(pins).ok().filter(|pins| *pins <= abi::MAX_IRQ_ROUTES).ok_or(EINVAL)?;
    if vm.machine.irqchip.has_lapics() || vcpus != 0 {
        return Err(EEXIST);
    }
    vm.machine.irqchip.choose(IrqchipMode::Split { pins });
    Ok(())
}

/// Chooses the input clock of the local APICs' timers.
fn choose_apic_bus<B: VendorBackend>(vm: &Vm<B>, vcpus: usize, ns: u64) -> Result {
    let period = BusPeriod::new(ns).ok_or(EINVAL)?;
    if !vm.machine.irqchip.has_lapics() {
        return Err(ENXIO);
    }
    if vcpus != 0 {
        return Err(EINVAL);
    }
    vm.machine.choices.set_apic_bus_period(period);
    Ok(())
}

fn enable_x2apic_api<B: VendorBackend>(vm: &Vm<B>, flags: u64) -> Result {
    if flags & !caps::X2APIC_API_FLAGS != 0 {
        return Err(EINVAL);
    }
    let choices = &vm.machine.choices;
    // What was chosen before stays.
    for (flag, option) in [
        (caps::X2APIC_API_USE_32BIT_IDS, MachineOptions::WIDE_IDS),
        (caps::X2APIC_API_DISABLE_BROADCAST_QUIRK, MachineOptions::NO_BROADCAST),
    ] {
        if flags & flag != 0 {
            choices.set(option, true);
        }
    }
    let format = choices.msi_format();
    vm.machine.interrupts.with(|bus, _now, _out| bus.set_msi_format(format));
    Ok(())
}
