// SPDX-License-Identifier: GPL-2.0

//! Memory that belongs to a device in the kernel: local APIC, IOAPIC, PCI BARs.

use super::{lapic, Cx};
use crate::arch::addr::{Gpa, Width};
use crate::host::cpu::PinnedCpu;
use crate::vcpu::backend::Backend;

/// Reads a device's memory. `None`: there is no device of ours.
pub(super) fn read<B: Backend>(cx: &mut Cx<'_, '_, B>, gpa: Gpa, width: Width) -> Option<u64> {
    if let Some(offset) = lapic::offset(cx, gpa) {
        return Some(lapic::read(cx, offset, width));
    }
    cx.vm.chipset.with_pinned(cx.cpu, |bus, _now, _out| bus.mmio_read(gpa, width))
}

/// Writes a device's memory. Returns whether there is one.
pub(super) fn write<B: Backend>(cx: &mut Cx<'_, '_, B>, gpa: Gpa, width: Width, value: u64) -> bool {
    if let Some(offset) = lapic::offset(cx, gpa) {
        lapic::write(cx, offset, width, value);
        return true;
    }
    cx.vm.chipset.with_pinned(cx.cpu, |bus, _now, out| bus.mmio_write(gpa, width, value, out))
}
