// SPDX-License-Identifier: GPL-2.0

//! What the number of an MSR reaches, for the guest and for user space.
//!
//! The table ([`crate::vcpu::msr_table`]) says what an MSR is. The guest and KVM_GET_MSRS see the same
//! values; they differ in what they may write.

use super::hyperv::{self, MsrWriter};
use super::lapic;
use crate::arch::addr::is_canonical;
use crate::arch::cpuid::{CpuVendor, KvmFeatures};
use crate::arch::cr::BadCr;
use crate::arch::exception::CpuException;
use crate::arch::msr::{
    KVM_PV_EOI_EN, KVM_STEAL_TIME, KVM_SYSTEM_TIME_NEW, KVM_WALL_CLOCK_NEW, MISC_ENABLE, MISC_ENABLE_MWAIT,
};
use crate::chipset::lapic::TimerClock;
use crate::host::msr::SpecCtrl;
use crate::host::timer;
use crate::machine::choices::{KvmQuirks, MachineOptions};
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::msr_table::{lookup, HandledMsr, MsrPolicy, StateMsr, MISC_ENABLE_FIXED, MISC_ENABLE_KEEP};
use crate::vcpu::outcome::MsrStop;
use crate::vcpu::state::StateGroups;
use crate::vcpu::vm::Vm;

/// The first MSR of x2APIC mode.
const X2APIC: u32 = 0x800;
/// Bits of a linear address, with 4-level paging.
const VA_BITS: u32 = 48;

/// Reads an MSR as the guest does.
///
/// # Errors
/// The fault that RDMSR raises.
#[inline]
pub(crate) fn read<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    index: u32,
    policy: MsrPolicy,
) -> Result<u64, CpuException> {
    match policy {
        MsrPolicy::Handled(HandledMsr::X2Apic(reg)) => lapic::read_msr(cx, X2APIC | u32::from(reg)),
        MsrPolicy::Handled(HandledMsr::HyperV(msr)) => hyperv::read(cx, msr),
        _ if is_hidden(cx, policy) => Err(CpuException::GP0),
        _ => get_as(cx.vm, cx.mailbox, cx.core, index, policy).ok_or(CpuException::GP0),
    }
}

/// Returns whether the vCPU's CPUID, or user space's choice, keeps an MSR from the guest that user space can use.
#[inline]
fn is_hidden<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, policy: MsrPolicy) -> bool {
    match policy {
        MsrPolicy::Handled(HandledMsr::TscAux) => !cx.core.cpuid.has_tsc_aux(),
        MsrPolicy::Handled(HandledMsr::TscAdjust) => !cx.core.cpuid.has_tsc_adjust(),
        // The microcode's revision is there whatever happens.
        MsrPolicy::HostSet { drops: false, .. } => {
            cx.vm.machine.choices.has(MachineOptions::HIDES_PLATFORM_INFO)
        }
        _ => false,
    }
}

