// SPDX-License-Identifier: GPL-2.0

//! CR0, CR3 and CR4 in the processor while a guest runs: which of their bits are the guest's own, and what the others are.
//!
//! SDM, "Guest/Host Masks and Read Shadows for CR0 and CR4". The guest reads its own values; what changes a bit that is the
//! host's exits.
//!
//! Without EPT the processor walks tables from linear addresses, so these registers decide where the guest's accesses go in
//! the host's memory. The bits that paging depends on are the host's then, and [`confine`] makes the processor walk our
//! tables with every entry. They are those of IA-32e mode for a guest in that mode, else of PAE's format, whatever the
//! guest's own: the processor loads the four directory pointers from memory below 4 GiB. SDM, "Loading
//! Page-Directory-Pointer-Table Entries". Pure functions of numbers.

use super::capability::{VmEntryControls, VmxSetup, CR0_PAGED};
use crate::arch::cr::{Cr0, Cr4};
use crate::arch::exception::ExceptionVector;
use crate::mmu::format::HardwareRoot;

/// CR0 bits that are not the guest's own: entries and exits do not switch CD and NW, and NE must be 1.
const CR0_HOST: Cr0 = Cr0::CD.union(Cr0::NW).union(Cr0::NE);

/// CR4 bits that the guest may change without an exit, as far as it has them.
const CR4_GUEST: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::UMIP)
    .union(Cr4::FSGSBASE)
    .union(Cr4::OSXSAVE)
    .union(CR4_PAGING);
/// Those of them that say what the guest's tables mean.
const CR4_PAGING: Cr4 = Cr4::PSE.union(Cr4::PAE).union(Cr4::PGE).union(Cr4::PCIDE).union(CR4_RIGHTS);
/// Those that take rights away, which tables of ours leave to the processor.
const CR4_RIGHTS: Cr4 = Cr4::SMEP.union(Cr4::SMAP).union(Cr4::PKE);

/// The exceptions that exit without EPT: page faults of tables of ours.
pub(crate) const LINEAR_EXCEPTIONS: u64 = 1 << ExceptionVector::PF.0;

/// Returns the bits of CR0 that are not the guest's own.
pub(crate) fn cr0_host(setup: &VmxSetup) -> u64 {
    let paged = if setup.is_unrestricted() { 0 } else { CR0_PAGED };
    let protected = if setup.has_ept() { 0 } else { Cr0::WP.bits() };
    CR0_HOST.bits() | paged | protected
}

/// Returns the bits of CR4 that the guest changes without an exit, of those in `has`.
pub(crate) fn cr4_guest(setup: &VmxSetup, has: u64) -> u64 {
    let paging = if setup.has_ept() { 0 } else { CR4_PAGING.bits() };
    CR4_GUEST.bits() & has & !paging
}

/// Returns the processor's CR0 for a guest that has `cr0`.
pub(crate) fn processor_cr0(setup: &VmxSetup, cr0: u64) -> u64 {
    (cr0 & !cr0_host(setup)) | setup.cr0_one
}

/// Returns the processor's CR4 for a guest that has these and changes the bits in `own` without an exit. `host` is what is in
/// force from the host's.
pub(crate) fn processor_cr4(setup: &VmxSetup, (cr0, cr4): (u64, u64), own: u64, host: u64) -> u64 {
    // Without paging they do not count.
    let has_rights = !setup.has_ept() && cr0 & Cr0::PG.bits() != 0;
    let rights = if has_rights { CR4_RIGHTS.bits() } else { 0 };
    (cr4 & (own | rights)) | setup.cr4_one | host
}

/// What of a VMCS decides which tables the processor walks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WalkFields {
    /// CR0.
    pub(crate) cr0: u64,
    /// CR3.
    pub(crate) cr3: u64,
    /// CR4.
    pub(crate) cr4: u64,
    /// The VM-entry controls.
    pub(crate) entry: u32,
}

/// Makes the processor walk the tables of `root`, and none else. `pdpt` is where directory pointers lie, below 4 GiB.
pub(crate) fn confine(f: &mut WalkFields, root: &HardwareRoot, pdpt: u64) {
    let mut cr4 = (Cr4::from_bits_retain(f.cr4) | Cr4::PAE) - (Cr4::LA57 | Cr4::PCIDE);
    let mut entry = VmEntryControls::from_bits_retain(f.entry) - VmEntryControls::GUEST_64;
    f.cr3 = match *root {
        HardwareRoot::Long { root, levels } => {
            entry |= VmEntryControls::GUEST_64;
            cr4.set(Cr4::LA57, levels == 5);
            root.0
        }
        HardwareRoot::Pae(_) => pdpt,
    };
    f.cr0 |= CR0_PAGED | Cr0::WP.bits();
    (f.cr4, f.entry) = (cr4.bits(), entry.bits());
}
