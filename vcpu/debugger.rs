// SPDX-License-Identifier: GPL-2.0

//! What a debugger outside the guest asks of a vCPU, as values: `KVM_SET_GUEST_DEBUG`.
//!
//! Follows the KVM API documentation, "KVM_SET_GUEST_DEBUG". While the debugger steps or has breakpoints, the processor
//! and [`VcpuState`](super::state::VcpuState) have the debugger's debug registers, and the guest's own are kept here;
//! what the guest does with them exits.

bitflags::bitflags! {
    /// What is asked, with the ABI's values.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct DebugFlags: u32 {
        /// Debugging is on; without it nothing else is.
        const ENABLE = 1 << 0;
        /// Each instruction ends in user space.
        const SINGLE_STEP = 1 << 1;
        /// INT3 ends in user space.
        const SOFTWARE_BREAKPOINTS = 1 << 16;
        /// The debugger's debug registers are in force instead of the guest's.
        const HARDWARE_BREAKPOINTS = 1 << 17;
        /// Raises #DB in the guest, once.
        const INJECT_DB = 1 << 18;
        /// Raises #BP in the guest, once.
        const INJECT_BP = 1 << 19;
        /// The guest gets neither interrupts nor NMIs.
        const BLOCK_INTERRUPTS = 1 << 20;
    }
}

bitflags::bitflags! {
    /// What keeps a vCPU from being entered as usual.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct EntryBars: u8 {
        /// It has shut down: there is nothing to enter.
        const SHUTDOWN = 1 << 0;
        /// A debugger keeps interrupts from it.
        const NO_INTERRUPTS = 1 << 1;
        /// Some interrupts end by themselves, and each is looked at for that.
        const AUTO_EOI = 1 << 2;
    }
}

/// Debug registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DebugRegs {
    /// DR0 to DR3.
    pub(crate) addresses: [u64; 4],
    /// DR6.
    pub(crate) dr6: u64,
    /// DR7.
    pub(crate) dr7: u64,
}

/// DR6 with nothing to report.
pub(crate) const DR6_IDLE: u64 = 0xffff_0ff0;
/// DR7: the bit that is always set.
const DR7_ONE: u64 = 1 << 10;
/// DR7: the bits that there are.
const DR7_BITS: u64 = 0xffff_2fff;

/// What a debugger asks of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VcpuDebugger {
    flags: DebugFlags,
    /// The guest's own registers, while the debugger's are in force.
    pub(crate) own: Option<DebugRegs>,
    /// The linear address that a step began at.
    step_from: u64,
    /// The #DB that waits is for the guest.
    pub(crate) is_injected: bool,
}

impl VcpuDebugger {
    /// Takes what is asked.
    pub(crate) fn set_flags(&mut self, flags: DebugFlags) {
        self.flags = match flags.contains(DebugFlags::ENABLE) {
            true => flags,
            false => DebugFlags::empty(),
        };
    }

    /// Notes where a step begins.
    pub(crate) fn step_from(&mut self, at: u64) {
        self.step_from = at;
    }

    /// Returns whether a step begins at a linear address.
    pub(crate) fn steps_from(&self, at: u64) -> bool {
        self.is_stepping() && self.step_from == at
    }

    /// The vCPU was reset by INIT, and the guest's own registers with it.
    pub(crate) fn after_init(&mut self) {
        if let Some(own) = &mut self.own {
            *own = DebugRegs { addresses: [0; 4], dr6: DR6_IDLE, dr7: DR7_ONE };
        }
    }

    /// Returns whether anything is asked.
    pub(crate) fn is_on(&self) -> bool {
        !self.flags.is_empty()
    }

    /// Returns whether the debugger steps.
    pub(crate) fn is_stepping(&self) -> bool {
        self.flags.contains(DebugFlags::SINGLE_STEP)
    }

    /// Returns whether the debugger's breakpoints are in force.
    pub(crate) fn has_breakpoints(&self) -> bool {
        self.flags.contains(DebugFlags::HARDWARE_BREAKPOINTS)
    }

    /// Returns whether INT3 is the debugger's.
    pub(crate) fn takes_int3(&self) -> bool {
        self.flags.contains(DebugFlags::SOFTWARE_BREAKPOINTS)
    }

    /// Returns whether debug exceptions are the debugger's.
    pub(crate) fn takes_debug_exceptions(&self) -> bool {
        self.flags.intersects(DebugFlags::SINGLE_STEP | DebugFlags::HARDWARE_BREAKPOINTS)
    }

    /// Returns whether interrupts are kept from the guest.
    pub(crate) fn blocks_interrupts(&self) -> bool {
        self.flags.contains(DebugFlags::BLOCK_INTERRUPTS)
    }
}

/// Returns a DR7 that processors take, of what user space or a guest's instruction gives.
pub(crate) fn valid_dr7(value: u64) -> u64 {
    value & DR7_BITS | DR7_ONE
}

/// Returns a DR6 that processors take.
pub(crate) fn valid_dr6(value: u64) -> u64 {
    value & 0xe00f | DR6_IDLE
}
