// SPDX-License-Identifier: GPL-2.0

//! What a guest is given with an entry, and what an exit says of it: ask, then accept.
//!
//! Before an entry the highest event is asked for without being taken ([`prepare`]); it counts as delivered when the
//! exit has come and did not cut its delivery short ([`commit`]).

use super::backend::{BackendVcpu, VendorBackend};
use super::controls::EntryTpr;
use super::core::VcpuCore;
use super::debugger::EntryBars;
use super::event::{EntryDelivery, GuestEvent};
use super::exit::VmExit;
use super::record::{count, VcpuRecord};
use super::state::StateGroups;
use super::vm::Vm;
use crate::arch::addr::Gpa;
use crate::arch::cr::Rflags;
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::chipset::lapic::{Lapic, VecBits};
use crate::host::trace;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};

/// Takes over the interrupts that were posted.
#[inline]
pub(crate) fn take_interrupts<B: VendorBackend>(vm: &Vm<B>, mailbox: &VcpuMailbox, core: &mut VcpuCore<B>) {
    for (word, edge, level) in mailbox.take_posted() {
        let Some(lapic) = core.lapic.as_mut() else { continue };
        let lost = lapic.merge_posted(word, edge, level);
        if lost != 0 {
            end_lost(vm, word, lost);
        }
    }
}

/// Tells the I/O APIC not to wait for the ends of level-triggered vectors of a word that a local APIC dropped.
#[cold]
#[inline(never)]
fn end_lost<B: VendorBackend>(vm: &Vm<B>, word: usize, vectors: u64) {
    let mut lost = VecBits::default();
    if let Some(to) = lost.0.get_mut(word) {
        *to = vectors;
    }
    while let Some(vector) = lost.highest() {
        lost.clear(vector);
        // As KVM: of those, an I/O APIC in user space hears nothing.
        let _ = vm.machine.interrupts.with(|bus, now, out| bus.eoi(vector, now, out));
    }
}

/// Ends the interrupt in service if the guest ended it in memory. Returns the address of a page that must
/// be made resident first.
// After every exit, and nothing to do for most: the rest stays out of line.
#[inline(always)]
pub(crate) fn take_eoi<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
) -> Option<Gpa> {
    if core.pv.is_eoi_armed() {
        take_armed_eoi(vm, mailbox, core)
    } else {
        None
    }
}

#[inline(never)]
fn take_armed_eoi<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
) -> Option<Gpa> {
    let lapic = core.lapic.as_mut()?;
    match core.pv.take_eoi(&*vm.machine.ram, lapic) {
        Ok(None) => None,
        // The vector was sent once more, level triggered, while the guest served the edge.
        Ok(Some(vector)) => {
            if vm.machine.interrupts.with(|bus, now, out| bus.eoi(vector, now, out)) {
                core.note_user_eoi(mailbox, vector);
            }
            None
        }
        Err(gpa) => Some(gpa),
    }
}

/// A maskable interrupt that is next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextInterrupt {
    /// None waits, or the guest's task priority holds it back.
    Nothing,
    /// Of user space's 8259s.
    User,
    /// Of the 8259s.
    Extint,
    /// Of the local APIC, with this vector.
    Lapic(u8),
}

impl NextInterrupt {
    /// Returns the one that is next; `pending` is what [`Lapic::pending`] returns of the vCPU's.
    #[inline(always)]
    fn of<B: VendorBackend>(core: &VcpuCore<B>, vm: &Vm<B>, pending: Option<u8>) -> NextInterrupt {
        if core.user_irq.is_some() && core.takes_user_irq() {
            return NextInterrupt::User;
        }
        let Some(lapic) = core.lapic.as_ref() else { return NextInterrupt::Nothing };
        if vm.machine.interrupts.is_extint() && lapic.accepts_extint() {
            return NextInterrupt::Extint;
        }
        pending.map_or(NextInterrupt::Nothing, NextInterrupt::Lapic)
    }
}

/// Returns whether a maskable interrupt waits.
#[inline]
pub(crate) fn has_interrupt<B: VendorBackend>(core: &VcpuCore<B>, vm: &Vm<B>) -> bool {
    NextInterrupt::of(core, vm, core.lapic.as_ref().and_then(Lapic::pending)) != NextInterrupt::Nothing
}

