// SPDX-License-Identifier: GPL-2.0

//! One handler for each family of exits: a typed exit in, a typed outcome out.
//!
//! Handlers run in the window, interrupts off. They never sleep; what must, they name in their
//! outcome. RIP moves only through [`Outcome::SkipAndResume`] and the emulator.

pub(crate) mod code;
pub(crate) mod insn;
mod lapic;
mod machine;
mod memory;
pub(super) mod misc;
mod mmio;
pub(super) mod mov;
pub(crate) mod msr;
mod operand;
mod outs;
pub(super) mod pio;
mod software;

pub(crate) use pio::merge as merge_rax;

use super::backend::Backend;
use super::core::VcpuCore;
use super::exit::{Exit, VirtInsn};
use super::outcome::{Outcome, UserExit, VmBug};
use super::run::unknown;
use super::shared::{count, VcpuShared};
use super::vm::Vm;
use crate::arch::exception::{Exception, Vector};
use crate::arch::time::Ns;
use crate::host::cpu::{self, PinnedCpu};
use crate::host::fpu;
use crate::host::msr::{SpecCtrl, TscAux};

/// Everything a handler may touch.
pub(crate) struct Cx<'a, 'f, B: Backend> {
    /// The VM.
    pub(crate) vm: &'a Vm<B>,
    /// What others see of this vCPU.
    pub(crate) shared: &'a VcpuShared,
    /// The vCPU.
    pub(crate) core: &'a mut VcpuCore<B>,
    /// The guest's extended state, in the registers.
    pub(crate) fpu: &'a mut fpu::Loaded<'f>,
    /// The guest's TSC_AUX, in the register.
    pub(crate) tsc_aux: &'a mut Option<TscAux>,
    /// The guest's SPEC_CTRL, switched around each entry.
    pub(crate) spec_ctrl: &'a mut Option<SpecCtrl>,
    /// This CPU.
    pub(crate) cpu: &'a PinnedCpu,
}

impl<B: Backend> Cx<'_, '_, B> {
    /// Returns the host's monotonic time.
    #[inline(always)]
    pub(crate) fn now(&mut self) -> Ns {
        self.core.clock.now(self.vm.ns_per_tick)
    }
}

/// Returns CPUID.1:EAX, which RDX holds after reset.
pub(crate) fn signature() -> u32 {
    cpu::cpuid(1, 0).eax
}

/// Handles an exit.
#[inline(always)]
pub(crate) fn handle<B: Backend>(cx: &mut Cx<'_, '_, B>, exit: Exit) -> Outcome {
    match exit {
        Exit::Pio(access) => pio::handle(cx, access),
        Exit::Msr(access) => msr::handle(cx, access),
        Exit::GuestPageFault(fault) => memory::handle(cx, fault),
        Exit::Hlt => {
            count(&cx.shared.stats.halts);
            Outcome::Halt
        }
        Exit::Cpuid => misc::cpuid(cx),
        Exit::HostInterrupt => Outcome::HostInterrupt,
        Exit::Resolved => Outcome::Resume,
        Exit::InterruptWindow => misc::interrupt_window(cx),
        Exit::VirtInsn(VirtInsn::Hypercall) => misc::hypercall(cx),
        Exit::VirtInsn(VirtInsn::Other) | Exit::Undefined => Outcome::Inject(Exception::UD),
        Exit::Forbidden => Outcome::Inject(Exception::GP0),
        Exit::CacheFlush => Outcome::SkipAndResume,
        Exit::Xsetbv => misc::xsetbv(cx),
        Exit::DebugRegister => misc::debug_register(cx),
        Exit::Exception(vector, error) => exception(cx, vector, error),
        Exit::NmiReturn => misc::nmi_return(cx),
        Exit::Emulate => software::step(cx),
        Exit::TripleFault => Outcome::ToUser(UserExit::Shutdown),
        Exit::TaskSwitch => unknown(cx.shared.recorder.last()),
        Exit::EntryFailed(raw) => Outcome::ToUser(UserExit::Bug(VmBug::EntryFailed(raw))),
        Exit::Unknown(raw) => unknown(raw),
    }
}

/// An exception that is watched for the host's sake goes on to the guest.
fn exception<B: Backend>(cx: &mut Cx<'_, '_, B>, vector: Vector, error: u32) -> Outcome {
    match vector {
        // The host's, and its handler has run; the guest never sees it.
        Vector::MC => Outcome::HostInterrupt,
        Vector::AC => misc::alignment_check(cx, error),
        _ => Outcome::Inject(Exception::plain(vector)),
    }
}
