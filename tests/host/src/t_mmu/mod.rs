// SPDX-License-Identifier: GPL-2.0

//! Tests of mmu.

mod asid;
mod format;
mod guest;
mod slots;
mod table;
mod tlb;
mod walk;
mod walk_random;
