// SPDX-License-Identifier: GPL-2.0

//! The run loop: in process context outside, with interrupts off inside the window.
//!
//! ```text
//! run() ──> process(): signals, INIT/SIPI, HLT, faults that sleep, user exits
//!   └─> window(): root operation, guest FPU
//!         └─> requests? events -> quick::run(): enter -> exit -> answer -> enter …
//!                              -> exit -> handle -> again
//! ```
//!
//! Everything hot stays in the inner loop. It ends for a host interrupt, for work of the host's
//! scheduler, for a fault that must sleep, and for a user exit.

use super::backend::{Backend, BackendVcpu, WindowKind};
use super::core::{MpState, VcpuCore};
use super::event::Event;
use super::exit::Exit;
use super::handle::{self, insn, Cx};
use super::outcome::{Outcome, UserExit, VmBug};
use super::pci::Unserved;
use super::poll::{Polling, Waker};
use super::progress::Progress;
use super::quick;
use super::record::Class;
use super::shared::{count, Requests, VcpuShared};
use super::state::Groups;
use super::vm::Vm;
use crate::arch::addr::Gpa;
use crate::arch::cr::Rflags;
use crate::arch::exception::{Exception, Vector};
use crate::chipset::lapic::VecBits;
use crate::host::cpu::{self, PinnedCpu, Work};
use crate::host::debug::HostDebug;
use crate::host::fpu::GuestFpu;
use crate::host::mitigation::SplitLocks;
use crate::host::msr::{SpecCtrl, TscAux};
use crate::host::timer;
use kernel::pr_warn_once;
use kernel::prelude::*;

/// DR7.GD: accesses to the debug registers are #DB.
const DR7_GD: u64 = 1 << 13;

/// Why the window was closed.
enum Leave {
    /// Nothing but the host's business: open it again.
    Again,
    /// The vCPU sleeps until an event.
    Sleep,
    /// As the outcome says.
    MapIn(Gpa, bool),
    /// As the outcome says.
    FaultIn(Gpa, bool),
    /// The pool of table pages must be filled.
    NeedPages,
    /// Other CPUs must forget a mapping.
    NeedFlush,
    /// Return to user space.
    User(UserExit),
    /// This CPU cannot run guests.
    Unusable,
}

/// Runs the vCPU until user space is wanted. `None`: `immediate_exit` said so before the guest was entered.
///
/// # Errors
/// `EINTR` on a signal; `EFAULT` when guest memory cannot be made
/// resident; `ENOMEM`; `ENODEV` on a CPU that cannot run guests.
pub(crate) fn run<B: Backend>(
    vm: &Vm<B>,
    shared: &VcpuShared,
    core: &mut VcpuCore<B>,
    fpu: &mut GuestFpu,
    immediate_exit: &dyn Fn() -> bool,
) -> Result<Option<UserExit>> {
    let done = run_until_user(vm, shared, core, fpu, immediate_exit);
    // Nobody knows when this vCPU will run again.
    if let Some(turn) = core.turn.take() {
        vm.pci.pass_on(turn);
    }
    done
}

fn run_until_user<B: Backend>(
    vm: &Vm<B>,
    shared: &VcpuShared,
    core: &mut VcpuCore<B>,
    fpu: &mut GuestFpu,
    immediate_exit: &dyn Fn() -> bool,
) -> Result<Option<UserExit>> {
    loop {
        // What user space was asked for belongs to an instruction, which is finished first.
        let finishes_only =
            core.io.is_unfinished() && (immediate_exit() || cpu::is_work_pending() || shared.has_requests());
        if !finishes_only {
            if immediate_exit() {
                return Ok(None);
            }
            if cpu::is_work_pending() {
                cpu::handle_work()?;
            }
            take_requests(vm, shared, core, Requests::all());
            if let Some(event) = vm.take_event() {
                count(&shared.stats.user_exits);
                return Ok(Some(UserExit::SystemEvent(event)));
            }
            if core.mp != MpState::Runnable && !wake_up(core, vm) {
                sleep(shared, &mut core.polling)?;
                continue;
            }
        }
        match window(vm, shared, core, fpu, finishes_only) {
            Leave::Again => {}
            Leave::Sleep => core.mp = MpState::Halted,
            Leave::MapIn(gpa, write) => vm.space.map_in(gpa, write, &mut core.slot_hint)?,
            Leave::FaultIn(gpa, write) => vm.space.fault_in(gpa, write)?,
            Leave::NeedPages => vm.space.top_up()?,
            Leave::NeedFlush => vm.space.finish_flush(),
            Leave::User(exit) => {
                count(&shared.stats.user_exits);
                return Ok(Some(exit));
            }
            Leave::Unusable => {
                pr_warn_once!("a CPU that came online cannot run guests: keep the VM off it\n");
                return Err(ENODEV);
            }
        }
    }
}

