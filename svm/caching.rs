// SPDX-License-Identifier: GPL-2.0

//! The caching bits of CR0, CD and NW, which a guest has and the processor does not while it runs.
//!
//! With CD set a guest would run without caches: APM, "Combined Memory Types". Firmware may leave the bits as a reset
//! sets them, and as on KVM that has no effect. Meanwhile reads and writes of CR0 exit, so that the guest finds what it
//! wrote. Pure functions of numbers.
//!
//! DEVIATION: The write by which a guest sets CD itself does not exit, or those that change other bits of CR0 would, too:
//! until its window is closed it runs without caches.

use crate::arch::cr::Cr0;

/// CR0.CD and CR0.NW.
const CACHING: u64 = Cr0::CD.union(Cr0::NW).bits();

/// Returns whether a CR0 has one of the bits.
#[inline(always)]
pub(crate) fn has_caching_bits(cr0: u64) -> bool {
    cr0 & CACHING != 0
}

/// What the guest has of the bits, and the processor does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HiddenCaching(u64);

impl HiddenCaching {
    /// Takes the bits of a guest's CR0. Returns the processor's.
    pub(crate) fn take(&mut self, cr0: u64) -> u64 {
        self.0 = cr0 & CACHING;
        cr0 & !CACHING
    }

    /// Returns the guest's CR0 where the processor's is `cr0`.
    pub(crate) fn shown(self, cr0: u64) -> u64 {
        cr0 | self.0
    }

    /// Returns whether the guest has any of the bits.
    pub(crate) fn is_any(self) -> bool {
        self.0 != 0
    }
}
