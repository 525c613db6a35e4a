// SPDX-License-Identifier: GPL-2.0

//! The inner loop: exits that are answered at once, and the guest goes on.
//!
//! What the run loop does around each exit (announcing guest mode, the guest's protection keys,
//! choosing an event, taking what others asked) holds on from entry to entry as long as nothing
//! happens that it depends on. So an exit of one of a few kinds that is answered without touching
//! guest memory goes straight back into the guest, after one look at each of: requests of others, work
//! of the host's scheduler, translations taken away. Everything else is the run loop's.
//!
//! Guest mode stays announced over it, so whoever posts something meanwhile sends an interrupt, which
//! waits, for interrupts are off, and ends the next entry at once. The guest's protection keys stay in
//! force: they could only make the comparison in [`code::known`] fail, which means that nothing is
//! known.

use super::backend::{Backend, BackendVcpu};
use super::exit::{Exit, MsrAccess, VirtInsn};
use super::handle::{code, insn_length, misc, mov, msr, pio, Cx};
use super::outcome::Outcome;
use super::shared::count;
use crate::arch::cr::Rflags;
use crate::host::cpu::Work;
use core::sync::atomic::Ordering::SeqCst;

/// How the guest goes on after an exit that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// At once.
    Again,
    /// After another look at what it should be given.
    Prepare,
    /// Not answered: nothing has been done yet.
    Not,
}

/// Enters the guest until an exit comes that the run loop must handle, and returns it; `None`: all have
/// been, but something waits.
#[inline(always)]
pub(super) fn run<B: Backend>(
    cx: &mut Cx<'_, '_, B>,
    window: &mut B::Window<'_>,
    work: &Work<'_>,
) -> Option<Exit> {
    let calm = is_calm(cx);
    let tpr = cx.core.hw.tpr();
    loop {
        let exit = cx.core.hw.enter(window, cx.vm.space.root(), &mut cx.core.state);
        cx.shared.recorder.note(cx.core.state.rip, cx.core.hw.raw_exit());
        if !calm || cx.core.hw.tpr() != tpr || cx.core.state.rflags & Rflags::TF.bits() != 0 {
            return Some(exit);
        }
        match answer(cx, &exit) {
            Answer::Not => return Some(exit),
            Answer::Prepare => return None,
            Answer::Again => {}
        }
        if cx.shared.has_requests()
            || work.is_pending()
            || cx.vm.space.flush_generation.load(SeqCst) != cx.core.flush_generation
        {
            return None;
        }
        cx.core.state.flush(&mut cx.core.hw);
    }
}

/// Returns whether nothing but the exit itself has to be looked at after it.
#[inline(always)]
fn is_calm<B: Backend>(cx: &Cx<'_, '_, B>) -> bool {
    let core = &*cx.core;
    !(core.armed.is_some()
        || core.nmi
        || core.window_open
        || core.wants_window
        || core.pv.is_eoi_armed()
        || cx.shared.times.is_some())
}

/// Answers an exit, if it is of a kind that is answered here.
#[inline(always)]
fn answer<B: Backend>(cx: &mut Cx<'_, '_, B>, exit: &Exit) -> Answer {
    match *exit {
        Exit::Pio(access) => {
            let Some(next) = next_rip(cx) else { return Answer::Not };
            if !pio::answer(cx, access) {
                return Answer::Not;
            }
            count(&cx.shared.stats.pio);
            go_past(cx, next);
            Answer::Again
        }
        Exit::Cpuid => {
            let Some(next) = next_rip(cx) else { return Answer::Not };
            misc::cpuid(cx);
            go_past(cx, next);
            Answer::Again
        }
        Exit::Msr(access) => answer_msr(cx, access),
        Exit::VirtInsn(VirtInsn::Hypercall) => {
            let Some(next) = next_rip(cx) else { return Answer::Not };
            misc::hypercall(cx);
            go_past(cx, next);
            Answer::Again
        }
        Exit::GuestPageFault(fault) => mov::answer(cx, &fault),
        _ => Answer::Not,
    }
}

#[inline(always)]
fn answer_msr<B: Backend>(cx: &mut Cx<'_, '_, B>, access: MsrAccess) -> Answer {
    let Some(next) = next_rip(cx) else { return Answer::Not };
    let Some(policy) = msr::policy(cx) else { return Answer::Not };
    let Some(answer) = msr::answer_of(policy, access) else { return Answer::Not };
    match msr::handle_as(cx, access, policy) {
        Outcome::Inject(e) => {
            cx.core.raise(e);
            Answer::Prepare
        }
        _ => {
            go_past(cx, next);
            answer
        }
    }
}

/// Returns the address of the next instruction, if it is known at once.
#[inline(always)]
fn next_rip<B: Backend>(cx: &Cx<'_, '_, B>) -> Option<u64> {
    if let Some(next) = cx.core.hw.next_rip() {
        return Some(next);
    }
    let context = cx.core.hw.code_context()?;
    let len = insn_length(code::known(cx, &context)?);
    Some(cx.core.state.rip.wrapping_add(len))
}

/// Goes past the instruction that exited; the trap flag is clear.
#[inline(always)]
pub(super) fn go_past<B: Backend>(cx: &mut Cx<'_, '_, B>, next: u64) {
    cx.core.state.rip = next;
    cx.core.state.rflags &= !Rflags::RF.bits();
    cx.core.end_insn(false);
}
