// SPDX-License-Identifier: GPL-2.0

//! A vCPU as a virtual processor of a Hyper-V partition, for guests whose CPUID says that they run on Hyper-V.
//!
//! Values only. What the partition's processors share is [`crate::machine::hyperv`]; what an MSR does is
//! [`super::access`]'s, and what a hypercall does [`super::handle`]'s.
//!
//! | file | holds |
//! |---|---|
//! | [`leaves`] | what CPUID can be made to say |
//! | [`rights`] | what the guest may use by what it says |
//! | [`call`] | a hypercall as the guest makes it |
//! | [`synic`], [`timer`] | the synthetic interrupt controller, and one of its timers |

pub(crate) mod call;
pub(crate) mod leaves;
pub(crate) mod rights;
pub(crate) mod synic;
pub(crate) mod timer;

use crate::arch::hyperv::{DebuggerMsr, SynicMsr, TIMERS};
use crate::machine::reference_timer::ReferenceTimer;
use kernel::sync::Arc;
use rights::HvRights;
use synic::SynicState;
use timer::SynTimer;

/// A hypercall that user space carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingCall {
    /// The instruction.
    pub(crate) rip: u64,
    /// The one after it.
    pub(crate) next: u64,
    /// It was made in 64-bit mode.
    pub(crate) is_long: bool,
}

/// What user space is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HvExit {
    /// A hypercall, which user space carries out.
    Call {
        /// Its first word.
        control: u64,
        /// Input and output: addresses, or for a fast one what is in the registers.
        params: [u64; 2],
    },
    /// A register of the synthetic interrupt controller has been written.
    Synic {
        /// Which.
        register: SynicMsr,
        /// SCONTROL.
        control: u64,
        /// SIEFP.
        event_page: u64,
        /// SIMP.
        message_page: u64,
    },
    /// A register of the debugger has been written.
    Debugger {
        /// Which.
        msr: DebuggerMsr,
        /// All of them.
        control: u64,
        /// See above.
        status: u64,
        /// See above.
        pages: [u64; 3],
    },
}

/// See the module's description.
#[derive(Default)]
pub(crate) struct HvVcpu {
    /// What the guest may use.
    pub(crate) rights: HvRights,
    /// MSR VP_ASSIST_PAGE.
    pub(crate) assist_page: u64,
    /// What MSR VP_RUNTIME is ahead of the thread's own time, in units of 100 ns; wraps.
    pub(crate) runtime_offset: u64,
    /// A hypercall that user space carries out.
    pub(crate) call: Option<PendingCall>,
    /// The synthetic interrupt controller.
    pub(crate) synic: SynicState,
    /// Its timers.
    pub(crate) timers: [SynTimer; TIMERS],
    /// What wakes the vCPU for them; there is none without the controller.
    pub(crate) wake_up: Option<Arc<ReferenceTimer>>,
    /// The chips have been told that a message waits for the end of an interrupt.
    pub(crate) awaits_eoi: bool,
}

impl HvVcpu {
    /// An interrupt has ended, or a message has been taken: messages of timers that wait are tried again. Returns
    /// whether there are any.
    pub(crate) fn retry_timers(&mut self) -> bool {
        self.timers.iter_mut().for_each(SynTimer::retry);
        self.timers.iter().any(SynTimer::is_waiting)
    }
}
