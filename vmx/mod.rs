// SPDX-License-Identifier: GPL-2.0

//! Intel's Virtual-Machine Extensions as a backend.
//!
//! | file | holds |
//! |---|---|
//! | [`capability`] | what the processor can do, and the controls that follow |
//! | [`vmcs`] | the fields of the control structure |
//! | [`region`] | the pages shared with the processor, and the window of root operation |
//! | [`shared`], [`switched`] | the pages of all guests; MSRs that are switched by hand |
//! | [`asm`] | the instructions; enter.S has the world switch |
//! | [`linear`] | the control registers in the processor; guests without EPT |
//! | [`exit`], [`event`] | exit reasons to typed exits; events as the VMCS writes them |
//! | [`quirks`] | what differs between processors beside VMX itself |
//! | [`check`] | which rule about guest state an entry broke |
//! | [`vcpu`] | one virtual processor |

#![deny(unsafe_code)]

mod asm;
mod capability;
mod check;
mod event;
mod exit;
mod linear;
mod quirks;
mod region;
mod shared;
mod switched;
mod vcpu;
mod vmcs;

use crate::abi::rvmm::VENDOR_VMX;
use crate::arch::cr::Efer;
use crate::arch::mitigation::L1dFlush;
use crate::host::cpu::{self, PinnedCpu};
use crate::host::mitigation::host_flags;
use crate::mmu::format::{Ept, MemoryType};
use crate::vcpu::backend::{UnsupportedHost, VendorBackend};
use capability::{agree, is_allowed, EptVpid, VmxMsrs, VmxSetup, BASIC_TRUE_CONTROLS};
use kernel::prelude::*;
use kernel::sync::Arc;
use quirks::VmxQuirks;
use region::{VmcsPage, VmxCpuArea, VmxWindow};
use shared::{MsrBitmapPage, NoPebs, SharedPages};
use x86::msr;

/// VMX on this machine.
pub(crate) struct Vmx {
    setup: VmxSetup,
    cpus: KVec<VmxCpuArea>,
    shared: Arc<SharedPages>,
    format: Ept,
    phys_bits: u32,
    /// The width of linear addresses that MSRs take, whether or not the host uses all of it.
    linear_bits: u32,
    quirks: VmxQuirks,
}

/// Returns whether this processor has VMX.
pub(crate) fn is_present() -> bool {
    cpu::cpuid(1, 0).ecx & (1 << 5) != 0
}

/// Reads the capability MSRs of a CPU; those that it does not have are 0.
fn capabilities(id: u32) -> Result<VmxMsrs> {
    let read = |index| cpu::rdmsr_on(id, index);
    let basic = read(msr::IA32_VMX_BASIC)?;
    let form = |plain, exact| read(if basic & BASIC_TRUE_CONTROLS == 0 { plain } else { exact });
    let primary = form(msr::IA32_VMX_PROCBASED_CTLS, msr::IA32_VMX_TRUE_PROCBASED_CTLS)?;
    // Bit 31 of the allowed 1-settings: the secondary controls.
    let secondary = if primary >> 63 != 0 { read(msr::IA32_VMX_PROCBASED_CTLS2)? } else { 0 };
    // Bits 1 and 5 of the allowed 1-settings: EPT, VPID.
    let ept_vpid = if secondary >> 32 & 0x22 != 0 { read(msr::IA32_VMX_EPT_VPID_CAP)? } else { 0 };
    Ok(VmxMsrs {
        basic,
        pin: form(msr::IA32_VMX_PINBASED_CTLS, msr::IA32_VMX_TRUE_PINBASED_CTLS)?,
        primary,
        secondary,
        exit: form(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS)?,
        entry: form(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS)?,
        ept_vpid,
        misc: read(msr::IA32_VMX_MISC)?,
        cr0_fixed0: read(msr::IA32_VMX_CR0_FIXED0)?,
        cr4_fixed0: read(msr::IA32_VMX_CR4_FIXED0)?,
    })
}

/// What all CPUs have, or why they cannot run guests.
fn common_capabilities() -> Result<core::result::Result<VmxMsrs, UnsupportedHost>> {
    let mut common = None;
    for id in 0..cpu::limit() {
        let feature = match cpu::rdmsr_on(id, msr::IA32_FEATURE_CONTROL) {
            Ok(v) => v,
            // Offline. Where it comes later and cannot run guests, entries there fail.
            Err(e) if e == ENXIO => continue,
            Err(_) => return Ok(Err(UnsupportedHost::Firmware)),
        };
        if !is_allowed(feature) {
            return Ok(Err(UnsupportedHost::Firmware));
        }
        if !agree(&mut common, capabilities(id)?) {
            return Ok(Err(UnsupportedHost::MixedCpus));
        }
    }
    Ok(common.ok_or(UnsupportedHost::NoExtension))
}