/// Writes an MSR as the guest does.
///
/// # Errors
/// For one that WRMSR faults for, and for what comes before or after it.
#[inline]
pub(crate) fn write<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    index: u32,
    policy: MsrPolicy,
    value: u64,
) -> Result<(), MsrStop> {
    match policy {
        MsrPolicy::Handled(HandledMsr::X2Apic(reg)) => {
            Ok(lapic::write_msr(cx, X2APIC | u32::from(reg), value)?)
        }
        MsrPolicy::Handled(HandledMsr::HyperV(msr)) => hyperv::write(cx, msr, value),
        MsrPolicy::Handled(HandledMsr::TscDeadline) => {
            lapic::set_tsc_deadline(cx, value);
            Ok(())
        }
        MsrPolicy::Handled(HandledMsr::ApicBase) => {
            let reserved = cx.core.cpuid.apic_base_reserved();
            cx.core.lapic.as_mut().ok_or(MsrStop::Refused)?.set_base(value, reserved)?;
            cx.core.publish_apic(cx.mailbox, &cx.vm.machine);
            Ok(())
        }
        _ if is_hidden(cx, policy) => Err(MsrStop::Refused),
        MsrPolicy::Handled(HandledMsr::TscAux) => {
            let value = tsc_aux(cx.core, value).ok_or(MsrStop::Refused)?;
            cx.core.tsc_aux = value;
            // Entries do not switch it: the processor has the guest's value for as long as the window is open.
            if let Some(aux) = cx.tsc_aux.as_mut() {
                aux.set(value);
            }
            Ok(())
        }
        // What the guest does to one of the two, it does to both. SDM, "Time-Stamp Counter Adjustment".
        MsrPolicy::Handled(HandledMsr::Tsc) => {
            let offset = value.wrapping_sub(timer::rdtsc());
            move_tsc(cx, offset.wrapping_sub(cx.core.tsc_offset));
            Ok(())
        }
        MsrPolicy::Handled(HandledMsr::TscAdjust) => {
            move_tsc(cx, value.wrapping_sub(cx.core.tsc_adjust));
            Ok(())
        }
        MsrPolicy::Handled(HandledMsr::SpecCtrl) => {
            if !set_as(cx.vm, cx.mailbox, cx.core, index, policy, value) {
                return Err(MsrStop::Refused);
            }
            // From the next entry on. Outside the guest the host's own value stays in force.
            *cx.spec_ctrl = SpecCtrl::new(cx.core.spec_ctrl, cx.vm.speculation, cx.cpu);
            Ok(())
        }
        MsrPolicy::Handled(HandledMsr::PredCmd) => {
            if value & !1 != 0 || !cx.vm.speculation.barrier {
                return Err(MsrStop::Refused);
            }
            if value != 0 {
                // Here and now: the guest means the CPU that it runs on.
                cx.vm.speculation.barrier(cx.cpu);
            }
            Ok(())
        }
        MsrPolicy::Handled(HandledMsr::MiscEnable) if !may_switch(cx, value) => Err(MsrStop::Refused),
        MsrPolicy::HostSet { drops: true, .. } => Ok(()),
        MsrPolicy::ReadOnly(_)
        | MsrPolicy::HostSet { drops: false, .. }
        | MsrPolicy::Handled(HandledMsr::McgCap) => Err(MsrStop::Refused),
        _ if set_as(cx.vm, cx.mailbox, cx.core, index, policy, value) => Ok(()),
        _ => Err(MsrStop::Refused),
    }
}

/// Reads an MSR. `None`: there is none.
pub(crate) fn get<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    index: u32,
) -> Option<u64> {
    get_as(vm, mailbox, core, index, lookup(index)?)
}

#[inline(always)]
fn get_as<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    index: u32,
    policy: MsrPolicy,
) -> Option<u64> {
    Some(match policy {
        MsrPolicy::State(msr) => {
            core.fetch(StateGroups::SYSCALL | StateGroups::CONTROL | StateGroups::SEGMENTS);
            *state_msr(core, msr)
        }
        MsrPolicy::Handled(h) => match h {
            HandledMsr::Tsc => core.guest_tsc(),
            HandledMsr::TscAdjust => core.tsc_adjust,
            HandledMsr::TscDeadline => core.lapic.as_ref()?.tsc_deadline(vm.machine.clock.time.now()),
            HandledMsr::ApicBase => core.lapic.as_ref()?.base(),
            HandledMsr::X2Apic(reg) => {
                core.lapic.as_mut()?.read_msr(X2APIC | u32::from(reg), vm.machine.clock.time.now()).ok()?
            }
            HandledMsr::TscAux => u64::from(core.tsc_aux),
            HandledMsr::HyperV(msr) => hyperv::get(vm, mailbox, core, msr)?,
            HandledMsr::SpecCtrl if vm.speculation.control != 0 => u64::from(core.spec_ctrl),
            HandledMsr::McgCap => core.msrs.mcg_cap,
            HandledMsr::MiscEnable => core.msrs.get(MISC_ENABLE),
            // PRED_CMD can only be written.
            HandledMsr::SpecCtrl | HandledMsr::PredCmd => return None,
            HandledMsr::KvmWallClock
            | HandledMsr::KvmSystemTime
            | HandledMsr::KvmPvEoi
            | HandledMsr::KvmStealTime
                if !has_pv_msr(core, index) =>
            {
                return None
            }
            HandledMsr::KvmWallClock => core.pv.wall_clock,
            HandledMsr::KvmSystemTime => core.pv.system_time,
            HandledMsr::KvmPvEoi => core.pv.eoi,
            HandledMsr::KvmStealTime => core.pv.steal.msr(),
        },
        MsrPolicy::Stored(_) if !core.msrs.has(index) => return None,
        MsrPolicy::Stored(slot) | MsrPolicy::HostSet { slot, .. } => core.msrs.read(slot),
        MsrPolicy::Fixed(v) | MsrPolicy::ReadOnly(v) => v,
    })
}

/// Writes an MSR, as user space may and, but for what [`write`] does itself, the guest. Returns whether
/// the value is allowed.
pub(crate) fn set<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    index: u32,
    value: u64,
) -> bool {
    lookup(index).is_some_and(|policy| set_as(vm, mailbox, core, index, policy, value))
}

