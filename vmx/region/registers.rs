// SPDX-License-Identifier: GPL-2.0

//! CR0, CR3, CR4 and EFER of a VMCS: what the guest sees of them, and which tables the processor walks.

#![forbid(unsafe_code)]

use super::{set_syscalls, VmcsPage};
use crate::arch::cr::{Cr4, CrState, Efer};
use crate::mmu::format::HardwareRoot;
use crate::vcpu::backend::TableRoot;
use crate::vmx::asm;
use crate::vmx::capability::VmEntryControls;
use crate::vmx::linear::{self, WalkFields};
use crate::vmx::vmcs::{GuestField, OwnedField, VmcsField};

impl VmcsPage {
    fn owned(&self, field: OwnedField) -> u64 {
        self.vmread(field.encoding())
    }

    /// Returns CR0, CR4, the entry controls and the activity state as the processor has them, for the checks.
    pub(in crate::vmx) fn owned_state(&self) -> (u64, u64, u32, u32) {
        (
            self.owned(OwnedField::Cr0),
            self.owned(OwnedField::Cr4),
            self.owned(OwnedField::VmEntryControls) as u32,
            self.owned(OwnedField::ActivityState) as u32,
        )
    }

    /// Returns CR0 and CR4 as the guest sees them.
    pub(in crate::vmx) fn control_registers(&self) -> (u64, u64) {
        let merge = |real, shadow, host: u64| (self.owned(real) & !host) | (self.owned(shadow) & host);
        (
            merge(OwnedField::Cr0, OwnedField::Cr0Shadow, linear::cr0_host(&self.setup)),
            merge(OwnedField::Cr4, OwnedField::Cr4Shadow, !self.cr4_guest),
        )
    }

    /// Returns CR3 as the processor has it: without EPT that of the tables that are walked.
    pub(in crate::vmx) fn cr3(&self) -> u64 {
        self.owned(OwnedField::Cr3)
    }

    /// Sets CR0, CR3, CR4 and EFER as the guest sees them.
    pub(in crate::vmx) fn set_control_registers(&mut self, now: &CrState) {
        // Machine checks exit only with MCE set; without it they shut the processor down.
        let mce = asm::cr4() & Cr4::MCE.bits();
        let (setup, own) = (self.setup, self.cr4_guest);
        self.own(OwnedField::Cr0, linear::processor_cr0(&setup, now.cr0));
        self.own(OwnedField::Cr0Shadow, now.cr0);
        self.own(OwnedField::Cr4Mask, !own);
        self.own(OwnedField::Cr4, linear::processor_cr4(&setup, (now.cr0, now.cr4), own, mce));
        self.own(OwnedField::Cr4Shadow, now.cr4);
        let is_live = self.is_live();
        if let Some(linear) = self.linear.as_mut() {
            // The rest comes with the tables.
            linear.walked = None;
            linear.syscalls = now.efer & Efer::SCE.bits() != 0;
            if is_live {
                set_syscalls(linear.syscalls);
            }
            return;
        }
        self.own(OwnedField::Cr3, now.cr3);
        self.write(GuestField::Efer, now.efer);
        let mode = if now.efer & Efer::LMA.bits() != 0 { VmEntryControls::GUEST_64.bits() } else { 0 };
        self.own(OwnedField::VmEntryControls, u64::from(self.setup.entry | mode));
    }

    /// Carries out the part of a guest's write to CR0 or CR4 that is not its own, so that the write runs
    /// without an exit when it is tried again: what the guest reads of those bits.
    pub(in crate::vmx) fn set_shadows(&mut self, cr0: u64, cr4: u64) {
        self.own(OwnedField::Cr0Shadow, cr0);
        self.own(OwnedField::Cr4Shadow, cr4);
    }

    /// Says which bits of CR4 the guest has. Counts from the next [`VmcsPage::set_control_registers`] on.
    pub(in crate::vmx) fn set_cr4_guest(&mut self, has: u64) {
        self.cr4_guest = linear::cr4_guest(&self.setup, has);
    }

    /// Without EPT: makes the coming entry walk the tables of `root`, or nothing where it has none.
    #[inline(never)]
    pub(super) fn confine(&mut self, root: &TableRoot<'_>) {
        let tables = root.as_linear().copied().unwrap_or(HardwareRoot::NOTHING);
        let Some(linear) = self.linear.as_mut().filter(|l| l.walked != Some(tables)) else { return };
        linear.walked = None;
        tables.write_pointers(linear.pointers.bytes_mut());
        let pdpt = linear.pointers.hpa().0;
        // What the guest has changed by itself stays.
        let (cr0, cr4) = (self.owned(OwnedField::Cr0), self.owned(OwnedField::Cr4));
        let mut f = WalkFields { cr0, cr3: 0, cr4, entry: self.setup.entry };
        linear::confine(&mut f, &tables, pdpt);
        self.own(OwnedField::Cr0, f.cr0);
        self.own(OwnedField::Cr3, f.cr3);
        self.own(OwnedField::Cr4, f.cr4);
        self.own(OwnedField::VmEntryControls, f.entry.into());
        // A value that was not taken keeps this entry from being made; the next one comes here again.
        if let Some(linear) = self.linear.as_mut().filter(|_| self.refusal.is_none()) {
            linear.walked = Some(tables);
        }
    }
}
