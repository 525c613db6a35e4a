// SPDX-License-Identifier: GPL-2.0

//! Multiple APIC description table. ACPI, "Multiple APIC Description Table (MADT)".

use super::config::AcpiConfig;
use super::table::table;
use crate::config::layout::{IOAPIC, LAPIC, SCI_IRQ};

/// There is a pair of 8259 interrupt controllers too.
const PCAT_COMPAT: u32 = 1;
/// The processor is usable.
const ENABLED: u32 = 1;
/// Interrupt flags: active high, level triggered.
const LEVEL_HIGH: u16 = 0b11_01;
/// Interrupt flags: as the bus has it (ISA: active high, edge).
const BUS_DEFAULT: u16 = 0;
/// The first APIC id that only an x2APIC can have.
const FIRST_X2APIC: u32 = 255;

/// Builds the MADT: processors, the I/O APIC and how ISA interrupts reach it.
pub(super) fn build(config: AcpiConfig) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((LAPIC as u32).to_le_bytes());
    body.extend(PCAT_COMPAT.to_le_bytes());
    for id in 0..config.cpus {
        body.extend(processor(id));
    }
    body.extend(io_apic(config.cpus));
    body.extend(source_override(0, 2, BUS_DEFAULT));
    body.extend(source_override(SCI_IRQ, u32::from(SCI_IRQ), LEVEL_HIGH));
    body.extend(nmi_on_lint1());
    table(b"APIC", 5, &body)
}

/// Processor local APIC, or processor local x2APIC where the id is too large for the former.
fn processor(id: u32) -> Vec<u8> {
    match u8::try_from(id) {
        Ok(short) if id < FIRST_X2APIC => {
            let mut entry = vec![0, 8, short, short];
            entry.extend(ENABLED.to_le_bytes());
            entry
        }
        _ => {
            let mut entry = vec![9, 16, 0, 0];
            entry.extend(id.to_le_bytes());
            entry.extend(ENABLED.to_le_bytes());
            entry.extend(id.to_le_bytes());
            entry
        }
    }
}

/// The I/O APIC, whose pins are GSI 0 and up.
fn io_apic(id: u32) -> Vec<u8> {
    let mut entry = vec![1, 12, u8::try_from(id).unwrap_or(0), 0];
    entry.extend((IOAPIC as u32).to_le_bytes());
    entry.extend(0u32.to_le_bytes());
    entry
}

/// Interrupt source override: ISA interrupt `irq` arrives at `gsi`.
fn source_override(irq: u8, gsi: u32, flags: u16) -> Vec<u8> {
    let mut entry = vec![2, 10, 0, irq];
    entry.extend(gsi.to_le_bytes());
    entry.extend(flags.to_le_bytes());
    entry
}

/// Local APIC NMI: LINT1 of every processor.
fn nmi_on_lint1() -> Vec<u8> {
    vec![4, 6, 0xff, 0, 0, 1]
}