#[inline]
fn set_as<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    index: u32,
    policy: MsrPolicy,
    value: u64,
) -> bool {
    match policy {
        MsrPolicy::State(StateMsr::Efer) => set_efer(core, value),
        MsrPolicy::State(msr) => {
            let value = msr.kept(value, core.cpuid.vendor());
            let ok = msr.accepts(value, VA_BITS);
            if ok {
                core.fetch(StateGroups::SYSCALL | StateGroups::SEGMENTS);
                *state_msr(core, msr) = value;
                core.state.mark(StateGroups::SYSCALL | StateGroups::SEGMENTS);
            }
            ok
        }
        MsrPolicy::Handled(
            HandledMsr::KvmWallClock
            | HandledMsr::KvmSystemTime
            | HandledMsr::KvmPvEoi
            | HandledMsr::KvmStealTime,
        ) if !has_pv_msr(core, index) => false,
        MsrPolicy::Handled(h) => set_handled(vm, mailbox, core, h, value),
        MsrPolicy::Stored(slot) => core.msrs.has(index) && core.msrs.write(slot, value).is_ok(),
        MsrPolicy::HostSet { slot, .. } => core.msrs.write(slot, value).is_ok(),
        MsrPolicy::Fixed(_) => true,
        MsrPolicy::ReadOnly(v) => v == value,
    }
}

/// Returns whether the guest may give MISC_ENABLE a value: not one that moves what is fixed, nor one that switches MONITOR
/// and MWAIT for a processor that cannot have them. As KVM.
fn may_switch<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, value: u64) -> bool {
    let switched = cx.core.msrs.get(MISC_ENABLE) ^ value;
    let follows = !cx.vm.machine.choices.has_quirk(KvmQuirks::MISC_ENABLE_NO_MWAIT);
    let lacks_mwait = switched & MISC_ENABLE_MWAIT != 0 && follows && !cx.core.cpuid.has_sse3();
    switched & MISC_ENABLE_FIXED == 0 && !lacks_mwait
}

/// Returns whether the vCPU has an MSR of the paravirtual interface: see [`VcpuCore::has_pv`].
fn has_pv_msr<B: VendorBackend>(core: &VcpuCore<B>, index: u32) -> bool {
    let feature = match index {
        KVM_PV_EOI_EN => KvmFeatures::PV_EOI,
        KVM_STEAL_TIME => KvmFeatures::STEAL_TIME,
        KVM_WALL_CLOCK_NEW | KVM_SYSTEM_TIME_NEW => KvmFeatures::CLOCKSOURCE2,
        _ => KvmFeatures::CLOCKSOURCE,
    };
    core.has_pv(feature)
}

/// Returns what TSC_AUX keeps of `value`, of which AMD's processors drop the upper half; `None` where it is refused.
fn tsc_aux<B: VendorBackend>(core: &VcpuCore<B>, value: u64) -> Option<u32> {
    match core.cpuid.vendor() {
        CpuVendor::Amd => Some(value as u32),
        CpuVendor::Intel => u32::try_from(value).ok(),
    }
}

/// The guest's time now.
fn clock<B: VendorBackend>(vm: &Vm<B>, core: &VcpuCore<B>) -> TimerClock {
    let clock = &vm.machine.clock;
    TimerClock { now: clock.time.now(), tsc: core.guest_tsc(), ns_per_tick: clock.ns_per_tick }
}

/// Adds to the guest's TSC, and to its account of that.
fn move_tsc<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, added: u64) {
    cx.core.tsc_adjust = cx.core.tsc_adjust.wrapping_add(added);
    set_tsc_offset(cx.vm, cx.mailbox, cx.core, cx.core.tsc_offset.wrapping_add(added));
}

/// Sets what is added to the host's TSC, with all that goes by it.
pub(crate) fn set_tsc_offset<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    offset: u64,
) {
    core.set_tsc_offset(offset);
    // After the offset: a TSC deadline is a value of the guest's counter, and is worked out anew by the new one.
    let clock = clock(vm, core);
    if let Some(l) = core.lapic.as_mut() {
        l.tsc_changed(&clock);
    }
    core.arm_timer(mailbox, &vm.machine.clock.time);
    // The paravirtual clock's page has a value of the guest's counter, too, and so has Hyper-V's.
    vm.machine.hyperv.note_clock_change();
    mailbox.request_self(VcpuRequests::CLOCK);
}

