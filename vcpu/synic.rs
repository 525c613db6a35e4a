// SPDX-License-Identifier: GPL-2.0

//! The timers of a vCPU's synthetic interrupt controller, looked at when one may be due: outside the window, for their
//! messages go to guest memory.

use super::backend::VendorBackend;
use super::core::VcpuCore;
use super::hyperv::synic::{PostedMessage, SynicState};
use super::hyperv::timer::{message, SynTimer, TimerAction};
use super::hyperv::HvVcpu;
use super::vm::Vm;
use crate::arch::addr::Gpa;
use crate::machine::mailbox::VcpuMailbox;

/// Does what is due, and sets the host's timer for what is due next. Sleeps.
#[inline(never)]
pub(super) fn serve<B: VendorBackend>(vm: &Vm<B>, mailbox: &VcpuMailbox, core: &mut VcpuCore<B>) {
    // Memory that is gone is the guest's loss.
    let _ = vm.machine.ram.until_resident(|| serve_timers(vm, mailbox, core));
    let now = vm.machine.hyperv.time(&vm.machine.clock, core.tsc_offset);
    let hyperv = &mut *core.hyperv;
    let next = hyperv.timers.iter().filter_map(SynTimer::deadline).min();
    if let Some(wake_up) = hyperv.wake_up.as_ref() {
        wake_up.set(next.map(|at| at.saturating_sub(now)));
    }
    let waits = hyperv.timers.iter().any(SynTimer::is_waiting);
    if waits != hyperv.awaits_eoi {
        hyperv.awaits_eoi = waits;
        vm.machine.interrupts.with(|bus, _now, _out| bus.count_sint_waiter(waits));
    }
}

/// Looks at all timers.
///
/// # Errors
/// The address of a page that must be made resident first.
fn serve_timers<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
) -> Result<(), Gpa> {
    let tsc_offset = core.tsc_offset;
    let HvVcpu { synic, timers, .. } = &mut *core.hyperv;
    for (timer, index) in timers.iter_mut().zip(0u32..) {
        let now = vm.machine.hyperv.time(&vm.machine.clock, tsc_offset);
        timer.serve(now, |action| match action {
            // As KVM: one that no local APIC takes waits for nothing that would come.
            TimerAction::Interrupt(vector) => Ok(vm.machine.interrupts.interrupt(mailbox.id, vector)),
            TimerAction::Message { sint, is_lazy, expired } => {
                let bytes = message(index, expired, now);
                send(vm, mailbox, synic, (sint, is_lazy), &bytes)
            }
        })?;
    }
    Ok(())
}

/// Sends a message. Returns whether that is done, or need not be.
///
/// # Errors
/// The address of a page that must be made resident first.
fn send<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    synic: &SynicState,
    (sint, is_lazy): (usize, bool),
    bytes: &[u8],
) -> Result<bool, Gpa> {
    Ok(match synic.post(&*vm.machine.ram, sint, bytes, is_lazy)? {
        PostedMessage::Done => {
            synic.vector(sint).is_some_and(|vector| vm.machine.interrupts.interrupt(mailbox.id, vector))
        }
        PostedMessage::Busy => is_lazy,
        PostedMessage::Nowhere => false,
    })
}
