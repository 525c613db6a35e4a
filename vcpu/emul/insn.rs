// SPDX-License-Identifier: GPL-2.0

//! Running the emulator on the instruction that exited.

use super::code;
use super::machine::{CxMachine, RetryAfter};
use super::mov;
use crate::arch::exception::CpuException;
use crate::machine::choices::MachineOptions;
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emulate::decode::{CodeMode, DecodedInsn, MAX_LEN};
use crate::vcpu::emulate::execute;
use crate::vcpu::emulate::machine::StopReason;
use crate::vcpu::outcome::{ExitOutcome, UserExit, VmBug};
use crate::vcpu::record::count;
use crate::vcpu::state::StateGroups;

/// Carries out the instruction at RIP in software.
pub(crate) fn emulate<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    count(&cx.record.stats.emulated);
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL | StateGroups::TABLES);
    let mut hint = [0u8; MAX_LEN];
    let len = match cx.core.hw.insn_bytes() {
        Some(bytes) => {
            let n = bytes.len().min(MAX_LEN);
            if let (Some(dst), Some(src)) = (hint.get_mut(..n), bytes.get(..n)) {
                dst.copy_from_slice(src);
            }
            n
        }
        None => 0,
    };
    // The processor's own bytes come first: they are what it fetched, whatever memory holds by now.
    if let Some((insn, mode)) = if len == 0 { code::current(cx) } else { None } {
        return carry_out(cx, insn, mode);
    }
    let mut machine = CxMachine::new(cx);
    let mode = execute::mode_of(&machine);
    let insn = execute::fetch_and_decode(&mut machine, hint.get(..len).filter(|b| !b.is_empty()));
    let after = machine.after;
    match insn {
        Ok(insn) => carry_out(cx, insn, mode),
        Err(stop) => stopped(cx, stop, after),
    }
}

/// Finishes the instruction for which user space has carried out what it asked for.
pub(crate) fn finish<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    if mov::finish(cx) {
        return ExitOutcome::Resume;
    }
    let Some(&(insn, mode)) = cx.core.io.unfinished(cx.core.state.rip) else {
        // User space has sent the vCPU elsewhere, so its answer belongs to no instruction any more.
        cx.core.io.forget();
        return ExitOutcome::Resume;
    };
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL | StateGroups::TABLES);
    carry_out(cx, insn, mode)
}

/// Carries out a decoded instruction; the groups of registers that it may need have been fetched.
fn carry_out<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, insn: DecodedInsn, mode: CodeMode) -> ExitOutcome {
    // Asked now, since a string instruction ends its waiting with each element that is done.
    let finishes = cx.core.io.is_unfinished();
    cx.core.io.begin();
    // As the instruction finds it: with a trap flag that POPF sets, the next one traps first. SDM, "Single-Step
    // Exception Condition".
    let stepping = cx.core.is_stepping();
    let mut machine = CxMachine::new(cx);
    let done = execute::carry_out(&mut machine, insn, mode);
    let after = machine.after;
    match done {
        Ok(()) => {
            cx.core.io.forget();
            cx.core.end_insn(stepping);
            ExitOutcome::Resume
        }
        Err(stop) => {
            let has_begun = cx.core.io.has_begun();
            let asks = after == RetryAfter::User;
            // The element of a string instruction that was to be finished is done. Events come before the next.
            if asks && finishes && !has_begun && !cx.core.io.is_unfinished() {
                cx.core.io.forget();
                return ExitOutcome::Resume;
            }
            // What has been done must not be done again by another that comes in between.
            if stop == StopReason::Retry && (asks || has_begun) {
                cx.core.io.keep(insn, mode, cx.core.state.rip);
            }
            match stop {
                StopReason::NoMemory(gpa) if insn.is_interrupt() => {
                    cx.core.io.forget();
                    let raw = cx.record.recorder.last();
                    cx.core.leave_for_user(UserExit::Undeliverable { raw, gpa: Some(gpa) })
                }
                stop => stopped(cx, stop, after),
            }
        }
    }
}

/// Returns what comes of an instruction that was not carried out.
fn stopped<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, stop: StopReason, after: RetryAfter) -> ExitOutcome {
    match stop {
        StopReason::Fault(e) => {
            cx.core.io.forget();
            ExitOutcome::Inject(e)
        }
        StopReason::Retry => after.outcome(),
        StopReason::NoMemory(_) | StopReason::Unhandled => {
            cx.core.io.forget();
            unhandled(cx)
        }
    }
}

/// Returns what comes of an instruction that the emulator does not know: the VM's end only where the guest's kernel
/// executed it, as on KVM, or where user space wants to know of all.
fn unhandled<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    count(&cx.record.stats.emulation_failures);
    if cx.core.state.cpl() != 0 && !cx.vm.machine.choices.has(MachineOptions::ENDS_ON_UNKNOWN_INSN) {
        return ExitOutcome::Inject(CpuException::UD);
    }
    let failure = failure(cx);
    cx.core.leave_for_user(UserExit::Bug(failure))
}

/// Returns the address of the instruction after the one that exited, whatever it takes to know. Before user space is
/// asked, for once it has answered, other bytes may be there.
///
/// # Errors
/// As [`next_rip`].
pub(crate) fn end<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Result<u64, ExitOutcome> {
    code::next_rip(cx, &cx.record.recorder.last()).map_or_else(|| next_rip(cx), Ok)
}

/// Returns the address of the instruction after the one that exited, by decoding it.
///
/// # Errors
/// What must be done first, or the VM's end.
pub(crate) fn next_rip<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Result<u64, ExitOutcome> {
    if let Some((insn, mode)) = code::current(cx) {
        return Ok(mode.next_rip(cx.core.state.rip, &insn));
    }
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL);
    let mut machine = CxMachine::new(cx);
    let insn = execute::fetch_and_decode(&mut machine, None);
    let after = machine.after;
    match insn {
        Ok(insn) => {
            let mode = if cx.core.state.is_64bit() { CodeMode::Bits64 } else { CodeMode::Bits32 };
            Ok(mode.next_rip(cx.core.state.rip, &insn))
        }
        Err(StopReason::Fault(e)) => Err(ExitOutcome::Inject(e)),
        Err(StopReason::Retry) => Err(match after {
            RetryAfter::Blocked(by) => ExitOutcome::Blocked(by),
            // Fetching asks user space for nothing.
            _ => ExitOutcome::Resume,
        }),
        Err(StopReason::NoMemory(_) | StopReason::Unhandled) => Err(unhandled(cx)),
    }
}

/// Returns the instruction at RIP and its mode.
///
/// # Errors
/// As [`next_rip`].
pub(crate) fn decode_current<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
) -> Result<(DecodedInsn, CodeMode), ExitOutcome> {
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL);
    let mut machine = CxMachine::new(cx);
    let mode = execute::mode_of(&machine);
    let insn = execute::fetch_and_decode(&mut machine, None);
    let after = machine.after;
    insn.map(|insn| (insn, mode)).map_err(|stop| stopped(cx, stop, after))
}

/// Describes the instruction that could not be emulated.
pub(crate) fn failure<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> VmBug {
    let rip = cx.core.state.rip;
    let (bytes, len) = CxMachine::new(cx).peek_code();
    VmBug::Emulation { rip, bytes, len, raw: cx.record.recorder.last() }
}
