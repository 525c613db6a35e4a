// SPDX-License-Identifier: GPL-2.0

//! What the handlers of exits have before them: the vCPU in its window, and the machine around it.

use super::backend::VendorBackend;
use super::core::VcpuCore;
use super::paging::VcpuPaging;
use super::record::VcpuRecord;
use super::vm::Vm;
use crate::arch::cr::{Cr0, Cr4, Efer, Rflags};
use crate::arch::time::Ns;
use crate::host::cpu::PinnedCpu;
use crate::host::fpu;
use crate::host::msr::{SpecCtrl, TscAux};
use crate::machine::deferred::DeferredWork;
use crate::machine::mailbox::{VcpuMailbox, VcpuRequests};
use crate::mmu::walk::PagingRegs;

/// Everything a handler may touch.
pub(crate) struct VcpuCx<'a, 'f, B: VendorBackend> {
    /// The VM.
    pub(crate) vm: &'a Vm<B>,
    /// What others ask of this vCPU.
    pub(crate) mailbox: &'a VcpuMailbox,
    /// What it leaves behind of its exits.
    pub(crate) record: &'a VcpuRecord,
    /// The vCPU.
    pub(crate) core: &'a mut VcpuCore<B>,
    /// The guest's extended state, in the registers.
    pub(crate) fpu: &'a mut fpu::LoadedFpu<'f>,
    /// The guest's TSC_AUX, in the register.
    pub(crate) tsc_aux: &'a mut Option<TscAux>,
    /// The guest's SPEC_CTRL, switched around each entry.
    pub(crate) spec_ctrl: &'a mut Option<SpecCtrl>,
    /// This CPU.
    pub(crate) cpu: &'a PinnedCpu,
}

impl<B: VendorBackend> VcpuCore<B> {
    /// Returns whether PAE's directory pointers are in registers while the guest runs: where its processor has none, those of
    /// shadow pages are as good.
    fn has_pdptes(&self) -> bool {
        B::HAS_PDPTES || !matches!(self.paging, VcpuPaging::Direct)
    }

    /// Returns what translations depend on now; needs [`Groups::CONTROL`].
    #[inline]
    pub(crate) fn paging_regs(&self, pkru: u32) -> PagingRegs {
        let s = &self.state;
        PagingRegs {
            cr0: Cr0::from_bits_truncate(s.cr0),
            cr3: s.cr3,
            cr4: Cr4::from_bits_truncate(s.cr4),
            efer: Efer::from_bits_truncate(s.efer),
            ac: s.rflags & Rflags::AC.bits() != 0,
            pkru,
            maxphyaddr: self.cpuid.phys_bits(),
            gib_pages: self.has_gib_pages,
            pdptes: self.has_pdptes().then_some(s.pdptes),
        }
    }
}

impl<B: VendorBackend> VcpuCx<'_, '_, B> {
    /// Returns the machine's time.
    #[inline(always)]
    pub(crate) fn now(&mut self) -> Ns {
        let clock = &self.vm.machine.clock;
        self.core.clock.now(clock.ns_per_tick, || clock.time.epoch())
    }

    /// Returns what translations depend on now; needs [`Groups::CONTROL`].
    pub(crate) fn guest_paging(&self) -> PagingRegs {
        self.core.paging_regs(self.fpu.pkru())
    }

    /// Notes what an access to a device leaves to be done outside the window. Returns whether there was a device.
    pub(crate) fn defer(&mut self, deferred: Option<DeferredWork>) -> bool {
        match deferred {
            None => return false,
            Some(DeferredWork::None) => {}
            Some(DeferredWork::Service) => self.mailbox.request_self(VcpuRequests::SERVICE),
            Some(DeferredWork::Inline(queue)) => {
                self.mailbox.request_self(VcpuRequests::INLINE_SERVICE);
                // One queue is served inline; what waits in the earlier one must not wait for that.
                if let Some(earlier) = self.core.deferred.replace(queue) {
                    self.vm.machine.pci.hand_to_worker(earlier);
                }
            }
        }
        true
    }
}
