// SPDX-License-Identifier: GPL-2.0

//! Interrupts off on the calling CPU.

use crate::context::IrqOff;

/// Proof that interrupts are off, until it is dropped.
pub struct LocalInterruptDisabled(#[allow(dead_code, reason = "dropped with it")] IrqOff);

/// Turns interrupts off.
pub fn local_interrupt_disable() -> LocalInterruptDisabled {
    LocalInterruptDisabled(IrqOff::new())
}
