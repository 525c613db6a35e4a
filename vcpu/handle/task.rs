// SPDX-License-Identifier: GPL-2.0

//! A switch to another task: no processor makes it in guest mode. SDM, "Instructions That Cause VM Exits
//! Unconditionally"; APM, "Task Switch Intercept".
//!
//! Nothing of it has happened yet. The event that goes through a task gate is delivered in software, or else the
//! instruction that the guest is at is carried out there. By now other bytes may be in its place: then it runs again, and
//! the processor says what it is.

use super::emulated_mode;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::machine::CxMachine;
use crate::vcpu::emulate::decode::DecodedInsn;
use crate::vcpu::emulate::execute;
use crate::vcpu::emulate::machine::StopReason;
use crate::vcpu::emulate::table::OpcodeMap;
use crate::vcpu::outcome::ExitOutcome;
use crate::vcpu::state::StateGroups;

/// Handles a task switch.
pub(super) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL | StateGroups::TABLES);
    if let Some(event) = cx.core.interrupted {
        return emulated_mode::deliver(cx, event);
    }
    let mut machine = CxMachine::new(cx);
    let insn = execute::fetch_and_decode(&mut machine, None);
    let after = machine.after;
    match insn {
        Ok(insn) if switches_tasks(&insn) => emulated_mode::instruction(cx, &insn),
        Ok(_) => ExitOutcome::Resume,
        Err(StopReason::Retry) => after.outcome(),
        Err(StopReason::Fault(e)) => ExitOutcome::Inject(e),
        Err(StopReason::NoMemory(_) | StopReason::Unhandled) => cx.core.unknown(cx.record.recorder.last()),
    }
}

/// Returns whether an instruction is one of those that may lead to another task: far CALL and JMP, INT and IRET.
fn switches_tasks(insn: &DecodedInsn) -> bool {
    insn.map == OpcodeMap::One
        && match insn.opcode {
            0x9a | 0xea | 0xcc..=0xcf => true,
            0xff => matches!(insn.ext, 3 | 5),
            _ => false,
        }
}
