// SPDX-License-Identifier: GPL-2.0

//! Debug exceptions, breakpoints and debug registers of a guest that a debugger outside looks at.

use crate::host::debug;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::insn;
use crate::vcpu::emulate::decode::CodeMode;
use crate::vcpu::emulate::exit_insn::ExitInsn;
use crate::vcpu::guest_debug::DebugAccess;
use crate::vcpu::outcome::ExitOutcome;

/// Carries out a MOV to or from a debug register, whose guest must not have the processor's.
#[cold]
#[inline(never)]
pub(super) fn mov<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    let (found, mode) = match insn::decode_current(cx) {
        Ok(found) => found,
        Err(outcome) => return outcome,
    };
    let (gpr, is_long) = (usize::from(found.rm & 15), mode == CodeMode::Bits64);
    let mask = if is_long { u64::MAX } else { 0xffff_ffff };
    let done = match ExitInsn::of(&found) {
        ExitInsn::MovFromDr(number) => cx.core.read_own_debug(number).map(|value| {
            if let Some(reg) = cx.core.state.gprs.get_mut(gpr) {
                *reg = value & mask;
            }
        }),
        ExitInsn::MovToDr(number) => {
            let value = cx.core.state.gprs.get(gpr).copied().unwrap_or(0) & mask;
            let done = cx.core.write_own_debug(number, value);
            // They may be in force now, in the processor too, from which they are taken when the window is closed.
            debug::write_addresses(&cx.core.dr, cx.cpu);
            cx.core.debug_loaded = true;
            done
        }
        // It has become another one; it exits again, or not.
        _ => return ExitOutcome::Resume,
    };
    match done {
        Ok(()) => ExitOutcome::SkipAndResume,
        Err(DebugAccess::Raise(e)) => ExitOutcome::Inject(e),
        Err(DebugAccess::Exit(exit)) => cx.core.leave_for_user(exit),
    }
}