/// Waits until something is asked of a vCPU that does not run: looks for it for a little while, then sleeps.
///
/// # Errors
/// `EINTR` on a signal.
#[inline]
fn sleep(shared: &VcpuShared, polling: &mut Polling) -> Result {
    let polls = polling.begin(timer::rdtsc());
    if polls {
        count(&shared.stats.polls);
    }
    while !shared.has_requests() {
        if polling.is_over(timer::rdtsc()) || cpu::is_wanted() {
            shared.wait()?;
            let by_timer = !shared.is_requested(Requests::TIMER.complement());
            polling.slept(timer::rdtsc(), if by_timer { Waker::Timer } else { Waker::Other });
            return Ok(());
        }
        core::hint::spin_loop();
    }
    if polls {
        count(&shared.stats.polls_met);
    }
    Ok(())
}

/// What can be done inside the window, without sleeping and without leaving guest mode's state.
const QUICK: Requests = Requests::INTERRUPT
    .union(Requests::TIMER)
    .union(Requests::NMIS)
    .union(Requests::TLB_FLUSH)
    .union(Requests::EXTINT);

/// Takes what others asked of this vCPU, as far as it is in `which`.
fn take_requests<B: Backend>(vm: &Vm<B>, shared: &VcpuShared, core: &mut VcpuCore<B>, which: Requests) {
    let asked = shared.take_requests(which);
    if asked.is_empty() {
        return;
    }
    if asked.contains(Requests::INTERRUPT) {
        take_interrupts(vm, shared, core);
    }
    if asked.contains(Requests::TIMER) {
        core.take_timer(shared, vm.ns_per_tick);
    }
    if asked.intersects(Requests::NMIS) {
        core.add_nmis(asked.nmis());
    }
    if asked.contains(Requests::TLB_FLUSH) {
        core.hw.flush_tlb();
    }
    if asked.contains(Requests::INIT) {
        core.init(handle::signature());
        core.publish_apic(shared, &vm.chipset);
        core.mp = if shared.id == 0 { MpState::Runnable } else { MpState::InitReceived };
    }
    if asked.contains(Requests::SIPI) && core.mp == MpState::InitReceived {
        core.start_up(shared.sipi_vector());
    }
    if asked.contains(Requests::CLOCK) {
        if let Err(gpa) = vm.publish_clock(core) {
            if vm.space.fault_in(gpa, true).is_ok() {
                shared.request_self(Requests::CLOCK);
            }
        }
    }
    if asked.contains(Requests::EOI) {
        // Memory that is gone is the guest's loss: the interrupt stays in service.
        if let Some(gpa) = take_eoi(vm, core) {
            if vm.space.fault_in(gpa, true).is_ok() {
                shared.request_self(Requests::EOI);
            }
        }
    }
    if asked.contains(Requests::TURN) {
        if let Some(turn) = core.turn.take() {
            vm.pci.take_turn(vm, turn);
        }
    }
    if asked.contains(Requests::CHORE) {
        let is_left = match vm.pci.serve(&vm.chipset, &*vm.space) {
            Unserved::Nothing => false,
            // Signals, and what others ask, come first.
            Unserved::More => true,
            // Memory that is gone is the guest's loss.
            Unserved::NotResident(gpa) => vm.space.fault_in(gpa, true).is_ok(),
        };
        if is_left {
            shared.request_self(Requests::CHORE);
        }
    }
}

