// SPDX-License-Identifier: GPL-2.0

//! The synthetic interrupt controller (SynIC) of one virtual processor: its registers, and messages in guest memory.
//!
//! TLFS, "Synthetic Interrupt Controller". It has sixteen sources of interrupts (SINTs). A message for one of them goes to
//! its slot in the message page, if that is empty, and raises the source's vector; else the slot says that there is another
//! one, and the guest tells (EOM) when it has taken the first. Messages but those of timers are user space's, and so are
//! events. As in KVM, whether the guest has switched the controller on (SCONTROL) is for them to look at.

use crate::arch::addr::Gpa;
use crate::arch::hyperv::{SynicMsr, PAGE_ADDRESS, PAGE_ENABLED, SINTS};
use crate::mmu::mem::{GuestMem, MemError};

/// SVERSION.
const VERSION: u64 = 1;
/// SCONTROL: it is on.
const CONTROL_ENABLE: u64 = 1;
/// SINT: masked.
const SINT_MASKED: u64 = 1 << 16;
/// SINT: its interrupt ends by itself.
const SINT_AUTO_EOI: u64 = 1 << 17;
/// The first vector that an interrupt may have.
const FIRST_VECTOR: u8 = 16;

/// Bytes of a message's slot.
const SLOT_BYTES: u64 = 256;
/// In a slot: the type, 0 where it is empty.
const SLOT_TYPE: u64 = 0;
/// In a slot: flags.
const SLOT_FLAGS: u64 = 5;
/// In the flags: there is another message.
const FLAG_PENDING: u8 = 1;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PostedMessage {
    /// It is in its slot.
    Done,
    /// Another one is.
    Busy,
    /// There is no slot.
    Nowhere,
}

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SynicState {
    /// User space has one. Until then there is none.
    pub(crate) is_active: bool,
    /// The guest's pages keep what they hold when it names them.
    keeps_pages: bool,
    control: u64,
    version: u64,
    event_page: u64,
    message_page: u64,
    sources: [u64; SINTS],
}

impl Default for SynicState {
    fn default() -> SynicState {
        SynicState {
            is_active: false,
            keeps_pages: false,
            control: 0,
            version: VERSION,
            event_page: 0,
            message_page: 0,
            sources: [SINT_MASKED; SINTS],
        }
    }
}

/// Returns the vector of a source; `None`: it is masked.
fn vector_of(source: u64) -> Option<u8> {
    (source & SINT_MASKED == 0).then_some(source as u8)
}

impl SynicState {
    /// User space wants one.
    pub(crate) fn activate(&mut self, keeps_pages: bool) {
        (self.is_active, self.keeps_pages, self.control) = (true, keeps_pages, CONTROL_ENABLE);
    }

    /// Returns a register.
    pub(crate) fn get(&self, register: SynicMsr) -> u64 {
        match register {
            SynicMsr::Control => self.control,
            SynicMsr::Version => self.version,
            SynicMsr::EventPage => self.event_page,
            SynicMsr::MessagePage => self.message_page,
            SynicMsr::EndOfMessage => 0,
            SynicMsr::Source(n) => self.sources.get(usize::from(n)).copied().unwrap_or(0),
        }
    }

    /// Sets a register. Returns whether it takes the value; [`SynicState::page_to_clear`] has been seen to.
    pub(crate) fn set(&mut self, register: SynicMsr, value: u64, by_guest: bool) -> bool {
        match register {
            SynicMsr::Control => self.control = value,
            SynicMsr::Version if by_guest => return false,
            SynicMsr::Version => self.version = value,
            SynicMsr::EventPage => self.event_page = value,
            SynicMsr::MessagePage => self.message_page = value,
            SynicMsr::EndOfMessage => {}
            SynicMsr::Source(n) => {
                // As KVM: what is masked may have any vector, and user space puts back what there was.
                if by_guest && vector_of(value).is_some_and(|vector| vector < FIRST_VECTOR) {
                    return false;
                }
                if let Some(source) = self.sources.get_mut(usize::from(n)) {
                    *source = value;
                }
            }
        }
        true
    }

    /// Returns the page that a guest names by a write, to be cleared first.
    pub(crate) fn page_to_clear(&self, register: SynicMsr, value: u64) -> Option<Gpa> {
        let is_page = matches!(register, SynicMsr::EventPage | SynicMsr::MessagePage);
        (is_page && value & PAGE_ENABLED != 0 && !self.keeps_pages).then_some(Gpa(value & PAGE_ADDRESS))
    }

    /// Returns the vector of a source; `None`: it is masked, or there is none.
    pub(crate) fn vector(&self, sint: usize) -> Option<u8> {
        self.sources.get(sint).copied().and_then(vector_of)
    }

    /// Returns whether the interrupt of a vector ends by itself: a source that has it says so.
    pub(crate) fn ends_itself(&self, vector: u8) -> bool {
        let is_it = |s: &u64| *s & SINT_AUTO_EOI != 0 && vector_of(*s) == Some(vector);
        self.sources.iter().any(is_it)
    }

    /// Returns whether there is such a vector.
    pub(crate) fn has_auto_eoi(&self) -> bool {
        self.sources.iter().any(|s| *s & SINT_AUTO_EOI != 0 && vector_of(*s).is_some())
    }

    /// Puts a message into the slot of a source. Where another one is in it, notes there that there is one more, unless
    /// this one `is_lazy`.
    ///
    /// # Errors
    /// The address of the page, which must be made resident first.
    pub(crate) fn post<M: GuestMem>(
        &self,
        mem: &M,
        sint: usize,
        message: &[u8],
        is_lazy: bool,
    ) -> Result<PostedMessage, Gpa> {
        if self.message_page & PAGE_ENABLED == 0 {
            return Ok(PostedMessage::Nowhere);
        }
        let slot = Gpa(self.message_page & PAGE_ADDRESS).wrapping_add(SLOT_BYTES.wrapping_mul(sint as u64));
        let done = || -> Result<PostedMessage, MemError> {
            if mem.read_obj::<u32>(slot.wrapping_add(SLOT_TYPE))? == 0 {
                mem.write(slot, message)?;
                return Ok(PostedMessage::Done);
            }
            if !is_lazy {
                mem.write(slot.wrapping_add(SLOT_FLAGS), &[FLAG_PENDING])?;
            }
            Ok(PostedMessage::Busy)
        };
        match done() {
            Ok(posted) => Ok(posted),
            Err(MemError::NotResident(gpa)) => Err(gpa),
            Err(MemError::NoSlot(_)) => Ok(PostedMessage::Nowhere),
        }
    }
}
