// SPDX-License-Identifier: GPL-2.0

//! IN and OUT.

use super::outs;
use crate::chipset::pit;
use crate::host::trace;
use crate::vcpu::access::port;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::insn;
use crate::vcpu::exit::PioAccess;
use crate::vcpu::outcome::{ExitOutcome, FastExit, UserExit};
use crate::vcpu::record::count;
use crate::vcpu::state::{merge_rax, RAX};

/// Handles IN, OUT, INS and OUTS.
#[inline]
pub(crate) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess) -> ExitOutcome {
    count(&cx.record.stats.pio);
    if a.is_string() {
        return outs::handle(cx, a).unwrap_or_else(|| insn::emulate(cx));
    }
    if carry_out(cx, a) {
        ExitOutcome::SkipAndResume
    } else {
        ask(cx, a)
    }
}

/// Carries out an access, or asks user space for it; the caller goes past the instruction. [`FastExit::Not`]: it is
/// one of strings, and nothing has been done.
#[inline(always)]
pub(crate) fn answer<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess) -> FastExit {
    if a.is_plain_byte() {
        // Twice, so that the compiler makes a path of its own for the one that is read in loops.
        let done = match a.port() {
            pit::SPEAKER => answer_timer(cx, a, pit::SPEAKER),
            port @ 0x40..=0x43 => answer_timer(cx, a, port),
            _ => false,
        };
        if done {
            return FastExit::Again;
        }
    }
    if a.is_string() {
        return FastExit::Not;
    }
    let rax = cx.core.state.gprs[RAX];
    // Before the chips, which are behind a lock; an ioeventfd is found without one.
    let is_signal = !a.is_in() && port::signal(cx, a.port(), (a.bytes(), || a.written(rax)));
    if is_signal {
        FastExit::Again
    } else {
        answer_other(cx, a)
    }
}

/// A byte of the interval timer.
#[inline(always)]
fn answer_timer<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess, port: u16) -> bool {
    let (vm, cpu) = (cx.vm, cx.cpu);
    if !a.is_in() {
        let value = cx.core.state.gprs[RAX] as u8;
        trace_port(cx, a, value.into());
        return vm.machine.interrupts.write_timer(cpu, port, value, || cx.now());
    }
    let Some(value) = vm.machine.interrupts.read_timer(cpu, port, || cx.now()) else { return false };
    trace_port(cx, a, value.into());
    let rax = &mut cx.core.state.gprs[RAX];
    *rax = (*rax & !0xff) | u64::from(value);
    true
}

/// An access that signals nobody.
#[inline(never)]
fn answer_other<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess) -> FastExit {
    if carry_out(cx, a) {
        return FastExit::Again;
    }
    ask(cx, a);
    FastExit::ToUser
}

/// Carries out an access that the kernel answers. Returns whether it is one.
#[inline(always)]
fn carry_out<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess) -> bool {
    let (rax, width) = (cx.core.state.gprs[RAX], a.width());
    if !a.is_in() {
        let done = port::write(cx, a.port(), width, rax as u32);
        if done {
            trace_port(cx, a, rax);
        }
        return done;
    }
    let Some(value) = port::read(cx, a.port(), width) else { return false };
    trace_port(cx, a, value.into());
    cx.core.state.gprs[RAX] = merge_rax(rax, width, value);
    true
}

/// Traces an access that was answered in the kernel.
#[inline(always)]
fn trace_port<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, a: PioAccess, value: u64) {
    let record = cx.record;
    trace::port(move || trace::Port {
        vcpu: record.id,
        address: a.port().into(),
        bytes: a.bytes(),
        is_write: !a.is_in(),
        value: value & a.width().mask(),
    });
}

/// Asks user space for an access. The instruction is finished before it sees that, but for the value of an IN.
#[inline(always)]
fn ask<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess) -> ExitOutcome {
    let (width, is_in) = (a.width(), a.is_in());
    if is_in {
        cx.core.io.port_in = Some(width);
    }
    let data = (cx.core.state.gprs[RAX] & width.mask()) as u32;
    cx.core.skip_to_user(UserExit::Io { port: a.port(), width, is_in, data })
}
