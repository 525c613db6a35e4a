// SPDX-License-Identifier: GPL-2.0

//! MP tables: processors and interrupts for kernels that leave ACPI's tables alone (`acpi=off`, `acpi=noirq`, and those
//! older than ACPI). MultiProcessor Specification, "MP Configuration Table".
//!
//! They say what the MADT says, but for processors whose APIC id takes more than eight bits: this format has no room for
//! them.

use super::table::{checksum, PlacedTable};
use crate::config::layout::{intx_irq, INTX_IRQS, IOAPIC, LAPIC, MP_TABLE, PCI_DEVICES, SCI_IRQ};

/// Version 1.4 of the specification.
const SPEC_REV: u8 = 4;
/// Where the configuration table lies: behind the floating pointer, which is 16 bytes long.
const CONFIG_AT: u64 = MP_TABLE + 16;
/// Length of the configuration table's header.
const HEADER_LEN: usize = 44;
/// APIC version of a local APIC that is part of its processor.
const LOCAL_APIC_VERSION: u8 = 0x14;
/// Version of the 82093AA.
const IO_APIC_VERSION: u8 = 0x11;
/// Processor flags: usable; the one that boots.
const ENABLED: u8 = 1;
const BOOTS: u8 = 2;
/// The highest id of a processor here: 255 means all of them.
const MAX_APIC_ID: u32 = 254;
/// Numbers of the buses that interrupts come from. Kernels take that of a PCI bus for the one it has itself.
const PCI_BUS: u8 = 0;
const ISA_BUS: u8 = 1;
/// Interrupt flags: as the bus has it (ISA: active high, edge; PCI: active low, level).
const BUS_DEFAULT: u16 = 0;
/// Interrupt flags: active high, level triggered.
const LEVEL_HIGH: u16 = 0b11_01;
/// Entry types.
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
/// Kinds of interrupts.
const VECTORED: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
/// All local APICs.
const EVERY_APIC: u8 = 0xff;

/// Builds the floating pointer and the configuration table for `cpus` processors.
pub fn build(cpus: u32) -> Vec<PlacedTable> {
    vec![
        PlacedTable { gpa: MP_TABLE, bytes: floating_pointer() },
        PlacedTable { gpa: CONFIG_AT, bytes: configuration(cpus.min(MAX_APIC_ID + 1)) },
    ]
}

/// MultiProcessor Specification, "MP Floating Pointer Structure". The machine starts in symmetric I/O mode: there is no
/// IMCR.
fn floating_pointer() -> Vec<u8> {
    let mut bytes = b"_MP_".to_vec();
    bytes.extend((CONFIG_AT as u32).to_le_bytes());
    bytes.extend([1, SPEC_REV, 0, 0, 0, 0, 0, 0]);
    bytes[10] = checksum(&bytes);
    bytes
}

fn configuration(cpus: u32) -> Vec<u8> {
    // An id behind the processors' where there is one, as in the MADT.
    let io_apic = u8::try_from(cpus).unwrap_or(0);
    let mut entries: Vec<Vec<u8>> = (0..cpus).map(processor).collect();
    entries.push([&[BUS, PCI_BUS][..], b"PCI   "].concat());
    entries.push([&[BUS, ISA_BUS][..], b"ISA   "].concat());
    entries
        .push([&[IO_APIC, io_apic, IO_APIC_VERSION, ENABLED][..], &(IOAPIC as u32).to_le_bytes()].concat());
    // Line 2 is the cascade of the 8259 pair; the timer has its pin. Those of PCI devices are not ISA's.
    entries.extend((0..16).filter(|irq| *irq != 2 && !INTX_IRQS.contains(irq)).map(|irq| {
        let flags = if irq == SCI_IRQ { LEVEL_HIGH } else { BUS_DEFAULT };
        let pin = if irq == 0 { 2 } else { irq };
        interrupt(IO_INTERRUPT, (VECTORED, flags), (ISA_BUS, irq), (io_apic, pin))
    }));
    // The source on a PCI bus is the device, and in the two lowest bits its pin.
    entries.extend((1..PCI_DEVICES).map(|device| {
        let from = (PCI_BUS, device << 2);
        interrupt(IO_INTERRUPT, (VECTORED, BUS_DEFAULT), from, (io_apic, intx_irq(device)))
    }));
    for (kind, pin) in [(EXTERNAL, 0), (NMI, 1)] {
        entries.push(interrupt(LOCAL_INTERRUPT, (kind, BUS_DEFAULT), (ISA_BUS, 0), (EVERY_APIC, pin)));
    }

    let count = entries.len() as u16;
    let body = entries.concat();
    let mut bytes = b"PCMP".to_vec();
    bytes.extend(((HEADER_LEN + body.len()) as u16).to_le_bytes());
    bytes.extend([SPEC_REV, 0]);
    bytes.extend(b"RVMM    RVMMPC      ");
    bytes.extend([0; 6]);
    bytes.extend(count.to_le_bytes());
    bytes.extend((LAPIC as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes[7] = checksum(&bytes);
    bytes
}

/// A processor; what it is and can do, its own CPUID tells.
fn processor(id: u32) -> Vec<u8> {
    let flags = if id == 0 { ENABLED | BOOTS } else { ENABLED };
    let mut entry = vec![PROCESSOR, id as u8, LOCAL_APIC_VERSION, flags];
    entry.resize(20, 0);
    entry
}

/// Where an interrupt arrives: `from` is a bus and its source there, `to` an APIC's id and its pin.
fn interrupt(entry: u8, (kind, flags): (u8, u16), from: (u8, u8), to: (u8, u8)) -> Vec<u8> {
    let [low, high] = flags.to_le_bytes();
    vec![entry, kind, low, high, from.0, from.1, to.0, to.1]
}
