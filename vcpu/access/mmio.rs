// SPDX-License-Identifier: GPL-2.0

//! Memory that belongs to a device in the kernel: local APIC, IOAPIC, PCI BARs.

use super::lapic;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::arch::time::Ns;
use crate::chipset::bus::{BusSignals, ChipBus, IOAPIC_BASE, IOAPIC_SIZE};
use crate::host::trace;
use crate::machine::ioevent::IoAddrSpace;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;

/// Whose register an address is.
#[derive(Clone, Copy)]
pub(crate) enum InterruptController {
    /// The vCPU's local APIC, at this offset in its page.
    Lapic(u64),
    /// The I/O APIC.
    Ioapic,
}

impl InterruptController {
    /// Returns the interrupt controller whose memory `gpa` is.
    #[inline(always)]
    pub(crate) fn at<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, gpa: Gpa) -> Option<InterruptController> {
        // A vCPU's own page comes before what the bus has there: such an access never leaves a processor.
        match lapic::offset(cx, gpa) {
            Some(offset) => Some(InterruptController::Lapic(offset)),
            None => is_ioapic(gpa).then_some(InterruptController::Ioapic),
        }
    }

    /// Reads the register at `gpa`. `None`: there is none of ours.
    #[inline(always)]
    pub(crate) fn read<B: VendorBackend>(
        self,
        cx: &mut VcpuCx<'_, '_, B>,
        gpa: Gpa,
        width: AccessWidth,
    ) -> Option<u64> {
        let value = match self {
            InterruptController::Lapic(offset) => lapic::read(cx, offset, width),
            InterruptController::Ioapic => {
                let read = |bus: &mut ChipBus, _now, _out: &mut BusSignals| bus.mmio_read(gpa, width);
                cx.vm.machine.interrupts.with_pinned(cx.cpu, || Ns::ZERO, read)?
            }
        };
        trace_access(cx, gpa, width, value, false);
        Some(value)
    }

    /// Writes the register at `gpa`. Returns whether there is one of ours.
    #[inline(always)]
    pub(crate) fn write<B: VendorBackend>(
        self,
        cx: &mut VcpuCx<'_, '_, B>,
        gpa: Gpa,
        width: AccessWidth,
        value: u64,
    ) -> bool {
        trace_access(cx, gpa, width, value, true);
        match self {
            InterruptController::Lapic(offset) => {
                lapic::write(cx, offset, width, value);
                true
            }
            InterruptController::Ioapic => {
                let write =
                    |bus: &mut ChipBus, _now, out: &mut BusSignals| bus.mmio_write(gpa, width, value, out);
                cx.vm.machine.interrupts.with_pinned(cx.cpu, || Ns::ZERO, write)
            }
        }
    }
}

/// Reads a device's memory. `None`: there is no device of ours.
pub(crate) fn read<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    gpa: Gpa,
    width: AccessWidth,
) -> Option<u64> {
    if let Some(controller) = InterruptController::at(cx, gpa) {
        return controller.read(cx, gpa, width);
    }
    let pci = &cx.vm.machine.pci;
    // With a host bridge nothing is left for user space: what nobody claims ends in a master abort, which reads as all
    // ones.
    let value = pci.mmio_read(gpa, width).or_else(|| pci.ends_unclaimed().then_some(width.mask()))?;
    trace_access(cx, gpa, width, value, false);
    Some(value)
}

/// Traces an access that is answered in the kernel.
#[inline(always)]
fn trace_access<B: VendorBackend>(
    cx: &VcpuCx<'_, '_, B>,
    gpa: Gpa,
    width: AccessWidth,
    value: u64,
    is_write: bool,
) {
    let record = cx.record;
    trace::mmio(move || trace::Mmio {
        vcpu: record.id,
        address: gpa.0,
        bytes: width.bytes() as u32,
        is_write,
        value: value & width.mask(),
    });
}

