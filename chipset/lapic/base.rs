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
use super::Lapic;
use crate::arch::exception::Exception;

/// IA32_APIC_BASE: this is the bootstrap processor.
pub(super) const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub(super) const BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
pub(super) const BASE_EN: u64 = 1 << 11;
/// Where the registers are in memory after power-on.
pub(crate) const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Returns the bits of IA32_APIC_BASE that a guest may not set: those above `phys_bits` (its
/// MAXPHYADDR, at most 52), the undefined ones, and x2APIC mode where the guest's CPUID lacks it.
pub(crate) fn base_reserved(phys_bits: u8, x2apic: bool) -> u64 {
    let above = u64::MAX.checked_shl(u32::from(phys_bits)).unwrap_or(0);
    above | 0x2ff | if x2apic { 0 } else { BASE_EXTD }
}

/// A value that IA32_APIC_BASE cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImpossibleBase;

impl Lapic {
    /// Returns the mode that IA32_APIC_BASE selects.
    pub(crate) fn mode(&self) -> ApicMode {
        match (self.base & BASE_EN != 0, self.base & BASE_EXTD != 0) {
            (false, _) => ApicMode::Disabled,
            (true, false) => ApicMode::Xapic,
            (true, true) => ApicMode::X2apic,
        }
    }

    /// Returns IA32_APIC_BASE.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Returns the guest physical address of the register page, `None` unless in xAPIC mode.
    pub(crate) fn mmio_base(&self) -> Option<u64> {
        (self.mode() == ApicMode::Xapic).then_some(self.base & !0xfff)
    }

    /// Writes IA32_APIC_BASE as the guest does; `reserved` is from [`base_reserved`].
    ///
    /// The caller publishes identity and deadline anew, and CPUID's APIC bit follows the mode.
    /// Disabling loses all state.
    ///
    /// # Errors
    /// #GP for reserved bits, x2APIC without enable, from disabled straight to x2APIC, and from
    /// x2APIC back to xAPIC.
    pub(crate) fn set_base(&mut self, value: u64, reserved: u64) -> Result<(), Exception> {
        let old = self.mode();
        let legal = match (old, value & BASE_EN != 0, value & BASE_EXTD != 0) {
            (_, false, extd) => !extd,
            (ApicMode::Disabled, true, extd) => !extd,
            (ApicMode::Xapic, true, _) => true,
            (ApicMode::X2apic, true, extd) => extd,
        };
        if value & reserved != 0 || !legal {
            return Err(Exception::GP0);
        }
        self.change_base(value);
        Ok(())
    }

    /// Sets IA32_APIC_BASE from outside the guest, as [`Lapic::set_base`]; but every mode can be reached from every
    /// other.
    ///
    /// # Errors
    /// [`ImpossibleBase`] for reserved bits and x2APIC without enable, in what is not the value already.
    pub(crate) fn restore_base(&mut self, value: u64, reserved: u64) -> Result<(), ImpossibleBase> {
        let possible = value & reserved == 0 && value & (BASE_EN | BASE_EXTD) != BASE_EXTD;
        if value != self.base && !possible {
            return Err(ImpossibleBase);
        }
        self.change_base(value);
        Ok(())
    }

    fn change_base(&mut self, value: u64) {
        let was = self.mode();
        self.base = value;
        if self.mode() == ApicMode::Disabled && was != ApicMode::Disabled {
            self.reset(true);
        }
        if self.mode() == ApicMode::X2apic {
            self.logical = 0;
        }
    }
}
