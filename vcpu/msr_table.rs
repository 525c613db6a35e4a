// SPDX-License-Identifier: GPL-2.0

//! MSRs that are plain storage.

use kernel::prelude::*;

/// IA32_MCG_CAP: no banks.
pub(crate) const MCG_CAP: u64 = 0;
/// What GET_MSR_INDEX_LIST answers.
pub(crate) const INDEX_LIST: &[u32] = &[
    0x10,
    0x1b,
    0x174,
    0x175,
    0x176,
    0x277,
    0x6e0,
    0xc000_0081,
    0xc000_0082,
    0xc000_0083,
    0xc000_0084,
    0xc000_0102,
    0xc000_0103,
    0xc000_0080,
];

/// Values by index.
pub(crate) struct MsrStore {
    entries: KVec<(u32, u64)>,
}

impl MsrStore {
    /// Nothing stored.
    pub(crate) fn new() -> MsrStore {
        MsrStore { entries: KVec::new() }
    }

    /// Returns what was stored.
    pub(crate) fn get(&self, index: u32) -> u64 {
        self.entries.iter().find(|(i, _)| *i == index).map_or(0, |(_, v)| *v)
    }

    /// Stores a value.
    pub(crate) fn set(&mut self, index: u32, value: u64) -> bool {
        if let Some(e) = self.entries.iter_mut().find(|(i, _)| *i == index) {
            e.1 = value;
            return true;
        }
        self.entries.push((index, value), GFP_ATOMIC).is_ok()
    }
}
