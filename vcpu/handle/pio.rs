// SPDX-License-Identifier: GPL-2.0

//! IN and OUT.

use super::Cx;
use super::{insn, mmio, outs};
use crate::arch::addr::Width;
use crate::chipset::{bus, pit};
use crate::vcpu::backend::Backend;
use crate::vcpu::exit::PioAccess;
use crate::vcpu::ioevent::Place;
use crate::vcpu::outcome::{Outcome, UserExit};
use crate::vcpu::shared::{count, Requests};
use crate::vcpu::state::RAX;

/// Handles IN, OUT, INS and OUTS.
#[inline]
pub(super) fn handle<B: Backend>(cx: &mut Cx<'_, '_, B>, a: PioAccess) -> Outcome {
    count(&cx.shared.stats.pio);
    if a.is_string() {
        return outs::handle(cx, a).unwrap_or_else(|| insn::emulate(cx));
    }
    let rax = cx.core.state.gprs[RAX];
    if a.is_in() {
        match read(cx, a.port(), a.width()) {
            Some(value) => {
                cx.core.state.gprs[RAX] = merge(rax, a.width(), value);
                Outcome::SkipAndResume
            }
            None => {
                cx.core.io.port_in = Some(a.width());
                to_user(cx, a)
            }
        }
    } else if write(cx, a.port(), a.width(), rax as u32) {
        Outcome::SkipAndResume
    } else {
        to_user(cx, a)
    }
}

/// Carries out an access that a device in the kernel answers. Returns whether it was one; nothing has been
/// done otherwise.
#[inline(always)]
pub(crate) fn answer<B: Backend>(cx: &mut Cx<'_, '_, B>, a: PioAccess) -> bool {
    if a.is_plain_byte() {
        // Twice, so that the compiler makes a path of its own for the one that is read in loops.
        let done = match a.port() {
            pit::SPEAKER => answer_timer(cx, a, pit::SPEAKER),
            port @ 0x40..=0x43 => answer_timer(cx, a, port),
            _ => false,
        };
        if done {
            return true;
        }
    }
    if a.is_string() {
        return false;
    }
    let rax = cx.core.state.gprs[RAX];
    let is_signal = !a.is_in() && signal(cx, a.port(), (a.bytes(), || a.written(rax)));
    is_signal || answer_other(cx, a)
}

/// Signals user space, if that is what an OUT of `written` (bytes, value) to this port does. Returns whether
/// it is: never for a port that a chip decodes.
#[inline(always)]
fn signal<B: Backend>(cx: &mut Cx<'_, '_, B>, port: u16, written: (u32, impl Fn() -> u64)) -> bool {
    cx.vm.signal_write(cx.cpu, Place::Port, port.into(), written, &mut cx.core.event_hint)
}

/// A byte of the interval timer.
#[inline(always)]
fn answer_timer<B: Backend>(cx: &mut Cx<'_, '_, B>, a: PioAccess, port: u16) -> bool {
    let (vm, cpu) = (cx.vm, cx.cpu);
    if !a.is_in() {
        let value = cx.core.state.gprs[RAX] as u8;
        return vm.chipset.write_timer(cpu, port, value, || cx.now());
    }
    let Some(value) = vm.chipset.read_timer(cpu, port, || cx.now()) else { return false };
    let rax = &mut cx.core.state.gprs[RAX];
    *rax = (*rax & !0xff) | u64::from(value);
    true
}

#[inline(never)]
fn answer_other<B: Backend>(cx: &mut Cx<'_, '_, B>, a: PioAccess) -> bool {
    let rax = cx.core.state.gprs[RAX];
    if !a.is_in() {
        return write(cx, a.port(), a.width(), rax as u32);
    }
    let Some(value) = read(cx, a.port(), a.width()) else { return false };
    cx.core.state.gprs[RAX] = merge(rax, a.width(), value);
    true
}

/// Returns whether a port is one of PCI configuration.
fn is_pci(port: u16) -> bool {
    matches!(port, 0xcf8..=0xcff)
}

/// Returns whether nobody in the kernel has `port`: [`write`] gives it to user space.
pub(super) fn is_for_user<B: Backend>(cx: &Cx<'_, '_, B>, port: u16) -> bool {
    !bus::decodes(port) && !is_pci(port) && !cx.vm.pci.ends_unclaimed()
}

/// The instruction is finished before user space sees it, but for the value of an IN.
fn to_user<B: Backend>(cx: &mut Cx<'_, '_, B>, a: PioAccess) -> Outcome {
    Outcome::SkipToUser(UserExit::Io {
        port: a.port(),
        width: a.width(),
        is_in: a.is_in(),
        data: (cx.core.state.gprs[RAX] & a.width().mask()) as u32,
    })
}

/// Returns RAX after an IN of `value`.
pub(crate) fn merge(rax: u64, width: Width, value: u32) -> u64 {
    match width {
        // A 32-bit result clears the upper half.
        Width::B4 | Width::B8 => u64::from(value),
        _ => (rax & !width.mask()) | (u64::from(value) & width.mask()),
    }
}

/// Reads a port of a chip in the kernel. `None`: there is none.
pub(super) fn read<B: Backend>(cx: &mut Cx<'_, '_, B>, port: u16, width: Width) -> Option<u32> {
    if !bus::decodes(port) {
        let claimed = if is_pci(port) { cx.vm.pci.port_read(port, width) } else { None };
        return claimed.or_else(|| unclaimed(cx, width));
    }
    let (vm, cpu) = (cx.vm, cx.cpu);
    let (read, room) = vm.chipset.with_pinned(
        cpu,
        || cx.now(),
        |bus, now, out| {
            let read = bus.pio_read(port, width, now, out);
            (read, bus.take_console_room())
        },
    );
    if room {
        cx.vm.chipset.console.wake();
    }
    read.or_else(|| unclaimed(cx, width))
}

/// Writes a port of a chip in the kernel. Returns whether there is one.
pub(super) fn write<B: Backend>(cx: &mut Cx<'_, '_, B>, port: u16, width: Width, value: u32) -> bool {
    if !bus::decodes(port) {
        let written = (width.bytes() as u32, || u64::from(value) & width.mask());
        if signal(cx, port, written) {
            return true;
        }
        if !is_pci(port) {
            return cx.vm.pci.ends_unclaimed();
        }
        let chore = cx.vm.pci.port_write(&cx.vm.chipset, port, width, value);
        return mmio::note(cx, chore);
    }
    let (vm, cpu) = (cx.vm, cx.cpu);
    let (done, request, console) = vm.chipset.with_pinned(
        cpu,
        || cx.now(),
        |bus, now, out| {
            let done = bus.pio_write(port, width, value, now, out);
            // A write may clear the receiver's FIFO.
            (done, bus.take_request(), bus.take_console_wake() | bus.take_console_room())
        },
    );
    if let Some(request) = request {
        cx.vm.note_request(request);
        cx.shared.request_self(Requests::EXIT);
    }
    if console {
        cx.vm.chipset.console.wake();
    }
    done || cx.vm.pci.ends_unclaimed()
}

/// What a read gives that no chip answers, where the machine has a host bridge.
fn unclaimed<B: Backend>(cx: &Cx<'_, '_, B>, width: Width) -> Option<u32> {
    cx.vm.pci.ends_unclaimed().then_some(width.mask() as u32)
}
