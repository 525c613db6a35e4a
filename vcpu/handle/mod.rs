// SPDX-License-Identifier: GPL-2.0

//! One handler for each family of exits: a typed exit in, a typed outcome out.
//!
//! Handlers run in the window, interrupts off. They never sleep; what must, they name in their
//! outcome. RIP moves only through [`ExitOutcome::SkipAndResume`] and the emulator.

mod debug;
mod emulated_mode;
mod hyperv;
mod hyperv_vps;
mod memory;
pub(crate) mod misc;
pub(crate) mod msr;
mod outs;
pub(crate) mod pio;
mod pv_ipi;
mod shadow;
mod task;
mod undefined;

use super::backend::VendorBackend;
use super::context::VcpuCx;
use super::exit::{VirtInsn, VmExit};
use super::outcome::{ExitOutcome, UserExit, VmBug};
use super::record::count;
use crate::arch::exception::{CpuException, ExceptionVector};

/// Handles an exit.
#[inline(always)]
pub(crate) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, exit: VmExit) -> ExitOutcome {
    match exit {
        VmExit::Pio(access) => pio::handle(cx, access),
        VmExit::Msr(access) => msr::handle(cx, access),
        VmExit::GuestPageFault(fault) => memory::handle(cx, fault),
        VmExit::PageFault(fault) => shadow::handle(cx, fault),
        VmExit::Hlt => {
            count(&cx.record.stats.halts);
            ExitOutcome::Halt
        }
        VmExit::Cpuid => misc::cpuid(cx),
        VmExit::HostInterrupt => ExitOutcome::HostInterrupt,
        VmExit::Resolved => ExitOutcome::Resume,
        VmExit::InterruptWindow => misc::interrupt_window(cx),
        VmExit::VirtInsn(VirtInsn::Hypercall) => misc::hypercall(cx),
        // Nested virtualization is not offered: as on a processor that does not have it.
        VmExit::VirtInsn(VirtInsn::Svm(_) | VirtInsn::Vmx(_)) | VmExit::Undefined => {
            ExitOutcome::Inject(CpuException::UD)
        }
        VmExit::Mwait => misc::mwait(cx),
        VmExit::Forbidden => ExitOutcome::Inject(CpuException::GP0),
        // No device looks past the caches, and INVD would throw away what the host has written.
        VmExit::CacheFlush => ExitOutcome::SkipAndResume,
        VmExit::Xsetbv => misc::xsetbv(cx),
        VmExit::DebugRegister => misc::debug_register(cx),
        VmExit::Exception(vector, error) => exception(cx, vector, error),
        VmExit::NmiReturn => misc::nmi_return(cx),
        VmExit::Emulate | VmExit::Cr(_) | VmExit::Invlpg(_) => emulated_mode::step(cx),
        VmExit::TripleFault => cx.core.leave_for_user(UserExit::Shutdown),
        VmExit::TaskSwitch => task::handle(cx),
        VmExit::EntryFailed(raw) => cx.core.leave_for_user(UserExit::Bug(VmBug::EntryFailed(raw))),
        VmExit::Unknown(raw) => cx.core.unknown(raw),
    }
}

/// An exception that is watched for the host's sake goes on to the guest.
fn exception<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    vector: ExceptionVector,
    error: u32,
) -> ExitOutcome {
    match vector {
        // The host's, and its handler has run; the guest never sees it.
        ExceptionVector::MC => ExitOutcome::HostInterrupt,
        ExceptionVector::UD => undefined::handle(cx),
        ExceptionVector::AC => misc::alignment_check(cx, error),
        ExceptionVector::DB | ExceptionVector::BP => match cx.core.take_for_debugger(vector) {
            Some(exit) => cx.core.leave_for_user(exit),
            None => ExitOutcome::Inject(CpuException::plain(vector)),
        },
        _ => ExitOutcome::Inject(CpuException::plain(vector)),
    }
}
