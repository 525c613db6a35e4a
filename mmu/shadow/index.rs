// SPDX-License-Identifier: GPL-2.0

//! Lists by a hash: what there is of a guest frame, found in a time that does not depend on how much there is in all.

use super::chain::IdList;
use crate::arch::addr::Gfn;
use crate::mmu::format::INDEX_BITS;
use kernel::prelude::*;

/// See the module's description.
pub(super) struct HashedChains {
    chains: KVVec<IdList>,
    /// 64 less log2 of their number.
    shift: u32,
}

impl HashedChains {
    /// Empty lists, at least `count` of them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(count: usize) -> Result<HashedChains> {
        let count = count.clamp(2, 1 << 20).next_power_of_two();
        let mut chains = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            chains.push_within_capacity(IdList::EMPTY)?;
        }
        Ok(HashedChains { chains, shift: 64u32.wrapping_sub(count.trailing_zeros()) })
    }

    fn place(&self, key: u64) -> usize {
        // Fibonacci hashing: the upper bits depend on all of the key's.
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_shr(self.shift) as usize
    }

    /// Returns the list that everything with this key is in.
    pub(super) fn of(&self, key: u64) -> IdList {
        self.chains.get(self.place(key)).copied().unwrap_or(IdList::EMPTY)
    }

    /// The same to change.
    pub(super) fn of_mut(&mut self, key: u64) -> Option<&mut IdList> {
        let place = self.place(key);
        self.chains.get_mut(place)
    }
}

/// Returns the key of the entries of pages of `level` that map frames from `gfn` on.
pub(super) fn page_key(gfn: Gfn, level: u32) -> u64 {
    gfn.0 << 2 | u64::from(level & 3)
}

/// Returns the key of the 2 MiB that `gfn` lies in.
pub(super) fn region_key(gfn: Gfn) -> u64 {
    gfn.0 >> INDEX_BITS
}
