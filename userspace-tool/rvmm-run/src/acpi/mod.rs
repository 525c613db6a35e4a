// SPDX-License-Identifier: GPL-2.0

//! ACPI tables of the machine: RSDP, RSDT, XSDT, FADT, FACS, MADT and DSDT; and the MP tables that came before them.
//!
//! Follows ACPI, "ACPI System Description Tables" and "ACPI Hardware Specification". The area is placed where a kernel
//! searches the RSDP by itself, so the pointers in `boot_params` and `hvm_start_info` are a convenience:
//!
//! ```text
//! 0xe0000 RSDP   0xe0040 FACS   0xe0080 DSDT, FADT, MADT, XSDT, RSDT, each on a 16-byte boundary
//! 0xf0000 MP floating pointer and configuration table
//! ```

pub mod aml;
pub mod config;
mod dsdt;
mod fadt;
mod madt;
pub mod mp;
pub mod table;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use self::config::AcpiConfig;
use self::table::{checksum, table, PlacedTable, OEM_ID};
use crate::config::layout::{ACPI, ACPI_END, RSDP_SIZE};

/// Offset of the FACS, which must be 64-byte aligned.
const FACS_AT: u64 = ACPI + 0x40;
/// Where the remaining tables begin.
const TABLES_AT: u64 = ACPI + 0x80;

/// Builds all tables, RSDP first, with final addresses and checksums.
pub fn build(config: AcpiConfig) -> Vec<PlacedTable> {
    let mut next = TABLES_AT;
    let mut place = |bytes: Vec<u8>| {
        let gpa = next;
        next = (gpa + bytes.len() as u64).next_multiple_of(16);
        PlacedTable { gpa, bytes }
    };
    let facs = PlacedTable { gpa: FACS_AT, bytes: facs() };
    let dsdt = place(dsdt::build(config));
    let fadt = place(fadt::build(config, facs.gpa, dsdt.gpa));
    let madt = place(madt::build(config));
    let entries: Vec<u8> = [fadt.gpa, madt.gpa].iter().flat_map(|gpa| gpa.to_le_bytes()).collect();
    let xsdt = place(table(b"XSDT", 1, &entries));
    // The same for who knows ACPI 1.0 only.
    let entries: Vec<u8> = [fadt.gpa, madt.gpa].iter().flat_map(|gpa| (*gpa as u32).to_le_bytes()).collect();
    let rsdt = place(table(b"RSDT", 1, &entries));
    let rsdp = PlacedTable { gpa: ACPI, bytes: root_pointer(rsdt.gpa, xsdt.gpa).to_vec() };
    vec![rsdp, facs, dsdt, fadt, madt, xsdt, rsdt]
}

/// Returns a copy of the RSDP, for a kernel that is told one.
pub fn rsdp(config: AcpiConfig) -> [u8; RSDP_SIZE] {
    let tables = build(config);
    let gpa_of = |signature| tables.iter().find(|t| t.bytes.starts_with(signature)).map_or(0, |t| t.gpa);
    root_pointer(gpa_of(b"RSDT"), gpa_of(b"XSDT"))
}

/// Writes the tables into guest memory.
///
/// # Errors
/// `InvalidGuestAddress` when the area is not RAM or the tables do not fit, which would take thousands of processors.
pub fn write(ram: &GuestMemoryMmap<()>, config: AcpiConfig) -> Result<(), GuestMemoryError> {
    for table in build(config) {
        if table.gpa + table.bytes.len() as u64 > ACPI_END {
            return Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(table.gpa)));
        }
        ram.write_slice(&table.bytes, GuestAddress(table.gpa))?;
    }
    for table in mp::build(config.cpus) {
        ram.write_slice(&table.bytes, GuestAddress(table.gpa))?;
    }
    Ok(())
}

/// Root system description pointer. ACPI, "Root System Description Pointer (RSDP)".
fn root_pointer(rsdt: u64, xsdt: u64) -> [u8; RSDP_SIZE] {
    const FIRST_PART: usize = 20;
    let mut bytes = [0; RSDP_SIZE];
    bytes[..8].copy_from_slice(b"RSD PTR ");
    bytes[9..15].copy_from_slice(OEM_ID);
    bytes[15] = 2;
    bytes[16..20].copy_from_slice(&(rsdt as u32).to_le_bytes());
    bytes[8] = checksum(&bytes[..FIRST_PART]);
    bytes[20] = RSDP_SIZE as u8;
    bytes[24..32].copy_from_slice(&xsdt.to_le_bytes());
    bytes[32] = checksum(&bytes);
    bytes
}

/// Firmware ACPI control structure, which has no checksum. ACPI, "Firmware ACPI Control Structure (FACS)".
fn facs() -> Vec<u8> {
    const LEN: u8 = 64;
    let mut bytes = b"FACS".to_vec();
    bytes.push(LEN);
    bytes.resize(usize::from(LEN), 0);
    bytes[32] = 2;
    bytes
}
