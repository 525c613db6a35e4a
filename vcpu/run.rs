// SPDX-License-Identifier: GPL-2.0

//! The run loop: in process context outside, with interrupts off inside the window.
//!
//! ```text
//! run() ──> process(): signals, INIT/SIPI, HLT, faults that sleep, user exits
//!   └─> window(): root operation, guest FPU
//!         └─> requests? events -> fast_path::run(): enter -> exit -> answer -> enter …
//!                              -> exit -> handle -> again
//! ```
//!
//! Everything hot stays in the inner loop. It ends for a host interrupt, for work of the host's
//! scheduler, for a fault that must sleep, and for a user exit.

use super::backend::{BackendVcpu, VendorBackend};
use super::context::VcpuCx;
use super::core::{VcpuActivity, VcpuCore};
use super::emul::{code, insn};
use super::exit::VmExit;
use super::fast_path::{self, FastEnd};
use super::handle;
use super::inject::{has_interrupt, prepare};
use super::outcome::{BlockedBy, ExitOutcome, UserExit, VmBug};
use super::poll::{HaltPolling, PollEnd};
use super::progress::WindowProgress;
use super::record::{count, ExitClass, VcpuRecord};
use super::requests::{take_requests, QUICK};
use super::second_level::RootWait;
use super::state::StateGroups;
use super::vm::Vm;
use crate::arch::cr::Rflags;
use crate::host::cpu::{self, PinnedCpu, ThreadWork};
use crate::host::debug::HostDebug;
use crate::host::fpu::GuestFpu;
use crate::host::mitigation::SplitLocks;
use crate::host::msr::{SpecCtrl, TscAux};
use crate::host::{timer, trace};
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use kernel::pr_warn_once;
use kernel::prelude::*;

/// Why the window was closed.
enum WindowExit {
    /// Nothing but the host's business: open it again.
    Again,
    /// The vCPU sleeps until an event.
    Sleep,
    /// Something must be waited for.
    Blocked(BlockedBy),
    /// Return to user space: [`VcpuCore::user_exit`] says why.
    User,
    /// This CPU cannot run guests.
    Unusable,
}

/// How the run loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// User space is wanted: [`VcpuCore::user_exit`] says why.
    UserExit,
    /// `immediate_exit` said so before the guest was entered.
    NotEntered,
}

/// Runs the vCPU until user space is wanted.
///
/// # Errors
/// `EINTR` on a signal; `EFAULT` when guest memory cannot be made
/// resident; `ENOMEM`; `ENODEV` on a CPU that cannot run guests.
pub(crate) fn run<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    record: &VcpuRecord,
    core: &mut VcpuCore<B>,
    fpu: &mut GuestFpu,
    immediate_exit: &dyn Fn() -> bool,
) -> Result<RunEnd> {
    let gate = &vm.machine.interrupts.gate;
    // The gate may stay closed for long, and user space wants to be back at once.
    if gate.is_closed() && immediate_exit() {
        return Ok(RunEnd::NotEntered);
    }
    gate.pass(&mailbox.activity)?;
    if let Some(ring) = core.dirty_ring.as_ref() {
        ring.begin_run();
    }
    let done = run_until_user(vm, mailbox, record, core, fpu, immediate_exit);
    if let Some(ring) = core.dirty_ring.as_ref() {
        ring.end_run();
    }
    // Nobody knows when this vCPU will run again.
    if let Some(queue) = core.deferred.take() {
        vm.machine.pci.hand_to_worker(queue);
    }
    gate.end(&mailbox.activity);
    done
}

