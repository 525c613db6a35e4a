// SPDX-License-Identifier: GPL-2.0

//! One handler for each family of exits: a typed exit in, a typed outcome out.
//!
//! Handlers run in the window, interrupts off. They never sleep; what must, they name in their
//! outcome. RIP moves only through [`ExitOutcome::SkipAndResume`] and the emulator.

mod emulated_mode;
mod memory;
pub(crate) mod misc;
pub(crate) mod msr;
mod outs;
pub(crate) mod pio;

use super::backend::Backend;
use super::context::VcpuCx;
use super::exit::{Exit, VirtInsn};
use super::outcome::{ExitOutcome, UserExit, VmBug};
use super::record::count;
use crate::arch::exception::{Exception, Vector};

/// Handles an exit.
#[inline(always)]
pub(crate) fn handle<B: Backend>(cx: &mut VcpuCx<'_, '_, B>, exit: Exit) -> ExitOutcome {
    match exit {
        Exit::Pio(access) => pio::handle(cx, access),
        Exit::Msr(access) => msr::handle(cx, access),
        Exit::GuestPageFault(fault) => memory::handle(cx, fault),
        Exit::Hlt => {
            count(&cx.record.stats.halts);
            ExitOutcome::Halt
        }
        Exit::Cpuid => misc::cpuid(cx),
        Exit::HostInterrupt => ExitOutcome::HostInterrupt,
        Exit::Resolved => ExitOutcome::Resume,
        Exit::InterruptWindow => misc::interrupt_window(cx),
        Exit::VirtInsn(VirtInsn::Hypercall) => misc::hypercall(cx),
        Exit::VirtInsn(VirtInsn::Svm(_) | VirtInsn::Vmx(_)) | Exit::Undefined => {
            ExitOutcome::Inject(Exception::UD)
        }
        Exit::Forbidden => ExitOutcome::Inject(Exception::GP0),
        Exit::CacheFlush => ExitOutcome::SkipAndResume,
        Exit::Xsetbv => misc::xsetbv(cx),
        Exit::DebugRegister => misc::debug_register(cx),
        Exit::Exception(vector, error) => exception(cx, vector, error),
        Exit::NmiReturn => misc::nmi_return(cx),
        Exit::Emulate | Exit::Cr(_) | Exit::Invlpg(_) => emulated_mode::step(cx),
        Exit::TripleFault => ExitOutcome::ToUser(UserExit::Shutdown),
        Exit::TaskSwitch => ExitOutcome::unknown(cx.record.recorder.last()),
        Exit::EntryFailed(raw) => ExitOutcome::ToUser(UserExit::Bug(VmBug::EntryFailed(raw))),
        Exit::Unknown(raw) => ExitOutcome::unknown(raw),
    }
}

/// An exception that is watched for the host's sake goes on to the guest.
fn exception<B: Backend>(cx: &mut VcpuCx<'_, '_, B>, vector: Vector, error: u32) -> ExitOutcome {
    match vector {
        // The host's, and its handler has run; the guest never sees it.
        Vector::MC => ExitOutcome::HostInterrupt,
        Vector::AC => misc::alignment_check(cx, error),
        _ => ExitOutcome::Inject(Exception::plain(vector)),
    }
}
