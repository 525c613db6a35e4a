// SPDX-License-Identifier: GPL-2.0

//! Saving what a guest can see of a device, and taking it back.
//!
//! A device's state is a struct of plain bytes beside the device: fixed layout, little endian, no padding, any bytes
//! valid. [`HasState::save`] names every field of the device without `..`, so that a new one cannot be forgotten.
//!
//! [`HasState::restore`] believes nothing. The device takes over of a state what it can hold ([`HasState::set_state`], which
//! masks and clamps as its registers do) and is saved again: a state that comes back changed is none that this device
//! can be in, and is refused. So nothing that a caller puts into a state is met later by arithmetic that trusts it.
//!
//! A machine's state is a row of sections, in one order:
//!
//! ```text
//! id u32 | instance u32 | version u32 | bytes u32 | the state, `bytes` long | next section …
//! ```
//!
//! - A device that is there has its sections, and one that is not there has none: what is missing, unknown, twice or in
//!   another place is refused, as is another version or length.
//! - A section whose id has [`OPTIONAL`] may be missing, and whoever does not know it steps over it. What it would have
//!   set stays as after a reset.
//!
//! What is configuration (sizes, features, routing, who waits for a reader) is no state: whoever restores makes the same
//! machine first. Times are those of the machine's clock: the machine goes on at the time at which it was saved.
//!
//! ```ignore
//! state_struct! { /// A latch. struct SavedLatch = 1 { /// What it holds. byte: u8, } }
//! impl HasState for Latch {
//!     const SECTION: SectionId = SectionId { id: 0x7f, version: 1 };
//!     type State = SavedLatch;
//!     fn save(&self) -> SavedLatch { let Latch { byte } = *self; SavedLatch { byte } }
//!     fn set_state(&mut self, state: &SavedLatch) { self.byte = state.byte & 0x7f; }
//! }
//! ```

use crate::arch::slice::copy_common;
use kernel::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares states as the structures of the ABI are declared: plain bytes without hidden padding, of a size that is
/// written down.
pub(crate) use crate::abi::abi_struct as state_struct;

/// In a section's id: it may be left out, and stepped over.
pub(crate) const OPTIONAL: u32 = 1 << 31;

/// What kind of state a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SectionId {
    /// What it is the state of.
    pub(crate) id: u32,
    /// The layout; it is never reused for another one.
    pub(crate) version: u32,
}

/// Why a state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadState {
    /// The device cannot be in it: the byte at `offset` of section `id` does not hold.
    Impossible {
        /// The section.
        id: u32,
        /// The first byte that the device would not keep.
        offset: usize,
    },
    /// Another section than that with this id was found, or none.
    Missing(u32),
    /// A section that the machine has nothing for.
    Unknown(u32),
    /// The section has another version or another length than this module knows.
    Version(u32),
    /// A header or a state goes beyond the end.
    Short,
    /// Something is under way.
    Busy,
}

/// A device whose state can be saved.
pub(crate) trait HasState {
    /// Its section.
    const SECTION: SectionId;
    /// Its state.
    type State: FromBytes + IntoBytes + Immutable + KnownLayout;

    /// Returns the whole state.
    fn save(&self) -> Self::State;

    /// Takes over what the device can hold of `state`, and drops the rest.
    fn set_state(&mut self, state: &Self::State);

