// SPDX-License-Identifier: GPL-2.0

//! The MSRs of Hyper-V's interface: the partition's, and those of one virtual processor.
//!
//! TLFS, "Virtual Processor Register Names and MSRs". User space may write more than the guest: where a guest's write
//! does something, user space puts back what was there, and asks for nothing.

use super::lapic;
use crate::abi::rvmm::VENDOR_SVM;
use crate::arch::addr::Gpa;
use crate::arch::exception::CpuException;
use crate::arch::hyperv::{DebuggerMsr, HvMsr, SynicMsr, CRASH_NOTIFY, PAGE_ADDRESS, PAGE_ENABLED};
use crate::chipset::lapic::SyntheticReg;
use crate::chipset::pm::PlatformRequest;
use crate::host::timer;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests, MAX_VCPUS};
use crate::machine::pvclock::{ENABLED, REFERENCE_UNIT_NS};
use crate::mmu::mem::{GuestMem, MemError};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::debugger::EntryBars;
use crate::vcpu::hyperv::timer::is_direct;
use crate::vcpu::hyperv::HvExit;
use crate::vcpu::outcome::{MsrStop, UserExit};
use crate::vcpu::vm::Vm;

/// Hz of a clock whose period is 1 ns.
const GHZ: u64 = 1_000_000_000;
/// What a page holds that the guest gives for messages or events.
const EMPTY_PAGE: &[u8; 4096] = &[0; 4096];
/// VMCALL and a near return.
const VMCALL_PAGE: [u8; 4] = [0x0f, 0x01, 0xc1, 0xc3];
/// VMMCALL and a near return.
const VMMCALL_PAGE: [u8; 4] = [0x0f, 0x01, 0xd9, 0xc3];

/// Who writes an MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MsrWriter {
    /// The guest, by WRMSR.
    Guest,
    /// User space.
    User,
}

/// Returns the register of the local APIC that an MSR is.
fn apic_register(msr: HvMsr) -> Option<SyntheticReg> {
    match msr {
        HvMsr::Eoi => Some(SyntheticReg::Eoi),
        HvMsr::Icr => Some(SyntheticReg::Icr),
        HvMsr::Tpr => Some(SyntheticReg::Tpr),
        _ => None,
    }
}

/// Reads an MSR as the guest does.
///
/// # Errors
/// #GP for one that its CPUID does not offer, and for one that can only be written.
pub(super) fn read<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, msr: HvMsr) -> Result<u64, CpuException> {
    if !cx.core.hyperv.rights.allows(msr) {
        return Err(CpuException::GP0);
    }
    let is_hidden = match msr {
        HvMsr::Debugger(_) => !cx.core.hyperv.rights.has_debugger(),
        HvMsr::Synic(_) => !cx.core.hyperv.synic.is_active,
        _ => false,
    };
    let value = if is_hidden { None } else { get(cx.vm, cx.mailbox, cx.core, msr) };
    value.ok_or(CpuException::GP0)
}

/// Reads an MSR. `None`: it cannot be read.
pub(super) fn get<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &VcpuCore<B>,
    msr: HvMsr,
) -> Option<u64> {
    let partition = &vm.machine.hyperv;
    Some(match msr {
        HvMsr::TimeRefCount => partition.time(&vm.machine.clock, core.tsc_offset),
        HvMsr::ReferenceTsc => partition.reference_page(),
        HvMsr::Reset => 0,
        HvMsr::VpIndex => mailbox.vp_index().into(),
        HvMsr::VpRuntime => run_time().wrapping_add(core.hyperv.runtime_offset),
        HvMsr::TscFrequency => u64::from(timer::tsc_khz()).wrapping_mul(1000),
        HvMsr::ApicFrequency => GHZ.checked_div(vm.machine.choices.apic_bus_period().ns())?,
        HvMsr::AssistPage => core.hyperv.assist_page,
        HvMsr::Eoi | HvMsr::Icr | HvMsr::Tpr => core.lapic.as_ref()?.read_synthetic(apic_register(msr)?)?,
        HvMsr::Synic(register) => core.hyperv.synic.get(register),
        HvMsr::TimerConfig(n) => core.hyperv.timers.get(usize::from(n))?.config(),
        HvMsr::TimerCount(n) => core.hyperv.timers.get(usize::from(n))?.count(),
        HvMsr::GuestOsId
        | HvMsr::HypercallPage
        | HvMsr::CrashParameter(_)
        | HvMsr::CrashControl
        | HvMsr::Reenlightenment
        | HvMsr::TscEmulationControl
        | HvMsr::TscEmulationStatus
        | HvMsr::TscInvariantControl
        | HvMsr::Debugger(_) => partition.get(msr),
    })
}

/// Returns how long the calling thread has run, in units of 100 ns.
fn run_time() -> u64 {
    timer::run_time_ns() / REFERENCE_UNIT_NS
}

