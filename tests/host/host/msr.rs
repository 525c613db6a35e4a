// SPDX-License-Identifier: GPL-2.0

//! MSRs of the host that guests see directly.

use super::cpu::{cpuid, PinnedCpu};
use super::processor::registers;
use crate::arch::mitigation::SpecFeatures;

/// Returns whether this processor has TSC_AUX.
pub(crate) fn has_tsc_aux() -> bool {
    cpuid(0x8000_0001, 0).edx & (1 << 27) != 0
}

/// TSC_AUX holds the guest's value until this is dropped.
pub(crate) struct TscAux {
    host: u32,
}

impl TscAux {
    /// Loads the guest's value.
    pub(crate) fn load(guest: u32, present: bool, _cpu: &PinnedCpu) -> Option<TscAux> {
        present.then(|| TscAux { host: registers(|r| core::mem::replace(&mut r.tsc_aux, guest)) })
    }

    /// Changes the guest's value.
    pub(crate) fn set(&mut self, guest: u32) {
        registers(|r| r.tsc_aux = guest);
    }
}

impl Drop for TscAux {
    fn drop(&mut self) {
        registers(|r| r.tsc_aux = self.host);
    }
}

impl SpecFeatures {
    /// Asks the calling CPU.
    pub(crate) fn of_this_cpu() -> SpecFeatures {
        SpecFeatures::of(cpuid)
    }

    /// Executes the guest's barrier command.
    pub(crate) fn barrier(self, _cpu: &PinnedCpu) {
        if self.barrier {
            registers(|r| r.barriers += 1);
        }
    }
}

/// The guest's SPEC_CTRL.
pub(crate) struct SpecCtrl {
    host: u32,
    guest: u32,
}

impl SpecCtrl {
    /// Prepares; `None` where nothing has to be switched.
    pub(crate) fn new(guest: u32, host: SpecFeatures, _cpu: &PinnedCpu) -> Option<SpecCtrl> {
        let guest = guest & host.control;
        let host = registers(|r| r.spec_ctrl);
        Some(SpecCtrl { host, guest: guest | host }).filter(|s| guest != 0 && s.guest != s.host)
    }

    /// Puts the guest's value in force.
    pub(crate) fn show(&self) {
        registers(|r| r.spec_ctrl = self.guest);
    }

    /// Puts the host's value back.
    pub(crate) fn hide(&self) {
        registers(|r| r.spec_ctrl = self.host);
    }
}
