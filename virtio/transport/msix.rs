// SPDX-License-Identifier: GPL-2.0

//! MSI-X vector table and pending bits.
//!
//! Follows the PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structures". Enable and
//! function mask live in the capability, that is, in the configuration space; the owner hands them
//! in with [`MsixTable::set_control`]. A message is returned to the caller, who sends it.

use crate::arch::addr::AccessWidth;
use crate::chipset::pci::{MsixControl, MsixMessage};
use crate::chipset::saved::{state_struct, BadState, HasState, SectionId, StateReader, StateWriter};
use kernel::prelude::*;

/// Most vectors that a table here can have: the pending bits are one word.
pub(crate) const MAX_VECTORS: u16 = 64;
/// Bytes of a table entry.
#[allow(dead_code, reason = "used by the tests")]
pub(crate) const ENTRY_BYTES: u32 = 16;

/// Vector control: the vector is masked.
const ENTRY_MASKED: u32 = 1;

#[derive(Clone, Copy, Debug)]
struct MsixEntry {
    addr: u64,
    data: u32,
    control: u32,
}

impl MsixEntry {
    /// State after reset: masked.
    const RESET: MsixEntry = MsixEntry { addr: 0, data: 0, control: ENTRY_MASKED };

    fn low(&self) -> u64 {
        self.addr
    }

    fn high(&self) -> u64 {
        u64::from(self.data) | u64::from(self.control) << 32
    }

    fn set_low(&mut self, value: u64) {
        // Messages are doublewords: the address's lowest bits are 0.
        self.addr = value & !3;
    }

    fn set_high(&mut self, value: u64) {
        self.data = (value & 0xffff_ffff) as u32;
        self.control = (value >> 32) as u32 & ENTRY_MASKED;
    }
}

/// The vectors of one function.
#[derive(Debug)]
pub(crate) struct MsixTable {
    entries: KVec<MsixEntry>,
    pending: u64,
    enabled: bool,
    masked: bool,
}

impl MsixTable {
    /// Returns a table of `vectors` masked vectors.
    ///
    /// # Errors
    /// `EINVAL`: no vector, or more than [`MAX_VECTORS`]. `ENOMEM`.
    pub(crate) fn new(vectors: u16) -> Result<MsixTable> {
        if vectors == 0 || vectors > MAX_VECTORS {
            return Err(EINVAL);
        }
        let entries = KVec::from_elem(MsixEntry::RESET, usize::from(vectors), GFP_KERNEL_ACCOUNT)?;
        Ok(MsixTable { entries, pending: 0, enabled: false, masked: false })
    }

    /// Masks all vectors and forgets what is pending.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        for entry in &mut self.entries {
            *entry = MsixEntry::RESET;
        }
        self.pending = 0;
        self.enabled = false;
        self.masked = false;
    }

    /// Returns the number of vectors.
    pub(crate) fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(0)
    }

    /// Returns whether the function uses MSI-X.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Takes over the message control register, and whether the function may send at all.
    pub(crate) fn set_control(&mut self, control: MsixControl, bus_master: bool) {
        self.enabled = control.enabled;
        // A message is a write to memory, which a function that is no bus master cannot make: it waits as if masked.
        self.masked = control.masked || !bus_master;
        if !self.enabled {
            self.pending = 0;
        }
    }

    /// Returns the message of a vector. A masked one becomes pending and gives none; without MSI-X,
    /// or for a vector that does not exist, nothing happens.
    pub(crate) fn notify(&mut self, vector: u16) -> Option<MsixMessage> {
        let entry = self.entries.get(usize::from(vector))?;
        if !self.enabled {
            return None;
        }
        if self.masked || entry.control & ENTRY_MASKED != 0 {
            self.pending |= 1u64.wrapping_shl(u32::from(vector));
            return None;
        }
        Some(MsixMessage { addr: entry.addr, data: entry.data })
    }

    /// Returns the message of a vector that was pending and is no longer masked, and clears its
    /// pending bit. To be called until it gives none, after anything that may have unmasked.
    pub(crate) fn take_pending(&mut self) -> Option<MsixMessage> {
        if !self.enabled || self.masked || self.pending == 0 {
            return None;
        }
        for (vector, entry) in self.entries.iter().enumerate() {
            let bit = 1u64.wrapping_shl(vector as u32);
            if self.pending & bit != 0 && entry.control & ENTRY_MASKED == 0 {
                self.pending &= !bit;
                return Some(MsixMessage { addr: entry.addr, data: entry.data });
            }
        }
        None
    }

    /// Reads the table: aligned, 32 or 64 bits wide; anything else gives ones.
    pub(crate) fn read_table(&self, offset: u64, width: AccessWidth) -> u64 {
        let Some(entry) = aligned(offset, width).and_then(|i| self.entries.get(i)) else {
            return width.mask();
        };
        let word = if offset & 8 == 0 { entry.low() } else { entry.high() };
        narrow(word, offset, width)
    }

    /// Writes the table: aligned, 32 or 64 bits wide; anything else is ignored.
    pub(crate) fn write_table(&mut self, offset: u64, width: AccessWidth, value: u64) {
        let Some(entry) = aligned(offset, width).and_then(|i| self.entries.get_mut(i)) else { return };
        let low = offset & 8 == 0;
        let old = if low { entry.low() } else { entry.high() };
        let new = match width {
            AccessWidth::B8 => value,
            _ if offset & 4 == 0 => (old & !0xffff_ffff) | (value & 0xffff_ffff),
            _ => (old & 0xffff_ffff) | value << 32,
        };
        if low {
            entry.set_low(new);
        } else {
            entry.set_high(new);
        }
    }

    /// Reads the pending bits: aligned, 32 or 64 bits wide; beyond the last vector there are none.
    pub(crate) fn read_pending(&self, offset: u64, width: AccessWidth) -> u64 {
        match aligned(offset, width) {
            None => width.mask(),
            Some(_) if offset < 8 => narrow(self.pending, offset, width),
            Some(_) => 0,
        }
    }
}