/// Writes an MSR as the guest does.
///
/// # Errors
/// #GP for one that its CPUID does not offer, or that takes no such value; for what is to be done first, or then.
pub(super) fn write<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    msr: HvMsr,
    value: u64,
) -> Result<(), MsrStop> {
    if !cx.core.hyperv.rights.allows(msr) {
        return Err(MsrStop::Refused);
    }
    let partition = &cx.vm.machine.hyperv;
    match msr {
        HvMsr::Eoi | HvMsr::Icr | HvMsr::Tpr => {
            let register = apic_register(msr).ok_or(MsrStop::Refused)?;
            return Ok(lapic::write_synthetic(cx, register, value)?);
        }
        HvMsr::TimeRefCount
        | HvMsr::VpIndex
        | HvMsr::VpRuntime
        | HvMsr::TscFrequency
        | HvMsr::ApicFrequency => return Err(MsrStop::Refused),
        HvMsr::Reset if value == 1 => {
            cx.vm.machine.power.note(PlatformRequest::Reset);
            cx.mailbox.request_self(VcpuRequests::EXIT);
        }
        // The parameters are there for user space to read; what the guest says of them is not kept.
        HvMsr::CrashControl if value & CRASH_NOTIFY != 0 => {
            cx.vm.machine.power.note_crash();
            cx.mailbox.request_self(VcpuRequests::EXIT);
        }
        HvMsr::CrashControl => {}
        HvMsr::TscEmulationStatus if value != 0 => return Err(MsrStop::Refused),
        // Once CPUID shows it, that stays.
        HvMsr::TscInvariantControl if value == 0 && partition.get(msr) != 0 => return Err(MsrStop::Refused),
        HvMsr::Debugger(_) if !cx.core.hyperv.rights.has_debugger() => return Err(MsrStop::Refused),
        HvMsr::TimerConfig(_) if is_direct(value) && !cx.core.hyperv.rights.allows_direct_timers() => {
            return Err(MsrStop::Refused)
        }
        _ => return set(cx.vm, cx.mailbox, cx.core, (msr, MsrWriter::Guest), value),
    }
    Ok(())
}

/// Writes an MSR, as user space may and, but for what [`write`] does itself, the guest.
///
/// # Errors
/// For a value that is not taken; for what is to be done first, or then.
pub(super) fn set<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    (msr, writer): (HvMsr, MsrWriter),
    value: u64,
) -> Result<(), MsrStop> {
    let partition = &vm.machine.hyperv;
    match msr {
        HvMsr::GuestOsId => partition.set_guest_os(value),
        HvMsr::HypercallPage => return set_hypercall_page(vm, value),
        HvMsr::ReferenceTsc => {
            partition.set_reference_page(value, writer == MsrWriter::Guest);
            // Written before the next entry, outside the window.
            mailbox.request_self(VcpuRequests::CLOCK);
        }
        HvMsr::CrashControl => partition.put(msr, value & CRASH_NOTIFY),
        HvMsr::TscInvariantControl if value > 1 => return Err(MsrStop::Refused),
        HvMsr::Debugger(register) => return set_debugger(vm, core, (register, writer), value),
        HvMsr::VpIndex => {
            let index = value as u32;
            if index as usize >= MAX_VCPUS {
                return Err(MsrStop::Refused);
            }
            mailbox.set_vp_index(index);
        }
        HvMsr::VpRuntime => core.hyperv.runtime_offset = value.wrapping_sub(run_time()),
        HvMsr::AssistPage => return set_assist_page(vm, core, value),
        // They take any value, and keep none.
        HvMsr::Reset | HvMsr::TimeRefCount | HvMsr::TscFrequency | HvMsr::ApicFrequency => {}
        // A command, which only the guest gives; what it comes to is KVM_SET_LAPIC's to set.
        HvMsr::Eoi | HvMsr::Icr | HvMsr::Tpr => return Err(MsrStop::Refused),
        HvMsr::Synic(register) => return set_synic(vm, mailbox, core, (register, writer), value),
        HvMsr::TimerConfig(n) | HvMsr::TimerCount(n) => {
            let by_guest = writer == MsrWriter::Guest;
            // As KVM: without the controller user space may put back that there is nothing.
            if !core.hyperv.synic.is_active && (by_guest || value != 0) {
                return Err(MsrStop::Refused);
            }
            let timer = core.hyperv.timers.get_mut(usize::from(n)).ok_or(MsrStop::Refused)?;
            if matches!(msr, HvMsr::TimerConfig(_)) {
                timer.set_config(value);
            } else {
                timer.set_count(value, by_guest);
            }
            mailbox.request_self(VcpuRequests::SYNIC);
        }
        HvMsr::CrashParameter(_)
        | HvMsr::Reenlightenment
        | HvMsr::TscEmulationControl
        | HvMsr::TscEmulationStatus
        | HvMsr::TscInvariantControl => partition.put(msr, value),
    }
    Ok(())
}

