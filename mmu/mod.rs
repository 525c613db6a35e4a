// SPDX-License-Identifier: GPL-2.0

//! Guest memory: slots, the guest's own page tables, and the second-level tables.

#![forbid(unsafe_code)]

pub(crate) mod asid;
pub(crate) mod dirty;
pub(crate) mod format;
pub(crate) mod guest_entry;
pub(crate) mod hva_index;
pub(crate) mod mem;
pub(crate) mod shadow;
pub(crate) mod slot;
pub(crate) mod slots;
pub(crate) mod table;
pub(crate) mod tlb;
pub(crate) mod walk;
