// SPDX-License-Identifier: GPL-2.0

//! A single step of the guest past what keeps an NMI from it.
//!
//! The processor tells that an IRET is about to run, not that it has, and nothing of the end of an
//! interrupt shadow. So a guest that an NMI waits for runs one instruction with the trap flag set; its
//! debug exception exits. APM, "Single Stepping" and "Debug Status Register (DR6)". Pure functions of
//! numbers.
//!
//! DEVIATION: An IRET that faults shows its handler the trap flag.

use crate::arch::cr::Rflags;

/// DR6.BS: the trap flag was the cause.
const DR6_BS: u64 = 1 << 14;
/// DR6: a breakpoint or an access to a debug register was.
const DR6_OTHERS: u64 = 1 << 13 | 0xf;

/// What the guest had before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SingleStep {
    /// Where the IRET is, if it is one that is stepped over.
    pub(crate) iret: Option<u64>,
    /// RFLAGS.
    pub(crate) rflags: u64,
    /// DR6.
    pub(crate) dr6: u64,
}

/// What the guest has after the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AfterStep {
    /// RFLAGS.
    pub(crate) rflags: u64,
    /// DR6.
    pub(crate) dr6: u64,
    /// The exit was a debug exception that the guest must not see.
    pub(crate) is_ours: bool,
}

impl SingleStep {
    /// Ends the step with an exit that left the guest with these registers; `traps` says that it was a
    /// debug exception.
    pub(crate) fn end(&self, traps: bool, rip: u64, rflags: u64, dr6: u64) -> AfterStep {
        let trap = Rflags::TF.bits();
        // A guest that steps itself gets the trap that it asked for.
        if self.rflags & trap != 0 {
            return AfterStep { rflags, dr6, is_ours: false };
        }
        // The flags that IRET took from the stack are the guest's own.
        let is_popped = traps && self.iret.is_some_and(|at| at != rip);
        let rflags = if is_popped { rflags } else { rflags & !trap };
        if !traps {
            return AfterStep { rflags, dr6, is_ours: false };
        }
        let is_ours = (dr6 ^ self.dr6) & DR6_OTHERS == 0;
        AfterStep { rflags, dr6: (dr6 & !DR6_BS) | (self.dr6 & DR6_BS), is_ours }
    }
}