/// Takes over the interrupts that were posted.
#[inline]
pub(crate) fn take_interrupts<B: Backend>(vm: &Vm<B>, shared: &VcpuShared, core: &mut VcpuCore<B>) {
    let (edge, level) = shared.take_posted();
    let Some(lapic) = core.lapic.as_mut() else { return };
    let lost = VecBits(lapic.merge_posted(&edge, &level));
    if !lost.is_empty() {
        end_lost(vm, lost);
    }
}

/// Tells the I/O APIC not to wait for the ends of level-triggered vectors that a local APIC dropped.
#[cold]
#[inline(never)]
fn end_lost<B: Backend>(vm: &Vm<B>, mut lost: VecBits) {
    while let Some(vector) = lost.highest() {
        lost.clear(vector);
        vm.chipset.with(|bus, now, out| bus.eoi(vector, now, out));
    }
}

/// Ends the interrupt in service if the guest ended it in memory. Returns the address of a page that must
/// be made resident first.
#[inline]
fn take_eoi<B: Backend>(vm: &Vm<B>, core: &mut VcpuCore<B>) -> Option<Gpa> {
    let lapic = core.lapic.as_mut()?;
    match core.pv.take_eoi(&*vm.space, lapic) {
        Ok(None) => None,
        // The vector was sent once more, level triggered, while the guest served the edge.
        Ok(Some(vector)) => {
            vm.chipset.with(|bus, now, out| bus.eoi(vector, now, out));
            None
        }
        Err(gpa) => Some(gpa),
    }
}

/// Returns whether a vCPU that is not running may run now, and makes it so.
fn wake_up<B: Backend>(core: &mut VcpuCore<B>, vm: &Vm<B>) -> bool {
    if core.mp != MpState::Halted {
        return core.mp == MpState::Runnable;
    }
    let irq = core.state.rflags & Rflags::IF.bits() != 0 && has_interrupt(core, vm);
    let nmi = core.nmis != 0 && !core.hw.blocking().nmi;
    let wake = irq || nmi || core.exception.is_some() || core.interrupted.is_some();
    if wake {
        core.mp = MpState::Runnable;
    }
    wake
}

/// Returns whether a maskable interrupt waits.
#[inline]
fn has_interrupt<B: Backend>(core: &VcpuCore<B>, vm: &Vm<B>) -> bool {
    has_interrupt_with(core, vm, highest_irr(core))
}

/// Returns the highest vector that the local APIC was asked to deliver.
#[inline]
fn highest_irr<B: Backend>(core: &VcpuCore<B>) -> Option<u8> {
    core.lapic.as_ref()?.highest_irr()
}

/// As [`has_interrupt`]; `highest` is what [`highest_irr`] returns.
#[inline]
fn has_interrupt_with<B: Backend>(core: &VcpuCore<B>, vm: &Vm<B>, highest: Option<u8>) -> bool {
    core.user_irq.is_some()
        || core.lapic.as_ref().is_some_and(|l| {
            highest.is_some_and(|vector| l.is_above_ppr(vector))
                || (vm.chipset.is_extint() && l.accepts_extint())
        })
}

