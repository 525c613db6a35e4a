// SPDX-License-Identifier: GPL-2.0

//! What whoever loaded the module wants of its machines, and what they count together. The root of the module makes
//! it of the module's parameters.

use super::counters::DiskCounters;

/// See the module's description.
#[derive(Clone, Copy)]
pub(crate) struct ModuleSettings {
    /// vCPUs measure how long their exits take.
    pub(crate) times_exits: bool,
    /// The longest time in nanoseconds that a halted vCPU polls before it sleeps.
    pub(crate) halt_poll_ns: u32,
    /// Whether only small pages are executable for guests, as in [`crate::arch::mitigation`].
    pub(crate) nx_huge_pages: u8,
    /// Guests are offered to end interrupts in memory.
    pub(crate) offers_pv_eoi: bool,
    /// What all disks count.
    pub(crate) disks: &'static DiskCounters,
}
