// SPDX-License-Identifier: GPL-2.0

//! Which MSRs a guest may use, beside those that it has: KVM_X86_SET_MSR_FILTER.
//!
//! Documentation of KVM's API, "KVM_X86_SET_MSR_FILTER". A filter does not change once it is made; each vCPU has its own
//! handle to the newest.

use crate::arch::msr::{X2APIC_FIRST, X2APIC_LAST};
use kernel::prelude::*;

/// Which accesses a range is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrUse {
    /// RDMSR.
    Read = 1,
    /// WRMSR.
    Write = 2,
}

/// A range of MSRs with a bit for each that may be used.
pub(crate) struct MsrRange {
    /// [`MsrUse`], a bit each.
    pub(crate) uses: u32,
    /// The first MSR.
    pub(crate) base: u32,
    /// How many.
    pub(crate) count: u32,
    /// A bit for each.
    pub(crate) allowed: KVec<u64>,
}

impl MsrRange {
    /// Returns whether `index` may be used so, where the range is about that.
    fn verdict(&self, index: u32, access: MsrUse) -> Option<bool> {
        let offset = index.checked_sub(self.base).filter(|o| *o < self.count)?;
        let word = self.allowed.get((offset >> 6) as usize)?;
        (self.uses & access as u32 != 0).then_some(word >> (offset & 63) & 1 != 0)
    }
}

/// See the module's description.
pub(crate) struct GuestMsrFilter {
    allows_others: bool,
    ranges: KVec<MsrRange>,
}

/// The MSRs that guests use without an exit where no filter is about them.
const WITHOUT_EXIT: [u32; 10] = [
    0x174,
    0x175,
    0x176,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
];

impl GuestMsrFilter {
    /// Makes one; `allows_others` is about what no range is about. The first range that is decides.
    pub(crate) fn new(allows_others: bool, ranges: KVec<MsrRange>) -> GuestMsrFilter {
        GuestMsrFilter { allows_others, ranges }
    }

    /// Returns whether the guest may use an MSR so. The registers of the local APIC cannot be filtered.
    pub(crate) fn allows(&self, index: u32, access: MsrUse) -> bool {
        (X2APIC_FIRST..=X2APIC_LAST).contains(&index)
            || self.ranges.iter().find_map(|r| r.verdict(index, access)).unwrap_or(self.allows_others)
    }

    /// Returns whether the guest may read and write an MSR.
    pub(crate) fn allows_all(&self, index: u32) -> bool {
        self.allows(index, MsrUse::Read) && self.allows(index, MsrUse::Write)
    }

    /// Returns whether it is about MSRs that guests use without an exit.
    pub(crate) fn needs_exits(&self) -> bool {
        !WITHOUT_EXIT.iter().all(|index| self.allows_all(*index))
    }
}
