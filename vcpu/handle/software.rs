// SPDX-License-Identifier: GPL-2.0

//! A guest in a mode that the processor cannot run: real mode, or protected mode without paging, where
//! it has no such support. Its instructions are carried out one by one.
//!
//! SDM, "Unrestricted Guests". Instructions that would exit go to the handlers of those exits, all others
//! to the emulator. Events are delivered by the table of real mode; in protected mode without paging they
//! are not.

use super::insn::{self, failure};
use super::machine::{CxMachine, Want};
use super::{misc, msr, Cx};
use crate::arch::cr::Rflags;
use crate::vcpu::backend::{Backend, BackendVcpu};
use crate::vcpu::emulate::decode::Insn;
use crate::vcpu::emulate::execute;
use crate::vcpu::emulate::exit_insn::ExitInsn;
use crate::vcpu::emulate::machine::{Step, Stop};
use crate::vcpu::emulate::table::Map;
use crate::vcpu::event::{Blocking, Event};
use crate::vcpu::exit::MsrAccess;
use crate::vcpu::outcome::{Outcome, UserExit};
use crate::vcpu::state::Groups;

/// Delivers the event that waits, or else carries out the instruction at RIP.
pub(super) fn step<B: Backend>(cx: &mut Cx<'_, '_, B>) -> Outcome {
    cx.core.fetch(Groups::SEGMENTS | Groups::CONTROL | Groups::TABLES);
    if let Some(event) = cx.core.interrupted {
        let done = on_machine(cx, |m| execute::deliver(m, vector(event)));
        if done == Outcome::Resume {
            cx.core.interrupted = None;
        }
        return done;
    }
    let mut found = None;
    let done = on_machine(cx, |m| execute::fetch_and_decode(m, None).map(|insn| found = Some(insn)));
    match found {
        Some(insn) => instruction(cx, &insn),
        None => done,
    }
}

/// Returns the entry of the table that an event goes through.
fn vector(event: Event) -> u8 {
    match event {
        Event::Interrupt(vector) | Event::Software { vector } => vector,
        Event::Nmi => 2,
        Event::Exception { vector, .. } => vector.0,
    }
}

/// Runs a part of the emulator and says what follows.
fn on_machine<'a, 'f, B: Backend>(
    cx: &mut Cx<'a, 'f, B>,
    body: impl FnOnce(&mut CxMachine<'_, 'a, 'f, B>) -> Step<()>,
) -> Outcome {
    let mut machine = CxMachine::new(cx);
    let done = body(&mut machine);
    let want = machine.want;
    match done {
        Ok(()) => Outcome::Resume,
        Err(Stop::Fault(e)) => Outcome::Inject(e),
        Err(Stop::Retry) => match want {
            Want::FaultIn(gpa, write) => Outcome::FaultInGpa { gpa, write },
            _ => Outcome::Resume,
        },
        Err(Stop::Unhandled) => Outcome::ToUser(UserExit::Bug(failure(cx))),
    }
}

fn instruction<B: Backend>(cx: &mut Cx<'_, '_, B>, insn: &Insn) -> Outcome {
    match (insn.map, insn.opcode) {
        (Map::One, 0xfa | 0xfb) => return interrupt_flag(cx, insn),
        (Map::One, 0x17 | 0x8e) => return load_segment(cx, insn),
        _ => {}
    }
    match ExitInsn::of(insn) {
        ExitInsn::Cpuid => misc::cpuid(cx),
        ExitInsn::Hlt => Outcome::Halt,
        ExitInsn::Rdmsr => msr::handle(cx, MsrAccess::Read),
        ExitInsn::Wrmsr => msr::handle(cx, MsrAccess::Write),
        ExitInsn::Invd | ExitInsn::Wbinvd | ExitInsn::Pause => Outcome::SkipAndResume,
        ExitInsn::Rdtsc => {
            let tsc = cx.core.guest_tsc();
            cx.core.state.set_edx_eax(tsc);
            Outcome::SkipAndResume
        }
        ExitInsn::Xsetbv => misc::xsetbv(cx),
        ExitInsn::Vmcall | ExitInsn::Vmmcall => misc::hypercall(cx),
        _ => insn::emulate(cx),
    }
}

/// FA and FB: CLI and STI. Here the guest is at CPL 0.
fn interrupt_flag<B: Backend>(cx: &mut Cx<'_, '_, B>, insn: &Insn) -> Outcome {
    if insn.opcode == 0xfa {
        cx.core.state.rflags &= !Rflags::IF.bits();
        return Outcome::SkipAndResume;
    }
    let was_on = cx.core.state.rflags & Rflags::IF.bits() != 0;
    let next = cx.core.state.rip.wrapping_add(u64::from(insn.len)) & 0xffff_ffff;
    cx.core.state.rip = next;
    cx.core.end_insn(cx.core.state.rflags & Rflags::TF.bits() != 0);
    cx.core.state.rflags = (cx.core.state.rflags | Rflags::IF.bits()) & !Rflags::RF.bits();
    if !was_on {
        hold_off(cx);
    }
    Outcome::Resume
}

/// 17 and 8E: a load of SS holds events off until the next instruction is done.
fn load_segment<B: Backend>(cx: &mut Cx<'_, '_, B>, insn: &Insn) -> Outcome {
    let is_stack = insn.opcode == 0x17 || insn.ext == 2;
    let rip = cx.core.state.rip;
    let done = insn::emulate(cx);
    if is_stack && done == Outcome::Resume && cx.core.state.rip != rip {
        hold_off(cx);
    }
    done
}

fn hold_off<B: Backend>(cx: &mut Cx<'_, '_, B>) {
    let nmi = cx.core.hw.blocking().nmi;
    cx.core.hw.set_blocking(Blocking { shadow: true, nmi });
}
