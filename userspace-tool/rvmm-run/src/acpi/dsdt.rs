// SPDX-License-Identifier: GPL-2.0

//! Differentiated system description table: the PCI root bridge, the ISA devices below it, and the soft-off state.
//! ACPI, "Differentiated System Description Table (DSDT)" and "ACPI Machine Language".

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, Interrupt, Name, Package, ResourceTemplate, Scope,
    IO, ZERO,
};
use acpi_tables::sdt::Sdt;
use acpi_tables::Aml;

use super::{bytes_of, AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{COM1, COM1_IRQ, PCI_MMIO, PCI_MMIO_SIZE, RTC, RTC_IRQ, S5_SLEEP_TYPE};

/// `_STA`: present, enabled, shown and working.
const PRESENT: u8 = 0xf;
/// Header of a table.
const FIXED_LEN: u32 = 36;

/// Builds the DSDT.
pub(super) fn build(config: AcpiConfig) -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", FIXED_LEN, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&root_bridge());
    dsdt.append_slice(&isa_devices(config));
    dsdt.append_slice(&soft_off());
    dsdt.as_slice().to_vec()
}

/// `\_SB.PCI0`: bus 0, the ports around the configuration ports, and the window for BARs.
fn root_bridge() -> Vec<u8> {
    let resources = [
        &AddressSpace::new_bus_number(0u16, 0u16) as &dyn Aml,
        &IO::new(0xcf8, 0xcf8, 1, 8),
        &AddressSpace::new_io(0u16, 0xcf7, None),
        &AddressSpace::new_io(0xd00u16, 0xffff, None),
        &AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            PCI_MMIO as u32,
            (PCI_MMIO + PCI_MMIO_SIZE - 1) as u32,
            None,
        ),
    ];
    let names = [
        Name::new("_HID".into(), &EISAName::new("PNP0A03")),
        Name::new("_ADR".into(), &ZERO),
        Name::new("_BBN".into(), &ZERO),
        Name::new("_UID".into(), &ZERO),
        Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec())),
    ];
    device("_SB_", "PCI0", &names)
}

/// The devices that a kernel finds by name rather than by probing.
fn isa_devices(config: AcpiConfig) -> Vec<u8> {
    let mut bytes = isa_device("COM1", "PNP0501", &[(COM1, 8)], COM1_IRQ);
    bytes.extend(isa_device("RTC_", "PNP0B00", &[(RTC, 2)], RTC_IRQ));
    if config.keyboard {
        bytes.extend(isa_device("KBD_", "PNP0303", &[(0x60, 1), (0x64, 1)], 1));
    }
    bytes
}

fn isa_device(name: &str, id: &str, ports: &[(u16, u8)], irq: u8) -> Vec<u8> {
    let ports: Vec<IO> = ports.iter().map(|&(base, len)| IO::new(base, base, 1, len)).collect();
    let interrupt = Interrupt::new(true, true, false, false, u32::from(irq));
    let mut resources: Vec<&dyn Aml> = ports.iter().map(|io| io as &dyn Aml).collect();
    resources.push(&interrupt);
    let names = [
        Name::new("_HID".into(), &EISAName::new(id)),
        Name::new("_UID".into(), &ZERO),
        Name::new("_STA".into(), &PRESENT),
        Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
    ];
    device("_SB_.PCI0", name, &names)
}

/// A device with its named objects in a scope.
fn device(scope: &str, name: &str, names: &[Name]) -> Vec<u8> {
    let names = names.iter().map(|name| name as &dyn Aml).collect();
    bytes_of(&Scope::new(scope.into(), vec![&Device::new(name.into(), names)]))
}

/// `\_S5`: the sleep type to write into the control register for power off.
fn soft_off() -> Vec<u8> {
    bytes_of(&Name::new("_S5_".into(), &Package::new(vec![&S5_SLEEP_TYPE, &S5_SLEEP_TYPE, &ZERO, &ZERO])))
}
