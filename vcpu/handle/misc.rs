// SPDX-License-Identifier: GPL-2.0

//! The small exits: CPUID, XSETBV, hypercalls, debug registers, windows.

use super::{hyperv, pv_ipi};
use crate::arch::cpuid::{CpuidRegs, FExt7Edx, KvmFeatures};
use crate::arch::cr::{Cr0, Cr4, Rflags};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::hyperv::HvMsr;
use crate::host::debug;
use crate::machine::choices::KvmQuirks;
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::outcome::{ExitOutcome, UserExit};
use crate::vcpu::record::count;
use crate::vcpu::state::{StateGroups, RAX, RCX};
use kernel::pr_warn_once;

/// KVM_HC_SCHED_YIELD, a hint which vCPU should run. No guest is told that it is taken, and it is not.
const SCHED_YIELD: u32 = 11;
/// KVM_ENOSYS of the hypercall ABI, negative.
const KVM_ENOSYS: u64 = 0u64.wrapping_sub(1000);
/// KVM_EPERM of the hypercall ABI, negative.
const KVM_EPERM: u64 = 0u64.wrapping_sub(1);

/// CPUID. SDM, "CPUID—CPU Identification".
#[inline]
pub(crate) fn cpuid<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    count(&cx.record.stats.cpuid);
    let (function, index) = (cx.core.state.gprs[RAX] as u32, cx.core.state.gprs[RCX] as u32);
    let core = &mut *cx.core;
    match core.cpuid.recall(function, index) {
        // Not copied first: it would go by the stack.
        Some(regs) => core.state.set_abcd(*regs),
        None => {
            let regs = look_up(cx, function, index);
            cx.core.state.set_abcd(regs);
        }
    }
    ExitOutcome::SkipAndResume
}

#[inline(never)]
fn look_up<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, function: u32, index: u32) -> CpuidRegs {
    cx.core.fetch(StateGroups::CONTROL);
    let cr4 = cx.core.state.cr4;
    let mut regs = cx.core.cpuid.query(function, index, cr4, cx.fpu.xcr0().bits());
    if function == POWER_MANAGEMENT && cx.core.hyperv.rights.controls_invariant_tsc() {
        // Any vCPU may let it be seen, so the answer is not remembered.
        if cx.vm.machine.hyperv.get(HvMsr::TscInvariantControl) == 0 {
            regs.edx &= !FExt7Edx::INVARIANT_TSC.bits();
        }
        return regs;
    }
    cx.core.cpuid.remember(function, index, regs);
    regs
}

/// The leaf that says whether the frequency of the TSC is constant.
const POWER_MANAGEMENT: u32 = 0x8000_0007;

/// XSETBV. SDM, "XSETBV—Set Extended Control Register".
pub(crate) fn xsetbv<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    cx.core.fetch(StateGroups::CONTROL | StateGroups::SEGMENTS);
    if cx.core.state.cr4 & Cr4::OSXSAVE.bits() == 0 {
        return ExitOutcome::Inject(CpuException::UD);
    }
    let value = cx.core.state.edx_eax();
    let is_xcr0 = cx.core.state.gprs[RCX] as u32 == 0;
    if cx.core.state.cpl() != 0 || !is_xcr0 || cx.fpu.set_xcr0(value).is_err() {
        return ExitOutcome::Inject(CpuException::GP0);
    }
    ExitOutcome::SkipAndResume
}

/// VMMCALL or VMCALL in KVM's hypercall ABI, of which one is offered and a hint is heard, or in Hyper-V's. Nothing has
/// been done unless the answer is [`ExitOutcome::SkipAndResume`].
#[inline]
pub(crate) fn hypercall<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    if cx.core.is_hyperv {
        if let Some(outcome) = hyperv::hypercall(cx) {
            return outcome;
        }
    }
    kvm_hypercall(cx, None);
    ExitOutcome::SkipAndResume
}