/// The window: root operation on this CPU with interrupts off. `finishes_only`: the guest is not entered, but an
/// instruction is finished that user space did its part of.
fn window<B: Backend>(
    vm: &Vm<B>,
    shared: &VcpuShared,
    core: &mut VcpuCore<B>,
    fpu: &mut GuestFpu,
    finishes_only: bool,
) -> Leave {
    let cpu = PinnedCpu::pin();
    let Some(mut root) = vm.backend.open(&cpu) else { return Leave::Unusable };
    if vm.separates_guests {
        core.guest_id.separate(&cpu);
    }
    let split_locks = if core.splits_locks { SplitLocks::allow(&cpu) } else { None };
    let work = Work::of_this_thread(&cpu);
    let debug = HostDebug::save(&cpu);
    let Ok(mut fpu) = fpu.load(&cpu) else {
        core.hw.leave(&mut root);
        return Leave::User(UserExit::Bug(VmBug::ExtendedState));
    };
    let mut tsc_aux = TscAux::load(core.tsc_aux, vm.has_tsc_aux, &cpu);
    let mut spec_ctrl = SpecCtrl::new(core.spec_ctrl, vm.speculation, &cpu);
    load_debug(core, &cpu);
    core.clock.forget();
    let mut progress = Progress::new(timer::tsc_khz());
    let mut exited: Option<(Class, u64)> = None;
    let mut cx = Cx {
        vm,
        shared,
        core: &mut *core,
        fpu: &mut fpu,
        tsc_aux: &mut tsc_aux,
        spec_ctrl: &mut spec_ctrl,
        cpu: &cpu,
    };
    let leave = loop {
        if cx.core.io.is_unfinished() {
            let outcome = insn::finish(&mut cx);
            if let Some(leave) = settle(&mut cx, outcome) {
                break leave;
            }
            if cx.core.io.is_unfinished() {
                // Another vCPU came in between. The host's interrupts come before the next try.
                break Leave::Again;
            }
        }
        if finishes_only {
            break Leave::Again;
        }
        let busy = shared.enter_guest_mode(cpu.id());
        if busy || work.is_pending() {
            shared.leave_guest_mode();
            let must_leave = work.is_pending() || shared.is_requested(QUICK.complement());
            if must_leave || progress.is_over(timer::rdtsc()) {
                break Leave::Again;
            }
            take_requests(vm, shared, cx.core, QUICK);
            continue;
        }
        let generation = vm.space.flushes.requested();
        if cx.core.flush_generation != generation {
            cx.core.flush_generation = generation;
            cx.core.hw.flush_tlb();
        }
        if !prepare(vm, shared, cx.core) {
            shared.leave_guest_mode();
            break Leave::User(UserExit::Shutdown);
        }
        cx.core.state.flush(&mut cx.core.hw);
        cx.fpu.show_keys();
        if let Some(s) = &*cx.spec_ctrl {
            s.show();
        }
        if let (Some(times), Some((class, at))) = (&shared.times, exited.take()) {
            times.note(class, timer::rdtsc().wrapping_sub(at));
        }
        if let Some(due) = cx.core.lead.take_due(timer::rdtsc()) {
            timer::wait_until(due);
        }
        let exit = quick::run(&mut cx, &mut root, &work);
        if shared.times.is_some() {
            exited = exit.as_ref().map(|e| (Class::of(e), timer::rdtsc()));
        }
        if let Some(s) = &*cx.spec_ctrl {
            s.hide();
        }
        cx.fpu.hide_keys();
        shared.leave_guest_mode();
        let Some(exit) = exit else {
            progress.made();
            continue;
        };
        let outcome = handle::handle(&mut cx, exit);
        if let Some(leave) = settle(&mut cx, outcome) {
            break leave;
        }
        if is_stuck(&mut progress, cx.core, &exit) {
            break Leave::Again;
        }
    };
    if let (Some(times), Some((class, at))) = (&shared.times, exited) {
        times.note(class, timer::rdtsc().wrapping_sub(at));
    }
    put_debug(core);
    core.hw.leave(&mut root);
    drop(tsc_aux);
    drop(split_locks);
    drop(fpu);
    drop(debug);
    cpu::predictor_barrier_on_return(&cpu);
    leave
}

