// SPDX-License-Identifier: GPL-2.0

//! What can be delivered to a guest through its IDT.

use crate::arch::exception::{CpuException, ExceptionVector};

/// An event for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestEvent {
    /// A maskable interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// A fault or trap; CR2 has been set by whoever makes this.
    Exception {
        /// Which.
        vector: ExceptionVector,
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

impl GuestEvent {
    /// Returns whether it is what INT3 or INTO raises.
    pub(crate) fn is_software_trap(self) -> bool {
        let vector = match self {
            GuestEvent::Exception { vector, .. } => vector,
            _ => return false,
        };
        vector == ExceptionVector::BP || vector == ExceptionVector::OF
    }

    /// Returns the type as both vendors number it, the vector and the error code.
    pub(crate) fn as_numbers(self) -> (u32, u8, Option<u32>) {
        match self {
            GuestEvent::Interrupt(vector) => (0, vector, None),
            GuestEvent::Nmi => (2, ExceptionVector::NMI.0, None),
            GuestEvent::Exception { vector, error } => (3, vector.0, error),
            GuestEvent::Software { vector } => (4, vector, None),
        }
    }
}

/// What an entry delivers: from when it is chosen until the exit says what has become of it.
// Looked at around each entry: a tag of its own is told apart faster than one in what an event leaves free.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryDelivery {
    /// Nothing.
    Nothing,
    /// An interrupt of the local APIC, which has it pending until then.
    Lapic(u8),
    /// The same, of one that ends by itself.
    AutoEoi(u8),
    /// An event that nobody else has any more.
    Taken {
        /// The event.
        event: GuestEvent,
        /// RIP when it was chosen.
        rip: u64,
    },
}

impl EntryDelivery {
    /// Returns whether it is any.
    #[inline(always)]
    pub(crate) fn is_any(self) -> bool {
        !matches!(self, EntryDelivery::Nothing)
    }

    /// Returns the vector of the local APIC that it is.
    #[inline(always)]
    pub(crate) fn lapic_vector(self) -> Option<u8> {
        match self {
            EntryDelivery::Lapic(vector) | EntryDelivery::AutoEoi(vector) => Some(vector),
            EntryDelivery::Nothing | EntryDelivery::Taken { .. } => None,
        }
    }
}

impl From<CpuException> for GuestEvent {
    fn from(e: CpuException) -> GuestEvent {
        GuestEvent::Exception { vector: e.vector, error: e.error }
    }
}

/// Exceptions of the contributory class. SDM, "Interrupt 8—Double Fault Exception".
fn is_contributory(v: ExceptionVector) -> bool {
    matches!(
        v,
        ExceptionVector::DE
            | ExceptionVector::TS
            | ExceptionVector::NP
            | ExceptionVector::SS
            | ExceptionVector::GP
    )
}

/// What becomes of a second exception raised while a first was being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MergedEvent {
    /// Deliver this one; the first will happen again by itself.
    One(CpuException),
    /// The guest is beyond saving.
    TripleFault,
}

/// Merges `second` into `first`, which had not been delivered. SDM, "Interrupt 8—Double Fault
/// Exception", the table of conditions.
pub(crate) fn merge(first: ExceptionVector, second: CpuException) -> MergedEvent {
    let double = CpuException::with_error(ExceptionVector::DF, 0);
    if first == ExceptionVector::DF {
        return MergedEvent::TripleFault;
    }
    let both_contributory = is_contributory(first) && is_contributory(second.vector);
    let in_page_fault = first == ExceptionVector::PF
        && (second.vector == ExceptionVector::PF || is_contributory(second.vector));
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
