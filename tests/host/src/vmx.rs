// SPDX-License-Identifier: GPL-2.0

//! The VMX backend, but for what touches the processor: [`asm`] and [`region`] stand in for that.

use crate::abi::rvmm::VENDOR_VMX;
use crate::host::cpu::PinnedCpu;
use crate::mmu::format::{Ept, MemoryType};
use crate::vcpu::backend::VendorBackend;
use capability::VmxSetup;
use kernel::prelude::*;
use region::{VmcsPage, VmcsScript, VmxWindow};
use std::sync::Mutex;

pub(crate) mod asm;
#[path = "../../../vmx/capability.rs"]
pub(crate) mod capability;
#[path = "../../../vmx/check.rs"]
pub(crate) mod check;
#[path = "../../../vmx/event.rs"]
pub(crate) mod event;
#[path = "../../../vmx/exit.rs"]
pub(crate) mod exit;
#[path = "../../../vmx/linear.rs"]
pub(crate) mod linear;
#[path = "../../../vmx/quirks.rs"]
pub(crate) mod quirks;
pub(crate) mod region;
#[path = "../../../vmx/switched.rs"]
mod switched;
#[path = "../../../vmx/vcpu.rs"]
mod vcpu;
#[path = "../../../vmx/vmcs.rs"]
pub(crate) mod vmcs;

/// VMX, on a processor whose guest a test writes down.
pub(crate) struct Vmx {
    setup: VmxSetup,
    script: Mutex<Option<VmcsScript>>,
}

impl Vmx {
    /// One with these controls and that guest, for one vCPU.
    pub(crate) fn new(setup: VmxSetup, script: VmcsScript) -> Vmx {
        Vmx { setup, script: Mutex::new(Some(script)) }
    }
}

/// The format of second-level tables.
const FORMAT: Ept =
    Ept { gib_pages: false, accessed_dirty: false, memory_type: MemoryType::WriteBack, ignore_pat: true };

impl VendorBackend for Vmx {
    type Vcpu = vcpu::VmxVcpu;
    type Format = Ept;

    const NAME: &'static str = "VMX";
    const VENDOR: u32 = VENDOR_VMX;
    const HAS_PDPTES: bool = true;
    const SHOWS_CACHES: bool = true;

    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<VmxWindow<'a>> {
        Some(VmxWindow::new(cpu))
    }

    fn new_vcpu(&self) -> Result<vcpu::VmxVcpu> {
        let script = self.script.lock().unwrap().take().ok_or(EBUSY)?;
        Ok(vcpu::VmxVcpu::new(&self.setup, FORMAT, (39, 48), VmcsPage::new(&self.setup, script)))
    }

    fn format(&self) -> Option<Ept> {
        self.setup.has_ept().then_some(FORMAT)
    }
}