    /// Takes over a state.
    ///
    /// # Errors
    /// [`BadState::Impossible`]; the device is as it was then.
    fn restore(&mut self, state: &Self::State) -> Result<(), BadState> {
        let old = self.save();
        self.set_state(state);
        match first_difference(self.save().as_bytes(), state.as_bytes()) {
            None => Ok(()),
            Some(offset) => {
                self.set_state(&old);
                Err(BadState::Impossible { id: Self::SECTION.id, offset })
            }
        }
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

state_struct! {
    /// What is in front of each state.
    struct SectionHeader = 16 {
        /// [`SectionId::id`].
        id: u32,
        /// Which of several devices of the kind.
        instance: u32,
        /// [`SectionId::version`].
        version: u32,
        /// Bytes of the state.
        bytes: u32,
    }
}

/// Where the sections of a machine are written, in room that was made before: nothing allocates under a lock.
pub(crate) struct StateWriter {
    room: KVVec<u8>,
    used: usize,
    is_full: bool,
}

impl StateWriter {
    /// Returns an empty one with room for `bytes`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(bytes: usize) -> Result<StateWriter> {
        Ok(StateWriter { room: KVVec::from_elem(0, bytes, GFP_KERNEL_ACCOUNT)?, used: 0, is_full: false })
    }

    /// Writes a device's section.
    pub(crate) fn put<T: HasState>(&mut self, instance: u32, device: &T) {
        let state = device.save();
        let bytes = state.as_bytes();
        self.put_bytes(T::SECTION, instance, bytes.len(), |to| copy_common(to, bytes));
    }

    /// Writes a section of `len` bytes, which `fill` provides.
    pub(crate) fn put_bytes(
        &mut self,
        section: SectionId,
        instance: u32,
        len: usize,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let header = SectionHeader {
            id: section.id,
            instance,
            version: section.version,
            bytes: u32::try_from(len).unwrap_or(u32::MAX),
        };
        let header = header.as_bytes();
        let end = self.used.saturating_add(header.len()).saturating_add(len);
        let Some((head, body)) =
            self.room.get_mut(self.used..end).and_then(|all| all.split_at_mut_checked(header.len()))
        else {
            self.is_full = true;
            return;
        };
        copy_common(head, header);
        fill(body);
        self.used = end;
    }

    /// Returns what was written, or `None` where there was not room for all.
    pub(crate) fn finish(&self) -> Option<&[u8]> {
        self.room.get(..self.used).filter(|_| !self.is_full)
    }
}

/// The sections of a machine, read in their order.
pub(crate) struct StateReader<'a> {
    rest: &'a [u8],
}

impl<'a> StateReader<'a> {
    /// Returns the sections in `bytes`, which may be anything.
    pub(crate) fn new(bytes: &'a [u8]) -> StateReader<'a> {
        StateReader { rest: bytes }
    }

    /// Restores a device from its section, which is the next one.
    ///
    /// # Errors
    /// As [`BadState`]; the device is as it was then.
    pub(crate) fn get<T: HasState>(&mut self, instance: u32, device: &mut T) -> Result<(), BadState> {
        let id = T::SECTION.id;
        match self.next(T::SECTION, instance)? {
            None if id & OPTIONAL != 0 => Ok(()),
            None => Err(BadState::Missing(id)),
            Some(bytes) => {
                let state = T::State::read_from_bytes(bytes).map_err(|_| BadState::Version(id))?;
                device.restore(&state)
            }
        }
    }

    /// Returns the bytes of a section of any length, which is the next one.
    ///
    /// # Errors
    /// As [`BadState`].
    pub(crate) fn get_bytes(&mut self, section: SectionId, instance: u32) -> Result<&'a [u8], BadState> {
        match self.next(section, instance)? {
            None if section.id & OPTIONAL != 0 => Ok(&[]),
            None => Err(BadState::Missing(section.id)),
            Some(bytes) => Ok(bytes),
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`BadState::Unknown`]: a section is left that the machine has nothing for.
    pub(crate) fn finish(mut self) -> Result<(), BadState> {
        while let Some((header, _, rest)) = self.peek()? {
            if header.id & OPTIONAL == 0 {
                return Err(BadState::Unknown(header.id));
            }
            self.rest = rest;
        }
        Ok(())
    }

    /// Returns the state in the next section, if that is the one asked for, and steps over optional ones before it. Where
    /// it is not there, nothing is stepped over: what is next may be for the one who asks next.
    fn next(&mut self, section: SectionId, instance: u32) -> Result<Option<&'a [u8]>, BadState> {
        let SectionId { id, version } = section;
        let mut ahead = StateReader { rest: self.rest };
        while let Some((header, state, rest)) = ahead.peek()? {
            if (header.id, header.instance) == (id, instance) {
                self.rest = rest;
                return if header.version == version { Ok(Some(state)) } else { Err(BadState::Version(id)) };
            }
            // A mandatory section is for someone else to ask for.
            if header.id & OPTIONAL == 0 {
                break;
            }
            ahead.rest = rest;
        }
        Ok(None)
    }

    /// Returns the next section's header and state, and what comes after it.
    #[expect(clippy::type_complexity, reason = "three parts of one thing, for the two callers above")]
    fn peek(&self) -> Result<Option<(SectionHeader, &'a [u8], &'a [u8])>, BadState> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (header, rest) = SectionHeader::read_from_prefix(self.rest).map_err(|_| BadState::Short)?;
        let len = usize::try_from(header.bytes).map_err(|_| BadState::Short)?;
        let (state, rest) = rest.split_at_checked(len).ok_or(BadState::Short)?;
        Ok(Some((header, state, rest)))
    }
}
