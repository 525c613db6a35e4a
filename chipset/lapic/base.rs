// SPDX-License-Identifier: GPL-2.0

//! IA32_APIC_BASE: whether the local APIC is there, in which mode, and at what address.
//!
//! SDM, "Local APIC Status and Location", "x2APIC State Transitions"; APM, "APIC Base Address
//! Register".
//!
//! ```text
//!  disabled <──> xAPIC ──> x2APIC ──> disabled
//! ```

use super::dest::ApicMode;
use crate::arch::exception::CpuException;
use crate::arch::rule::rule;

/// IA32_APIC_BASE: this is the bootstrap processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
const BASE_EN: u64 = 1 << 11;
/// What it can hold on any processor.
const BASE_BITS: u64 = 0x000f_ffff_ffff_fd00;
/// Where the registers are in memory after power-on.
const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Returns the bits of IA32_APIC_BASE that a guest may not set: those above `phys_bits` (its
/// MAXPHYADDR, at most 52), the undefined ones, and x2APIC mode where the guest's CPUID lacks it.
pub(crate) fn base_reserved(phys_bits: u8, x2apic: bool) -> u64 {
    let above = u64::MAX.checked_shl(u32::from(phys_bits)).unwrap_or(0);
    above | 0x2ff | if x2apic { 0 } else { BASE_EXTD }
}

/// A value that IA32_APIC_BASE cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImpossibleBase;

/// IA32_APIC_BASE.
///
/// # Invariants
/// x2APIC mode is not selected without the enable bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ApicBase(u64);

impl ApicBase {
    /// Returns the value after power-on: xAPIC mode; `bsp` for the bootstrap processor.
    pub(super) fn at_power_on(bsp: bool) -> ApicBase {
        ApicBase(DEFAULT_BASE | BASE_EN | if bsp { BASE_BSP } else { 0 })
    }

    /// Returns the value that was saved as `raw`, without what the register cannot hold.
    pub(super) fn from_saved(raw: u64) -> ApicBase {
        let base = raw & BASE_BITS;
        ApicBase(if base & BASE_EN == 0 { base & !BASE_EXTD } else { base })
    }

    /// Returns it as the MSR reads.
    pub(super) fn raw(self) -> u64 {
        self.0
    }

    /// Returns the mode that it selects.
    pub(super) fn mode(self) -> ApicMode {
        match (self.0 & BASE_EN != 0, self.0 & BASE_EXTD != 0) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::Xapic,
            (true, true) => ApicMode::X2apic,
        }
    }

    /// Returns the guest physical address of the register page, `None` unless in xAPIC mode.
    pub(super) fn mmio_base(self) -> Option<u64> {
        (self.mode() == ApicMode::Xapic).then_some(self.0 & !0xfff)
    }

    /// Returns what the register holds after the guest wrote `value`; `reserved` is from [`base_reserved`].
    ///
    /// # Errors
    /// #GP for reserved bits, x2APIC without enable, from disabled straight to x2APIC, and from
    /// x2APIC back to xAPIC.
    pub(super) fn written(self, value: u64, reserved: u64) -> Result<ApicBase, CpuException> {
        let legal = match (self.mode(), value & BASE_EN != 0, value & BASE_EXTD != 0) {
            (_, false, extd) => !extd,
            (ApicMode::Disabled, true, extd) => !extd,
            (ApicMode::Xapic, true, _) => true,
            (ApicMode::X2apic, true, extd) => extd,
        };
        if value & reserved != 0 || !legal {
            return Err(CpuException::GP0);
        }
        Ok(ApicBase(value))
    }

    /// As [`ApicBase::written`], from outside the guest: every mode can be reached from every other.
    ///
    /// # Errors
    /// [`ImpossibleBase`] for reserved bits and x2APIC without enable, in what is not the value already.
    pub(super) fn restored(self, value: u64, reserved: u64) -> Result<ApicBase, ImpossibleBase> {
        let possible = value & reserved == 0 && value & (BASE_EN | BASE_EXTD) != BASE_EXTD;
        if value != self.0 && !possible {
            return Err(ImpossibleBase);
        }
        Ok(ApicBase(value))
    }

    /// Looks whether the invariant holds.
    ///
    /// # Errors
    /// Its name.
    pub(super) fn check(self) -> Result<(), &'static str> {
        rule(self.0 & BASE_EN != 0 || self.0 & BASE_EXTD == 0, "no x2APIC mode of one that is off")
    }
}
