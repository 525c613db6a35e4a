// SPDX-License-Identifier: GPL-2.0

//! As much of an AML encoder as the DSDT needs. ACPI, "ACPI Machine Language (AML) Specification" and "Resource Data Types
//! for ACPI".
//!
//! (The crate `acpi_tables` has no release that builds with the oldest compiler that this tool supports.)

const ZERO_OP: u8 = 0x00;
const NAME_OP: u8 = 0x08;
const BYTE_PREFIX: u8 = 0x0a;
const DWORD_PREFIX: u8 = 0x0c;
const SCOPE_OP: u8 = 0x10;
const BUFFER_OP: u8 = 0x11;
const PACKAGE_OP: u8 = 0x12;
const DEVICE_OP: [u8; 2] = [0x5b, 0x82];
const MULTI_NAME_DUAL: u8 = 0x2e;
const END_TAG: [u8; 2] = [0x79, 0];

/// Fixed minimum and maximum, positive decoding, produced for the children.
const PRODUCER_FIXED: u8 = 0b1100;
/// Resource types of address space descriptors.
const MEMORY: u8 = 0;
const IO: u8 = 1;
const BUS: u8 = 2;

/// An integer in its shortest form for the values that occur here.
pub fn integer(value: u32) -> Vec<u8> {
    match u8::try_from(value) {
        Ok(0) => vec![ZERO_OP],
        Ok(byte) => vec![BYTE_PREFIX, byte],
        Err(_) => [&[DWORD_PREFIX][..], &value.to_le_bytes()].concat(),
    }
}

/// `Name (name, value)`. `name` is one segment of four characters.
pub fn name(name: &[u8; 4], value: &[u8]) -> Vec<u8> {
    [&[NAME_OP][..], name, value].concat()
}

/// `Scope (\path)`, where `path` has one or two segments.
pub fn scope(path: &[&[u8; 4]], content: &[u8]) -> Vec<u8> {
    let mut body = vec![b'\\'];
    if path.len() == 2 {
        body.push(MULTI_NAME_DUAL);
    }
    body.extend(path.iter().copied().flatten());
    body.extend(content);
    [vec![SCOPE_OP], with_length(&body)].concat()
}

/// `Device (name)`.
pub fn device(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    [&DEVICE_OP[..], &with_length(&[name, content].concat())].concat()
}

/// `Package () { … }`, at most 255 elements.
pub fn package(elements: &[Vec<u8>]) -> Vec<u8> {
    let body = [vec![elements.len() as u8], elements.concat()].concat();
    [vec![PACKAGE_OP], with_length(&body)].concat()
}

/// `EisaId ("ABC0123")`: three letters in five bits each, four hexadecimal digits, as an integer in big endian order.
pub fn eisa_id(id: &[u8; 7]) -> Vec<u8> {
    let letters = id[..3].iter().fold(0u32, |sum, c| (sum << 5) | u32::from(c.wrapping_sub(0x40) & 0x1f));
    let digits = id[3..].iter().fold(0u32, |sum, c| (sum << 4) | char::from(*c).to_digit(16).unwrap_or(0));
    let value = (letters << 16) | digits;
    [&[DWORD_PREFIX][..], &value.to_be_bytes()].concat()
}

/// `ResourceTemplate () { … }`: a buffer of descriptors with an end tag.
pub fn resources(descriptors: &[Vec<u8>]) -> Vec<u8> {
    let content = [descriptors.concat(), END_TAG.to_vec()].concat();
    let body = [integer(content.len() as u32), content].concat();
    [vec![BUFFER_OP], with_length(&body)].concat()
}

/// I/O port descriptor, 16-bit decoding: `len` ports from `base`.
pub fn io_ports(base: u16, len: u8) -> Vec<u8> {
    let [low, high] = base.to_le_bytes();
    vec![0x47, 1, low, high, low, high, 1, len]
}

/// IRQ descriptor without flags: edge, active high, exclusive.
pub fn irq(line: u8) -> Vec<u8> {
    let mask = 1u16.checked_shl(u32::from(line)).unwrap_or(0);
    [&[0x22][..], &mask.to_le_bytes()].concat()
}

/// Bus numbers `first..=last` behind a bridge.
pub fn bus_range(first: u16, last: u16) -> Vec<u8> {
    word_range(BUS, 0, first, last)
}

/// I/O ports `first..=last` behind a bridge.
pub fn io_range(first: u16, last: u16) -> Vec<u8> {
    const ENTIRE_RANGE: u8 = 3;
    word_range(IO, ENTIRE_RANGE, first, last)
}

/// Memory `first..=last` behind a bridge: writable, not cacheable.
pub fn memory_range(first: u32, last: u32) -> Vec<u8> {
    const READ_WRITE: u8 = 1;
    let mut bytes = vec![0x87];
    bytes.extend(23u16.to_le_bytes());
    bytes.extend([MEMORY, PRODUCER_FIXED, READ_WRITE]);
    for field in [0, first, last, 0, (last - first).wrapping_add(1)] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// Word address space descriptor. The length of the full 16-bit range would not fit and does not occur.
fn word_range(kind: u8, flags: u8, first: u16, last: u16) -> Vec<u8> {
    let mut bytes = vec![0x88];
    bytes.extend(13u16.to_le_bytes());
    bytes.extend([kind, PRODUCER_FIXED, flags]);
    for field in [0, first, last, 0, (last - first).wrapping_add(1)] {
        bytes.extend(field.to_le_bytes());
    }
    bytes
}

/// Puts the package length, which counts itself, before `body`.
fn with_length(body: &[u8]) -> Vec<u8> {
    let mut bytes = match body.len() {
        len @ 0..=0x3e => vec![len as u8 + 1],
        len => {
            let extra = if len + 2 < 1 << 12 { 1 } else { 2 };
            let total = len + 1 + extra;
            let mut bytes = vec![((extra as u8) << 6) | (total & 0xf) as u8, (total >> 4) as u8];
            if extra == 2 {
                bytes.push((total >> 12) as u8);
            }
            bytes
        }
    };
    bytes.extend(body);
    bytes
}