fn set_handled<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    h: HandledMsr,
    value: u64,
) -> bool {
    match h {
        // From outside, each is set alone.
        HandledMsr::Tsc => set_tsc_offset(vm, mailbox, core, value.wrapping_sub(timer::rdtsc())),
        HandledMsr::TscAdjust => core.tsc_adjust = value,
        HandledMsr::ApicBase => {
            if !core.restore_apic_base(value) {
                return false;
            }
            core.publish_apic(mailbox, &vm.machine);
        }
        HandledMsr::TscDeadline => {
            let clock = clock(vm, core);
            let Some(l) = core.lapic.as_mut() else { return false };
            // It asks for nothing but the timer to be set, which follows.
            let _ = l.set_tsc_deadline(value, &clock);
            core.arm_timer(mailbox, &vm.machine.clock.time);
        }
        // As every read-only MSR, it takes the value that it has.
        HandledMsr::McgCap => return value == core.msrs.mcg_cap,
        HandledMsr::MiscEnable => {
            core.msrs.put(MISC_ENABLE, value & MISC_ENABLE_KEEP);
            core.note_misc_enable(&vm.machine.choices);
        }
        HandledMsr::SpecCtrl => match u32::try_from(value) {
            Ok(v) if vm.speculation.control != 0 && v & !vm.speculation.control == 0 => core.spec_ctrl = v,
            _ => return false,
        },
        HandledMsr::X2Apic(_) | HandledMsr::PredCmd => return false,
        HandledMsr::HyperV(msr) => {
            // Memory that is gone takes no page.
            let done = vm.machine.ram.until_resident(|| {
                match hyperv::set(vm, mailbox, core, (msr, MsrWriter::User), value) {
                    Err(MsrStop::Missing(gpa)) => Err(gpa),
                    done => Ok(done.is_ok()),
                }
            });
            return done.unwrap_or(false);
        }
        HandledMsr::TscAux => match tsc_aux(core, value) {
            Some(v) => core.tsc_aux = v,
            None => return false,
        },
        HandledMsr::KvmWallClock => {
            core.pv.wall_clock = value;
            core.pv.wall_wanted = true;
            // Written before the next entry, outside the window: the page may have to be made resident, which sleeps.
            mailbox.request_self(VcpuRequests::CLOCK);
        }
        HandledMsr::KvmSystemTime => {
            core.pv.system_time = value;
            mailbox.request_self(VcpuRequests::CLOCK);
        }
        HandledMsr::KvmPvEoi => {
            // The word is aligned to 4 bytes, and bit 1 is reserved: Linux, "KVM-specific MSRs".
            if !is_canonical(value, VA_BITS) || value & 2 != 0 {
                return false;
            }
            core.pv.set_eoi(value);
        }
        HandledMsr::KvmStealTime => {
            // A host that does not count it can still be told not to: a state that is restored has the register.
            let can_count = value == 0 || timer::counts_run_delay();
            return can_count && is_canonical(value, VA_BITS) && core.pv.steal.set_msr(value);
        }
    }
    true
}

/// Returns the register that a state MSR stands for.
fn state_msr<B: VendorBackend>(core: &mut VcpuCore<B>, msr: StateMsr) -> &mut u64 {
    let s = &mut core.state;
    match msr {
        StateMsr::Efer => &mut s.efer,
        StateMsr::Star => &mut s.syscall.star,
        StateMsr::Lstar => &mut s.syscall.lstar,
        StateMsr::Cstar => &mut s.syscall.cstar,
        StateMsr::Sfmask => &mut s.syscall.sfmask,
        StateMsr::FsBase => &mut s.segs[crate::arch::segment::SegReg::Fs as usize].base,
        StateMsr::GsBase => &mut s.segs[crate::arch::segment::SegReg::Gs as usize].base,
        StateMsr::KernelGsBase => &mut s.syscall.kernel_gs_base,
        StateMsr::SysenterCs => &mut s.syscall.sysenter_cs,
        StateMsr::SysenterEsp => &mut s.syscall.sysenter_esp,
        StateMsr::SysenterEip => &mut s.syscall.sysenter_eip,
        StateMsr::Pat => &mut s.syscall.pat,
    }
}

fn set_efer<B: VendorBackend>(core: &mut VcpuCore<B>, value: u64) -> bool {
    core.fetch(StateGroups::CONTROL | StateGroups::SEGMENTS);
    match core.cpuid.cr_rules().check_efer(&core.state.control(), value) {
        Ok(write) => core.state.set_control(&write.state),
        Err(BadCr) => return false,
    }
    true
}
