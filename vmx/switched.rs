// SPDX-License-Identifier: GPL-2.0

//! The MSRs that windows switch for guests, since neither entries nor exits do.

use x86::msr;

/// The MSRs that neither entries nor exits switch. Guests access them without exits.
pub(crate) const SWITCHED: [u32; 5] =
    [msr::IA32_STAR, msr::IA32_LSTAR, msr::IA32_CSTAR, msr::IA32_FMASK, msr::IA32_KERNEL_GSBASE];

/// The guest's values of the MSRs that are switched by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SwitchedMsrs {
    /// STAR.
    pub(crate) star: u64,
    /// LSTAR.
    pub(crate) lstar: u64,
    /// CSTAR.
    pub(crate) cstar: u64,
    /// SFMASK.
    pub(crate) sfmask: u64,
    /// KERNEL_GS_BASE.
    pub(crate) kernel_gs_base: u64,
}

impl SwitchedMsrs {
    /// Returns them in the order of [`SWITCHED`].
    pub(crate) fn to_array(self) -> [u64; SWITCHED.len()] {
        [self.star, self.lstar, self.cstar, self.sfmask, self.kernel_gs_base]
    }

    /// As [`SwitchedMsrs::to_array`].
    pub(crate) fn from_array(v: [u64; SWITCHED.len()]) -> SwitchedMsrs {
        let [star, lstar, cstar, sfmask, kernel_gs_base] = v;
        SwitchedMsrs { star, lstar, cstar, sfmask, kernel_gs_base }
    }
}
