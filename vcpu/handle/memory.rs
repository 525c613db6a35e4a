// SPDX-License-Identifier: GPL-2.0

//! Faults of the second-level table: memory not mapped yet, or a device.

use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::{insn, mov};
use crate::vcpu::exit::{FaultFlags, GuestPageFault};
use crate::vcpu::outcome::{ExitOutcome, UserExit};
use crate::vcpu::record::count;
use crate::vcpu::second_level::TableFault;

/// Maps memory, or carries out the access to a device.
pub(crate) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, fault: GuestPageFault) -> ExitOutcome {
    if fault.flags.contains(FaultFlags::RESERVED) {
        return cx.core.unknown(cx.record.recorder.last());
    }
    count(&cx.record.stats.page_faults);
    // Before the look-up, so that a slot which comes meanwhile makes it another one.
    let generation = cx.vm.machine.ram.generation();
    if cx.core.no_slot == Some((fault.gpa.gfn(), generation)) {
        return device(cx, &fault);
    }
    let core = &mut *cx.core;
    match core.paging.fault(cx.vm, cx.cpu, &fault, &mut core.slot_hint) {
        TableFault::Mapped | TableFault::Stale => ExitOutcome::Resume,
        TableFault::Blocked(by) => ExitOutcome::Blocked(by),
        // Whoever changes the memory may wait for this CPU, or for its turn on it.
        TableFault::Again => ExitOutcome::HostInterrupt,
        TableFault::Mmio | TableFault::Software => {
            // Writes to a read-only slot come here as well, but its reads find memory.
            if !cx.vm.machine.ram.has_slot(fault.gpa.gfn()) {
                cx.core.no_slot = Some((fault.gpa.gfn(), generation));
            }
            device(cx, &fault)
        }
    }
}

/// Carries out an access to a device.
#[inline]
pub(super) fn device<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, fault: &GuestPageFault) -> ExitOutcome {
    if cx.core.hw.was_delivering() {
        // The access was the processor's, to the IDT, a descriptor table, the TSS or the stack: there is no
        // instruction to carry out.
        let raw = cx.record.recorder.last();
        return cx.core.leave_for_user(UserExit::Undeliverable { raw, gpa: Some(fault.gpa) });
    }
    count(&cx.record.stats.mmio);
    mov::handle(cx, fault).unwrap_or_else(|| insn::emulate(cx))
}
