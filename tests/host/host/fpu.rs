// SPDX-License-Identifier: GPL-2.0

//! The guest's extended state.

use super::cpu::PinnedCpu;
use super::page::KernelPages;
use super::processor::{registers, HOST_XCR0};
use crate::arch::cr::Xcr0;
use crate::arch::xsave::{self, MXCSR, MXCSR_INITIAL};
use kernel::prelude::*;

/// The bits that MXCSR has.
const MXCSR_BITS: u32 = 0xffff;

/// The saved image of a guest's extended state.
pub(crate) struct GuestFpu {
    image: KernelPages,
    xcr0: Xcr0,
    supported: Xcr0,
    pkru: u32,
    /// The processor does not take the image.
    pub(crate) is_refused: bool,
}

/// Returns the components that a guest may use on this host.
pub(crate) fn supported_xcr0() -> Xcr0 {
    Xcr0::from_bits_truncate(HOST_XCR0)
}

impl GuestFpu {
    /// The state after reset.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<GuestFpu> {
        let image = KernelPages::new(1)?;
        let mut fpu =
            GuestFpu { image, xcr0: Xcr0::X87, supported: supported_xcr0(), pkru: 0, is_refused: false };
        fpu.reset();
        Ok(fpu)
    }

    fn reset(&mut self) {
        self.xcr0 = Xcr0::X87;
        let bytes = self.image.bytes_mut();
        bytes.fill(0);
        bytes[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&MXCSR_INITIAL.to_le_bytes());
    }

    /// Returns the guest's XCR0.
    pub(crate) fn xcr0(&self) -> Xcr0 {
        self.xcr0
    }

    /// Sets the guest's XCR0.
    ///
    /// # Errors
    /// `EINVAL` for a value that XSETBV would refuse.
    pub(crate) fn set_xcr0(&mut self, value: u64) -> Result {
        let may = |xcr0: &Xcr0| xcr0.is_consistent() && self.supported.contains(*xcr0);
        self.xcr0 = Xcr0::from_bits(value).filter(may).ok_or(EINVAL)?;
        Ok(())
    }

    /// Returns the image.
    pub(crate) fn image(&mut self) -> &mut [u8] {
        self.image.bytes_mut()
    }

    /// Replaces the first bytes of the image.
    ///
    /// # Errors
    /// `EINVAL` for what the processor would not load.
    pub(crate) fn set_image(&mut self, new: &[u8]) -> Result {
        let mxcsr = xsave::loads(new, self.supported, MXCSR_BITS).ok_or(EINVAL)?;
        let bytes = self.image.bytes_mut();
        let n = bytes.len().min(new.len());
        bytes[..n].copy_from_slice(&new[..n]);
        bytes[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
        Ok(())
    }

    /// Puts the guest's state into the registers until the returned value is dropped.
    ///
    /// # Errors
    /// `EIO` where the processor does not take it, which is the initial one then.
    pub(crate) fn load<'a>(&'a mut self, _cpu: &'a PinnedCpu) -> Result<LoadedFpu<'a>> {
        if core::mem::take(&mut self.is_refused) {
            self.reset();
            return Err(EIO);
        }
        let host_xcr0 = registers(|r| {
            assert!(!r.has_guest_fpu, "one guest's state at a time");
            r.has_guest_fpu = true;
            core::mem::replace(&mut r.xcr0, self.xcr0.bits())
        });
        Ok(LoadedFpu { fpu: self, host_xcr0, are_keys_shown: false })
    }
}

/// The guest's state is in the registers.
pub(crate) struct LoadedFpu<'a> {
    fpu: &'a mut GuestFpu,
    host_xcr0: u64,
    are_keys_shown: bool,
}

impl LoadedFpu<'_> {
    /// Executes the guest's XSETBV.
    ///
    /// # Errors
    /// `EINVAL` where the processor would raise #GP.
    pub(crate) fn set_xcr0(&mut self, value: u64) -> Result {
        self.fpu.set_xcr0(value)?;
        registers(|r| r.xcr0 = value);
        Ok(())
    }

    /// Returns the guest's XCR0.
    pub(crate) fn xcr0(&self) -> Xcr0 {
        self.fpu.xcr0
    }

    /// Puts the guest's PKRU into the register, unless it is there.
    pub(crate) fn show_keys(&mut self) {
        if !core::mem::replace(&mut self.are_keys_shown, true) {
            registers(|r| r.pkru = self.fpu.pkru);
        }
    }

    /// Returns the guest's PKRU, when it is not in the register.
    pub(crate) fn pkru(&self) -> u32 {
        self.fpu.pkru
    }

    /// Returns the guest's XMM0 to XMM5.
    pub(crate) fn xmm_words(&self) -> [u64; 12] {
        let bytes = self.fpu.image.bytes();
        core::array::from_fn(|i| u64::from_le_bytes(bytes[160 + i * 8..][..8].try_into().unwrap()))
    }

    /// Takes the guest's PKRU out of the register, if it is there.
    pub(crate) fn hide_keys(&mut self) {
        if core::mem::take(&mut self.are_keys_shown) {
            self.fpu.pkru = registers(|r| core::mem::take(&mut r.pkru));
        }
    }
}

impl Drop for LoadedFpu<'_> {
    fn drop(&mut self) {
        self.hide_keys();
        registers(|r| {
            r.has_guest_fpu = false;
            r.xcr0 = self.host_xcr0;
        });
    }
}
