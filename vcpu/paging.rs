// SPDX-License-Identifier: GPL-2.0

//! How a vCPU's addresses become the host's: the seam between the run loop and the tables that the processor walks.
//!
//! The run loop asks three things, whatever the kind of paging: which table the next entry walks
//! ([`VcpuPaging::root`]), what a fault of that table comes to ([`VcpuPaging::fault`]), and it tells when software has
//! changed what the guest's own paging depends on ([`VcpuPaging::changed`]). Shadow paging and nested guests are to
//! be further kinds.

use super::backend::{TableRoot, VendorBackend};
use super::exit::GuestPageFault;
use super::second_level::TableFault;
use super::vm::Vm;
use crate::host::cpu::PinnedCpu;
use crate::mmu::format::GuestTouch;

/// The kinds of paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VcpuPaging {
    /// The processor walks the guest's own tables, then the second-level table of the VM.
    Direct,
}

impl VcpuPaging {
    /// Returns the table that the next entry walks.
    #[inline(always)]
    pub(crate) fn root<'a, B: VendorBackend>(&self, vm: &'a Vm<B>) -> TableRoot<'a> {
        match self {
            VcpuPaging::Direct => vm.space.root(),
        }
    }

    /// Handles a fault of that table. Interrupts are off and it does not sleep.
    #[inline]
    pub(crate) fn fault<B: VendorBackend>(
        &mut self,
        vm: &Vm<B>,
        cpu: &PinnedCpu,
        fault: &GuestPageFault,
        hint: &mut usize,
    ) -> TableFault {
        let access = match fault {
            GuestPageFault { write: true, .. } => GuestTouch::Write,
            GuestPageFault { fetch: true, .. } => GuestTouch::Fetch,
            _ => GuestTouch::Read,
        };
        match self {
            VcpuPaging::Direct => vm.space.fault(cpu, fault.gpa, access, hint),
        }
    }

    /// Software has changed CR0, CR3, CR4 or EFER, before the entry that shows it to the guest.
    #[inline(always)]
    pub(crate) fn changed(&mut self) {
        match self {
            // The processor sees to it.
            VcpuPaging::Direct => {}
        }
    }
}