/// A hypercall of KVM's, from code at privilege level `cpl`, if that is known.
#[inline(always)]
pub(crate) fn kvm_hypercall<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, cpl: Option<u8>) {
    count(&cx.record.stats.hypercalls);
    let cpl = match cpl.or_else(|| cx.core.hw.code_context().map(|context| context.cpl)) {
        Some(cpl) => cpl,
        None => {
            cx.core.state.fetch_code(&cx.core.hw);
            cx.core.state.cpl()
        }
    };
    // As KVM: the privilege is asked for before the number.
    let answer = match (cpl, cx.core.state.gprs[RAX] as u32) {
        (0, number @ (pv_ipi::SEND_IPI | SCHED_YIELD)) => call(cx, number),
        (0, _) => KVM_ENOSYS,
        _ => KVM_EPERM,
    };
    cx.core.state.gprs[RAX] = answer;
}

/// Carries out one of the hypercalls that there may be. Returns its answer.
#[inline(never)]
fn call<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, number: u32) -> u64 {
    match number {
        pv_ipi::SEND_IPI if cx.core.has_pv(KvmFeatures::PV_SEND_IPI) => {
            pv_ipi::send(cx).unwrap_or(KVM_ENOSYS)
        }
        SCHED_YIELD if cx.core.has_pv(KvmFeatures::PV_SCHED_YIELD) => 0,
        _ => KVM_ENOSYS,
    }
}

/// MONITOR or MWAIT, of which no guest is told unless user space does so: nothing is watched, and MWAIT goes on at once.
///
/// Documentation of KVM's API, "KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS".
pub(crate) fn mwait<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    if cx.vm.machine.choices.has_quirk(KvmQuirks::MWAIT_NEVER_UD_FAULTS) || cx.core.cpuid.has_mwait() {
        ExitOutcome::SkipAndResume
    } else {
        ExitOutcome::Inject(CpuException::UD)
    }
}

/// The first touch of a debug register since the window was opened: load the guest's, then let it be.
pub(crate) fn debug_register<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    if cx.core.debug.is_on() {
        return super::debug::mov(cx);
    }
    debug::write_addresses(&cx.core.dr, cx.cpu);
    cx.core.debug_loaded = true;
    cx.core.controls.set_debug_passthrough(true);
    ExitOutcome::Resume
}

/// #AC: the guest's own, or the host's for a locked access that splits a cache line. Such a guest goes on without
/// the host's detection, as under the kernel's own default.
///
/// SDM, "Features to Disable Bus Locks".
pub(crate) fn alignment_check<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, error: u32) -> ExitOutcome {
    cx.core.fetch(StateGroups::CONTROL | StateGroups::SEGMENTS);
    let s = &cx.core.state;
    let (am, ac) = (s.cr0 & Cr0::AM.bits() != 0, s.rflags & Rflags::AC.bits() != 0);
    if cx.core.splits_locks || !cx.vm.host_flags.is_split_lock(s.cpl(), am, ac) {
        return ExitOutcome::Inject(CpuException::with_error(ExceptionVector::AC, error));
    }
    cx.core.splits_locks = true;
    pr_warn_once!("a guest splits locks: it runs without their detection\n");
    // The next window is opened without it.
    ExitOutcome::HostInterrupt
}

/// The guest can take an interrupt now.
pub(crate) fn interrupt_window<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    // Asked for anew before the next entry, if something still waits then.
    cx.core.controls.set_interrupt_window(false);
    if cx.core.wants_user_window() {
        cx.core.wants_window = false;
        return cx.core.leave_for_user(UserExit::InterruptWindow);
    }
    ExitOutcome::Resume
}

/// The IRET of an NMI handler is about to run.
pub(crate) fn nmi_return<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    cx.core.controls.set_nmi_window(false);
    // Before an event is chosen for the coming entry, which may go first.
    cx.core.flush_controls();
    ExitOutcome::Resume
}
