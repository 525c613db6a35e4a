// SPDX-License-Identifier: GPL-2.0

//! Events as the VMCS writes them, to be injected or cut short by an exit.
//!
//! SDM, "VM-Entry Controls for Event Injection", "Information for VM Exits That Occur During Event
//! Delivery", "Guest Non-Register State". Pure functions of numbers.

use crate::arch::exception::ExceptionVector;
use crate::vcpu::event::{EventBlocking, GuestEvent};

/// The information field is valid.
pub(crate) const VALID: u32 = 1 << 31;
/// An error code belongs to the event.
pub(crate) const ERROR_CODE: u32 = 1 << 11;
/// In the field about the exit: an IRET had ended the blocking of NMIs before the event.
pub(crate) const NMI_UNBLOCKED: u32 = 1 << 12;

const TYPE: u32 = 7 << 8;
const EXTERNAL: u32 = 0 << 8;
const NMI: u32 = 2 << 8;
const HARDWARE: u32 = 3 << 8;
const SOFTWARE: u32 = 4 << 8;
const PRIVILEGED: u32 = 5 << 8;

/// Interruptibility: blocking by STI.
pub(crate) const BY_STI: u32 = 1 << 0;
/// Interruptibility: blocking by MOV SS.
pub(crate) const BY_MOV_SS: u32 = 1 << 1;
/// Interruptibility: blocking by NMI.
pub(crate) const BY_NMI: u32 = 1 << 3;

/// An event to be injected: the information field, the error code and the instruction length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryInjection {
    /// VM-entry interruption information.
    pub(crate) info: u32,
    /// VM-entry exception error code.
    pub(crate) error: u32,
    /// VM-entry instruction length.
    pub(crate) length: u32,
}

/// Encodes `event` for a guest whose CR0.PE is `protected`: in real mode no exception has an error code.
pub(crate) fn encode(event: GuestEvent, protected: bool) -> EntryInjection {
    let plain = |kind: u32, vector: u8| VALID | kind | u32::from(vector);
    let (info, error, length) = match event {
        GuestEvent::Interrupt(v) => (plain(EXTERNAL, v), 0, 0),
        GuestEvent::Nmi => (plain(NMI, ExceptionVector::NMI.0), 0, 0),
        GuestEvent::Exception { vector, error } => match error.filter(|_| protected) {
            Some(e) => (plain(HARDWARE, vector.0) | ERROR_CODE, e, 0),
            None => (plain(HARDWARE, vector.0), 0, 0),
        },
        // INT n has two bytes; user space restores no other.
        GuestEvent::Software { vector } => (plain(SOFTWARE, vector), 0, 2),
    };
    EntryInjection { info, error, length }
}

/// Returns the event that an exit cut short, from the IDT-vectoring information field.
///
/// INT n, INT1, INT3 and INTO run again by themselves: RIP is still at them.
pub(crate) fn interrupted(info: u32, error: u32) -> Option<GuestEvent> {
    if info & VALID == 0 {
        return None;
    }
    let vector = (info & 0xff) as u8;
    match info & TYPE {
        EXTERNAL => Some(GuestEvent::Interrupt(vector)),
        NMI => Some(GuestEvent::Nmi),
        HARDWARE => Some(GuestEvent::Exception {
            vector: ExceptionVector(vector),
            error: (info & ERROR_CODE != 0).then_some(error),
        }),
        _ => None,
    }
}

/// Returns whether an exit was caused by an NMI, from the interruption information field.
pub(crate) fn is_nmi(info: u32) -> bool {
    info & (VALID | TYPE) == VALID | NMI
}

/// Returns whether an exit was caused by INT1, which is past its instruction when it traps.
pub(crate) fn is_int1(info: u32) -> bool {
    info & (VALID | TYPE) == VALID | PRIVILEGED
}

/// Reads the interruptibility state.
pub(crate) fn blocking(state: u32) -> EventBlocking {
    EventBlocking { shadow: state & (BY_STI | BY_MOV_SS) != 0, nmi: state & BY_NMI != 0 }
}

/// Returns the interruptibility state for `want`; a shadow that is there keeps its kind, a new one is
/// that of MOV SS, which does not depend on RFLAGS.IF.
pub(crate) fn with_blocking(old: u32, want: EventBlocking) -> u32 {
    let kept = old & (BY_STI | BY_MOV_SS);
    let shadow = match (want.shadow, kept) {
        (false, _) => 0,
        (true, 0) => BY_MOV_SS,
        (true, kept) => kept,
    };
    shadow | if want.nmi { BY_NMI } else { 0 }
}
