// SPDX-License-Identifier: GPL-2.0

//! A guest in a mode that the processor cannot run: real mode, or protected mode without paging, where
//! it has no such support. Its instructions are carried out one by one.
//!
//! SDM, "Unrestricted Guests". Instructions that would exit go to the handlers of those exits, all others
//! to the emulator, which also delivers events by the guest's IDT.

use super::{misc, msr, pio};
use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::cr::Rflags;
use crate::arch::exception::ExceptionVector;
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::insn::{self, failure};
use crate::vcpu::emul::machine::{CxMachine, RetryAfter};
use crate::vcpu::emulate::decode::{CodeMode, DecodedInsn};
use crate::vcpu::emulate::execute;
use crate::vcpu::emulate::exit_insn::ExitInsn;
use crate::vcpu::emulate::interrupt::InterruptCause;
use crate::vcpu::emulate::machine::{EmulatedStep, StopReason};
use crate::vcpu::emulate::table::OpcodeMap;
use crate::vcpu::event::{EventBlocking, GuestEvent};
use crate::vcpu::exit::{MsrAccess, PioAccess};
use crate::vcpu::outcome::{ExitOutcome, UserExit, VmBug};
use crate::vcpu::state::{StateGroups, RDX};

/// Delivers the event that waits, or else carries out the instruction at RIP. No interrupt of the host ends
/// what runs here: the run loop's bound does.
pub(crate) fn step<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    cx.core.fetch(StateGroups::SEGMENTS | StateGroups::CONTROL | StateGroups::TABLES);
    if let Some(event) = cx.core.interrupted {
        return deliver(cx, event);
    }
    // The processor does not run, and so does not say when the guest can take an interrupt.
    if cx.core.controls.interrupt_window() && cx.core.is_interruptible() {
        return misc::interrupt_window(cx);
    }
    let mut found = None;
    let done = on_machine(cx, |m| {
        let mode = execute::mode_of(m);
        execute::fetch_and_decode(m, None).map(|insn| found = Some((insn, mode)))
    });
    match found {
        Some((insn, mode)) => {
            let done = instruction(cx, &insn);
            go_past(cx, (&insn, mode), done)
        }
        None => done.unwrap_or_else(|_| {
            let failure = failure(cx);
            bug(cx, failure)
        }),
    }
}

/// Goes past an instruction that is done, as it was decoded: by now other bytes may be there, or none, and what it did
/// must not be done again.
fn go_past<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    (insn, mode): (&DecodedInsn, CodeMode),
    done: ExitOutcome,
) -> ExitOutcome {
    let after = match done {
        ExitOutcome::SkipAndResume => ExitOutcome::Resume,
        ExitOutcome::SkipToUser => ExitOutcome::ToUser,
        ExitOutcome::Halt => ExitOutcome::Halted,
        other => return other,
    };
    let next = mode.next_rip(cx.core.state.rip, insn);
    cx.core.go_past(next, cx.core.is_stepping());
    after
}

fn bug<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, why: VmBug) -> ExitOutcome {
    cx.core.leave_for_user(UserExit::Bug(why))
}

/// Goes to the handler of an event.
pub(super) fn deliver<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, event: GuestEvent) -> ExitOutcome {
    let Some((vector, cause)) = route(event) else {
        cx.core.interrupted = None;
        return ExitOutcome::Resume;
    };
    let done = match on_machine(cx, |m| execute::deliver(m, vector, cause)) {
        Ok(done) => done,
        Err(DeliveryFailure::NoMemory(gpa)) => {
            let raw = cx.record.recorder.last();
            return cx.core.leave_for_user(UserExit::Undeliverable { raw, gpa: Some(gpa) });
        }
        Err(DeliveryFailure::Unknown) => {
            let rip = cx.core.state.rip;
            return bug(cx, VmBug::Delivery { rip, vector });
        }
    };
    // A fault on the way takes the place of an interrupt. With an exception it merges.
    let is_over = match done {
        ExitOutcome::Resume => true,
        ExitOutcome::Inject(_) => !matches!(cause, InterruptCause::Exception(_)),
        // Memory comes first. The event stays as it is, and is delivered afterwards.
        _ => return done,
    };
    if is_over {
        cx.core.interrupted = None;
    }
    // A delivery ends a shadow, and that of an NMI blocks the next one.
    let nmi = event == GuestEvent::Nmi || cx.core.hw.blocking().nmi;
    cx.core.hw.set_blocking(EventBlocking { shadow: false, nmi });
    done
}

/// Returns the entry of the table that an event goes through, and why. INT n goes through none: RIP is
/// still at it, and it runs again.
fn route(event: GuestEvent) -> Option<(u8, InterruptCause)> {
    match event {
        GuestEvent::Interrupt(vector) => Some((vector, InterruptCause::Interrupt)),
        GuestEvent::Nmi => Some((ExceptionVector::NMI.0, InterruptCause::Interrupt)),
        GuestEvent::Exception { vector, error } => Some((vector.0, InterruptCause::Exception(error))),
        GuestEvent::Software { .. } => None,
    }
}

/// Why a part of the emulator came to nothing.
enum DeliveryFailure {
    /// The emulator does not know.
    Unknown,
    /// There is no memory at that address, where the processor wants some.
    NoMemory(Gpa),
}