/// What a copy to guest memory that did not succeed comes to.
fn stop(why: MemError) -> MsrStop {
    match why {
        MemError::NotResident(gpa) => MsrStop::Missing(gpa),
        MemError::NoSlot(_) => MsrStop::Refused,
    }
}

/// Sets MSR HYPERCALL: puts the code by which a guest makes hypercalls into its page. A guest that has not said which
/// one it is has none.
fn set_hypercall_page<B: VendorBackend>(vm: &Vm<B>, value: u64) -> Result<(), MsrStop> {
    let partition = &vm.machine.hyperv;
    if partition.get(HvMsr::GuestOsId) == 0 {
        return Ok(());
    }
    if value & PAGE_ENABLED != 0 {
        let code = if B::VENDOR == VENDOR_SVM { VMMCALL_PAGE } else { VMCALL_PAGE };
        vm.machine.ram.write(Gpa(value & PAGE_ADDRESS), &code).map_err(stop)?;
    }
    partition.put(HvMsr::HypercallPage, value);
    Ok(())
}

/// Sets MSR VP_ASSIST_PAGE. Its first word is where the guest may end interrupts without an exit, as by KVM's own
/// interface; the rest is the guest's.
fn set_assist_page<B: VendorBackend>(vm: &Vm<B>, core: &mut VcpuCore<B>, value: u64) -> Result<(), MsrStop> {
    let mut word = 0;
    if value & PAGE_ENABLED != 0 {
        let at = value & PAGE_ADDRESS;
        vm.machine.ram.write(Gpa(at), &0u32.to_le_bytes()).map_err(stop)?;
        word = at | ENABLED;
    }
    core.hyperv.assist_page = value;
    core.pv.set_eoi(word);
    Ok(())
}

/// Sets a register of the synthetic interrupt controller. Some of what the guest writes user space is told of.
fn set_synic<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    (register, writer): (SynicMsr, MsrWriter),
    value: u64,
) -> Result<(), MsrStop> {
    let by_guest = writer == MsrWriter::Guest;
    if !core.hyperv.synic.is_active {
        // As KVM: user space may put back that there is nothing.
        return if by_guest || value != 0 { Err(MsrStop::Refused) } else { Ok(()) };
    }
    if let Some(page) = core.hyperv.synic.page_to_clear(register, value).filter(|_| by_guest) {
        vm.machine.ram.write(page, EMPTY_PAGE).map_err(stop)?;
    }
    if !core.hyperv.synic.set(register, value, by_guest) {
        return Err(MsrStop::Refused);
    }
    match register {
        SynicMsr::Source(n) => {
            let sint = usize::from(n);
            mailbox.sints.set(sint, core.hyperv.synic.vector(sint));
            core.bars.set(EntryBars::AUTO_EOI, core.hyperv.synic.has_auto_eoi());
        }
        SynicMsr::EndOfMessage => {
            if core.hyperv.retry_timers() {
                mailbox.request_self(VcpuRequests::SYNIC);
            }
            let vp_index = mailbox.vp_index();
            vm.machine.interrupts.with(|bus, _now, out| bus.end_of_message(vp_index, out));
        }
        _ => {}
    }
    if !by_guest || !matches!(register, SynicMsr::Control | SynicMsr::EventPage | SynicMsr::MessagePage) {
        return Ok(());
    }
    let synic = &core.hyperv.synic;
    core.leave_for_user(UserExit::HyperV(HvExit::Synic {
        register,
        control: synic.get(SynicMsr::Control),
        event_page: synic.get(SynicMsr::EventPage),
        message_page: synic.get(SynicMsr::MessagePage),
    }));
    Err(MsrStop::Told)
}

/// Sets a register of the debugger. What the guest asks of it, user space does.
fn set_debugger<B: VendorBackend>(
    vm: &Vm<B>,
    core: &mut VcpuCore<B>,
    (register, writer): (DebuggerMsr, MsrWriter),
    value: u64,
) -> Result<(), MsrStop> {
    let partition = &vm.machine.hyperv;
    let get = |register| partition.get(HvMsr::Debugger(register));
    partition.put(HvMsr::Debugger(register), value);
    let is_asked = matches!(register, DebuggerMsr::Control | DebuggerMsr::PendingPage);
    if !is_asked || writer == MsrWriter::User {
        return Ok(());
    }
    core.leave_for_user(UserExit::HyperV(HvExit::Debugger {
        msr: register,
        control: get(DebuggerMsr::Control),
        status: get(DebuggerMsr::Status),
        pages: [DebuggerMsr::SendPage, DebuggerMsr::ReceivePage, DebuggerMsr::PendingPage].map(get),
    }));
    Err(MsrStop::Told)
}