fn run_until_user<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    record: &VcpuRecord,
    core: &mut VcpuCore<B>,
    fpu: &mut GuestFpu,
    immediate_exit: &dyn Fn() -> bool,
) -> Result<RunEnd> {
    let gate = &vm.machine.interrupts.gate;
    loop {
        if gate.is_closed() {
            gate.pass(&mailbox.activity)?;
        }
        // What user space was asked for belongs to an instruction, which is finished first.
        let finishes_only =
            core.io.is_unfinished() && (immediate_exit() || cpu::is_work_pending() || mailbox.has_requests());
        if !finishes_only {
            if immediate_exit() {
                return Ok(RunEnd::NotEntered);
            }
            if cpu::is_work_pending() {
                cpu::handle_work()?;
            }
            take_requests(vm, mailbox, core, VcpuRequests::all());
            if let Some(event) = vm.machine.power.take() {
                return Ok(end_with(core, UserExit::SystemEvent(event)));
            }
            if core.dirty_ring.as_ref().is_some_and(|ring| ring.is_full()) {
                return Ok(end_with(core, UserExit::DirtyRingFull));
            }
            if let Some(vector) = core.user_eoi.take() {
                return Ok(end_with(core, UserExit::IoapicEoi(vector)));
            }
            if core.mp != VcpuActivity::Runnable && !wake_up(core, vm) {
                sleep(vm, mailbox, record, &mut core.polling)?;
                continue;
            }
        }
        if core.pv.steal.is_on() {
            account_steal(vm, core);
        }
        match window(vm, mailbox, record, core, fpu, finishes_only) {
            WindowExit::Again => {}
            WindowExit::Sleep => {
                core.mp = VcpuActivity::Halted;
                if core.wants_user_window() && core.is_ready_for_user_irq() {
                    return Ok(end_with(core, UserExit::InterruptWindow));
                }
            }
            WindowExit::Blocked(by) => vm.space.unblock(by, &mut core.slot_hint)?,
            WindowExit::User => return Ok(RunEnd::UserExit),
            WindowExit::Unusable => {
                pr_warn_once!("a CPU that came online cannot run guests: keep the VM off it\n");
                return Err(ENODEV);
            }
        }
    }
}

/// Ends the run loop outside the window.
fn end_with<B: VendorBackend>(core: &mut VcpuCore<B>, exit: UserExit) -> RunEnd {
    core.leave_for_user(exit);
    RunEnd::UserExit
}

/// Tells the guest what the host's other threads have taken of its time.
#[inline(never)]
fn account_steal<B: VendorBackend>(vm: &Vm<B>, core: &mut VcpuCore<B>) {
    let now = timer::run_delay();
    // Memory that is gone is the guest's loss.
    let _ = vm.machine.ram.until_resident(|| core.pv.steal.account(&*vm.machine.ram, now));
}

/// Waits until something is asked of a vCPU that does not run: looks for it for a little while, then sleeps.
///
/// # Errors
/// `EINTR` on a signal.
#[inline]
fn sleep<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    record: &VcpuRecord,
    polling: &mut HaltPolling,
) -> Result {
    let began = timer::rdtsc();
    let polls = polling.begin(began);
    let trace_halt = |polled| {
        trace::halt(|| trace::Halt { vcpu: record.id, ticks: timer::rdtsc().wrapping_sub(began), polled });
    };
    if polls {
        count(&record.stats.polls);
    }
    while !mailbox.has_requests() {
        if polling.is_over(timer::rdtsc()) || cpu::is_wanted() {
            mailbox.wait()?;
            // User space may have chosen another limit. After a sleep the look costs nothing.
            polling.set_limit(vm.machine.choices.halt_poll_ns());
            // Requests stay until they are taken, so they still tell who asked.
            let by_timer = !mailbox.is_requested(VcpuRequests::TIMER.complement());
            polling.slept(timer::rdtsc(), if by_timer { PollEnd::Timer } else { PollEnd::Other });
            trace_halt(false);
            return Ok(());
        }
        core::hint::spin_loop();
    }
    if polls {
        count(&record.stats.polls_met);
    }
    trace_halt(true);
    Ok(())
}

/// Returns whether a vCPU that is not running may run now, and makes it so.
fn wake_up<B: VendorBackend>(core: &mut VcpuCore<B>, vm: &Vm<B>) -> bool {
    if core.mp != VcpuActivity::Halted {
        return core.mp == VcpuActivity::Runnable;
    }
    // No shadow is in the way: HLT was the instruction in it.
    let irq = core.state.rflags & Rflags::IF.bits() != 0 && has_interrupt(core, vm);
    let nmi = core.nmis != 0 && !core.hw.blocking().nmi;
    let wake = irq || nmi || core.exception.is_some() || core.interrupted.is_some();
    if wake {
        core.mp = VcpuActivity::Runnable;
    }
    wake
}

