// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS: what a vCPU is about to be given.
//!
//! Documentation of KVM's API, "KVM_GET_VCPU_EVENTS", "KVM_CAP_EXCEPTION_PAYLOAD". KVM tells an exception that is
//! pending, whose payload (the address of #PF) has not reached its register yet, from one whose delivery has begun. User
//! space that has not asked for that difference gets the second kind alone.

use crate::abi::vcpu as abi;
use crate::arch::addr::Gva;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::machine::choices::{MachineChoices, MachineOptions};
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::core::VcpuCore;
use crate::vcpu::debugger::EntryBars;
use crate::vcpu::event::{EventBlocking, GuestEvent};
use crate::vcpu::state::StateGroups;
use kernel::prelude::*;

/// Returns KVM_GET_VCPU_EVENTS.
pub(super) fn get<B: VendorBackend>(
    choices: &MachineChoices,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
) -> abi::VcpuEvents {
    // What was posted and not yet taken is pending, too.
    core.add_nmis(mailbox.take_requests(VcpuRequests::NMIS).nmis());
    let mut e = <abi::VcpuEvents as zerocopy::FromZeros>::new_zeroed();
    e.flags = abi::VCPUEVENT_VALID_NMI_PENDING | abi::VCPUEVENT_VALID_SHADOW;
    let has_payload = choices.has(MachineOptions::PAYLOAD);
    if has_payload {
        e.flags |= abi::VCPUEVENT_VALID_PAYLOAD;
    } else {
        deliver_payload(core);
    }
    if let Some(x) = core.exception {
        e.exception_pending = has_payload.into();
        e.exception_injected = (!has_payload).into();
        put_exception(&mut e, x.vector, x.error);
        if let Some(gva) = x.cr2 {
            e.exception_has_payload = 1;
            e.exception_payload = gva.0;
        }
    } else if let Some(GuestEvent::Exception { vector, error }) = core.interrupted {
        e.exception_injected = 1;
        put_exception(&mut e, vector, error);
    }
    if let Some(GuestEvent::Interrupt(v)) = core.interrupted {
        e.interrupt_injected = 1;
        e.interrupt_nr = v;
    }
    let b = core.hw.blocking();
    // One kind for both: all that counts when it is set again is whether there is one.
    e.interrupt_shadow = if b.shadow { abi::SHADOW_INT_STI } else { 0 };
    e.nmi_injected = u8::from(core.interrupted == Some(GuestEvent::Nmi));
    e.nmi_pending = core.nmis;
    e.nmi_masked = u8::from(b.nmi);
    if choices.has(MachineOptions::TRIPLE_FAULT_EVENT) {
        e.triple_fault_pending = core.bars.contains(EntryBars::SHUTDOWN).into();
        e.flags |= abi::VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    e
}

fn put_exception(e: &mut abi::VcpuEvents, vector: ExceptionVector, error: Option<u32>) {
    e.exception_nr = vector.0;
    e.exception_has_error_code = u8::from(error.is_some());
    e.exception_error_code = error.unwrap_or(0);
}

/// Puts the address of a pending #PF into CR2, for user space that would not carry it.
fn deliver_payload<B: VendorBackend>(core: &mut VcpuCore<B>) {
    let Some(gva) = core.exception.as_mut().and_then(|e| e.cr2.take()) else { return };
    core.fetch(StateGroups::CONTROL);
    core.state.cr2 = gva.0;
    core.state.mark(StateGroups::CONTROL);
}

/// Carries KVM_SET_VCPU_EVENTS out.
///
/// # Errors
/// `EINVAL` for flags of features that are not offered or not enabled, or an impossible vector.
pub(super) fn set<B: VendorBackend>(
    choices: &MachineChoices,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    e: &abi::VcpuEvents,
) -> Result {
    let mut known =
        abi::VCPUEVENT_VALID_NMI_PENDING | abi::VCPUEVENT_VALID_SIPI_VECTOR | abi::VCPUEVENT_VALID_SHADOW;
    if choices.has(MachineOptions::PAYLOAD) {
        known |= abi::VCPUEVENT_VALID_PAYLOAD;
    }
    if choices.has(MachineOptions::TRIPLE_FAULT_EVENT) {
        known |= abi::VCPUEVENT_VALID_TRIPLE_FAULT;
    }
    let is_pending = e.flags & abi::VCPUEVENT_VALID_PAYLOAD != 0 && e.exception_pending != 0;
    let is_injected = !is_pending && e.exception_injected != 0;
    let is_impossible = e.exception_nr > 31 || e.exception_nr == ExceptionVector::NMI.0;
    if e.flags & !known != 0 || ((is_pending || is_injected) && is_impossible) {
        return Err(EINVAL);
    }
    core.add_nmis(mailbox.take_requests(VcpuRequests::NMIS).nmis());
    let vector = ExceptionVector(e.exception_nr);
    let error = (e.exception_has_error_code != 0).then_some(e.exception_error_code);
    let payload = (is_pending && e.exception_has_payload != 0).then_some(Gva(e.exception_payload));
    core.exception = is_pending.then_some(CpuException { vector, error, cr2: payload });
    core.interrupted = if is_injected {
        Some(GuestEvent::Exception { vector, error })
    } else if e.nmi_injected != 0 {
        Some(GuestEvent::Nmi)
    } else if e.interrupt_injected != 0 {
        Some(GuestEvent::Interrupt(e.interrupt_nr))
    } else {
        None
    };
    let shadow = if e.flags & abi::VCPUEVENT_VALID_SHADOW != 0 {
        e.interrupt_shadow != 0
    } else {
        core.hw.blocking().shadow
    };
    core.hw.set_blocking(EventBlocking { shadow, nmi: e.nmi_masked != 0 });
    if e.flags & abi::VCPUEVENT_VALID_NMI_PENDING != 0 {
        core.nmis = 0;
        core.add_nmis(e.nmi_pending);
    }
    if e.flags & abi::VCPUEVENT_VALID_TRIPLE_FAULT != 0 {
        core.bars.set(EntryBars::SHUTDOWN, e.triple_fault_pending != 0);
    }
    Ok(())
}