/// As [`read`], of 1 to 8 bytes: what a page's end leaves of an access may be no [`AccessWidth`].
#[inline]
pub(crate) fn read_bytes<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, gpa: Gpa, len: usize) -> Option<u64> {
    match AccessWidth::from_bytes(len) {
        Some(width) => read(cx, gpa, width),
        None => read_odd(cx, gpa, len),
    }
}

/// As [`write`], of 1 to 8 bytes.
#[inline]
pub(crate) fn write_bytes<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    gpa: Gpa,
    len: usize,
    value: u64,
) -> bool {
    match AccessWidth::from_bytes(len) {
        Some(width) => write(cx, gpa, width, value),
        None => write_odd(cx, gpa, len, value),
    }
}

/// Returns the widest access that fits into `len` bytes.
fn widest(len: usize) -> AccessWidth {
    match len {
        0 | 1 => AccessWidth::B1,
        2 | 3 => AccessWidth::B2,
        4..=7 => AccessWidth::B4,
        _ => AccessWidth::B8,
    }
}

/// Reads a device by several accesses, if the first is to one.
#[cold]
#[inline(never)]
fn read_odd<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, gpa: Gpa, len: usize) -> Option<u64> {
    let (mut value, mut done) = (0u64, 0usize);
    while done < len {
        let width = widest(len.wrapping_sub(done));
        let part = match read(cx, gpa.wrapping_add(done as u64), width) {
            Some(part) => part,
            None if done == 0 => return None,
            // The first part was a device's, so user space is not asked for the rest.
            None => width.mask(),
        };
        value |= (part & width.mask()).wrapping_shl((done as u32).wrapping_mul(8));
        done = done.wrapping_add(width.bytes());
    }
    Some(value)
}

/// Writes a device by several accesses, if the first is to one.
#[cold]
#[inline(never)]
fn write_odd<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, gpa: Gpa, len: usize, value: u64) -> bool {
    // Who is signalled is by the length of the whole.
    if cx.vm.machine.signal_write(
        cx.cpu,
        IoAddrSpace::Memory,
        gpa.0,
        (len as u32, || value),
        &mut cx.core.event_hint,
    ) {
        return true;
    }
    let mut done = 0usize;
    while done < len {
        let width = widest(len.wrapping_sub(done));
        let part = value.wrapping_shr((done as u32).wrapping_mul(8)) & width.mask();
        let at = gpa.wrapping_add(done as u64);
        let is_done = match InterruptController::at(cx, at) {
            Some(controller) => controller.write(cx, at, width, part),
            None => write_pci(cx, at, width, part),
        };
        // Nobody has the first part: user space gets the whole access, of which nothing has been done.
        if !is_done && done == 0 {
            return false;
        }
        done = done.wrapping_add(width.bytes());
    }
    true
}

/// Writes a device's memory. Returns whether there is one.
pub(crate) fn write<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    gpa: Gpa,
    width: AccessWidth,
    value: u64,
) -> bool {
    if let Some(controller) = InterruptController::at(cx, gpa) {
        return controller.write(cx, gpa, width, value);
    }
    trace_access(cx, gpa, width, value, true);
    signal(cx, gpa, width, value) || write_pci(cx, gpa, width, value)
}

fn write_pci<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, gpa: Gpa, width: AccessWidth, value: u64) -> bool {
    let deferred = cx.vm.machine.pci.mmio_write(gpa, width, value);
    cx.defer(deferred) || cx.vm.machine.pci.ends_unclaimed()
}

/// Signals user space, if that is what a write here does. Returns whether it is.
#[inline]
pub(crate) fn signal<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    gpa: Gpa,
    width: AccessWidth,
    value: u64,
) -> bool {
    let written = (width.bytes() as u32, || value & width.mask());
    cx.vm.machine.signal_write(cx.cpu, IoAddrSpace::Memory, gpa.0, written, &mut cx.core.event_hint)
}

#[inline]
fn is_ioapic(gpa: Gpa) -> bool {
    (IOAPIC_BASE..IOAPIC_BASE + IOAPIC_SIZE).contains(&gpa.0)
}