/// After an exit: notes what the entry had delivered, and what the exit cut short. Touches guest memory.
#[inline]
pub(crate) fn commit<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    core: &mut VcpuCore<B>,
    exit: &VmExit,
) {
    if matches!(exit, VmExit::EntryFailed(_)) {
        return keep_refused(core);
    }
    // Now that the entry has committed, not when the vector was chosen: entries fail.
    match (core.delivery, core.lapic.as_mut()) {
        (EntryDelivery::Lapic(vector), Some(lapic)) => lapic.accept_pending(vector),
        (EntryDelivery::AutoEoi(vector), Some(lapic)) => lapic.accept_ended(vector),
        _ => {}
    }
    // After the vector was accepted: the guest may have served and ended it by now.
    if take_eoi(vm, mailbox, core).is_some() {
        // Outside the window, since making the page resident sleeps.
        mailbox.request_self(VcpuRequests::EOI);
    }
    if let Some(lapic) = core.lapic.as_mut() {
        // The processor keeps the class alone; the rest of the register stays while that does.
        let cr8 = core.hw.tpr();
        if cr8 != lapic.cr8() {
            lapic.set_cr8(cr8);
            core.controls.note_cr8(cr8);
        }
    }
    if core.vapic.is_used() {
        read_vapic(vm, core);
    }
    core.interrupted = core.hw.take_interrupted();
    if let EntryDelivery::Taken { event, rip } = core.delivery {
        // Injected, INT3 and INTO do not run again by themselves, as those do that the processor takes them for.
        if event.is_software_trap() && core.hw.was_delivering() && core.state.rip == rip {
            core.interrupted = Some(event);
        }
    }
    core.delivery = EntryDelivery::Nothing;
}

/// The entry failed, so nothing was delivered: keeps what it was to deliver.
#[cold]
#[inline(never)]
fn keep_refused<B: VendorBackend>(core: &mut VcpuCore<B>) {
    // The backend may have it still. It is given to it anew.
    let _ = core.hw.take_interrupted();
    // An interrupt of the local APIC was only chosen, and is pending there.
    if let EntryDelivery::Taken { event, .. } = core.delivery {
        core.interrupted = Some(event);
    }
    core.delivery = EntryDelivery::Nothing;
}

#[cold]
#[inline(never)]
fn read_vapic<B: VendorBackend>(vm: &Vm<B>, core: &mut VcpuCore<B>) {
    if let Some(lapic) = core.lapic.as_mut() {
        // Where the page is gone, it is read before the next entry.
        let _ = core.vapic.read(&*vm.machine.ram, lapic);
    }
}

/// Before an entry: gives the processor the event that comes first. Touches guest memory. Returns `false`
/// where there is nothing to enter any more: the guest has shut down.
pub(crate) fn prepare<B: VendorBackend>(vm: &Vm<B>, record: &VcpuRecord, core: &mut VcpuCore<B>) -> bool {
    if !core.bars.is_empty() {
        return prepare_barred(vm, record, core);
    }
    prepare_usual(vm, record, core)
}

/// As [`prepare`] for a vCPU that nothing keeps from being entered as usual.
#[inline(always)]
fn prepare_usual<B: VendorBackend>(vm: &Vm<B>, record: &VcpuRecord, core: &mut VcpuCore<B>) -> bool {
    let lapic = core.lapic.as_ref();
    let highest = lapic.and_then(Lapic::highest_irr);
    let pending = highest.filter(|vector| lapic.is_some_and(|lapic| lapic.is_above_ppr(*vector)));
    let next = NextInterrupt::of(core, vm, pending);
    // What a delivery lost comes first, for it was taken already; then SDM, "Priority Among Concurrent Events".
    if let Some(event) = core.interrupted.take() {
        deliver(record, core, event);
    } else if let Some(e) = core.exception.take() {
        if !prepare_exception(record, core, e) {
            return false;
        }
    } else if core.nmis != 0 && can_take_nmi(core) {
        core.nmis = core.nmis.saturating_sub(1);
        count(&record.stats.nmis);
        deliver(record, core, GuestEvent::Nmi);
    } else if next != NextInterrupt::Nothing && core.is_interruptible() {
        prepare_interrupt(vm, record, core, next);
    }
    // One that is held back, or the second of two: the processor says when it takes it.
    if core.nmis != 0 {
        core.controls.set_nmi_window(true);
    }
    if let Some(lapic) = core.lapic.as_ref() {
        let floor = highest.map_or(0, |vector| lapic.held_class(vector));
        core.controls.set_tpr(EntryTpr { cr8: lapic.cr8(), floor });
        // The timer, or a device, waits for an end of interrupt that it can see.
        if !vm.machine.interrupts.awaits_edge_eoi() {
            core.pv.arm_eoi(&*vm.machine.ram, lapic, || core.delivery.lapic_vector());
        }
    }
    // What waits may have been given to the processor just now.
    let is_given = |core: &VcpuCore<B>| core.delivery.lapic_vector().is_some();
    let window = core.wants_user_window()
        || (next != NextInterrupt::Nothing && !is_given(core) && has_interrupt(core, vm));
    if window != core.controls.interrupt_window() {
        core.controls.set_interrupt_window(window);
    }
    true
}

