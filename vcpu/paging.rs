// SPDX-License-Identifier: GPL-2.0

//! How a vCPU's addresses become the host's: the seam between the run loop and the tables that the processor walks.
//!
//! The run loop asks, whatever the kind of paging: which table the next entry walks ([`VcpuPaging::root`]), and what a
//! fault of a second-level table comes to ([`VcpuPaging::fault`]). It tells when software has changed what the guest's own
//! paging depends on ([`VcpuPaging::changed`]), and when the guest has flushed its translations
//! ([`VcpuPaging::flushed`]). Nested guests are to be a further kind.

use super::backend::{TableRoot, VendorBackend};
use super::exit::{FaultFlags, GuestPageFault};
use super::second_level::{RootWait, TableFault};
use super::vm::Vm;
use crate::host::cpu::PinnedCpu;
use crate::mmu::format::{GuestTouch, HardwareRoot};
use crate::mmu::shadow::ShadowRoot;
use crate::mmu::walk::PagingRegs;
use kernel::prelude::*;

/// The kinds of paging.
pub(crate) enum VcpuPaging {
    /// The processor walks the guest's own tables, then the second-level table of the VM.
    Direct,
    /// It walks shadow pages of the VM.
    Shadow(KBox<ShadowPaging>),
}

/// The shadow pages that a vCPU's processor walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShadowPaging {
    /// As the guest's registers had it when it was made.
    root: Option<ShadowRoot>,
    hardware: HardwareRoot,
    /// CR3, and the directory pointers where there are any, that the root is for.
    loaded: (u64, Option<[u64; 4]>),
    /// The flush that had been asked for when the root was last found to be there.
    generation: u64,
    /// Software has written control registers since.
    is_changed: bool,
    /// The guest has flushed its translations since.
    is_flushed: bool,
}

impl ShadowPaging {
    /// One whose root is still to be made.
    fn new() -> ShadowPaging {
        ShadowPaging {
            root: None,
            hardware: HardwareRoot::NOTHING,
            loaded: (0, None),
            generation: 0,
            is_changed: true,
            is_flushed: true,
        }
    }

    /// Returns the root, once there is one.
    pub(crate) fn root(&self) -> Option<&ShadowRoot> {
        self.root.as_ref()
    }

    /// The root is not what the guest's registers say: it is made anew before the next entry.
    pub(crate) fn forget_root(&mut self) {
        self.root = None;
    }

    /// Returns whether [`ShadowPaging::prepare`] has something to do before an entry. `generation` is that of the last flush
    /// that was asked for, read after guest mode was announced.
    #[inline]
    pub(crate) fn is_stale(&self, generation: u64) -> bool {
        self.is_changed || self.is_flushed || self.generation != generation || self.root.is_none()
    }

    /// Brings what the processor walks up to date, for a guest with these registers. Returns whether its translations must
    /// be flushed. Interrupts are off.
    ///
    /// # Errors
    /// As [`RootWait`].
    pub(crate) fn prepare<B: VendorBackend>(
        &mut self,
        vm: &Vm<B>,
        cpu: &PinnedCpu,
        regs: &PagingRegs,
        generation: u64,
    ) -> Result<bool, RootWait> {
        let wanted = (regs.cr3, regs.pdptes);
        let is_same = self.root.is_some_and(|r| r.is_for(regs)) && self.loaded == wanted;
        if self.is_flushed || !is_same {
            vm.space.refresh_all(cpu);
        }
        let root = self.root.filter(|_| is_same);
        let (root, hardware) = vm.space.shadow_root(cpu, regs, root)?;
        let must_flush = self.is_flushed || self.hardware != hardware || self.root != Some(root);
        *self = ShadowPaging {
            root: Some(root),
            hardware,
            loaded: wanted,
            generation,
            is_changed: false,
            is_flushed: false,
        };
        Ok(must_flush)
    }
}

impl VcpuPaging {
    /// Returns the kind that processors of a VM have.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(is_shadow: bool) -> Result<VcpuPaging> {
        Ok(if is_shadow {
            VcpuPaging::Shadow(KBox::new(ShadowPaging::new(), GFP_KERNEL_ACCOUNT)?)
        } else {
            VcpuPaging::Direct
        })
    }

    /// Returns the table that the next entry walks, and those after it as long as the inner loop answers their exits.
    #[inline(always)]
    pub(crate) fn root<'a, B: VendorBackend>(&self, vm: &'a Vm<B>) -> TableRoot<'a> {
        match self {
            VcpuPaging::Direct => vm.space.root(),
            VcpuPaging::Shadow(shadow) => TableRoot::linear(shadow.hardware, vm),
        }
    }

    /// Handles a fault of a second-level table. Interrupts are off and it does not sleep.
    #[inline]
    pub(crate) fn fault<B: VendorBackend>(
        &mut self,
        vm: &Vm<B>,
        cpu: &PinnedCpu,
        fault: &GuestPageFault,
        hint: &mut usize,
    ) -> TableFault {
        let access = if fault.flags.contains(FaultFlags::WRITE) {
            GuestTouch::Write
        } else if fault.flags.contains(FaultFlags::FETCH) {
            GuestTouch::Fetch
        } else {
            GuestTouch::Read
        };
        match self {
            VcpuPaging::Direct => vm.space.fault(cpu, fault.gpa, access, hint),
            // There is none: the access goes where nothing is.
            VcpuPaging::Shadow(_) => TableFault::Mmio,
        }
    }

    /// Software has changed CR0, CR3, CR4 or EFER, before the entry that shows it to the guest.
    #[inline(always)]
    pub(crate) fn changed(&mut self) {
        match self {
            // The processor sees to it.
            VcpuPaging::Direct => {}
            VcpuPaging::Shadow(shadow) => shadow.is_changed = true,
        }
    }

    /// The guest has flushed all its translations, by an instruction that was carried out in software.
    #[inline(always)]
    pub(crate) fn flushed(&mut self) {
        match self {
            VcpuPaging::Direct => {}
            VcpuPaging::Shadow(shadow) => shadow.is_flushed = true,
        }
    }

    /// Returns the shadow pages, if the processor walks them.
    #[inline(always)]
    pub(crate) fn shadow(&mut self) -> Option<&mut ShadowPaging> {
        match self {
            VcpuPaging::Direct => None,
            VcpuPaging::Shadow(shadow) => Some(shadow),
        }
    }
}
