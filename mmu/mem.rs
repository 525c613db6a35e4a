// SPDX-License-Identifier: GPL-2.0

//! Access to guest memory: by copy, never by reference.
//!
//! The guest and the VMM may write any byte at any time. So a structure is fetched once into an
//! owned value, checked, and then used; no reference to guest memory ever exists.

use crate::arch::addr::Gpa;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Why guest memory could not be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemError {
    /// No memslot there, or the slot is read-only.
    NoSlot(Gpa),
    /// The host page must be faulted in first, which may sleep; do that, then try again.
    NotResident(Gpa),
}

impl MemError {
    /// For what is the guest's loss where there is no memory: nothing is read, and nothing comes of a write.
    ///
    /// # Errors
    /// The address of a page that must be faulted in first.
    pub(crate) fn unless_absent<T: Default>(self) -> Result<T, Gpa> {
        match self {
            MemError::NotResident(gpa) => Err(gpa),
            MemError::NoSlot(_) => Ok(T::default()),
        }
    }
}

/// A guest's physical memory.
pub(crate) trait GuestMem {
    /// Copies guest memory at `gpa` into `buf`, which may cross pages and slots. What is 2, 4 or 8 bytes long
    /// and naturally aligned is read in one access: rings are shared with CPUs that run.
    ///
    /// # Errors
    /// As [`MemError`]; `buf` may then be partly written.
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError>;

    /// Copies `buf` into guest memory at `gpa`, a word as in [`GuestMem::read`].
    ///
    /// # Errors
    /// As [`MemError`]; a prefix may then have been written.
    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError>;

    /// Replaces the `bytes`-wide (1, 2, 4 or 8, naturally aligned) value at `gpa` atomically with
    /// `new` if it equals `old`. Returns the value found: equal to `old` on success.
    ///
    /// # Errors
    /// As [`MemError`].
    fn cmpxchg(&self, gpa: Gpa, bytes: usize, old: u64, new: u64) -> Result<u64, MemError>;

    /// Notes that `parts`, addresses and lengths, were written by other means, as by the host's device: after they were,
    /// and before the guest is told. Costs a comparison where nothing is logged.
    fn note_written(&self, _parts: impl Iterator<Item = (Gpa, u64)>) {}

    /// Reads an owned value.
    ///
    /// # Errors
    /// As [`MemError`].
    fn read_obj<T: FromBytes + IntoBytes>(&self, gpa: Gpa) -> Result<T, MemError> {
        let mut value = T::new_zeroed();
        self.read(gpa, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Writes a value.
    ///
    /// # Errors
    /// As [`MemError`].
    fn write_obj<T: IntoBytes + Immutable>(&self, gpa: Gpa, value: &T) -> Result<(), MemError> {
        self.write(gpa, value.as_bytes())
    }
}
