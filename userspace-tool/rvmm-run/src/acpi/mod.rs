// SPDX-License-Identifier: GPL-2.0

//! ACPI tables of the machine: RSDP, XSDT, FADT, FACS, MADT and DSDT.
//!
//! Follows ACPI, "ACPI System Description Tables" and "ACPI Hardware Specification". The area is placed where a kernel
//! searches the RSDP by itself, so the pointers in `boot_params` and `hvm_start_info` are a convenience:
//!
//! ```text
//! 0xe0000 RSDP   0xe0040 FACS   0xe0080 DSDT, FADT, MADT, XSDT, each on a 16-byte boundary
//! ```

mod dsdt;
mod fadt;
mod madt;

use acpi_tables::facs::FACS;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::Aml;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout::{ACPI, ACPI_END};

/// OEM id in every table.
const OEM_ID: [u8; 6] = *b"RVMM  ";
/// OEM table id in every table.
const OEM_TABLE_ID: [u8; 8] = *b"RVMMPC  ";
/// Revision of our tables.
const OEM_REVISION: u32 = 1;
/// Offset of the FACS, which must be 64-byte aligned.
const FACS_AT: u64 = ACPI + 0x40;
/// Where the remaining tables begin.
const TABLES_AT: u64 = ACPI + 0x80;

/// What of the machine the tables describe and a user can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of processors; APIC ids count from 0, the I/O APIC has the next one.
    pub cpus: u32,
    /// Whether a guest should look for a keyboard controller. The model answers on its ports in either case; a guest
    /// that is told of it spends time on a keyboard that is not there.
    pub keyboard: bool,
}

/// A table and its guest physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Guest physical address.
    pub gpa: u64,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// Builds all tables, RSDP first, with final addresses and checksums.
pub fn build(config: AcpiConfig) -> Vec<Placed> {
    let mut next = TABLES_AT;
    let mut place = |bytes: Vec<u8>| {
        let gpa = next;
        next = (gpa + bytes.len() as u64).next_multiple_of(16);
        Placed { gpa, bytes }
    };
    let facs = Placed { gpa: FACS_AT, bytes: bytes_of(&FACS::new()) };
    let dsdt = place(dsdt::build(config));
    let fadt = place(fadt::build(config, facs.gpa, dsdt.gpa));
    let madt = place(madt::build(config));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt.gpa);
    xsdt.add_entry(madt.gpa);
    let xsdt = place(bytes_of(&xsdt));
    let rsdp = Placed { gpa: ACPI, bytes: bytes_of(&Rsdp::new(OEM_ID, xsdt.gpa)) };
    vec![rsdp, facs, dsdt, fadt, madt, xsdt]
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
    Ok(())
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}
