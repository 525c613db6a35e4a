// SPDX-License-Identifier: GPL-2.0

//! What user space is asked of Hyper-V's interface, and what it asks.
//!
//! Documentation of KVM's API, "KVM_GET_SUPPORTED_HV_CPUID", "KVM_HYPERV_EVENTFD" and KVM_EXIT_HYPERV of "The kvm_run structure".

use super::user;
use crate::abi::run::{self, offset, ExitReason, RunExit};
use crate::abi::{sys, vm as abi};
use crate::arch::hyperv::{DebuggerMsr, HvMsr};
use crate::host::cpu;
use crate::host::eventfd::EventFd;
use crate::machine::mailbox::{VcpuMailbox, MAX_VCPUS};
use crate::machine::reference_timer::ReferenceTimer;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::core::VcpuCore;
use crate::vcpu::hyperv::leaves::{supported, HvInputs};
use crate::vcpu::hyperv::HvExit;
use crate::vcpu::vm::Vm;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Carries KVM_GET_SUPPORTED_HV_CPUID out.
///
/// # Errors
/// `E2BIG` for too little room, `EFAULT`.
#[inline(never)]
pub(super) fn supported_cpuid(has_lapic: bool, arg: u64) -> Result<i64> {
    let mut header: sys::Cpuid2 = user::read(arg)?;
    let shares_cores = cpu::is_smt_possible();
    let entries = supported(&HvInputs { has_lapic, shares_cores, max_vcpus: MAX_VCPUS as u32 });
    if (header.nent as usize) < entries.len() {
        return Err(E2BIG);
    }
    header.nent = entries.len() as u32;
    user::write(arg, &header)?;
    user::write_array::<sys::Cpuid2, _>(arg, &entries)?;
    Ok(0)
}

/// Carries KVM_HYPERV_EVENTFD out.
///
/// # Errors
/// `EINVAL` for a number or a flag that cannot be, and for what is no eventfd; `EBADF`; `EEXIST` for a connection that
/// leads somewhere, `ENOENT` for one that does not; `ENOSPC`, `ENOMEM`, `EFAULT`.
#[inline(never)]
pub(super) fn eventfd<B: VendorBackend>(vm: &Vm<B>, arg: u64) -> Result<i64> {
    let a: abi::HypervEventfd = user::read(arg)?;
    if a.flags & !abi::HYPERV_DEASSIGN != 0 || a.conn_id >= abi::HYPERV_CONNECTIONS {
        return Err(EINVAL);
    }
    let event = match a.flags {
        0 => Some(Arc::new(EventFd::get(a.fd)?, GFP_KERNEL_ACCOUNT)?),
        _ => None,
    };
    vm.machine.hyperv.connect(a.conn_id, event)?;
    Ok(0)
}

/// Gives a vCPU a synthetic interrupt controller: KVM_CAP_HYPERV_SYNIC, and KVM_CAP_HYPERV_SYNIC2, with which the guest's
/// pages keep what they hold.
///
/// # Errors
/// `EINVAL` without local APICs; `ENOMEM`.
pub(super) fn activate_synic<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &Arc<VcpuMailbox>,
    core: &mut VcpuCore<B>,
    keeps_pages: bool,
) -> Result {
    if !vm.machine.irqchip.has_lapics() {
        return Err(EINVAL);
    }
    if core.hyperv.wake_up.is_none() {
        core.hyperv.wake_up = Some(ReferenceTimer::new(mailbox.clone())?);
    }
    core.hyperv.synic.activate(keeps_pages);
    Ok(())
}

/// Returns what user space is told.
pub(super) fn report(exit: HvExit) -> RunExit {
    match exit {
        HvExit::Call { control, params } => {
            let call = run::HypervCall { kind: run::HYPERV_CALL, pad: 0, input: control, result: 0, params };
            RunExit::with(ExitReason::Hyperv, &call)
        }
        HvExit::Synic { register, control, event_page, message_page } => {
            let synic = run::HypervSynic {
                kind: run::HYPERV_SYNIC,
                pad: 0,
                msr: register.index(),
                pad2: 0,
                control,
                evt_page: event_page,
                msg_page: message_page,
            };
            RunExit::with(ExitReason::Hyperv, &synic)
        }
        HvExit::Debugger { msr, control, status, pages: [send_page, recv_page, pending_page] } => {
            let debugger = run::HypervDebugger {
                kind: run::HYPERV_DEBUGGER,
                pad: 0,
                msr: msr.index(),
                pad2: 0,
                control,
                status,
                send_page,
                recv_page,
                pending_page,
            };
            RunExit::with(ExitReason::Hyperv, &debugger)
        }
    }
}

/// Takes user space's answer to an exit that it was told of; `word` reads struct kvm_run.
pub(super) fn complete<B: VendorBackend>(
    vm: &Vm<B>,
    core: &mut VcpuCore<B>,
    exit: HvExit,
    word: impl Fn(usize) -> u64,
) {
    match exit {
        HvExit::Call { .. } => core.complete_call(word(offset::HYPERV_RESULT)),
        HvExit::Debugger { msr: DebuggerMsr::Control, .. } => {
            vm.machine.hyperv.put(HvMsr::Debugger(DebuggerMsr::Status), word(offset::HYPERV_STATUS));
        }
        HvExit::Debugger { .. } | HvExit::Synic { .. } => {}
    }
}
