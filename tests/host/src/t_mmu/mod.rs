// SPDX-License-Identifier: GPL-2.0

//! Tests of mmu.

mod asid;
mod beside;
mod dirty;
pub(crate) mod format;
pub(crate) mod guest;
pub(crate) mod shadow;
pub(crate) mod slots;
pub(crate) mod table;
mod tlb;
mod walk;
pub(crate) mod walk_random;
