// SPDX-License-Identifier: GPL-2.0

//! Stolen time: how long a vCPU could have run and did not, since other threads of the host had its CPU. The guest reads
//! it in its own memory, and charges nobody for it.
//!
//! Linux, "KVM-specific MSRs" (MSR_KVM_STEAL_TIME), tells the layout. The structure is updated between two changes of its
//! version, which is odd meanwhile; a guest that reads the same even version before and after has read one state.

use crate::arch::addr::Gpa;
use crate::host::timer::RunDelay;
use crate::machine::pvclock::ENABLED;
use crate::mmu::mem::{GuestMem, MemError};
use core::mem::offset_of;

/// `struct kvm_steal_time`, as far as it is used.
#[repr(C)]
struct StealRecord {
    /// Nanoseconds.
    steal: u64,
    /// Odd while the structure is being changed.
    version: u32,
    /// Unused.
    flags: u32,
    /// The vCPU's thread waits for a CPU. That is never said.
    preempted: u8,
}

/// What of the address is reserved: the structure is aligned to 64 bytes.
const RESERVED: u64 = 0x3e;

/// What the guest has switched on, and what it was told of.
#[derive(Debug, Default)]
pub(crate) struct StealTime {
    /// MSR KVM_STEAL_TIME.
    msr: u64,
    /// Up to where the waits of the vCPU's thread are in the guest's memory.
    known: Option<RunDelay>,
    /// Nanoseconds that are not in the guest's memory yet.
    owed: u64,
    /// The record is to be written, or finished.
    is_stale: bool,
}

impl StealTime {
    /// Returns the MSR.
    pub(crate) fn msr(&self) -> u64 {
        self.msr
    }

    /// Sets the MSR. Returns whether the value is possible.
    pub(crate) fn set_msr(&mut self, value: u64) -> bool {
        if value & RESERVED != 0 {
            return false;
        }
        *self = StealTime { msr: value, ..StealTime::default() };
        true
    }

    /// Returns whether the guest wants to know.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.msr & ENABLED != 0
    }

    /// Adds to the guest's record what the vCPU's thread has waited since the last time; `now` is all of its waits. The
    /// waits of another thread count from its first run on.
    ///
    /// # Errors
    /// The address of a page that must be made resident first.
    pub(crate) fn account<M: GuestMem>(&mut self, mem: &M, now: RunDelay) -> Result<(), Gpa> {
        if self.known != Some(now) {
            if let Some(known) = self.known.filter(|known| known.thread == now.thread) {
                self.owed = self.owed.saturating_add(now.ns.saturating_sub(known.ns));
            }
            (self.known, self.is_stale) = (Some(now), true);
        }
        if self.is_stale {
            self.write(mem)
        } else {
            Ok(())
        }
    }

    /// Writes the record. Where a page is missing on the way, the next call does what is left.
    fn write<M: GuestMem>(&mut self, mem: &M) -> Result<(), Gpa> {
        let record = Gpa(self.msr & !(RESERVED | ENABLED));
        let at = |offset: usize| record.wrapping_add(offset as u64);
        let steal =
            mem.read_obj::<u64>(at(offset_of!(StealRecord, steal))).or_else(MemError::unless_absent)?;
        let version_at = at(offset_of!(StealRecord, version));
        let odd = mem.read_obj::<u32>(version_at).or_else(MemError::unless_absent)? | 1;
        let write = |at, bytes: &[u8]| mem.write(at, bytes).or_else(MemError::unless_absent::<()>);
        write(version_at, &odd.to_le_bytes())?;
        write(at(offset_of!(StealRecord, steal)), &steal.wrapping_add(self.owed).to_le_bytes())?;
        self.owed = 0;
        write(at(offset_of!(StealRecord, preempted)), &[0])?;
        write(version_at, &odd.wrapping_add(1).to_le_bytes())?;
        self.is_stale = false;
        Ok(())
    }
}
