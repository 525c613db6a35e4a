// SPDX-License-Identifier: GPL-2.0

//! Fixed ACPI description table: the power management registers. ACPI, "Fixed ACPI Description Table (FADT)".

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

use super::{bytes_of, AcpiConfig, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{PM1A_CONTROL, PM1A_EVENT, PM_TIMER, RESET_PORT, RESET_VALUE, SCI_IRQ};

/// Boot architecture: there are devices on the ISA bus.
const LEGACY_DEVICES: u16 = 1 << 0;
/// Boot architecture: there is a keyboard controller.
const HAS_8042: u16 = 1 << 1;
/// Boot architecture: VGA must not be probed.
const NO_VGA: u16 = 1 << 2;
/// CMOS index of the century, where the RTC model keeps it.
const CENTURY: u8 = 0x32;
/// Latencies beyond the limits of the specification say that C2 and C3 do not exist.
const NO_C2: u16 = 101;
/// As `NO_C2`, for C3.
const NO_C3: u16 = 1001;

/// Builds the FADT for tables at the given addresses.
pub(super) fn build(config: AcpiConfig, facs: u64, dsdt: u64) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.x_firmware_ctrl = 0.into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(SCI_IRQ).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = port(PM1A_EVENT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = port(PM1A_CONTROL, 16, AccessSize::WordAccess);
    fadt.pm_tmr_blk = u32::from(PM_TIMER).into();
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk = port(PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.reset_reg = port(RESET_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | if config.keyboard { HAS_8042 } else { 0 }).into();
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"RVMM\0\0\0\0").into();
    bytes_of(&fadt.finalize())
}

/// A register of `bits` width on the I/O ports.
fn port(port: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, u64::from(port))
}
