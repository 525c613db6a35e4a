// SPDX-License-Identifier: GPL-2.0

//! #UD: the guest's own, but for the hypercall of the other vendor's processors.
//!
//! A guest that was made on one vendor's processor and runs on the other's may have the wrong one of the two
//! instructions. As KVM does, the right one is put in its place, unless user space has turned that off. Documentation of
//! KVM's API, "KVM_X86_QUIRK_FIX_HYPERCALL_INSN".

use super::misc;
use crate::abi::rvmm::VENDOR_SVM;
use crate::arch::addr::Gva;
use crate::arch::exception::CpuException;
use crate::arch::segment::SegReg;
use crate::machine::choices::KvmQuirks;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::machine::{CxMachine, RetryAfter};
use crate::vcpu::emulate::execute;
use crate::vcpu::emulate::exit_insn::ExitInsn;
use crate::vcpu::emulate::machine::{InsnMachine, StopReason};
use crate::vcpu::outcome::ExitOutcome;
use crate::vcpu::state::StateGroups;

const VMCALL: [u8; 3] = [0x0f, 0x01, 0xc1];
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];

/// Handles #UD.
pub(super) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    if !cx.vm.machine.choices.has_quirk(KvmQuirks::FIX_HYPERCALL_INSN) {
        return ExitOutcome::Inject(CpuException::UD);
    }
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL | StateGroups::TABLES);
    let mut machine = CxMachine::new(cx);
    let insn = execute::fetch_and_decode(&mut machine, None);
    let after = machine.after;
    match insn.map(|insn| ExitInsn::of(&insn)) {
        Ok(ExitInsn::Vmcall | ExitInsn::Vmmcall) => fix(cx),
        // The page has gone meanwhile. The instruction faults once more when it is back.
        Err(StopReason::Retry) => after.outcome(),
        _ => ExitOutcome::Inject(CpuException::UD),
    }
}

/// Writes the right instruction over the wrong one, which then runs; where the guest cannot write to its code, carries
/// the call out.
fn fix<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    let right = if B::VENDOR == VENDOR_SVM { VMMCALL } else { VMCALL };
    let at = Gva(cx.core.state.seg(SegReg::Cs).base.wrapping_add(cx.core.state.rip));
    let mut machine = CxMachine::new(cx);
    let written = machine.write(at, &right);
    match (written, machine.after) {
        (Ok(()), _) => ExitOutcome::Resume,
        (Err(StopReason::Retry), RetryAfter::Blocked(by)) => ExitOutcome::Blocked(by),
        _ => {
            cx.core.io.forget();
            misc::hypercall(cx)
        }
    }
}