/// Returns whether the window must be closed after `exit`, so that the host can take its interrupts: it did
/// not happen at an instruction, and nothing says that others will.
#[inline]
fn is_stuck<B: Backend>(progress: &mut Progress, core: &VcpuCore<B>, exit: &Exit) -> bool {
    if core.hw.was_delivering() {
        return true;
    }
    if exit.is_of_insn() {
        progress.made();
        return false;
    }
    // The exception is delivered next, and may come again before the handler's first instruction.
    matches!(exit, Exit::Exception(..)) || progress.is_over(timer::rdtsc())
}

/// After an exit: notes what the entry had delivered, and what the exit cut short. Touches guest memory.
#[inline]
pub(super) fn commit<B: Backend>(vm: &Vm<B>, shared: &VcpuShared, core: &mut VcpuCore<B>, exit: &Exit) {
    if matches!(exit, Exit::EntryFailed(_)) {
        core.armed = None;
        return;
    }
    if let Some(vector) = core.armed.take() {
        if let Some(lapic) = core.lapic.as_mut() {
            lapic.accept_pending(vector);
        }
    }
    if take_eoi(vm, core).is_some() {
        shared.request_self(Requests::EOI);
    }
    if let Some(lapic) = core.lapic.as_mut() {
        // The processor keeps the class alone; the rest of the register stays while that does.
        let cr8 = core.hw.tpr();
        if cr8 != lapic.cr8() {
            lapic.set_cr8(cr8);
        }
    }
    core.interrupted = core.hw.take_interrupted();
}

/// Before an entry: gives the processor the event that comes first. Touches guest memory. Returns `false`
/// where there is nothing to enter any more: the guest has shut down.
pub(super) fn prepare<B: Backend>(vm: &Vm<B>, shared: &VcpuShared, core: &mut VcpuCore<B>) -> bool {
    if core.shutdown {
        return false;
    }
    let highest = highest_irr(core);
    let waits = has_interrupt_with(core, vm, highest);
    if let Some(event) = core.interrupted.take() {
        core.hw.inject(event);
    } else if let Some(e) = core.exception.take() {
        prepare_exception(core, e);
    } else if core.nmis != 0 && can_take_nmi(core) {
        core.nmis = core.nmis.saturating_sub(1);
        core.hw.inject(Event::Nmi);
    } else if waits {
        prepare_interrupt(vm, shared, core);
    }
    if core.nmis != 0 {
        core.hw.request_window(WindowKind::Nmi, true);
    }
    if let Some(lapic) = core.lapic.as_ref() {
        let floor = highest.map_or(0, |vector| lapic.held_class(vector));
        core.hw.set_tpr(lapic.cr8(), floor);
        // The timer waits for an end of interrupt that it can see.
        if !vm.chipset.is_timer_waiting() {
            core.pv.arm_eoi(&*vm.space, lapic, core.armed);
        }
    }
    // What waits may have been given to the processor just now.
    let window = core.wants_window || (waits && core.armed.is_none() && has_interrupt(core, vm));
    if window != core.window_open {
        core.window_open = window;
        core.hw.request_window(WindowKind::Interrupt, window);
    }
    true
}

/// Gives the processor an exception that is delivered for the first time, with what the delivery changes.
#[inline(never)]
fn prepare_exception<B: Backend>(core: &mut VcpuCore<B>, e: Exception) {
    if let Some(cr2) = e.cr2 {
        core.fetch(Groups::CONTROL);
        core.state.cr2 = cr2.0;
        core.state.mark(Groups::CONTROL);
    }
    if e.vector.is_fault() {
        // Breakpoints at the instruction have been seen to. SDM, "Instruction-Breakpoint Exception Condition".
        core.state.rflags |= Rflags::RF.bits();
    }
    if e.vector == Vector::DB {
        core.fetch(Groups::DEBUG);
        if core.state.dr7 & DR7_GD != 0 {
            // The handler may use the debug registers. SDM, "Debug Control Register (DR7)".
            core.state.dr7 &= !DR7_GD;
            core.state.mark(Groups::DEBUG);
        }
    }
    core.hw.inject(e.into());
}

fn can_take_nmi<B: Backend>(core: &VcpuCore<B>) -> bool {
    let b = core.hw.blocking();
    !b.nmi && !b.shadow
}

