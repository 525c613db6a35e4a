// SPDX-License-Identifier: GPL-2.0

//! What can be delivered to a guest through its IDT.

use crate::arch::exception::{Exception, Vector};

/// An event for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A maskable interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// A fault or trap; CR2 has been set by whoever makes this.
    Exception {
        /// Which.
        vector: Vector,
        /// The error code, for those that push one.
        error: Option<u32>,
    },
    /// INT n, INT3 or INTO that was interrupted half way.
    #[allow(dead_code, reason = "for INT n that user space restores; no exit makes one yet")]
    Software {
        /// The vector.
        vector: u8,
    },
}

impl Event {
    /// Returns the type as both vendors number it, the vector and the error code.
    pub(crate) fn as_numbers(self) -> (u32, u8, Option<u32>) {
        match self {
            Event::Interrupt(vector) => (0, vector, None),
            Event::Nmi => (2, Vector::NMI.0, None),
            Event::Exception { vector, error } => (3, vector.0, error),
            Event::Software { vector } => (4, vector, None),
        }
    }
}

impl From<Exception> for Event {
    fn from(e: Exception) -> Event {
        Event::Exception { vector: e.vector, error: e.error }
    }
}

/// Exceptions of the contributory class. SDM, "Interrupt 8—Double Fault Exception".
fn is_contributory(v: Vector) -> bool {
    matches!(v, Vector::DE | Vector::TS | Vector::NP | Vector::SS | Vector::GP)
}

/// What becomes of a second exception raised while a first was being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergedEvent {
    /// Deliver this one; the first will happen again by itself.
    One(Exception),
    /// The guest is beyond saving.
    TripleFault,
}

/// Merges `second` into `first`, which had not been delivered. SDM, "Interrupt 8—Double Fault
/// Exception", the table of conditions.
pub(crate) fn merge(first: Vector, second: Exception) -> MergedEvent {
    let double = Exception::with_error(Vector::DF, 0);
    if first == Vector::DF {
        return MergedEvent::TripleFault;
    }
    let both_contributory = is_contributory(first) && is_contributory(second.vector);
    let in_page_fault =
        first == Vector::PF && (second.vector == Vector::PF || is_contributory(second.vector));
    if both_contributory || in_page_fault {
        MergedEvent::One(double)
    } else {
        MergedEvent::One(second)
    }
}

/// What keeps the guest from taking events just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventBlocking {
    /// The instruction after STI or MOV SS has not been executed.
    pub(crate) shadow: bool,
    /// An NMI is in service.
    pub(crate) nmi: bool,
}