/// The window: root operation on this CPU with interrupts off. `finishes_only`: the guest is not entered, but an
/// instruction is finished that user space did its part of.
#[inline(always)]
fn window<B: VendorBackend>(
    vm: &Vm<B>,
    mailbox: &VcpuMailbox,
    record: &VcpuRecord,
    core: &mut VcpuCore<B>,
    fpu: &mut GuestFpu,
    finishes_only: bool,
) -> WindowExit {
    let cpu = PinnedCpu::pin();
    let Some(mut root) = vm.backend.open(&cpu) else { return WindowExit::Unusable };
    if vm.separates_guests {
        core.guest_id.separate(&cpu);
    }
    // What is the host's is put back where this block ends, still in root operation.
    let leave = {
        let _split_locks = if core.splits_locks { SplitLocks::allow(&cpu) } else { None };
        let work = ThreadWork::of_this_thread(&cpu);
        let _debug = HostDebug::save(&cpu);
        let Ok(mut fpu) = fpu.load(&cpu) else {
            core.hw.leave(&mut root);
            return to_user(core, UserExit::Bug(VmBug::ExtendedState));
        };
        let mut tsc_aux = TscAux::load(core.tsc_aux, vm.has_tsc_aux, &cpu);
        let mut spec_ctrl = SpecCtrl::new(core.spec_ctrl, vm.speculation, &cpu);
        load_debug(core, &cpu);
        core.clock.forget();
        let mut cx = VcpuCx {
            vm,
            mailbox,
            record,
            core: &mut *core,
            fpu: &mut fpu,
            tsc_aux: &mut tsc_aux,
            spec_ctrl: &mut spec_ctrl,
            cpu: &cpu,
        };
        let leave = run_in_window(&mut cx, &mut root, &work, finishes_only);
        // Before the processor forgets the vCPU, for this writes its controls; and before `_debug` goes, which puts the
        // host's addresses over the guest's that are read here.
        put_debug(core);
        core.hw.leave(&mut root);
        leave
    };
    cpu::predictor_barrier_on_return(&cpu);
    leave
}

/// Enters the guest and handles its exits, until the window must be closed.
#[inline(always)]
fn run_in_window<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    root: &mut <B::Vcpu as BackendVcpu>::Window<'_>,
    work: &ThreadWork<'_>,
    finishes_only: bool,
) -> WindowExit {
    let (vm, mailbox, record, cpu) = (cx.vm, cx.mailbox, cx.record, cx.cpu);
    let mut progress = WindowProgress::new(timer::tsc_khz());
    let mut exited: Option<(ExitClass, u64)> = None;
    let leave = loop {
        if let Some(leave) = finish_insn(cx) {
            break leave;
        }
        if finishes_only {
            break WindowExit::Again;
        }
        match announce(vm, (mailbox, cpu), cx.core, work, &mut progress) {
            Announced::Entry => {}
            Announced::Served => continue,
            Announced::Leave => break WindowExit::Again,
        }
        if let Err(leave) = load_guest(vm, record, cx) {
            mailbox.leave_guest_mode();
            break leave;
        }
        note_time(record, exited.take());
        // The wait comes last, so that the deadline's interrupt is not late by what is done after it.
        if let Some(due) = cx.core.timer_advance.take_due(timer::rdtsc()) {
            timer::wait_until(due);
        }
        let end = fast_path::run(cx, root, work);
        exited = stamp(record, &end);
        unload_guest(mailbox, cx);
        let exit = match &end {
            FastEnd::Exit(exit) => exit,
            FastEnd::ToUser => break WindowExit::User,
            FastEnd::Waits => {
                progress.made();
                continue;
            }
        };
        if let Some(leave) = handle_exit(cx, exit) {
            break leave;
        }
        if is_stuck(&mut progress, cx.core, exit) {
            break WindowExit::Again;
        }
    };
    note_time(record, exited);
    leave
}

/// Returns what [`note_time`] needs of an exit, where times are asked for.
#[inline(always)]
fn stamp(record: &VcpuRecord, end: &FastEnd) -> Option<(ExitClass, u64)> {
    record.times.as_ref()?;
    match end {
        FastEnd::Exit(exit) => Some((ExitClass::of(exit), timer::rdtsc())),
        // The fast path answers nothing where times are asked for.
        FastEnd::ToUser | FastEnd::Waits => None,
    }
}

/// Counts the time from an exit until now, where that is asked for.
#[inline(always)]
fn note_time(record: &VcpuRecord, exited: Option<(ExitClass, u64)>) {
    if let (Some(times), Some((class, at))) = (&record.times, exited) {
        times.note(class, timer::rdtsc().wrapping_sub(at));
    }
}

/// Finishes an instruction, if there is one, that user space or another vCPU kept from its end. Returns why the window
/// must be closed, if it must.
#[inline(always)]
fn finish_insn<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<WindowExit> {
    if !cx.core.io.is_unfinished() {
        return None;
    }
    let outcome = insn::finish(cx);
    if let Some(leave) = apply_outcome(cx, outcome) {
        return Some(leave);
    }
    // Another vCPU came in between. The host's interrupts come before the next try.
    cx.core.io.is_unfinished().then_some(WindowExit::Again)
}

