// SPDX-License-Identifier: GPL-2.0

//! GuestMachine-check banks as user space sets them up and fills them: KVM_X86_SETUP_MCE, KVM_X86_SET_MCE.
//!
//! SDM, "GuestMachine-Check Architecture"; documentation of KVM's API, "KVM_X86_SET_MCE". Corrected errors
//! are logged only; corrected machine-check interrupts are not offered.

use super::msr_table::{MsrRefused, MsrStore, MCE_BANKS, MCG_CAP, MCG_CTL, MCG_STATUS};

/// MCG_CAP: MCG_CTL exists.
const CAP_CTL: u64 = 1 << 8;
/// MCG_CAP: how many banks; and the count of extended registers, which user space may say at will.
const CAP_COUNTS: u64 = 0x00ff_00ff;
/// MCG_STATUS: a machine check is being handled.
const IN_PROGRESS: u64 = 1 << 2;

/// MCi_STATUS: the bank holds an error.
const VALID: u64 = 1 << 63;
/// MCi_STATUS: a second error came before the first was read.
const OVERFLOW: u64 = 1 << 62;
/// MCi_STATUS: not corrected.
const UNCORRECTED: u64 = 1 << 61;
/// MCi_STATUS: the processor's context is corrupt, signalled by an exception, software must act.
const NEEDS_ACTION: u64 = 1 << 57 | 1 << 56 | 1 << 55;

/// An error as KVM_X86_SET_MCE gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MachineCheck {
    /// The bank, from 0.
    pub(crate) bank: u8,
    /// MCi_STATUS.
    pub(crate) status: u64,
    /// MCi_ADDR.
    pub(crate) addr: u64,
    /// MCi_MISC.
    pub(crate) misc: u64,
    /// MCG_STATUS.
    pub(crate) mcg_status: u64,
}

/// What an error comes to for the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MceConsequence {
    /// It is in its bank, or dropped because the guest switched its reports off.
    None,
    /// #MC.
    Exception,
    /// The processor stops: it cannot take the #MC.
    Shutdown,
}

/// Returns the number of MCi_CTL of `bank`; STATUS, ADDR and MISC follow.
fn ctl(bank: u8) -> u32 {
    0x400u32.wrapping_add(u32::from(bank).wrapping_mul(4))
}

impl MsrStore {
    /// Sets MCG_CAP, and the control registers to all ones.
    ///
    /// # Errors
    /// [`MsrRefused`] for no banks, more than [`MCE_BANKS`], or features that are not offered.
    pub(crate) fn setup_mce(&mut self, cap: u64) -> Result<(), MsrRefused> {
        let [banks, ..] = cap.to_le_bytes();
        if banks == 0 || u32::from(banks) > MCE_BANKS || cap & !(MCG_CAP | CAP_COUNTS) != 0 {
            return Err(MsrRefused);
        }
        self.mcg_cap = cap;
        if cap & CAP_CTL != 0 {
            self.put(MCG_CTL, u64::MAX);
        }
        for bank in 0..banks {
            self.put(ctl(bank), u64::MAX);
        }
        Ok(())
    }

    /// Puts an error into its bank. `is_enabled` is CR4.MCE.
    ///
    /// # Errors
    /// [`MsrRefused`] for a bank that is not there or a status that is not valid.
    pub(crate) fn note_mce(
        &mut self,
        e: &MachineCheck,
        is_enabled: bool,
    ) -> Result<MceConsequence, MsrRefused> {
        if u64::from(e.bank) >= self.mcg_cap & 0xff || e.status & VALID == 0 {
            return Err(MsrRefused);
        }
        let first = ctl(e.bank);
        let is_uncorrected = e.status & UNCORRECTED != 0;
        let old = self.get(first.wrapping_add(1));
        if is_uncorrected && e.mcg_status == 0 && e.status & NEEDS_ACTION == 0 {
            // No action needed: logged like a corrected one, whatever the bank holds.
            self.log(first, e, e.status);
            self.put(MCG_STATUS, 0);
            return Ok(MceConsequence::None);
        }
        let overflow = if old & VALID != 0 { OVERFLOW } else { 0 };
        if !is_uncorrected {
            if old & VALID == 0 || old & UNCORRECTED == 0 {
                self.log(first, e, e.status | overflow);
            } else {
                self.put(first.wrapping_add(1), old | OVERFLOW);
            }
            return Ok(MceConsequence::None);
        }
        let is_off = self.mcg_cap & CAP_CTL != 0 && self.get(MCG_CTL) != u64::MAX;
        // As KVM: an uncorrected error of a bank whose reports are off is dropped, not logged.
        if is_off || self.get(first) != u64::MAX {
            return Ok(MceConsequence::None);
        }
        // A second machine check before the first is dealt with shuts the processor down, and so does one without
        // CR4.MCE. SDM, "IA32_MCG_STATUS MSR".
        if self.get(MCG_STATUS) & IN_PROGRESS != 0 || !is_enabled {
            return Ok(MceConsequence::Shutdown);
        }
        self.log(first, e, e.status | overflow);
        self.put(MCG_STATUS, e.mcg_status);
        Ok(MceConsequence::Exception)
    }

    fn log(&mut self, first: u32, e: &MachineCheck, status: u64) {
        self.put(first.wrapping_add(1), status);
        self.put(first.wrapping_add(2), e.addr);
        self.put(first.wrapping_add(3), e.misc);
    }
}