state_struct! {
    /// A vector.
    struct SavedVector = 16 {
        /// Where the message is written.
        addr: u64,
        /// What is written.
        data: u32,
        /// Vector control.
        control: u32,
    }
    /// The pending bits. Enable and function mask are in the configuration space.
    struct SavedMsix = 8 {
        /// A bit for each vector.
        pending: u64,
    }
}

impl HasState for MsixEntry {
    const SECTION: SectionId = SectionId { id: 0x23, version: 1 };
    type State = SavedVector;

    fn save(&self) -> SavedVector {
        let MsixEntry { addr, data, control } = *self;
        SavedVector { addr, data, control }
    }

    fn set_state(&mut self, state: &SavedVector) {
        let SavedVector { addr, data, control } = *state;
        self.set_low(addr);
        self.set_high(u64::from(data) | u64::from(control) << 32);
    }
}

impl HasState for MsixTable {
    const SECTION: SectionId = SectionId { id: 0x22, version: 1 };
    type State = SavedMsix;

    fn save(&self) -> SavedMsix {
        let MsixTable { entries: _, pending, enabled: _, masked: _ } = *self;
        SavedMsix { pending }
    }

    fn set_state(&mut self, state: &SavedMsix) {
        let unused = u32::from(MAX_VECTORS).saturating_sub(u32::from(self.vectors()));
        let exist = u64::MAX.checked_shr(unused).unwrap_or(0);
        self.pending = if self.enabled { state.pending & exist } else { 0 };
    }
}

impl MsixTable {
    /// Writes the pending bits and the vectors.
    pub(super) fn save_table(&self, instance: u32, out: &mut StateWriter) {
        out.put(instance, self);
        for (n, entry) in (instance..=u32::MAX).zip(&self.entries) {
            out.put(n, entry);
        }
    }

    /// Takes them over, after [`MsixTable::set_control`].
    ///
    /// # Errors
    /// As [`BadState`].
    pub(super) fn restore_table(
        &mut self,
        instance: u32,
        from: &mut StateReader<'_>,
    ) -> Result<(), BadState> {
        from.get(instance, self)?;
        (instance..=u32::MAX).zip(&mut self.entries).try_for_each(|(n, entry)| from.get(n, entry))
    }
}

/// Returns the entry of an access that has a width and an alignment that the table takes.
fn aligned(offset: u64, width: AccessWidth) -> Option<usize> {
    match (width, offset & 7) {
        (AccessWidth::B8, 0) | (AccessWidth::B4, 0 | 4) => usize::try_from(offset >> 4).ok(),
        _ => None,
    }
}

fn narrow(word: u64, offset: u64, width: AccessWidth) -> u64 {
    let shift = if offset & 4 == 0 { 0 } else { 32 };
    (word >> shift) & width.mask()
}
