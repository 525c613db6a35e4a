// SPDX-License-Identifier: GPL-2.0

//! The header that all description tables share. ACPI, "System Description Table Header".

/// A table and its guest physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedTable {
    /// Guest physical address.
    pub gpa: u64,
    /// Contents.
    pub bytes: Vec<u8>,
}

/// Length of the header.
pub const HEADER_LEN: usize = 36;
/// Offset of the length field.
const LENGTH_AT: usize = 4;
/// Offset of the checksum.
const CHECKSUM_AT: usize = 9;
/// OEM id in every table.
pub const OEM_ID: &[u8; 6] = b"RVMM  ";
/// OEM table id in every table.
const OEM_TABLE_ID: &[u8; 8] = b"RVMMPC  ";
/// Who made the tables: the tool.
const CREATOR_ID: &[u8; 4] = b"RVMM";

/// Puts a header before `body`, with length and checksum.
pub fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(signature);
    bytes.extend([0; 4]);
    bytes.extend([revision, 0]);
    bytes.extend(OEM_ID);
    bytes.extend(OEM_TABLE_ID);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(CREATOR_ID);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(body);
    let len = bytes.len() as u32;
    bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&len.to_le_bytes());
    bytes[CHECKSUM_AT] = checksum(&bytes);
    bytes
}

/// The byte that makes the sum of `bytes` and itself zero.
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}
