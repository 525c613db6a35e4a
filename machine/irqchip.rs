// SPDX-License-Identifier: GPL-2.0

//! Which interrupt controllers a machine has: chosen once, before the first vCPU.
//!
//! Documentation of KVM's API, "KVM_CREATE_IRQCHIP" and "KVM_CAP_SPLIT_IRQCHIP".

use core::sync::atomic::{AtomicU32, Ordering::*};

/// Which interrupt controllers are in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IrqchipMode {
    /// None: user space gives interrupts to the vCPUs itself.
    None,
    /// All: local APICs, I/O APIC, and the pair of 8259s.
    Full,
    /// Local APICs alone.
    Split {
        /// The GSIs below this are pins of I/O APICs in user space.
        pins: u32,
    },
}

/// The mode of a machine, which vCPUs and whoever raises interrupts may look at.
#[derive(Debug)]
pub(crate) struct IrqchipChoice(AtomicU32);

/// [`IrqchipMode::None`].
const NONE: u32 = 0;
/// [`IrqchipMode::Full`].
const FULL: u32 = 1;
/// [`IrqchipMode::Split`], with the pins below.
const SPLIT: u32 = 1 << 31;

impl IrqchipChoice {
    /// None yet.
    pub(crate) const fn new() -> IrqchipChoice {
        IrqchipChoice(AtomicU32::new(NONE))
    }

    /// Chooses. The VM's configuration lock is held, and the chips are in place: whoever sees the mode counts on them.
    pub(crate) fn choose(&self, mode: IrqchipMode) {
        let word = match mode {
            IrqchipMode::None => NONE,
            IrqchipMode::Full => FULL,
            IrqchipMode::Split { pins } => SPLIT | pins,
        };
        self.0.store(word, Release);
    }

    /// Returns the mode.
    pub(crate) fn mode(&self) -> IrqchipMode {
        match self.0.load(Acquire) {
            NONE => IrqchipMode::None,
            word if word & SPLIT != 0 => IrqchipMode::Split { pins: word & !SPLIT },
            _ => IrqchipMode::Full,
        }
    }

    /// Returns whether vCPUs have local APICs in the kernel.
    pub(crate) fn has_lapics(&self) -> bool {
        self.0.load(Acquire) != NONE
    }

    /// Returns whether I/O APIC and 8259s are in the kernel too.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Acquire) == FULL
    }
}
