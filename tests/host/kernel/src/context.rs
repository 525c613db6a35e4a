// SPDX-License-Identifier: GPL-2.0

//! What the calling code may do where it is.
//!
//! The kernel finds with its debug options that code sleeps with interrupts off or under a spin lock. Here it is
//! found always: each thread counts what forbids it to sleep, and whatever may sleep asks.

use core::cell::Cell;

thread_local! {
    static IRQ_OFF: Cell<u32> = const { Cell::new(0) };
    static ATOMIC: Cell<u32> = const { Cell::new(0) };
}

/// Interrupts are off on this thread's CPU until the value is dropped.
pub struct IrqOff(());

impl IrqOff {
    /// Turns them off.
    pub fn new() -> IrqOff {
        IRQ_OFF.with(|n| n.set(n.get() + 1));
        IrqOff(())
    }
}

impl Default for IrqOff {
    fn default() -> Self {
        IrqOff::new()
    }
}

impl Drop for IrqOff {
    fn drop(&mut self) {
        IRQ_OFF.with(|n| n.set(n.get() - 1));
    }
}

/// The thread must not sleep until the value is dropped: a spin lock is held, or RCU reads.
pub struct Atomic(());

impl Atomic {
    /// Begins.
    pub fn new() -> Atomic {
        ATOMIC.with(|n| n.set(n.get() + 1));
        Atomic(())
    }
}

impl Default for Atomic {
    fn default() -> Self {
        Atomic::new()
    }
}

impl Drop for Atomic {
    fn drop(&mut self) {
        ATOMIC.with(|n| n.set(n.get() - 1));
    }
}

/// Returns whether interrupts are off.
pub fn are_interrupts_off() -> bool {
    IRQ_OFF.with(Cell::get) != 0
}

/// Panics where the thread must not sleep. `what` is about to.
#[track_caller]
pub fn might_sleep(what: &str) {
    let (irq, atomic) = (IRQ_OFF.with(Cell::get), ATOMIC.with(Cell::get));
    if !std::thread::panicking() {
        assert!(
            irq == 0 && atomic == 0,
            "{what} sleeps, with interrupts off {irq} times, in {atomic} sections"
        );
    }
}

/// Runs `handler` as an interrupt does: with interrupts off.
pub fn in_interrupt<R>(handler: impl FnOnce() -> R) -> R {
    let _off = IrqOff::new();
    handler()
}
