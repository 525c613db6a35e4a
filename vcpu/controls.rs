// SPDX-License-Identifier: GPL-2.0

//! What the next entry is asked for, as data: the run loop and the handlers say it here, and the backend takes over
//! what has changed right before the entry, as it does with registers.
//!
//! A setter that finds nothing to change costs a comparison. What was changed stays noted until
//! [`EntryControls::take_dirty`].

bitflags::bitflags! {
    /// Controls that were changed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ControlGroups: u16 {
        /// [`EntryControls::interrupt_window`].
        const INTERRUPT_WINDOW = 1 << 0;
        /// [`EntryControls::nmi_window`]: asked for once more, or taken back.
        const NMI_WINDOW = 1 << 1;
        /// [`EntryControls::tpr`].
        const TPR = 1 << 2;
        /// [`EntryControls::tsc_offset`].
        const TSC_OFFSET = 1 << 3;
        /// All cached translations of this guest must go; there is no more to it than this bit.
        const FLUSH = 1 << 4;
        /// [`EntryControls::debug_passthrough`].
        const DEBUG_PASSTHROUGH = 1 << 5;
        /// [`EntryControls::breakpoint_exits`].
        const BREAKPOINT_EXITS = 1 << 6;
        /// [`EntryControls::msr_exits`].
        const MSR_EXITS = 1 << 7;
        /// The host has read data of its own since the guest last ran; there is no more to it than this bit.
        const HOST_DATA = 1 << 8;
        /// [`EntryControls::halt_exits`].
        const HALT_EXITS = 1 << 9;
    }
}

/// The task priority of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryTpr {
    /// CR8, 0 to 15, which the guest sees without an exit.
    pub(crate) cr8: u8,
    /// At most that: a guest that sets CR8 below exits.
    pub(crate) floor: u8,
}

/// See the module's description.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryControls {
    interrupt_window: bool,
    nmi_window: bool,
    tpr: EntryTpr,
    tsc_offset: u64,
    debug_passthrough: bool,
    breakpoint_exits: bool,
    msr_exits: bool,
    halt_exits: bool,
    dirty: ControlGroups,
}

impl EntryControls {
    /// What a vCPU of a backend begins with: no windows, priority 0, the host's TSC, exits of debug registers
    /// and of HLT.
    pub(crate) fn new() -> EntryControls {
        EntryControls {
            interrupt_window: false,
            nmi_window: false,
            tpr: EntryTpr::default(),
            tsc_offset: 0,
            debug_passthrough: false,
            breakpoint_exits: false,
            msr_exits: false,
            halt_exits: true,
            dirty: ControlGroups::empty(),
        }
    }

    /// Asks for an exit as soon as the guest can take a maskable interrupt, or takes that back.
    pub(crate) fn set_interrupt_window(&mut self, on: bool) {
        self.interrupt_window = on;
        self.dirty |= ControlGroups::INTERRUPT_WINDOW;
    }

    /// Asks for an exit as soon as the guest can take an NMI, or takes that back: what it takes may differ from entry
    /// to entry, so this is said anew for each.
    pub(crate) fn set_nmi_window(&mut self, on: bool) {
        self.nmi_window = on;
        self.dirty |= ControlGroups::NMI_WINDOW;
    }

    /// Sets the task priority.
    #[inline]
    pub(crate) fn set_tpr(&mut self, tpr: EntryTpr) {
        if self.tpr != tpr {
            self.tpr = tpr;
            self.dirty |= ControlGroups::TPR;
        }
    }

    /// The guest itself has set CR8.
    #[inline]
    pub(crate) fn note_cr8(&mut self, cr8: u8) {
        // Not noted as changed: it is the processor that told it.
        self.tpr.cr8 = cr8;
    }

    /// Sets what is added to the host's TSC for the guest.
    pub(crate) fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
        self.dirty |= ControlGroups::TSC_OFFSET;
    }

    /// Drops all cached translations of this guest.
    pub(crate) fn flush_tlb(&mut self) {
        self.dirty |= ControlGroups::FLUSH;
    }

    /// Keeps what the host has read since the guest last ran from a guest that could see it in the caches.
    pub(crate) fn hide_host_data(&mut self) {
        self.dirty |= ControlGroups::HOST_DATA;
    }

    /// Lets the guest use its debug registers without exits, or makes it exit.
    pub(crate) fn set_debug_passthrough(&mut self, on: bool) {
        self.debug_passthrough = on;
        self.dirty |= ControlGroups::DEBUG_PASSTHROUGH;
    }

    /// Makes INT3 exit, or not.
    pub(crate) fn set_breakpoint_exits(&mut self, on: bool) {
        self.breakpoint_exits = on;
        self.dirty |= ControlGroups::BREAKPOINT_EXITS;
    }

    /// Returns whether INT3 exits.
    pub(crate) fn breakpoint_exits(&self) -> bool {
        self.breakpoint_exits
    }

    /// Makes each RDMSR and WRMSR exit, or those alone that the guest is not to carry out itself.
    pub(crate) fn set_msr_exits(&mut self, all: bool) {
        self.msr_exits = all;
        self.dirty |= ControlGroups::MSR_EXITS;
    }

    /// Returns whether each RDMSR and WRMSR exits.
    pub(crate) fn msr_exits(&self) -> bool {
        self.msr_exits
    }

    /// Makes HLT exit, or lets the processor wait in guest mode.
    pub(crate) fn set_halt_exits(&mut self, on: bool) {
        self.halt_exits = on;
        self.dirty |= ControlGroups::HALT_EXITS;
    }

    /// Returns whether HLT exits.
    pub(crate) fn halt_exits(&self) -> bool {
        self.halt_exits
    }

    /// Returns whether an exit is asked for when the guest can take a maskable interrupt.
    #[inline]
    pub(crate) fn interrupt_window(&self) -> bool {
        self.interrupt_window
    }

    /// The same of an NMI.
    pub(crate) fn nmi_window(&self) -> bool {
        self.nmi_window
    }

    /// Returns the task priority.
    pub(crate) fn tpr(&self) -> EntryTpr {
        self.tpr
    }

    /// Returns what is added to the host's TSC.
    pub(crate) fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }

    /// Returns whether the guest uses its debug registers without exits.
    pub(crate) fn debug_passthrough(&self) -> bool {
        self.debug_passthrough
    }

    /// Returns what was changed and not yet taken.
    #[inline(always)]
    pub(crate) fn dirty(&self) -> ControlGroups {
        self.dirty
    }

    /// Takes what was changed.
    pub(crate) fn take_dirty(&mut self) -> ControlGroups {
        core::mem::replace(&mut self.dirty, ControlGroups::empty())
    }
}