/// What came of announcing guest mode.
enum Announced {
    /// Nothing is asked: the guest may be entered.
    Entry,
    /// What was asked is done; guest mode is not announced any more.
    Served,
    /// The window must be closed.
    Leave,
}

/// Announces guest mode, before the last look at what is asked: who asks later sends an interrupt.
#[inline(always)]
fn announce<B: VendorBackend>(
    vm: &Vm<B>,
    (mailbox, cpu): (&VcpuMailbox, &PinnedCpu),
    core: &mut VcpuCore<B>,
    work: &ThreadWork<'_>,
    progress: &mut WindowProgress,
) -> Announced {
    let is_asked = mailbox.enter_guest_mode(cpu.id());
    if !is_asked && !work.is_pending() {
        return Announced::Entry;
    }
    mailbox.leave_guest_mode();
    let must_leave = work.is_pending() || mailbox.is_requested(QUICK.complement());
    // Others can ask as fast as it is done, and meanwhile the host's interrupts wait.
    if must_leave || progress.is_over(timer::rdtsc()) {
        return Announced::Leave;
    }
    take_requests(vm, mailbox, core, QUICK);
    Announced::Served
}

/// Brings the processor's half of the vCPU up to date for an entry.
///
/// # Errors
/// Why the window must be closed instead.
#[inline(always)]
fn load_guest<B: VendorBackend>(
    vm: &Vm<B>,
    record: &VcpuRecord,
    cx: &mut VcpuCx<'_, '_, B>,
) -> Result<(), WindowExit> {
    // Compared after guest mode was announced: whoever asks for a flush from here on finds the vCPU there and waits.
    let generation = vm.space.flushes.requested();
    if cx.core.flush_generation != generation {
        cx.core.flush_generation = generation;
        cx.core.controls.flush_tlb();
    }
    if let Some(by) = write_vapic(vm, cx.core) {
        return Err(WindowExit::Blocked(by));
    }
    if cx.core.paging.shadow().is_some() {
        prepare_shadow(vm, cx)?;
    }
    if !prepare(vm, record, cx.core) {
        let end = cx.core.take_end();
        return Err(to_user(cx.core, end));
    }
    cx.core.flush();
    // After the last access to guest memory: it is user space's to the host, so the guest's keys would be asked.
    cx.fpu.show_keys();
    if let Some(s) = &*cx.spec_ctrl {
        s.show();
    }
    Ok(())
}

/// Brings the shadow pages that the processor walks up to date.
///
/// # Errors
/// Why the window must be closed instead.
#[inline(never)]
fn prepare_shadow<B: VendorBackend>(vm: &Vm<B>, cx: &mut VcpuCx<'_, '_, B>) -> Result<(), WindowExit> {
    let generation = cx.core.flush_generation;
    // Also what is about to be written, as a value of user space's for CR3.
    if cx.core.state.dirty().contains(StateGroups::CONTROL) {
        cx.core.paging.changed();
    }
    if cx.core.paging.shadow().is_none_or(|shadow| !shadow.is_stale(generation)) {
        return Ok(());
    }
    cx.core.fetch(StateGroups::CONTROL);
    let regs = cx.guest_paging();
    let Some(shadow) = cx.core.paging.shadow() else { return Ok(()) };
    match shadow.prepare(vm, cx.cpu, &regs, generation) {
        Ok(must_flush) => {
            if must_flush {
                cx.core.controls.flush_tlb();
            }
            Ok(())
        }
        Err(RootWait::Blocked(by)) => Err(WindowExit::Blocked(by)),
        Err(RootWait::Again) => Err(WindowExit::Again),
    }
}

/// Takes back what only the guest may run with.
#[inline(always)]
fn unload_guest<B: VendorBackend>(mailbox: &VcpuMailbox, cx: &mut VcpuCx<'_, '_, B>) {
    // First, so that as little as can be of the host's code runs under the guest's choice of speculation.
    if let Some(s) = &*cx.spec_ctrl {
        s.hide();
    }
    cx.fpu.hide_keys();
    mailbox.leave_guest_mode();
}

/// Handles an exit. Returns why the window must be closed, if it must.
#[inline(always)]
fn handle_exit<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, exit: &VmExit) -> Option<WindowExit> {
    let outcome = handle::handle(cx, *exit);
    let leave = apply_outcome(cx, outcome);
    // What the instruction did to the task priority is told once it is done.
    let leave = leave.or_else(|| {
        let access = cx.core.vapic.take_access()?;
        Some(to_user(cx.core, UserExit::TprAccess(access)))
    });
    if B::SHOWS_CACHES && leave.is_none() && exit.reads_host_data() {
        cx.core.controls.hide_host_data();
    }
    leave
}

