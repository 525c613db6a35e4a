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

pub(crate) mod call;
pub(crate) mod leaves;
pub(crate) mod rights;

use crate::arch::hyperv::DebuggerMsr;
use rights::HvRights;

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
#[derive(Debug, Default)]
pub(crate) struct HvVcpu {
    /// What the guest may use.
    pub(crate) rights: HvRights,
    /// MSR VP_ASSIST_PAGE.
    pub(crate) assist_page: u64,
    /// What MSR VP_RUNTIME is ahead of the thread's own time, in units of 100 ns; wraps.
    pub(crate) runtime_offset: u64,
    /// A hypercall that user space carries out.
    pub(crate) call: Option<PendingCall>,
}
