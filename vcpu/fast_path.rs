// SPDX-License-Identifier: GPL-2.0

//! The inner loop: exits that are answered at once, and the guest goes on.
//!
//! What the run loop does around each exit (announcing guest mode, the guest's protection keys,
//! choosing an event, taking what others asked) holds on from entry to entry as long as nothing
//! happens that it depends on. So an exit of one of a few kinds that is answered without touching
//! guest memory goes straight back into the guest, after one look at each of: requests of others, work
//! of the host's scheduler, translations taken away. Where an entry delivered an interrupt, or the answer
//! may have made one deliverable, that much is done here as well. Everything else is the run loop's.
//!
//! Guest mode stays announced over it, so whoever posts something meanwhile sends an interrupt, which
//! waits, for interrupts are off, and ends the next entry at once. The guest's protection keys stay in
//! force but where guest memory is touched: they could only make the comparison in [`code::known`] fail,
//! which means that nothing is known.

use super::backend::{BackendVcpu, VendorBackend};
use super::context::VcpuCx;
use super::core::VcpuCore;
use super::emul::{code, mov};
use super::exit::{MsrAccess, RawExit, VirtInsn, VmExit};
use super::handle::{misc, msr, pio};
use super::inject::{commit, prepare};
use super::outcome::{ExitOutcome, FastExit};
use super::record::{count, VcpuRecord};
use crate::host::cpu::ThreadWork;
use crate::host::{mitigation, trace};

/// Why the fast path ends.
#[derive(Clone, Copy)]
pub(super) enum FastEnd {
    /// All exits have been answered, but something waits.
    Waits,
    /// The run loop must handle this one.
    Exit(VmExit),
    /// User space is wanted for the last one: [`super::core::VcpuCore::user_exit`] says what for.
    ToUser,
}

/// Enters the guest until an exit comes that is not answered here. What the entries delivered has been noted.
#[inline(never)]
pub(super) fn run<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    window: &mut <B::Vcpu as BackendVcpu>::Window<'_>,
    work: &ThreadWork<'_>,
) -> FastEnd {
    let mut entry = FastEntry::of(cx);
    // Nothing that is answered here makes it another one.
    let root = cx.core.paging.root(cx.vm);
    loop {
        let core = &mut *cx.core;
        let (record, state) = (cx.record, &core.state);
        trace::entry(move || trace::Entry { vcpu: record.id, rip: state.rip });
        let raw = core.hw.enter(window, &root, &mut core.state);
        record.recorder.record_exit(core.state.rip, raw);
        trace_exit(record);
        let answer = if entry.is_over(core) {
            let exit = cx.core.hw.exit(raw, &mut cx.core.state);
            match answer(cx, &raw, exit) {
                FastExit::Not => {
                    record_exit(cx, &exit);
                    return FastEnd::Exit(exit);
                }
                FastExit::ToUser => return FastEnd::ToUser,
                answer => answer,
            }
        } else if let Some(end) = finish_entry(cx, &entry) {
            return end;
        } else {
            FastExit::Prepare
        };
        // Asked for in each arm, so that the compiler makes one way through for each answer.
        if answer == FastExit::Again {
            if waits(cx, work) {
                return FastEnd::Waits;
            }
            // What goes on at once has changed registers at most.
            cx.core.flush_registers();
        } else {
            if waits(cx, work) {
                return FastEnd::Waits;
            }
            let Some(next) = choose(cx) else { return FastEnd::Waits };
            entry = next;
        }
    }
}

/// Traces the last exit; all that it says is in the record.
#[inline(always)]
fn trace_exit(record: &VcpuRecord) {
    trace::exit(move || {
        let (rip, raw) = (record.recorder.last_rip(), record.recorder.last());
        trace::Exit { vcpu: record.id, rip, reason: raw.reason, info1: raw.info1, info2: raw.info2 }
    });
}

/// Returns whether the run loop has something to do before the guest goes on.
#[inline(always)]
fn waits<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, work: &ThreadWork<'_>) -> bool {
    cx.mailbox.has_requests()
        || work.is_pending()
        || cx.vm.space.flushes.requested() != cx.core.flush_generation
}

/// What an entry leaves to be done after it.
struct FastEntry {
    /// The task priority that the guest starts with, where exits may be answered here and the entry delivers nothing that
    /// has to be noted; else [`NO_PRIORITY`].
    plain_tpr: u16,
    /// Exits may be answered here.
    is_quick: bool,
}

/// What no guest's task priority is.
const NO_PRIORITY: u16 = u16::MAX;

