// SPDX-License-Identifier: GPL-2.0

//! ACPI tables: checksums, pointers, contents, and the opinion of a real compiler where there is one.

mod common;

use std::process::Command;

use common::TempDir;
use proptest::prelude::*;
use rvmm_run::acpi::aml::{eisa_id, integer, name, package};
use rvmm_run::acpi::config::AcpiConfig;
use rvmm_run::acpi::table::PlacedTable;
use rvmm_run::acpi::{build, mp};
use rvmm_run::config::layout::{ACPI, ACPI_END, MP_TABLE, RESET_VECTOR};

fn tables(cpus: u32) -> Vec<PlacedTable> {
    build(AcpiConfig { cpus, keyboard: true })
}

fn find<'a>(tables: &'a [PlacedTable], signature: &[u8]) -> &'a PlacedTable {
    tables.iter().find(|t| t.bytes.starts_with(signature)).expect("table")
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn pointers_lead_from_the_rsdp_to_every_table() {
    let tables = tables(2);
    let rsdp = find(&tables, b"RSD PTR ");
    let xsdt = find(&tables, b"XSDT");
    let rsdt = find(&tables, b"RSDT");
    let fadt = find(&tables, b"FACP");

    assert_eq!(rsdp.gpa, ACPI);
    assert_eq!(u64_at(&rsdp.bytes, 24), xsdt.gpa);
    assert_eq!(u64_at(&xsdt.bytes, 36), fadt.gpa);
    assert_eq!(u64::from(u32_at(&rsdp.bytes, 16)), rsdt.gpa, "for ACPI 1.0");
    assert_eq!(u64::from(u32_at(&rsdt.bytes, 36)), fadt.gpa);
    assert_eq!(u64::from(u32_at(&rsdt.bytes, 40)), find(&tables, b"APIC").gpa);
    assert_eq!(rsdp.bytes, rvmm_run::acpi::rsdp(AcpiConfig { cpus: 2, keyboard: true }));
    assert_eq!(u64_at(&xsdt.bytes, 44), find(&tables, b"APIC").gpa);
    assert_eq!(u64_at(&fadt.bytes, 140), find(&tables, b"DSDT").gpa);
    assert_eq!(u64::from(u32_at(&fadt.bytes, 36)), find(&tables, b"FACS").gpa);
    assert_eq!(find(&tables, b"FACS").gpa % 64, 0);
}

#[test]
fn rsdp_has_both_checksums() {
    let tables = tables(1);
    let rsdp = find(&tables, b"RSD PTR ");

    assert_eq!(sum(&rsdp.bytes[..20]), 0);
    assert_eq!(sum(&rsdp.bytes), 0);
}

#[test]
fn fadt_names_the_registers_of_the_power_model() {
    let tables = tables(1);
    let fadt = &find(&tables, b"FACP").bytes;

    assert_eq!(fadt.len(), 276);
    assert_eq!(fadt[46], 9, "SCI");
    assert_eq!([u32_at(fadt, 56), u32_at(fadt, 64), u32_at(fadt, 76)], [0x600, 0x604, 0x608]);
    assert_eq!(fadt[116..128], [1, 8, 0, 1, 0xf9, 0x0c, 0, 0, 0, 0, 0, 0], "reset register");
    assert_eq!(fadt[128], 6, "reset value");
    assert_eq!(u32_at(fadt, 112) & (1 << 10), 1 << 10, "reset register supported");
    assert_eq!(u32_at(fadt, 112) & (1 << 4), 0, "fixed power button");
    assert_eq!(u32_at(fadt, 112) & (1 << 20), 0, "not hardware reduced");
}

/// The entries of a MADT as (type, body).
fn madt_entries(madt: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut entries = Vec::new();
    let mut at = 44;
    while at < madt.len() {
        let len = usize::from(madt[at + 1]);
        entries.push((madt[at], madt[at + 2..at + len].to_vec()));
        at += len;
    }
    entries
}

#[test]
fn madt_lists_processors_the_io_apic_and_the_overrides() {
    let tables = tables(3);
    let entries = madt_entries(&find(&tables, b"APIC").bytes);

    let ids: Vec<u8> = entries.iter().filter(|(kind, _)| *kind == 0).map(|(_, body)| body[1]).collect();
    assert_eq!(ids, [0, 1, 2]);
    assert!(entries.contains(&(1, vec![3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0])), "I/O APIC with the next id");
    assert!(entries.contains(&(2, vec![0, 0, 2, 0, 0, 0, 0, 0])), "IRQ 0 at pin 2");
    assert!(entries.contains(&(2, vec![0, 9, 9, 0, 0, 0, 0xd, 0])), "SCI level, active high");
    assert!(entries.contains(&(4, vec![0xff, 0, 0, 1])), "NMI on LINT1");
}

