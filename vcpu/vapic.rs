// SPDX-License-Identifier: GPL-2.0

//! The task priority in guest memory, for guests that would access the register all the time.
//!
//! User space patches such a guest (32-bit Windows) to read and write a word of memory instead. So it asks to be told
//! of accesses to the register, KVM_TPR_ACCESS_REPORTING, and where the word is, KVM_SET_VAPIC_ADDR. In that word are
//! the task priority, the class of the interrupt in service and the highest that waits; the guest's code looks at all
//! three and calls user space where a lower priority lets an interrupt through.
//!
//! The word is written before an entry and read after the exit, and before the next entry once more: what software has
//! carried out in between may have set it. A vCPU that has one pays for it: each of its exits
//! goes through the run loop.

use crate::arch::addr::Gpa;
use crate::chipset::lapic::Lapic;
use crate::mmu::mem::{GuestMem, MemError};

/// An access to the task priority register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TprReport {
    /// The instruction's address.
    pub(crate) rip: u64,
    /// Write.
    pub(crate) is_write: bool,
}

/// What user space asked for.
#[derive(Debug, Default)]
pub(crate) struct VapicState {
    /// The word.
    at: Option<Gpa>,
    /// The task priority that the word had when it was last written or read; `None` before that.
    known: Option<u8>,
    /// Accesses to the register are to be told of.
    reports: bool,
    /// One that is to be told of.
    access: Option<TprReport>,
}

impl VapicState {
    /// Returns whether entries and exits have anything to do with it.
    #[inline(always)]
    pub(crate) fn is_used(&self) -> bool {
        self.at.is_some() || self.reports
    }

    /// Sets where the word is.
    pub(crate) fn set_at(&mut self, at: Option<Gpa>) {
        self.at = at;
        self.known = None;
    }

    /// Sets whether accesses to the register are told of.
    pub(crate) fn set_reports(&mut self, reports: bool) {
        self.reports = reports;
    }

    /// Notes an access of the instruction at `rip`.
    #[inline]
    pub(crate) fn note(&mut self, rip: u64, is_write: bool) {
        if self.reports {
            self.access = Some(TprReport { rip, is_write });
        }
    }

    /// Takes the access that is to be told of.
    #[inline]
    pub(crate) fn take_access(&mut self) -> Option<TprReport> {
        self.access.take()
    }

    /// Before an entry: writes the word.
    ///
    /// # Errors
    /// The address of a page that must be made resident first.
    pub(crate) fn write<M: GuestMem>(&mut self, mem: &M, lapic: &mut Lapic) -> Result<(), Gpa> {
        let Some(at) = self.at else { return Ok(()) };
        // An instruction that software has carried out may have set it since, or its page was not there after the exit.
        // What the register was set to meanwhile counts more.
        if self.known == Some(lapic.tpr()) {
            self.read(mem, lapic)?;
        }
        match mem.write(at, &lapic.vapic_word().to_le_bytes()) {
            Ok(()) => self.known = Some(lapic.tpr()),
            Err(MemError::NotResident(gpa)) => return Err(gpa),
            // As a KVM guest's: it is gone for the guest.
            Err(MemError::NoSlot(_)) => self.set_at(None),
        }
        Ok(())
    }

    /// After an exit: takes the task priority from the word. Where its page is gone, the next
    /// [`write`](Self::write) does it.
    ///
    /// # Errors
    /// The address of a page that must be made resident first.
    pub(crate) fn read<M: GuestMem>(&mut self, mem: &M, lapic: &mut Lapic) -> Result<(), Gpa> {
        let (Some(at), Some(_)) = (self.at, self.known) else { return Ok(()) };
        let mut word = [0u8; 1];
        match mem.read(at, &mut word) {
            Ok(()) => {
                lapic.set_tpr(word[0]);
                self.known = Some(word[0]);
            }
            Err(MemError::NotResident(gpa)) => return Err(gpa),
            Err(MemError::NoSlot(_)) => self.set_at(None),
        }
        Ok(())
    }
}