impl FastEntry {
    #[inline]
    fn of<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>) -> FastEntry {
        let core = &*cx.core;
        // Each of these has work at every exit, which this loop leaves out.
        let is_quick = !(core.nmis != 0
            || core.controls.interrupt_window()
            || core.wants_window
            || core.vapic.is_used()
            || cx.record.times.is_some());
        let delivers = core.delivery.is_any() || core.pv.is_eoi_armed();
        let plain_tpr = if is_quick && !delivers { core.hw.tpr().into() } else { NO_PRIORITY };
        FastEntry { plain_tpr, is_quick }
    }

    /// Returns whether nothing but the exit itself has to be looked at after it.
    #[inline(always)]
    fn is_over<B: VendorBackend>(&self, core: &VcpuCore<B>) -> bool {
        u16::from(core.hw.tpr()) == self.plain_tpr && !core.is_stepping()
    }
}

/// Notes what the entry delivered, and answers its exit, the last one. Returns what ends the fast path, if it is not.
#[inline(never)]
fn finish_entry<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, entry: &FastEntry) -> Option<FastEnd> {
    let raw = cx.record.recorder.last();
    let core = &mut *cx.core;
    // First: nobody else may see the trap flag that the step had set.
    let is_step = core.hw.end_step(raw, &mut core.state);
    let exit = if is_step { VmExit::Resolved } else { core.hw.exit(raw, &mut core.state) };
    record_exit(cx, &exit);
    let is_quick = entry.is_quick && !cx.core.is_stepping();
    match if is_quick { answer(cx, &raw, exit) } else { FastExit::Not } {
        FastExit::Not => Some(FastEnd::Exit(exit)),
        FastExit::ToUser => Some(FastEnd::ToUser),
        FastExit::Again | FastExit::Prepare => None,
    }
}

/// Notes what an entry delivered, and what its exit cut short. The guest's keys are put away.
#[inline(never)]
fn record_exit<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, exit: &VmExit) {
    if exit.is_machine_check() {
        mitigation::machine_check(cx.cpu);
    }
    cx.fpu.hide_keys();
    commit(cx.vm, cx.mailbox, cx.core, exit);
}

/// Chooses what the next entry delivers. `None`: the guest has shut down.
#[inline(never)]
fn choose<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<FastEntry> {
    // Guest memory may be written now, by addresses of user space for which the guest's keys would be asked.
    cx.fpu.hide_keys();
    if !prepare(cx.vm, cx.record, cx.core) {
        return None;
    }
    cx.fpu.show_keys();
    cx.core.flush();
    Some(FastEntry::of(cx))
}

/// Answers an exit, if it is of a kind that is answered here; `raw` is what the processor reported of it.
#[inline(always)]
fn answer<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, raw: &RawExit, exit: VmExit) -> FastExit {
    match exit {
        VmExit::Pio(access) => {
            // Known before the access is made: the run loop would make it once more.
            let Some(next) = code::next_rip(cx, raw) else { return FastExit::Not };
            let answer = pio::answer(cx, access);
            if answer != FastExit::Not {
                count(&cx.record.stats.pio);
                cx.core.go_past(next, false);
            }
            answer
        }
        VmExit::Cpuid => {
            let Some(next) = code::next_rip(cx, raw) else { return FastExit::Not };
            misc::cpuid(cx);
            cx.core.go_past(next, false);
            FastExit::Again
        }
        VmExit::Msr(access) => answer_msr(cx, raw, access),
        VmExit::VirtInsn(VirtInsn::Hypercall) => {
            let Some((next, cpl)) = code::next_rip_and_cpl(cx, raw) else { return FastExit::Not };
            if !cx.core.is_hyperv {
                misc::kvm_hypercall(cx, cpl);
            } else if misc::hypercall(cx) != ExitOutcome::SkipAndResume {
                // What is not done has not been begun, and is the run loop's.
                return FastExit::Not;
            }
            cx.core.go_past(next, false);
            FastExit::Again
        }
        VmExit::GuestPageFault(fault) => mov::answer(cx, &fault),
        _ => FastExit::Not,
    }
}

#[inline(always)]
fn answer_msr<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, raw: &RawExit, access: MsrAccess) -> FastExit {
    let Some(next) = code::next_rip(cx, raw) else { return FastExit::Not };
    let Some(policy) = msr::policy(cx) else { return FastExit::Not };
    let Some(answer) = msr::answer_of(policy, access) else { return FastExit::Not };
    // After a write of EFER the processor may have to walk other tables.
    if access == MsrAccess::Write && cx.core.paging.shadow().is_some() {
        return FastExit::Not;
    }
    msr::answer_as(cx, access, policy, (answer, next))
}
