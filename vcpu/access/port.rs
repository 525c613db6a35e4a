// SPDX-License-Identifier: GPL-2.0

//! What an I/O port reaches: a chip in the kernel, PCI configuration, an eventfd, the host bridge, user space.

use crate::arch::addr::AccessWidth;
use crate::chipset::bus;
use crate::machine::ioevent::IoAddrSpace;
use crate::machine::mailbox::VcpuRequests;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;

/// Signals user space, if that is what an OUT of `written` (bytes, value) to this port does. Returns whether
/// it is: never for a port that a chip decodes.
#[inline(always)]
pub(crate) fn signal<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    port: u16,
    written: (u32, impl Fn() -> u64),
) -> bool {
    cx.vm.machine.signal_write(cx.cpu, IoAddrSpace::Port, port.into(), written, &mut cx.core.event_hint)
}

/// Returns whether a port is one of PCI configuration.
fn is_pci(port: u16) -> bool {
    matches!(port, 0xcf8..=0xcff)
}

/// Returns whether nobody in the kernel has `port`: [`write`] gives it to user space.
pub(crate) fn is_for_user<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, port: u16) -> bool {
    !bus::decodes(port) && !is_pci(port) && !cx.vm.machine.pci.ends_unclaimed()
}

/// Reads a port of a chip in the kernel. `None`: there is none.
pub(crate) fn read<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    port: u16,
    width: AccessWidth,
) -> Option<u32> {
    if !bus::decodes(port) {
        let claimed = if is_pci(port) { cx.vm.machine.pci.port_read(port, width) } else { None };
        return claimed.or_else(|| unclaimed(cx, width));
    }
    let (vm, cpu) = (cx.vm, cx.cpu);
    let (read, room) = vm.machine.interrupts.with_pinned(
        cpu,
        || cx.now(),
        |bus, now, out| {
            let read = bus.pio_read(port, width, now, out);
            (read, bus.take_console_room())
        },
    );
    if room {
        // Without the lock, which whoever waits for room takes as soon as it wakes up.
        cx.vm.machine.interrupts.console.wake();
    }
    read.or_else(|| unclaimed(cx, width))
}

/// Writes a port of a chip in the kernel. Returns whether there is one.
pub(crate) fn write<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    port: u16,
    width: AccessWidth,
    value: u32,
) -> bool {
    if !bus::decodes(port) {
        let written = (width.bytes() as u32, || u64::from(value) & width.mask());
        if signal(cx, port, written) {
            return true;
        }
        if !is_pci(port) {
            return cx.vm.machine.pci.ends_unclaimed();
        }
        let deferred = cx.vm.machine.pci.port_write(port, width, value);
        return cx.defer(deferred);
    }
    let (vm, cpu) = (cx.vm, cx.cpu);
    let (done, request, console) = vm.machine.interrupts.with_pinned(
        cpu,
        || cx.now(),
        |bus, now, out| {
            let done = bus.pio_write(port, width, value, now, out);
            // A write may clear the receiver's FIFO.
            (done, bus.take_request(), bus.take_console_wake() | bus.take_console_room())
        },
    );
    if let Some(request) = request {
        cx.vm.machine.power.note(request);
        // Leaves the window: outside it the run loop looks for what the platform is asked to do.
        cx.mailbox.request_self(VcpuRequests::EXIT);
    }
    if console {
        cx.vm.machine.interrupts.console.wake();
    }
    done || cx.vm.machine.pci.ends_unclaimed()
}

/// What a read gives that no chip answers, where the machine has a host bridge.
fn unclaimed<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, width: AccessWidth) -> Option<u32> {
    cx.vm.machine.pci.ends_unclaimed().then_some(width.mask() as u32)
}
