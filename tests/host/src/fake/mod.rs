// SPDX-License-Identifier: GPL-2.0

//! A vendor's extension whose exits are written down, and machines made with it.
//!
//! | file | holds |
//! |---|---|
//! | [`backend`] | the extension: it enters, delivers events and exits as the contract says, and keeps translations as long as it may |
//! | [`steps`] | guests whose instructions are written one after the other |
//! | [`direct`] | a VM and its vCPUs, for tests that look inside |
//! | [`abi`] | the same by ioctls |
//! | [`virtio`] | the driver's side of a virtio device on such a machine's bus |

pub(crate) mod abi;
pub(crate) mod backend;
pub(crate) mod direct;
pub(crate) mod steps;
pub(crate) mod virtio;

use crate::machine::counters::DiskCounters;
use crate::machine::settings::ModuleSettings;

static DISKS: DiskCounters = DiskCounters::new();

/// What the module is loaded with, where a test does not say otherwise: exits are not timed, nobody polls.
pub(crate) fn settings() -> ModuleSettings {
    ModuleSettings {
        times_exits: false,
        halt_poll_ns: 0,
        nx_huge_pages: 2,
        offers_pv_eoi: true,
        disks: &DISKS,
    }
}
