// SPDX-License-Identifier: GPL-2.0

//! Hypercalls of Hyper-V's.
//!
//! TLFS, "Hypercall Interface" and "Hypercall Reference". A call that is carried out here is done in one go, however many
//! elements it is about. What comes to nothing here, and what waits for memory, has not been begun.

use super::hyperv_vps;
use crate::arch::addr::Gpa;
use crate::arch::cr::Cr0;
use crate::arch::exception::CpuException;
use crate::arch::hyperv::{hypercall as code, DebuggerMsr, HvMsr, HvStatus};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::insn;
use crate::vcpu::hyperv::call::{CallInput, HvCall, InputStop};
use crate::vcpu::hyperv::{HvExit, PendingCall};
use crate::vcpu::outcome::{BlockedBy, ExitOutcome, UserExit};
use crate::vcpu::record::count;
use crate::vcpu::state::StateGroups;

/// The debugger's option that makes the guest talk to it by hypercalls.
const DEBUG_BY_HYPERCALLS: u64 = 1 << 2;

/// Bytes of what [`code::SIGNAL_EVENT`] reads, which must lie as a word does.
const WORD: u64 = 8;
/// In that: the number of the flag, of which none is known but 0.
const FLAG_NUMBER: u64 = 0xffff_0000_0000;
/// In that: the number of the connection.
const CONNECTION: u64 = 0x00ff_ffff;

/// What becomes of a call.
enum CallEnd {
    /// It is done, or refused, with this answer.
    Answered(u64),
    /// User space carries it out.
    ToUser,
    /// It is none that the guest can make so: #UD.
    Undefined,
}

impl From<HvStatus> for CallEnd {
    fn from(status: HvStatus) -> CallEnd {
        CallEnd::Answered(status.answer())
    }
}

/// Carries a hypercall out. `None`: the guest has not said which operating system it is, and so makes none of these.
#[inline(never)]
pub(super) fn hypercall<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<ExitOutcome> {
    if cx.vm.machine.hyperv.get(HvMsr::GuestOsId) == 0 {
        return None;
    }
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL);
    let state = &cx.core.state;
    if state.cpl() != 0 || state.cr0 & Cr0::PE.bits() == 0 {
        return Some(ExitOutcome::Inject(CpuException::UD));
    }
    let call = HvCall::of(state, state.is_64bit());
    Some(match carry_out(cx, &call) {
        Ok(CallEnd::Answered(answer)) => {
            count(&cx.record.stats.hypercalls);
            HvCall::answer(&mut cx.core.state, call.is_long, answer);
            ExitOutcome::SkipAndResume
        }
        Ok(CallEnd::ToUser) => ask(cx, &call),
        Ok(CallEnd::Undefined) => ExitOutcome::Inject(CpuException::UD),
        Err(gpa) => ExitOutcome::Blocked(BlockedBy::FaultIn { gpa, write: false }),
    })
}

/// Leaves a call to user space.
fn ask<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, call: &HvCall) -> ExitOutcome {
    let next = match insn::end(cx) {
        Ok(next) => next,
        Err(outcome) => return outcome,
    };
    cx.core.hyperv.call = Some(PendingCall { rip: cx.core.state.rip, next, is_long: call.is_long });
    cx.core.leave_for_user(UserExit::HyperV(HvExit::Call { control: call.control, params: call.params }))
}