/// Runs a part of the emulator that is no instruction, and says what follows.
fn on_machine<'a, 'f, B: VendorBackend>(
    cx: &mut VcpuCx<'a, 'f, B>,
    body: impl FnOnce(&mut CxMachine<'_, 'a, 'f, B>) -> EmulatedStep<()>,
) -> Result<ExitOutcome, DeliveryFailure> {
    let mut machine = CxMachine::new(cx);
    let done = body(&mut machine);
    let after = machine.after;
    match (done, after) {
        (Ok(()), _) | (Err(StopReason::Retry), RetryAfter::Nothing) => Ok(ExitOutcome::Resume),
        (Err(StopReason::Fault(e)), _) => Ok(ExitOutcome::Inject(e)),
        (Err(StopReason::Retry), RetryAfter::Blocked(by)) => Ok(ExitOutcome::Blocked(by)),
        (Err(StopReason::NoMemory(gpa)), _) => Err(DeliveryFailure::NoMemory(gpa)),
        // Neither a fetch nor a delivery asks user space for anything.
        (Err(StopReason::Retry), RetryAfter::User) | (Err(StopReason::Unhandled), _) => {
            Err(DeliveryFailure::Unknown)
        }
    }
}

/// Carries an instruction out. It must be one that the guest may have there, or that the emulator checks.
pub(super) fn instruction<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, insn: &DecodedInsn) -> ExitOutcome {
    match (insn.map, insn.opcode) {
        (OpcodeMap::One, 0xfa | 0xfb) => return interrupt_flag(cx, insn),
        (OpcodeMap::One, 0x17 | 0x8e) => return load_segment(cx, insn),
        (OpcodeMap::One, 0xcf) => return interrupt_return(cx),
        _ => {}
    }
    match ExitInsn::of(insn) {
        ExitInsn::Cpuid => misc::cpuid(cx),
        ExitInsn::Hlt => ExitOutcome::Halt,
        ExitInsn::Rdmsr => msr::handle(cx, MsrAccess::Read),
        ExitInsn::Wrmsr => msr::handle(cx, MsrAccess::Write),
        ExitInsn::Invd | ExitInsn::Wbinvd | ExitInsn::Pause => ExitOutcome::SkipAndResume,
        ExitInsn::Rdtsc => {
            let tsc = cx.core.guest_tsc();
            cx.core.state.set_edx_eax(tsc);
            ExitOutcome::SkipAndResume
        }
        ExitInsn::In | ExitInsn::Out => port(cx, insn),
        ExitInsn::Xsetbv => misc::xsetbv(cx),
        ExitInsn::Monitor | ExitInsn::Mwait => misc::mwait(cx),
        ExitInsn::Vmcall | ExitInsn::Vmmcall => misc::hypercall(cx),
        _ => insn::emulate(cx),
    }
}

/// E4 to E7 and EC to EF: IN and OUT, as if they had exited. Here the guest is at CPL 0.
fn port<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, insn: &DecodedInsn) -> ExitOutcome {
    let by_register = insn.opcode & 8 != 0;
    let dx = cx.core.state.gprs[RDX] as u16;
    let port = if by_register { dx } else { (insn.imm & 0xff) as u16 };
    let width = if insn.opcode & 1 == 0 { AccessWidth::B1 } else { insn.op_size };
    let is_in = insn.opcode & 2 == 0;
    pio::handle(cx, PioAccess::new(port, width, is_in, false))
}

/// FA and FB: CLI and STI. Here the guest is at CPL 0.
fn interrupt_flag<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, insn: &DecodedInsn) -> ExitOutcome {
    if insn.opcode == 0xfa {
        cx.core.state.rflags &= !Rflags::IF.bits();
        return ExitOutcome::SkipAndResume;
    }
    let was_on = cx.core.state.rflags & Rflags::IF.bits() != 0;
    let next = cx.core.state.rip.wrapping_add(u64::from(insn.len)) & 0xffff_ffff;
    cx.core.state.rip = next;
    // This ends the shadow of the instruction before; that of STI is set after it.
    cx.core.end_insn(cx.core.state.rflags & Rflags::TF.bits() != 0);
    cx.core.state.rflags = (cx.core.state.rflags | Rflags::IF.bits()) & !Rflags::RF.bits();
    // With interrupts on already, STI holds nothing off. SDM, "STI—Set Interrupt Flag".
    if !was_on {
        hold_off(cx);
    }
    ExitOutcome::Resume
}

/// 17 and 8E: a load of SS holds events off until the next instruction is done.
fn load_segment<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, insn: &DecodedInsn) -> ExitOutcome {
    let is_stack = insn.opcode == 0x17 || insn.ext == 2;
    let rip = cx.core.state.rip;
    let done = insn::emulate(cx);
    // The load may have to be tried again; it is done once RIP has moved.
    if is_stack && done == ExitOutcome::Resume && cx.core.state.rip != rip {
        hold_off(cx);
    }
    done
}

/// CF: IRET ends the blocking of NMIs.
fn interrupt_return<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> ExitOutcome {
    let done = insn::emulate(cx);
    if done == ExitOutcome::Resume && cx.core.hw.blocking().nmi {
        cx.core.hw.set_blocking(EventBlocking::default());
    }
    done
}

fn hold_off<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) {
    let nmi = cx.core.hw.blocking().nmi;
    cx.core.hw.set_blocking(EventBlocking { shadow: true, nmi });
}