/// As [`prepare`] for a vCPU that is not entered as usual: that has shut down, from which a debugger keeps interrupts, or
/// some of whose interrupts end by themselves.
#[cold]
#[inline(never)]
fn prepare_barred<B: VendorBackend>(vm: &Vm<B>, record: &VcpuRecord, core: &mut VcpuCore<B>) -> bool {
    if core.bars.contains(EntryBars::SHUTDOWN) {
        return false;
    }
    if core.bars == EntryBars::AUTO_EOI {
        let is_done = prepare_usual(vm, record, core);
        if let EntryDelivery::Lapic(vector) = core.delivery {
            if core.hyperv.synic.ends_itself(vector) {
                core.delivery = EntryDelivery::AutoEoi(vector);
            }
        }
        return is_done;
    }
    if let Some(event) = core.interrupted.take() {
        deliver(record, core, event);
    } else if let Some(e) = core.exception.take() {
        if !prepare_exception(record, core, e) {
            return false;
        }
    }
    // No floor: what waits is not delivered, whatever the guest's priority becomes.
    if let Some(lapic) = core.lapic.as_ref() {
        core.controls.set_tpr(EntryTpr { cr8: lapic.cr8(), floor: 0 });
    }
    if core.controls.interrupt_window() {
        core.controls.set_interrupt_window(false);
    }
    true
}

/// Gives the processor an exception that is delivered for the first time, with what the delivery changes. Returns
/// `false` for one that ends in user space instead, and waits for that.
#[inline(never)]
fn prepare_exception<B: VendorBackend>(record: &VcpuRecord, core: &mut VcpuCore<B>, e: CpuException) -> bool {
    if e.vector == ExceptionVector::DB {
        if core.debug.takes_debug_exceptions() && !core.debug.is_injected {
            // It waits for take_end(), which makes the exit of it.
            core.exception = Some(e);
            return false;
        }
        core.clear_debug_guard();
    }
    if let Some(cr2) = e.cr2 {
        core.fetch(StateGroups::CONTROL);
        core.state.cr2 = cr2.0;
        core.state.mark(StateGroups::CONTROL);
    }
    if e.vector.is_fault() {
        // Breakpoints at the instruction have been seen to. SDM, "Instruction-Breakpoint Exception Condition".
        core.state.rflags |= Rflags::RF.bits();
    }
    deliver(record, core, e.into());
    true
}

/// Gives the processor an event that nobody else has any more.
#[inline(never)]
fn deliver<B: VendorBackend>(record: &VcpuRecord, core: &mut VcpuCore<B>, event: GuestEvent) {
    core.delivery = EntryDelivery::Taken { event, rip: core.state.rip };
    inject(record, core, event);
}

/// Gives the processor an event.
#[inline(always)]
fn inject<B: VendorBackend>(record: &VcpuRecord, core: &mut VcpuCore<B>, event: GuestEvent) {
    trace::inject(move || {
        let (kind, vector, error) = event.as_numbers();
        trace::Inject { vcpu: record.id, kind, vector: vector.into(), error_code: error.unwrap_or(0) }
    });
    core.hw.inject(event);
}

fn can_take_nmi<B: VendorBackend>(core: &VcpuCore<B>) -> bool {
    let b = core.hw.blocking();
    !b.nmi && !b.shadow
}

/// Gives the processor the interrupt that is next, and that the guest can take.
#[inline(always)]
fn prepare_interrupt<B: VendorBackend>(
    vm: &Vm<B>,
    record: &VcpuRecord,
    core: &mut VcpuCore<B>,
    next: NextInterrupt,
) {
    match next {
        NextInterrupt::Lapic(vector) => {
            count(&record.stats.interrupts);
            core.delivery = EntryDelivery::Lapic(vector);
            inject(record, core, GuestEvent::Interrupt(vector));
        }
        NextInterrupt::Nothing => {}
        NextInterrupt::User => {
            let vector = core.user_irq.take();
            prepare_external(record, core, vector);
        }
        NextInterrupt::Extint => {
            // Only now that it is certain to be delivered: the 8259s forget it with that.
            let vector = vm.machine.interrupts.with(|bus, now, out| bus.acknowledge(now, out));
            prepare_external(record, core, vector);
        }
    }
}

/// Gives the processor an interrupt of an 8259.
#[inline(never)]
fn prepare_external<B: VendorBackend>(record: &VcpuRecord, core: &mut VcpuCore<B>, vector: Option<u8>) {
    if let Some(vector) = vector {
        count(&record.stats.interrupts);
        deliver(record, core, GuestEvent::Interrupt(vector));
    }
}
