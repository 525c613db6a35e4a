// SPDX-License-Identifier: GPL-2.0

//! The SVM backend, but for what touches the processor: [`region`] stands in for that.

use crate::abi::rvmm::VENDOR_SVM;
use crate::arch::cr::Cr4;
use crate::host::cpu::PinnedCpu;
use crate::mmu::asid::AsidPool;
use crate::mmu::format::{Npt, TableLevels};
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::exit::{RawExit, VmExit};
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use features::SvmFeatures;
use kernel::prelude::*;
use region::{SvmWindow, VmcbPage, VmcbScript};
use std::sync::Mutex;

#[path = "../../../svm/caching.rs"]
pub(crate) mod caching;
#[path = "../../../svm/exit.rs"]
mod exit;
#[path = "../../../svm/features.rs"]
pub(crate) mod features;
#[path = "../../../svm/linear.rs"]
pub(crate) mod linear;
#[path = "../../../svm/quirks.rs"]
pub(crate) mod quirks;
pub(crate) mod region;
#[path = "../../../svm/step.rs"]
pub(crate) mod step;
#[path = "../../../svm/vcpu.rs"]
pub(crate) mod vcpu;
#[path = "../../../svm/vmcb.rs"]
pub(crate) mod vmcb;

/// The backend's own view of which exit codes are no exits.
pub(crate) fn is_refused(code: u64) -> bool {
    exit::is_refused(code)
}

/// The backend's own view of its decoder.
pub(crate) fn decode(raw: RawExit) -> VmExit {
    exit::decode(raw)
}

/// A processor with next RIPs and decode assists.
const FEATURES: SvmFeatures =
    SvmFeatures { asids: 16, nested_paging: true, next_rip: true, flush_by_asid: true, decode_assist: true };

/// SVM, on a processor whose guest a test writes down.
pub(crate) struct Svm {
    script: Mutex<Option<VmcbScript>>,
    asids: Mutex<AsidPool>,
    /// Windows that there ever were.
    pub(crate) opened: AtomicU64,
    nested_paging: bool,
}

impl Svm {
    /// One with that guest, for one vCPU.
    pub(crate) fn new(script: VmcbScript) -> Svm {
        let asids = Mutex::new(AsidPool::new(0, 1, FEATURES.asids - 1));
        Svm { script: Mutex::new(Some(script)), asids, opened: AtomicU64::new(0), nested_paging: true }
    }

    /// The same without nested paging.
    pub(crate) fn without_nested_paging(script: VmcbScript) -> Svm {
        Svm { nested_paging: false, ..Svm::new(script) }
    }
}

impl VendorBackend for Svm {
    type Vcpu = vcpu::SvmVcpu;
    type Format = Npt;

    const NAME: &'static str = "SVM";
    const VENDOR: u32 = VENDOR_SVM;
    const HAS_PDPTES: bool = false;
    const SHOWS_CACHES: bool = false;

    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<SvmWindow<'a>> {
        self.opened.fetch_add(1, SeqCst);
        Some(SvmWindow { asids: &self.asids, cpu })
    }

    fn new_vcpu(&self) -> Result<vcpu::SvmVcpu> {
        let script = self.script.lock().unwrap().take().ok_or(EBUSY)?;
        let vmcb = VmcbPage::new(script, self.nested_paging);
        vcpu::SvmVcpu::new(&FEATURES, Cr4::MCE.bits(), vmcb)
    }

    fn format(&self) -> Option<Npt> {
        let npt = Npt { levels: TableLevels::Four, gib_pages: false, encryption_mask: 0 };
        self.nested_paging.then_some(npt)
    }
}