#[test]
fn aml_encodes_known_objects() {
    assert_eq!(eisa_id(b"PNP0A03"), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
    assert_eq!(eisa_id(b"PNP0501"), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
    assert_eq!(integer(0), [0]);
    assert_eq!(integer(5), [0x0a, 5]);
    assert_eq!(integer(0x1234), [0x0c, 0x34, 0x12, 0, 0]);
    assert_eq!(
        name(b"_S5_", &package(&[integer(5), integer(0)])),
        [0x08, b'_', b'S', b'5', b'_', 0x12, 5, 2, 0x0a, 5, 0]
    );
}

#[test]
fn package_lengths_grow_with_their_content() {
    let short = package(&vec![integer(0); 60]);
    let long = package(&vec![integer(0); 100]);

    assert_eq!(short[1], 62);
    assert_eq!(long[1..3], [0x40 | (103 & 0xf), 103 >> 4]);
    assert_eq!(long.len(), 104);
}

#[test]
fn the_compiler_takes_the_tables_apart() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("SKIP: iasl is not installed (package acpica-tools)");
        return;
    }
    let dir = TempDir::new();
    let tables = tables(2);
    for signature in [&b"DSDT"[..], b"FACP", b"APIC", b"XSDT"] {
        let file = dir.file("table.aml", &find(&tables, signature).bytes);
        let output = Command::new("iasl").arg("-d").arg(&file).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(!text.contains("Error") && !text.contains("Warning"), "{text}");
        if signature == b"DSDT" {
            let source = file.with_extension("dsl");
            let output = Command::new("iasl").arg("-we").arg(&source).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(text.contains("0 Errors"), "{text}");
        }
    }
}

proptest! {
    /// Whatever the number of processors: right lengths and checksums, no overlap, all inside the area.
    #[test]
    fn tables_are_sound(cpus in 1u32..4096, keyboard: bool) {
        let mut tables = build(AcpiConfig { cpus, keyboard });
        for table in &tables {
            if !table.bytes.starts_with(b"RSD PTR ") && !table.bytes.starts_with(b"FACS") {
                prop_assert_eq!(u32_at(&table.bytes, 4) as usize, table.bytes.len());
                prop_assert_eq!(sum(&table.bytes), 0);
            }
        }
        tables.sort_by_key(|t| t.gpa);
        for pair in tables.windows(2) {
            prop_assert!(pair[0].gpa + pair[0].bytes.len() as u64 <= pair[1].gpa);
        }
        let last = tables.last().unwrap();
        prop_assert!(last.gpa + last.bytes.len() as u64 <= ACPI_END);
    }
}

/// The entries of an MP configuration table, by their types' lengths.
fn mp_entries(config: &[u8]) -> Vec<&[u8]> {
    let mut rest = &config[44..];
    let mut entries = Vec::new();
    while let Some(kind) = rest.first() {
        let (entry, next) = rest.split_at(if *kind == 0 { 20 } else { 8 });
        entries.push(entry);
        rest = next;
    }
    entries
}

#[test]
fn mp_pointer_leads_to_a_table_that_sums_to_zero() {
    let tables = mp::build(2);
    let (pointer, config) = (find(&tables, b"_MP_"), find(&tables, b"PCMP"));

    assert_eq!((pointer.gpa, pointer.bytes.len()), (MP_TABLE, 16));
    assert_eq!(u64::from(u32_at(&pointer.bytes, 4)), config.gpa);
    assert_eq!((sum(&pointer.bytes), sum(&config.bytes)), (0, 0));
    assert_eq!(usize::from(u16::from_le_bytes([config.bytes[4], config.bytes[5]])), config.bytes.len());
    assert_eq!(
        usize::from(u16::from_le_bytes([config.bytes[34], config.bytes[35]])),
        mp_entries(&config.bytes).len()
    );
}

#[test]
fn mp_table_wires_the_timer_to_pin_2_and_leaves_the_cascade_out() {
    let tables = mp::build(3);
    let entries = mp_entries(&find(&tables, b"PCMP").bytes);
    let isa = entries.iter().find(|e| e[0] == 1 && e[2..].starts_with(b"ISA")).unwrap()[1];
    let wired: Vec<(u8, u8)> =
        entries.iter().filter(|e| e[0] == 3 && e[4] == isa).map(|e| (e[5], e[7])).collect();

    assert_eq!(wired.len(), 12);
    assert!(wired.contains(&(0, 2)));
    assert!(wired.iter().all(|&(irq, pin)| irq != 2 && (irq == 0 || irq == pin)));
    assert_eq!(entries.iter().filter(|e| e[0] == 0 && e[3] & 1 == 1).count(), 3);
    assert_eq!(entries.iter().filter(|e| e[0] == 0 && e[3] & 2 == 2).map(|e| e[1]).collect::<Vec<_>>(), [0]);
}

#[test]
fn pins_of_pci_devices_have_the_same_wires_in_both_tables() {
    let mp = mp::build(1);
    let entries = mp_entries(&find(&mp, b"PCMP").bytes);
    let pci = entries.iter().find(|e| e[0] == 1 && e[2..].starts_with(b"PCI")).unwrap()[1];
    let wires: Vec<(u8, u8)> = entries
        .iter()
        .filter(|e| e[0] == 3 && e[4] == pci)
        .map(|e| {
            assert_eq!(e[2..4], [0, 0], "level, active low, as the bus has it");
            (e[5] >> 2, e[7])
        })
        .collect();

    assert_eq!(pci, 0, "the bus has its own number");
    assert_eq!(wires.len(), 31);
    let dsdt = &find(&tables(1), b"DSDT").bytes.clone();
    for (device, irq) in wires {
        let entry = package(&[
            integer(u32::from(device) << 16 | 0xffff),
            integer(0),
            integer(0),
            integer(u32::from(irq)),
        ]);
        assert!(dsdt.windows(entry.len()).any(|w| w == entry), "device {device} at {irq}");
    }
}

#[test]
fn mp_table_of_the_largest_machine_ends_before_the_reset_vector() {
    let tables = mp::build(u32::MAX);
    let config = find(&tables, b"PCMP");

    assert!(config.gpa + config.bytes.len() as u64 <= RESET_VECTOR);
    assert_eq!(mp_entries(&config.bytes).iter().filter(|e| e[0] == 0).count(), 255);
}