/// Gives the guest its task priority in memory, where it has asked for that. Returns what that waits for.
#[inline(always)]
fn write_vapic<B: VendorBackend>(vm: &Vm<B>, core: &mut VcpuCore<B>) -> Option<BlockedBy> {
    if !core.vapic.is_used() {
        return None;
    }
    let lapic = core.lapic.as_mut()?;
    let written = core.vapic.write(&*vm.machine.ram, lapic);
    written.err().map(|gpa| BlockedBy::FaultIn { gpa, write: true })
}

/// Returns whether the window must be closed after `exit`, so that the host can take its interrupts: it did
/// not happen at an instruction, and nothing says that others will, or answers have taken long enough.
#[inline]
fn is_stuck<B: VendorBackend>(progress: &mut WindowProgress, core: &VcpuCore<B>, exit: &VmExit) -> bool {
    if core.hw.was_delivering() {
        // No instruction was executed, and a delivery can be cut short for ever.
        return true;
    }
    if exit.is_of_insn() {
        return progress.answered(timer::rdtsc());
    }
    // The exception is delivered next, and may come again before the handler's first instruction.
    matches!(exit, VmExit::Exception(..)) || progress.is_over(timer::rdtsc())
}

/// Carries an outcome out. Returns why the window must be closed, if it must.
#[inline(always)]
fn apply_outcome<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, outcome: ExitOutcome) -> Option<WindowExit> {
    match outcome {
        ExitOutcome::Resume => None,
        ExitOutcome::SkipAndResume => skip(cx).err(),
        ExitOutcome::Inject(e) => {
            cx.core.raise(e);
            None
        }
        ExitOutcome::Halt => match skip(cx) {
            Err(leave) => Some(leave),
            Ok(()) => Some(halt(cx.core)),
        },
        ExitOutcome::Halted => Some(halt(cx.core)),
        ExitOutcome::Blocked(by) => Some(WindowExit::Blocked(by)),
        ExitOutcome::HostInterrupt => {
            count(&cx.record.stats.host_interrupts);
            Some(WindowExit::Again)
        }
        ExitOutcome::ToUser => Some(WindowExit::User),
        ExitOutcome::SkipToUser => Some(skip(cx).err().unwrap_or(WindowExit::User)),
    }
}

/// Leaves the window for user space.
#[inline(always)]
fn to_user<B: VendorBackend>(core: &mut VcpuCore<B>, exit: UserExit) -> WindowExit {
    core.leave_for_user(exit);
    WindowExit::User
}

/// Returns how a vCPU that has halted leaves the window.
#[inline(always)]
fn halt<B: VendorBackend>(core: &mut VcpuCore<B>) -> WindowExit {
    match core.lapic {
        // Only user space knows what would end it.
        None => to_user(core, UserExit::Hlt),
        Some(_) => WindowExit::Sleep,
    }
}

/// Carries out what keeps an instruction from being gone past.
#[cold]
#[inline(never)]
fn apply_skip<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, outcome: ExitOutcome) -> WindowExit {
    apply_outcome(cx, outcome).unwrap_or(WindowExit::Again)
}

/// Goes past the instruction that exited.
#[inline(always)]
fn skip<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Result<(), WindowExit> {
    let next = match code::next_rip(cx, &cx.record.recorder.last()) {
        Some(rip) => rip,
        None => insn::next_rip(cx).map_err(|o| apply_skip(cx, o))?,
    };
    cx.core.go_past(next, cx.core.is_stepping());
    Ok(())
}

/// Puts the guest's breakpoints into the processor if any is on; else the first access does it.
fn load_debug<B: VendorBackend>(core: &mut VcpuCore<B>, cpu: &PinnedCpu) {
    core.fetch(StateGroups::DEBUG);
    // DR7.L0 to G3.
    if core.state.dr7 & 0xff != 0 {
        crate::host::debug::write_addresses(&core.dr, cpu);
        core.debug_loaded = true;
        // Under a debugger the processor has what is not the guest's, or not only.
        core.controls.set_debug_passthrough(!core.debug.is_on());
    }
}

/// Takes the guest's debug registers out of the processor.
fn put_debug<B: VendorBackend>(core: &mut VcpuCore<B>) {
    if core.debug_loaded {
        core.debug_loaded = false;
        core.dr = crate::host::debug::read_addresses();
        core.controls.set_debug_passthrough(false);
        // In the window: the processor has the guest's status.
        core.flush_controls();
    }
}
