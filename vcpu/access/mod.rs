// SPDX-License-Identifier: GPL-2.0

//! What an address reaches: a port, physical memory that is no RAM, a register of the local APIC, an MSR.

mod hyperv;
pub(crate) mod lapic;
pub(crate) mod mmio;
pub(crate) mod msr;
pub(crate) mod port;
