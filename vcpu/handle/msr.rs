// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR.

use crate::arch::exception::CpuException;
use crate::host::trace;
use crate::vcpu::access::msr::{read, write};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::exit::MsrAccess;
use crate::vcpu::msr_table::{HandledMsr, MsrPolicy};
use crate::vcpu::outcome::{ExitOutcome, FastExit};
use crate::vcpu::record::count;
use crate::vcpu::state::RCX;

/// Handles RDMSR and WRMSR exits.
#[inline]
pub(crate) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, access: MsrAccess) -> ExitOutcome {
    let Some(policy) = policy(cx) else { return ExitOutcome::Inject(CpuException::GP0) };
    handle_as(cx, access, policy)
}

/// Returns what the MSR in ECX is.
#[inline(always)]
pub(crate) fn policy<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<MsrPolicy> {
    cx.core.recent_msrs.lookup(cx.core.state.gprs[RCX] as u32)
}

/// As [`handle`], of an MSR whose policy is known.
#[inline]
pub(crate) fn handle_as<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    access: MsrAccess,
    policy: MsrPolicy,
) -> ExitOutcome {
    count(&cx.record.stats.msr);
    let index = cx.core.state.gprs[RCX] as u32;
    let done = match access {
        MsrAccess::Read => read(cx, index, policy).map(|v| cx.core.state.set_edx_eax(v)),
        MsrAccess::Write => {
            let value = cx.core.state.edx_eax();
            write(cx, index, policy, value)
        }
    };
    let (record, state, refused) = (cx.record, &cx.core.state, done.is_err());
    trace::msr(move || trace::Msr {
        vcpu: record.id,
        index,
        is_write: matches!(access, MsrAccess::Write),
        value: state.edx_eax(),
        refused,
    });
    match done {
        Ok(()) => ExitOutcome::SkipAndResume,
        Err(e) => ExitOutcome::Inject(e),
    }
}

/// Returns how the guest goes on after an access that [`handle_as`] may carry out in the inner loop; `None` for
/// those that touch what the loop leaves in force.
#[inline(always)]
pub(crate) fn answer_of(policy: MsrPolicy, access: MsrAccess) -> Option<FastExit> {
    match (policy, access) {
        (MsrPolicy::Handled(HandledMsr::SpecCtrl | HandledMsr::PredCmd), _) => None,
        (_, MsrAccess::Read) => Some(FastExit::Again),
        // What waits in the local APIC may have changed.
        (MsrPolicy::Handled(_), MsrAccess::Write) => Some(FastExit::Prepare),
        (_, MsrAccess::Write) => Some(FastExit::Again),
    }
}
