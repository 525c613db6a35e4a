// SPDX-License-Identifier: GPL-2.0

//! Differentiated system description table: the PCI root bridge, the ISA devices below it, and the soft-off state.
//! ACPI, "Differentiated System Description Table (DSDT)".

use super::aml::{
    bus_range, device, eisa_id, integer, io_ports, io_range, irq, memory_range, name, package, resources,
    scope,
};
use super::config::AcpiConfig;
use super::table::table;
use crate::config::layout::{
    intx_irq, COM1, COM1_IRQ, PCI_DEVICES, PCI_MMIO, PCI_MMIO_SIZE, RTC, RTC_IRQ, S5_SLEEP_TYPE,
};

/// `_STA`: present, enabled, shown and working.
const PRESENT: u32 = 0xf;

/// Builds the DSDT.
pub(super) fn build(config: AcpiConfig) -> Vec<u8> {
    let mut body = scope(&[b"_SB_"], &root_bridge());
    body.extend(scope(&[b"_SB_", b"PCI0"], &isa_devices(config)));
    body.extend(soft_off());
    table(b"DSDT", 2, &body)
}

/// `\_SB.PCI0`: bus 0, the ports around the configuration ports, the window for BARs, and where the INTx pins go.
fn root_bridge() -> Vec<u8> {
    let decoded = [
        bus_range(0, 0),
        io_ports(0xcf8, 8),
        io_range(0, 0xcf7),
        io_range(0xd00, 0xffff),
        memory_range(PCI_MMIO as u32, (PCI_MMIO + PCI_MMIO_SIZE - 1) as u32),
    ];
    let names = [
        name(b"_HID", &eisa_id(b"PNP0A03")),
        name(b"_BBN", &integer(0)),
        name(b"_UID", &integer(0)),
        name(b"_CRS", &resources(&decoded)),
        name(b"_PRT", &package(&(1..PCI_DEVICES).map(intx_route).collect::<Vec<_>>())),
    ];
    device(b"PCI0", &names.concat())
}

/// An entry of `_PRT`: every function of the device, its pin INTA#, no link device, the interrupt. Wires have the same
/// number at the 8259 pair and at the I/O APIC, so that it does not matter which of them the kernel uses.
fn intx_route(number: u8) -> Vec<u8> {
    let address = u32::from(number) << 16 | 0xffff;
    package(&[integer(address), integer(0), integer(0), integer(intx_irq(number).into())])
}

/// The devices that a kernel finds by name rather than by probing.
fn isa_devices(config: AcpiConfig) -> Vec<u8> {
    let mut bytes = isa_device(b"COM1", b"PNP0501", &[io_ports(COM1, 8), irq(COM1_IRQ)]);
    bytes.extend(isa_device(b"RTC_", b"PNP0B00", &[io_ports(RTC, 2), irq(RTC_IRQ)]));
    if config.keyboard {
        bytes.extend(isa_device(b"KBD_", b"PNP0303", &[io_ports(0x60, 1), io_ports(0x64, 1), irq(1)]));
    }
    bytes
}

fn isa_device(segment: &[u8; 4], id: &[u8; 7], decoded: &[Vec<u8>]) -> Vec<u8> {
    let names = [
        name(b"_HID", &eisa_id(id)),
        name(b"_UID", &integer(0)),
        name(b"_STA", &integer(PRESENT)),
        name(b"_CRS", &resources(decoded)),
    ];
    device(segment, &names.concat())
}

/// `\_S5`: the sleep type to write into the control register for power off.
fn soft_off() -> Vec<u8> {
    let kind = integer(u32::from(S5_SLEEP_TYPE));
    name(b"_S5_", &package(&[kind.clone(), kind, integer(0), integer(0)]))
}
