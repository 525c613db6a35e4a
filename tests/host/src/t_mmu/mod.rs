// SPDX-License-Identifier: GPL-2.0

//! Tests of mmu.

mod asid;
mod format;
mod slots;
mod table;
mod tlb;