/// Finds what differs between processors. It is the same on all CPUs. `traces` is as [`VmxQuirks::of`] has it.
fn quirks(traces: bool) -> VmxQuirks {
    let rdmsr = |index| cpu::rdmsr_on(cpu::cpu_id(), index).ok();
    let quirks = VmxQuirks::of(host_flags(), traces, rdmsr, |leaf| cpu::cpuid(leaf, 0));
    if quirks.l1d == L1dFlush::Lacking {
        pr_warn!("guests can read the host's memory out of the L1 cache: update the processor's microcode\n");
    }
    quirks
}

impl Vmx {
    /// Probes every CPU and allocates what each needs. `ept`: guests have EPT where the processor does.
    ///
    /// # Errors
    /// The reason why this machine cannot run guests, or the host's error.
    pub(crate) fn new(ept: bool) -> Result<core::result::Result<Vmx, UnsupportedHost>> {
        if !is_present() {
            return Ok(Err(UnsupportedHost::NoExtension));
        }
        if let Some(why) = UnsupportedHost::of_cr4(asm::cr4()) {
            return Ok(Err(why));
        }
        // Addresses in the VMCS and in EPT would need the host's encryption bit.
        if cpu::has_encrypted_memory() {
            return Ok(Err(UnsupportedHost::EncryptedMemory));
        }
        let msrs = match common_capabilities()? {
            Ok(msrs) => msrs,
            Err(why) => return Ok(Err(why)),
        };
        let setup = match VmxSetup::new(&msrs, ept) {
            Ok(setup) => setup,
            Err(what) => return Ok(Err(UnsupportedHost::Lacks(what))),
        };
        // Tables of ours have bits that forbid execution, and entries keep the host's EFER but for the mode.
        if !setup.has_ept() && cpu::rdmsr_on(cpu::cpu_id(), msr::IA32_EFER)? & Efer::NXE.bits() == 0 {
            return Ok(Err(UnsupportedHost::Lacks("EPT, or EFER.NXE")));
        }
        let mut cpus = KVec::with_capacity(cpu::limit() as usize, GFP_KERNEL)?;
        for id in 0..cpu::limit() {
            cpus.push_within_capacity(VmxCpuArea::new(id, &setup)?)?;
        }
        let format = Ept {
            gib_pages: setup.ept_vpid.contains(EptVpid::PAGES_1G),
            accessed_dirty: setup.ept_vpid.contains(EptVpid::ACCESSED_DIRTY),
            memory_type: MemoryType::WriteBack,
            // Guests have no device whose memory must not be cached.
            ignore_pat: true,
        };
        let widths = cpu::cpuid(0x8000_0008, 0).eax;
        let quirks = quirks(setup.traces);
        let flushes_l1d = quirks.l1d == L1dFlush::Command;
        let shared = SharedPages { bitmap: MsrBitmapPage::new()?, no_pebs: NoPebs::new()?, flushes_l1d };
        Ok(Ok(Vmx {
            setup,
            cpus,
            shared: Arc::new(shared, GFP_KERNEL)?,
            format,
            phys_bits: widths & 0xff,
            linear_bits: widths >> 8 & 0xff,
            quirks,
        }))
    }
}

impl VendorBackend for Vmx {
    type Vcpu = vcpu::VmxVcpu;
    type Format = Ept;

    const NAME: &'static str = "VMX";
    const VENDOR: u32 = VENDOR_VMX;
    const HAS_PDPTES: bool = true;
    // The L1 terminal fault.
    const SHOWS_CACHES: bool = true;

    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<VmxWindow<'a>> {
        Some(VmxWindow::open(self.cpus.get(cpu.id() as usize)?, cpu, self.quirks))
    }

    fn new_vcpu(&self) -> Result<vcpu::VmxVcpu> {
        Ok(vcpu::VmxVcpu::new(
            &self.setup,
            self.format,
            (self.phys_bits, self.linear_bits),
            VmcsPage::new(&self.setup, self.shared.clone())?,
        ))
    }

    fn format(&self) -> Option<Ept> {
        self.setup.has_ept().then_some(self.format)
    }
}