/// Carries a call out, if the guest may make it.
///
/// # Errors
/// The address of a page that must be made resident first; nothing has been done.
fn carry_out<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, call: &HvCall) -> Result<CallEnd, Gpa> {
    let rights = &cx.core.hyperv.rights;
    if !rights.allows_call(call.code()) {
        return Ok(HvStatus::AccessDenied.into());
    }
    if call.has_reserved() {
        return Ok(HvStatus::InvalidInput.into());
    }
    if call.is_fast() && takes_xmm(call.code()) && !rights.allows_xmm_input() {
        return Ok(CallEnd::Undefined);
    }
    let has_repeats = call.repeats() != 0 || call.start() != 0;
    let is_plain = call.header_words() == 0 && !has_repeats;
    let end = match call.code() {
        code::LONG_SPIN_WAIT | code::SIGNAL_EVENT | code::POST_MESSAGE if !is_plain => {
            HvStatus::InvalidInput.into()
        }
        // A hint: whoever has the lock runs when the host's scheduler has it run.
        code::LONG_SPIN_WAIT => HvStatus::Success.into(),
        code::SIGNAL_EVENT => signal_event(cx, call)?,
        code::POST_MESSAGE => by_user_space(cx),
        code::FLUSH_SPACE | code::FLUSH_LIST | code::SEND_IPI if call.header_words() != 0 => {
            HvStatus::InvalidInput.into()
        }
        code::FLUSH_LIST | code::FLUSH_LIST_EX if call.repeats() == 0 || call.start() != 0 => {
            HvStatus::InvalidInput.into()
        }
        code::FLUSH_SPACE | code::FLUSH_SPACE_EX | code::SEND_IPI | code::SEND_IPI_EX if has_repeats => {
            HvStatus::InvalidInput.into()
        }
        code::FLUSH_SPACE
        | code::FLUSH_SPACE_EX
        | code::FLUSH_LIST
        | code::FLUSH_LIST_EX
        | code::SEND_IPI
        | code::SEND_IPI_EX => about_vps(cx, call)?,
        code::POST_DEBUG_DATA..=code::RESET_DEBUG_SESSION => debug(cx, call),
        code::QUERY_CAPABILITIES..=code::LAST_EXTENDED if call.is_fast() => HvStatus::InvalidParameter.into(),
        code::QUERY_CAPABILITIES..=code::LAST_EXTENDED => CallEnd::ToUser,
        _ => HvStatus::InvalidCode.into(),
    };
    Ok(end)
}

/// Returns whether the input of a fast call of that number goes on in XMM registers.
fn takes_xmm(number: u16) -> bool {
    matches!(
        number,
        code::FLUSH_SPACE | code::FLUSH_LIST | code::FLUSH_SPACE_EX | code::FLUSH_LIST_EX | code::SEND_IPI_EX
    )
}

/// Carries out a call about other virtual processors.
fn about_vps<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, call: &HvCall) -> Result<CallEnd, Gpa> {
    let ram = &*cx.vm.machine.ram;
    let input = if call.is_fast() {
        CallInput::fast(call, takes_xmm(call.code()).then(|| cx.fpu.xmm_words()))
    } else {
        let [at, _] = call.params;
        CallInput::Memory(ram, Gpa(at))
    };
    let done = match call.code() {
        code::SEND_IPI | code::SEND_IPI_EX => hyperv_vps::send_ipi(cx, call, &input),
        _ => hyperv_vps::flush(cx, call, &input),
    };
    match done {
        // All elements are done, wherever it is that there are some.
        Ok(HvStatus::Success) => Ok(CallEnd::Answered(call.repeats() << code::REPEATS_SHIFT)),
        Ok(status) => Ok(status.into()),
        Err(InputStop::Invalid) => Ok(HvStatus::InvalidInput.into()),
        Err(InputStop::Missing(gpa)) => Err(gpa),
    }
}

/// Signals an event through a connection, or leaves it to user space.
fn signal_event<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, call: &HvCall) -> Result<CallEnd, Gpa> {
    let [mut word, _] = call.params;
    if !call.is_fast() {
        if word % WORD != 0 {
            return Ok(HvStatus::InvalidAlignment.into());
        }
        word = match CallInput::Memory(&*cx.vm.machine.ram, Gpa(word)).word(0) {
            Ok(word) => word,
            Err(InputStop::Invalid) => return Ok(HvStatus::InvalidAlignment.into()),
            Err(InputStop::Missing(gpa)) => return Err(gpa),
        };
    }
    if word & FLAG_NUMBER == 0 {
        if word & !CONNECTION != 0 {
            return Ok(HvStatus::InvalidInput.into());
        }
        if cx.vm.machine.hyperv.signal(cx.cpu, word as u32) {
            return Ok(HvStatus::Success.into());
        }
    }
    Ok(by_user_space(cx))
}

/// Leaves a call about connections to user space, which can do something with it where there is a synthetic interrupt
/// controller.
fn by_user_space<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>) -> CallEnd {
    if cx.core.hyperv.synic.is_active {
        CallEnd::ToUser
    } else {
        HvStatus::InvalidInput.into()
    }
}

/// Carries out a call of the debugger's: user space does, where the guest has chosen that.
fn debug<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, call: &HvCall) -> CallEnd {
    if call.is_fast() && call.code() != code::RESET_DEBUG_SESSION {
        return HvStatus::InvalidParameter.into();
    }
    if !cx.core.hyperv.rights.has_debugger() {
        return HvStatus::InvalidCode.into();
    }
    let options = cx.vm.machine.hyperv.get(HvMsr::Debugger(DebuggerMsr::Options));
    if options & DEBUG_BY_HYPERCALLS == 0 {
        return HvStatus::OperationDenied.into();
    }
    CallEnd::ToUser
}