/// Gives the processor the interrupt that waits, if the guest can take it.
fn prepare_interrupt<B: Backend>(vm: &Vm<B>, shared: &VcpuShared, core: &mut VcpuCore<B>) {
    if !core.is_interruptible() {
        return;
    }
    let vector = if let Some(v) = core.user_irq.take() {
        Some(v)
    } else if vm.chipset.is_extint() && core.lapic.as_ref().is_some_and(|l| l.accepts_extint()) {
        vm.chipset.with(|bus, _now, _out| bus.acknowledge())
    } else {
        core.armed = core.lapic.as_ref().and_then(|l| l.pending());
        core.armed
    };
    if let Some(v) = vector {
        count(&shared.stats.interrupts);
        core.hw.inject(Event::Interrupt(v));
    }
}

/// Carries an outcome out. Returns why the window must be closed, if it must.
#[inline(always)]
fn settle<B: Backend>(cx: &mut Cx<'_, '_, B>, outcome: Outcome) -> Option<Leave> {
    match outcome {
        Outcome::Resume => None,
        Outcome::SkipAndResume => skip(cx).err(),
        Outcome::Inject(e) => {
            cx.core.raise(e);
            None
        }
        Outcome::Halt => match skip(cx) {
            Err(leave) => Some(leave),
            Ok(()) if cx.core.lapic.is_none() => Some(Leave::User(UserExit::Hlt)),
            Ok(()) => Some(Leave::Sleep),
        },
        Outcome::MapIn { gpa, write } => Some(Leave::MapIn(gpa, write)),
        Outcome::FaultIn { gpa, write } => Some(Leave::FaultIn(gpa, write)),
        Outcome::NeedPages => Some(Leave::NeedPages),
        Outcome::NeedFlush => Some(Leave::NeedFlush),
        Outcome::HostInterrupt => {
            count(&cx.shared.stats.host_interrupts);
            Some(Leave::Again)
        }
        Outcome::ToUser(exit) => Some(Leave::User(exit)),
        Outcome::SkipToUser(exit) => Some(skip(cx).err().unwrap_or(Leave::User(exit))),
    }
}

/// Carries out what keeps an instruction from being gone past.
#[cold]
#[inline(never)]
fn settle_skip<B: Backend>(cx: &mut Cx<'_, '_, B>, outcome: Outcome) -> Leave {
    settle(cx, outcome).unwrap_or(Leave::Again)
}

/// Goes past the instruction that exited.
#[inline(always)]
fn skip<B: Backend>(cx: &mut Cx<'_, '_, B>) -> Result<(), Leave> {
    let next = match handle::code::next_rip(cx) {
        Some(rip) => rip,
        None => handle::insn::next_rip(cx).map_err(|o| settle_skip(cx, o))?,
    };
    cx.core.go_past(next, cx.core.is_stepping());
    Ok(())
}

/// Puts the guest's breakpoints into the processor if any is on; else the first access does it.
fn load_debug<B: Backend>(core: &mut VcpuCore<B>, cpu: &PinnedCpu) {
    core.fetch(Groups::DEBUG);
    // DR7.L0 to G3.
    if core.state.dr7 & 0xff != 0 {
        crate::host::debug::write_addresses(&core.dr, cpu);
        core.debug_loaded = true;
        core.hw.set_debug_passthrough(true);
    }
}

/// Takes the guest's debug registers out of the processor.
fn put_debug<B: Backend>(core: &mut VcpuCore<B>) {
    if core.debug_loaded {
        core.debug_loaded = false;
        core.dr = crate::host::debug::read_addresses();
        core.hw.set_debug_passthrough(false);
    }
}

/// Makes a [`VmBug`] of an exit that nobody handles.
pub(crate) fn unknown(raw: super::exit::RawExit) -> Outcome {
    Outcome::ToUser(UserExit::Bug(VmBug::UnknownExit(raw)))
}
