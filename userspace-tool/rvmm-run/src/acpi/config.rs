// SPDX-License-Identifier: GPL-2.0

//! What the tables are made from.

/// What of the machine the tables describe and a user can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Number of processors; APIC ids count from 0, the I/O APIC has the next one.
    pub cpus: u32,
    /// Whether a guest should look for a keyboard controller. The model answers on its ports in either case; a guest
    /// that is told of it spends time on a keyboard that is not there.
    pub keyboard: bool,
}
