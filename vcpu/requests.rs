// SPDX-License-Identifier: GPL-2.0

//! What others ask of a vCPU, taken by its own thread.

use super::backend::VendorBackend;
use super::core::{signature, VcpuActivity, VcpuCore};
use super::inject::{take_eoi, take_interrupts};
use super::synic;
use super::vm::Vm;
use crate::host::cpu;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::machine::service::function::ServiceLeft;

/// What can be done inside the window, without sleeping and without leaving guest mode's state.
pub(crate) const QUICK: VcpuRequests = VcpuRequests::INTERRUPT
    .union(VcpuRequests::TIMER)
    .union(VcpuRequests::NMIS)
    .union(VcpuRequests::TLB_FLUSH)
    .union(VcpuRequests::EXTINT);

/// Takes what others asked of this vCPU, as far as it is in `which`.
pub(crate) fn take_requests<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    which: VcpuRequests,
) {
    let asked = mailbox.take_requests(which);
    if asked.is_empty() {
        return;
    }
    if asked.contains(VcpuRequests::INTERRUPT) {
        take_interrupts(vm, mailbox, core);
    }
    if asked.contains(VcpuRequests::TIMER) {
        core.take_timer(mailbox, &vm.machine.clock);
    }
    if asked.intersects(VcpuRequests::NMIS) {
        core.add_nmis(asked.nmis());
    }
    if asked.contains(VcpuRequests::TLB_FLUSH) {
        core.controls.flush_tlb();
        core.paging.flushed();
    }
    if !QUICK.contains(asked) {
        take_rare(vm, mailbox, core, asked);
    }
}

/// Takes what is not done inside the window.
#[inline(never)]
fn take_rare<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    asked: VcpuRequests,
) {
    if asked.contains(VcpuRequests::INIT) {
        core.init(signature());
        core.publish_apic(mailbox, &vm.machine);
        // The boot processor goes to its reset vector, all others wait for SIPI. SDM, "Multiple-Processor (MP)
        // Initialization".
        core.mp = if mailbox.id == vm.machine.interrupts.boot_cpu() {
            VcpuActivity::Runnable
        } else {
            VcpuActivity::InitReceived
        };
    }
    // After INIT: one that was sent before it has been forgotten, so this one came later.
    if asked.contains(VcpuRequests::SIPI) && core.mp == VcpuActivity::InitReceived {
        core.start_up(mailbox.sipi_vector());
    }
    if asked.contains(VcpuRequests::FLUSH_WAIT) {
        wait_for_flushes(vm, mailbox);
    }
    if asked.contains(VcpuRequests::CLOCK) {
        // Memory that is gone is the guest's loss.
        let _ = vm.machine.ram.until_resident(|| core.publish_clock(vm));
    }
    // After the clock, by which the timers go.
    if asked.contains(VcpuRequests::SYNIC)
        || (asked.contains(VcpuRequests::CLOCK) && core.hyperv.synic.is_active)
    {
        synic::serve(vm, mailbox, core);
    }
    if asked.contains(VcpuRequests::MSR_FILTER) {
        core.set_msr_filter(vm.machine.choices.msr_filter());
    }
    if asked.contains(VcpuRequests::EOI) {
        // As above: the interrupt stays in service.
        let _ = vm.machine.ram.until_resident(|| take_eoi(vm, mailbox, core).map_or(Ok(()), Err));
    }
    if asked.contains(VcpuRequests::INLINE_SERVICE) {
        if let Some(queue) = core.deferred.take() {
            vm.machine.pci.serve_inline(queue);
        }
    }
    if asked.contains(VcpuRequests::SERVICE) {
        let is_left = match vm.machine.pci.serve_waiting() {
            ServiceLeft::Nothing => false,
            // Signals, and what others ask, come first.
            ServiceLeft::More => true,
            // Memory that is gone is the guest's loss.
            ServiceLeft::NotResident(gpa) => vm.machine.ram.fault_in(gpa, true).is_ok(),
        };
        if is_left {
            mailbox.request_self(VcpuRequests::SERVICE);
        }
    }
}

/// Waits until no other vCPU that is to flush its TLB runs the guest with what it has: each has taken an interrupt since
/// it was asked, and flushes before its next entry.
#[cold]
#[inline(never)]
fn wait_for_flushes<B: VendorBackend>(vm: &Vm<B>, mailbox: &VcpuMailbox) {
    for vcpu in vm.machine.mailboxes.iter().filter(|vcpu| vcpu.id != mailbox.id) {
        if vcpu.is_requested(VcpuRequests::TLB_FLUSH) {
            if let Some(cpu) = vcpu.running_on() {
                cpu::sync(cpu);
            }
        }
    }
}
