// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR.

use crate::abi::run::{MSR_EXIT_FILTER, MSR_EXIT_INVAL, MSR_EXIT_UNKNOWN};
use crate::arch::exception::CpuException;
use crate::host::trace;
use crate::machine::msr_filter::MsrUse;
use crate::vcpu::access::msr::{read, write};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::insn;
use crate::vcpu::exit::MsrAccess;
use crate::vcpu::io::PendingMsr;
use crate::vcpu::msr_table::{lookup, HandledMsr, MsrPolicy};
use crate::vcpu::outcome::{BlockedBy, ExitOutcome, FastExit, MsrStop, UserExit};
use crate::vcpu::record::count;
use crate::vcpu::state::RCX;

/// Handles RDMSR and WRMSR exits.
#[inline]
pub(crate) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, access: MsrAccess) -> ExitOutcome {
    match policy(cx) {
        Some(policy) => handle_as(cx, access, policy),
        None => handle_refused(cx, access),
    }
}

/// Handles an access to what is no MSR of the guest's, or one that it may not both read and write.
#[cold]
#[inline(never)]
fn handle_refused<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, access: MsrAccess) -> ExitOutcome {
    let index = cx.core.state.gprs[RCX] as u32;
    let usage = match access {
        MsrAccess::Read => MsrUse::Read,
        MsrAccess::Write => MsrUse::Write,
    };
    // As KVM: the filter is asked before it is looked whether there is such an MSR.
    if !cx.core.recent_msrs.allows(index, usage) {
        return refuse(cx, access, MSR_EXIT_FILTER);
    }
    match lookup(index) {
        Some(policy) => handle_as(cx, access, policy),
        None => refuse(cx, access, MSR_EXIT_UNKNOWN),
    }
}

/// Refuses an access for `reason`: by #GP, or where user space wants that, by asking it.
#[cold]
#[inline(never)]
fn refuse<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, access: MsrAccess, reason: u32) -> ExitOutcome {
    if cx.vm.machine.choices.msr_exits() & reason == 0 {
        return ExitOutcome::Inject(CpuException::GP0);
    }
    // Worked out now: once user space has answered, other bytes may be there.
    let next = match insn::end(cx) {
        Ok(next) => next,
        Err(outcome) => return outcome,
    };
    let state = &cx.core.state;
    let is_write = access == MsrAccess::Write;
    cx.core.io.msr = Some(PendingMsr { rip: state.rip, next, is_read: !is_write });
    let index = state.gprs[RCX] as u32;
    let data = if is_write { state.edx_eax() } else { 0 };
    cx.core.leave_for_user(UserExit::Msr { index, data, is_write, reason })
}

/// Returns what the MSR in ECX is.
#[inline(always)]
pub(crate) fn policy<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<MsrPolicy> {
    cx.core.recent_msrs.lookup(cx.core.state.gprs[RCX] as u32)
}

/// As [`handle`], of an MSR whose policy is known.
fn handle_as<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    access: MsrAccess,
    policy: MsrPolicy,
) -> ExitOutcome {
    match carry_out(cx, access, policy) {
        Ok(()) => ExitOutcome::SkipAndResume,
        Err(stop) => stopped(cx, access, stop),
    }
}

/// Carries out an access in the inner loop, which goes on with `answer` and at `next` once it is done.
#[inline(always)]
pub(crate) fn answer_as<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    access: MsrAccess,
    policy: MsrPolicy,
    (answer, next): (FastExit, u64),
) -> FastExit {
    match carry_out(cx, access, policy) {
        Ok(()) => {
            cx.core.go_past(next, false);
            answer
        }
        Err(stop) => answer_stopped(cx, access, stop, next),
    }
}

/// Says how the inner loop goes on after an access that does not end with the next instruction.
#[cold]
#[inline(never)]
fn answer_stopped<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    access: MsrAccess,
    why: MsrStop,
    next: u64,
) -> FastExit {
    match stopped(cx, access, why) {
        ExitOutcome::Inject(e) => {
            cx.core.raise(e);
            FastExit::Prepare
        }
        ExitOutcome::SkipToUser => {
            cx.core.go_past(next, false);
            FastExit::ToUser
        }
        // Memory must be waited for, or user space is asked what comes of it: nothing has been done.
        _ => FastExit::Not,
    }
}

/// Carries out an access.
///
/// # Errors
/// Why it does not end with the next instruction.
#[inline(always)]
fn carry_out<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    access: MsrAccess,
    policy: MsrPolicy,
) -> Result<(), MsrStop> {
    count(&cx.record.stats.msr);
    match access {
        MsrAccess::Read => rdmsr(cx, policy),
        MsrAccess::Write => wrmsr(cx, policy),
    }
}

#[inline(never)]
fn rdmsr<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, policy: MsrPolicy) -> Result<(), MsrStop> {
    let index = cx.core.state.gprs[RCX] as u32;
    let done = match read(cx, index, policy) {
        Ok(value) => {
            cx.core.state.set_edx_eax(value);
            Ok(())
        }
        Err(_) => Err(MsrStop::Refused),
    };
    trace_msr(cx, index, false, &done);
    done
}

#[inline(never)]
fn wrmsr<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, policy: MsrPolicy) -> Result<(), MsrStop> {
    let index = cx.core.state.gprs[RCX] as u32;
    let value = cx.core.state.edx_eax();
    let done = write(cx, index, policy, value);
    trace_msr(cx, index, true, &done);
    done
}

#[inline(always)]
fn trace_msr<B: VendorBackend>(
    cx: &VcpuCx<'_, '_, B>,
    index: u32,
    is_write: bool,
    done: &Result<(), MsrStop>,
) {
    let (record, state) = (cx.record, &cx.core.state);
    trace::msr(move || trace::Msr {
        vcpu: record.id,
        index,
        is_write,
        value: state.edx_eax(),
        refused: *done == Err(MsrStop::Refused),
    });
}

/// Says what follows an access that does not end with the next instruction.
#[cold]
#[inline(never)]
fn stopped<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, access: MsrAccess, why: MsrStop) -> ExitOutcome {
    match why {
        MsrStop::Refused => refuse(cx, access, MSR_EXIT_INVAL),
        MsrStop::Missing(gpa) => ExitOutcome::Blocked(BlockedBy::FaultIn { gpa, write: true }),
        MsrStop::Told => ExitOutcome::SkipToUser,
    }
}

/// Returns how the guest goes on after an access that [`answer_as`] may carry out in the inner loop; `None` for
/// those that touch what the loop leaves in force.
#[inline(always)]
pub(crate) fn answer_of(policy: MsrPolicy, access: MsrAccess) -> Option<FastExit> {
    match (policy, access) {
        (MsrPolicy::Handled(HandledMsr::SpecCtrl | HandledMsr::PredCmd), _) => None,
        // Some wait for memory, or end in user space.
        (MsrPolicy::Handled(HandledMsr::HyperV(msr)), MsrAccess::Write) if !msr.is_local() => None,
        (_, MsrAccess::Read) => Some(FastExit::Again),
        // What waits in the local APIC may have changed.
        (MsrPolicy::Handled(_), MsrAccess::Write) => Some(FastExit::Prepare),
        (_, MsrAccess::Write) => Some(FastExit::Again),
    }
}
