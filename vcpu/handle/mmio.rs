// SPDX-License-Identifier: GPL-2.0

//! Memory that belongs to a device in the kernel: local APIC, IOAPIC, PCI BARs.

use super::{lapic, Cx};
use crate::arch::addr::{Gpa, Width};
use crate::arch::time::Ns;
use crate::chipset::bus::{Bus, Signals, IOAPIC_BASE, IOAPIC_SIZE};
use crate::vcpu::backend::Backend;
use crate::vcpu::ioevent::Place;
use crate::vcpu::pci::Chore;
use crate::vcpu::shared::Requests;

/// Reads a device's memory. `None`: there is no device of ours.
pub(super) fn read<B: Backend>(cx: &mut Cx<'_, '_, B>, gpa: Gpa, width: Width) -> Option<u64> {
    if let Some(offset) = lapic::offset(cx, gpa) {
        return Some(lapic::read(cx, offset, width));
    }
    if is_ioapic(gpa) {
        return cx.vm.chipset.with_pinned(cx.cpu, || Ns::ZERO, |bus, _now, _out| bus.mmio_read(gpa, width));
    }
    let read = cx.vm.pci.mmio_read(gpa, width);
    read.or_else(|| cx.vm.pci.ends_unclaimed().then_some(width.mask()))
}

/// Writes a device's memory. Returns whether there is one.
pub(super) fn write<B: Backend>(cx: &mut Cx<'_, '_, B>, gpa: Gpa, width: Width, value: u64) -> bool {
    if let Some(offset) = lapic::offset(cx, gpa) {
        lapic::write(cx, offset, width, value);
        return true;
    }
    if is_ioapic(gpa) {
        let write = |bus: &mut Bus, _now, out: &mut Signals| bus.mmio_write(gpa, width, value, out);
        return cx.vm.chipset.with_pinned(cx.cpu, || Ns::ZERO, write);
    }
    if signal(cx, gpa, width, value) {
        return true;
    }
    let chore = cx.vm.pci.mmio_write(&cx.vm.chipset, gpa, width, value);
    note(cx, chore) || cx.vm.pci.ends_unclaimed()
}

/// Signals user space, if that is what a write here does. Returns whether it is.
#[inline]
pub(super) fn signal<B: Backend>(cx: &mut Cx<'_, '_, B>, gpa: Gpa, width: Width, value: u64) -> bool {
    let written = (width.bytes() as u32, || value & width.mask());
    cx.vm.signal_write(cx.cpu, Place::Memory, gpa.0, written, &mut cx.core.event_hint)
}

/// Returns whether `gpa` is that of a register of the local APIC or the I/O APIC.
#[inline(always)]
pub(super) fn is_interrupt_controller<B: Backend>(cx: &Cx<'_, '_, B>, gpa: Gpa) -> bool {
    lapic::offset(cx, gpa).is_some() || is_ioapic(gpa)
}

#[inline]
fn is_ioapic(gpa: Gpa) -> bool {
    (IOAPIC_BASE..IOAPIC_BASE + IOAPIC_SIZE).contains(&gpa.0)
}

/// Notes what an access leaves to be done outside the window. Returns whether there was a device.
pub(super) fn note<B: Backend>(cx: &mut Cx<'_, '_, B>, chore: Option<Chore>) -> bool {
    match chore {
        None => return false,
        Some(Chore::None) => {}
        Some(Chore::Serve) => cx.shared.request_self(Requests::CHORE),
        Some(Chore::Turn(turn)) => {
            cx.shared.request_self(Requests::TURN);
            if let Some(earlier) = cx.core.turn.replace(turn) {
                cx.vm.pci.pass_on(earlier);
            }
        }
    }
    true
}
