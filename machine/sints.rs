// SPDX-License-Identifier: GPL-2.0

//! What others must know of a vCPU's synthetic interrupt controller: the vectors of its sources. The vCPU publishes them,
//! and who raises a source from outside, by a GSI, reads them, both without a lock.

use crate::arch::hyperv::SINTS;
use core::sync::atomic::{AtomicU16, Ordering::*};

/// No vector.
const NONE: u16 = u16::MAX;

/// See the module's description.
pub(crate) struct SintVectors([AtomicU16; SINTS]);

impl SintVectors {
    /// None has a vector.
    pub(super) const fn new() -> SintVectors {
        SintVectors([const { AtomicU16::new(NONE) }; SINTS])
    }

    /// Returns the vector of a source; `None`: it has none, or there is no such source.
    pub(crate) fn get(&self, sint: usize) -> Option<u8> {
        u8::try_from(self.0.get(sint)?.load(Relaxed)).ok()
    }

    /// Sets that.
    pub(crate) fn set(&self, sint: usize, vector: Option<u8>) {
        if let Some(word) = self.0.get(sint) {
            word.store(vector.map_or(NONE, u16::from), Relaxed);
        }
    }
}
