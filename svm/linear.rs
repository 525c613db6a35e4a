// SPDX-License-Identifier: GPL-2.0

//! A guest without nested paging: its processor walks tables from linear addresses, which are ours.
//!
//! What is in the VMCB then decides where the guest's accesses go in the host's memory. So its control registers are not the
//! guest's, whatever those are: [`confine`] makes them walk our tables with every entry. The guest's own are kept beside
//! the VMCB ([`GuestControls`]), and whatever reads or writes them exits.
//!
//! A guest in real mode has paging on without protection: APM, "Paged Real Mode". Pure functions of numbers.

use super::vmcb::{InterceptCr, InterceptVector3, SaveArea};
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::arch::exception::ExceptionVector;
use crate::mmu::format::HardwareRoot;
use crate::vcpu::state::VcpuState;

/// The intercepts of control registers without which the guest could choose its own tables, or learn of ours. Reads of CR0
/// are among them for QEMU, which takes reads of all control registers for those.
pub(super) const LINEAR_CR: InterceptCr = InterceptCr::CR0_READ
    .union(InterceptCr::CR3_READ)
    .union(InterceptCr::CR4_READ)
    .union(InterceptCr::CR0_WRITE)
    .union(InterceptCr::CR3_WRITE)
    .union(InterceptCr::CR4_WRITE);
/// The same of instructions: a task switch loads CR3.
pub(super) const LINEAR3: InterceptVector3 = InterceptVector3::INVLPG.union(InterceptVector3::TASK_SWITCH);
/// The same of exceptions.
pub(super) const LINEAR_EXCEPTIONS: u32 = 1 << ExceptionVector::PF.0;

/// What the guest has of the registers that decide about its paging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GuestControls {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl GuestControls {
    /// Takes them. Returns whether any is another one.
    pub(super) fn take(&mut self, from: &VcpuState) -> bool {
        let new = GuestControls { cr0: from.cr0, cr3: from.cr3, cr4: from.cr4, efer: from.efer };
        core::mem::replace(self, new) != new
    }

    /// Gives them back.
    pub(super) fn put(&self, to: &mut VcpuState) {
        (to.cr0, to.cr3, to.cr4, to.efer) = (self.cr0, self.cr3, self.cr4, self.efer);
    }

    /// Returns CR3, CR4 and EFER.
    pub(super) fn context(&self) -> (u64, u64, u64) {
        (self.cr3, self.cr4, self.efer)
    }

    /// Returns what the processor's CR4 is to be where the guest has `cr4`: without paging its rights do not count.
    pub(super) fn processor_cr4(&self, cr4: u64) -> u64 {
        match self.cr0 & Cr0::PG.bits() {
            0 => cr4 & !Cr4::SMEP.union(Cr4::SMAP).union(Cr4::PKE).bits(),
            _ => cr4,
        }
    }
}

/// Makes the processor walk the tables of `root`, and none else: the last before each entry. `pdpt` is where directory
/// pointers lie, below 4 GiB.
pub(super) fn confine(s: &mut SaveArea, root: &HardwareRoot, pdpt: u64) {
    let mut cr4 = (Cr4::from_bits_retain(s.cr4) | Cr4::PAE) - (Cr4::LA57 | Cr4::PCIDE);
    let mut efer = (Efer::from_bits_retain(s.efer) | Efer::NXE) - (Efer::LME | Efer::LMA);
    s.cr3 = match *root {
        HardwareRoot::Long { root, levels } => {
            efer |= Efer::LME | Efer::LMA;
            cr4.set(Cr4::LA57, levels == 5);
            root.0
        }
        HardwareRoot::Pae(_) => pdpt,
    };
    s.cr0 |= (Cr0::PG | Cr0::WP).bits();
    (s.cr4, s.efer) = (cr4.bits(), efer.bits());
}
