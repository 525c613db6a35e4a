// SPDX-License-Identifier: GPL-2.0

//! Fixed ACPI description table: the power management registers. ACPI, "Fixed ACPI Description Table (FADT)".

use super::config::AcpiConfig;
use super::table::{table, HEADER_LEN};
use crate::config::layout::{PM1A_CONTROL, PM1A_EVENT, PM_TIMER, RESET_PORT, RESET_VALUE, SCI_IRQ};

/// Length of the table in revision 6.
const LEN: usize = 276;
/// Major and minor revision.
const REVISION: (u8, u8) = (6, 3);

/// Boot architecture: there are devices on the ISA bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// Boot architecture: there is a keyboard controller.
const HAS_8042: u16 = 1 << 1;
/// Boot architecture: VGA must not be probed.
const NO_VGA: u16 = 1 << 2;

/// Caches are kept coherent by WBINVD.
const WBINVD: u32 = 1 << 0;
/// C1 on every processor.
const PROC_C1: u32 = 1 << 2;
/// No sleep button among the fixed registers. (The power button is there: its bit is clear.)
const NO_SLEEP_BUTTON: u32 = 1 << 5;
/// No RTC wake status among the fixed registers.
const NO_FIXED_RTC: u32 = 1 << 6;
/// The PM timer has 32 bits.
const TMR_VAL_EXT: u32 = 1 << 8;
/// There is a reset register.
const RESET_REG_SUP: u32 = 1 << 10;
const FLAGS: u32 = WBINVD | PROC_C1 | NO_SLEEP_BUTTON | NO_FIXED_RTC | TMR_VAL_EXT | RESET_REG_SUP;

/// Profile: enterprise server.
const PROFILE: u8 = 4;
/// CMOS index of the century, where the RTC model keeps it.
const CENTURY: u8 = 0x32;
/// Latencies beyond the limits of the specification say that C2 and C3 do not exist.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// Access sizes of a generic address.
const BYTE: u8 = 1;
const WORD: u8 = 2;
const DWORD: u8 = 3;

/// Builds the FADT for tables at the given addresses, which lie below 4 GiB.
pub(super) fn build(config: AcpiConfig, facs: u64, dsdt: u64) -> Vec<u8> {
    let mut body = Body(vec![0; LEN - HEADER_LEN]);
    body.u32(36, facs as u32);
    body.u32(40, dsdt as u32);
    body.u8(45, PROFILE);
    body.u16(46, u16::from(SCI_IRQ));
    body.u32(56, u32::from(PM1A_EVENT));
    body.u32(64, u32::from(PM1A_CONTROL));
    body.u32(76, u32::from(PM_TIMER));
    body.u8(88, 4);
    body.u8(89, 2);
    body.u8(91, 4);
    body.u16(96, NO_C2);
    body.u16(98, NO_C3);
    body.u8(108, CENTURY);
    body.u16(109, LEGACY_DEVICES | NO_VGA | if config.keyboard { HAS_8042 } else { 0 });
    body.u32(112, FLAGS);
    body.port(116, RESET_PORT, 8, BYTE);
    body.u8(128, RESET_VALUE);
    body.u8(131, REVISION.1);
    body.put(140, &dsdt.to_le_bytes());
    body.port(148, PM1A_EVENT, 32, WORD);
    body.port(172, PM1A_CONTROL, 16, WORD);
    body.port(208, PM_TIMER, 32, DWORD);
    body.put(268, b"RVMM");
    table(b"FACP", REVISION.0, &body.0)
}

/// The table without its header; offsets count from the start of the header, as the specification has them.
struct Body(Vec<u8>);

impl Body {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        let at = offset - HEADER_LEN;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u8(&mut self, offset: usize, value: u8) {
        self.put(offset, &[value]);
    }

    fn u16(&mut self, offset: usize, value: u16) {
        self.put(offset, &value.to_le_bytes());
    }

    fn u32(&mut self, offset: usize, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    /// A generic address structure for an I/O port of `bits` width.
    fn port(&mut self, offset: usize, port: u16, bits: u8, access: u8) {
        const SYSTEM_IO: u8 = 1;
        self.put(offset, &[SYSTEM_IO, bits, 0, access]);
        self.put(offset + 4, &u64::from(port).to_le_bytes());
    }
}
