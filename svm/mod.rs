// SPDX-License-Identifier: GPL-2.0

//! AMD's Secure Virtual Machine extension as a backend.
//!
//! | file | holds |
//! |---|---|
//! | [`vmcb`] | the layout of the control block |
//! | [`region`] | the pages shared with the processor, and the window of root operation |
//! | [`asm`] | the instructions; enter.S has the world switch |
//! | [`features`] | what the processor's SVM can do |
//! | [`quirks`] | what of the host's a guest would meet beside the VMCB |
//! | [`exit`] | exit codes to typed exits |
//! | [`caching`] | the caching bits of CR0 |
//! | [`linear`] | guests without nested paging |
//! | [`step`] | one instruction on the way to an NMI |
//! | [`vcpu`] | one virtual processor |

#![deny(unsafe_code)]

mod asm;
mod caching;
mod exit;
mod features;
mod linear;
mod quirks;
mod region;
mod step;
mod vcpu;
mod vmcb;

use crate::abi::rvmm::VENDOR_SVM;
use crate::arch::cr::Cr4;
use crate::arch::msr::VM_CR;
use crate::host::cpu::{self, PinnedCpu};
use crate::host::mitigation::host_flags;
use crate::host::page::KernelPages;
use crate::mmu::format::{Npt, TableLevels};
use crate::vcpu::backend::{UnsupportedHost, VendorBackend};
use features::{FeatureFit, SvmFeatures};
use kernel::prelude::*;
use kernel::sync::Arc;
use quirks::SvmQuirks;
use region::{IoMap, MsrPermissionMap, PassThrough, PermissionMaps, SvmCpuArea, SvmWindow, VmcbPage};

fn features_of_this_cpu() -> Option<SvmFeatures> {
    SvmFeatures::of(|leaf| cpu::cpuid(leaf, 0))
}

/// Checks that CPU `id` is like the one that was probed. One that is offline is checked when its first
/// window opens.
fn check(features: &SvmFeatures, id: u32) -> core::result::Result<(), UnsupportedHost> {
    if cpu::cpuid_on(id, 0, 0).is_err() {
        return Ok(());
    }
    let there = SvmFeatures::of(|leaf| cpu::cpuid_on(id, leaf, 0).unwrap_or_default());
    match features.fit(there, cpu::rdmsr_on(id, VM_CR).ok()) {
        FeatureFit::Alike => Ok(()),
        FeatureFit::Differs => Err(UnsupportedHost::MixedCpus),
        FeatureFit::SwitchedOff => Err(UnsupportedHost::Firmware),
    }
}

/// Allocates what each CPU needs.
// Behind the many ways out of `Svm::new()` the compiler takes this for cold, and keeps checks in it.
#[inline(never)]
fn areas(features: &SvmFeatures, maps: &Arc<PermissionMaps>) -> Result<KVec<SvmCpuArea>> {
    let mut cpus = KVec::with_capacity(cpu::limit() as usize, GFP_KERNEL)?;
    for id in 0..cpu::limit() {
        cpus.push_within_capacity(SvmCpuArea::new(id, features, maps)?)?;
    }
    Ok(cpus)
}

/// Finds what differs between hosts. It is the same on all CPUs.
fn quirks() -> SvmQuirks {
    let rdmsr = |index| cpu::rdmsr_on(cpu::cpu_id(), index).unwrap_or(0);
    SvmQuirks::of(host_flags(), cpu::cpuid, rdmsr)
}

/// SVM on this machine.
pub(crate) struct Svm {
    features: SvmFeatures,
    /// CR4.MCE as the host has it.
    host_mce: u64,
    quirks: SvmQuirks,
    cpus: KVec<SvmCpuArea>,
    maps: Arc<PermissionMaps>,
    levels: TableLevels,
}

impl Svm {
    /// Probes every CPU and allocates what each needs. `nested_paging`: guests have it where the processor does.
    ///
    /// # Errors
    /// The reason why this machine cannot run guests, or the host's error.
    pub(crate) fn new(nested_paging: bool) -> Result<core::result::Result<Svm, UnsupportedHost>> {
        let Some(features) = features_of_this_cpu() else { return Ok(Err(UnsupportedHost::NoExtension)) };
        for id in 0..cpu::limit() {
            if let Err(why) = check(&features, id) {
                return Ok(Err(why));
            }
        }
        if let Some(why) = UnsupportedHost::of_cr4(cpu::cr4()) {
            return Ok(Err(why));
        }
        // Addresses in the VMCB and in nested tables would need the host's encryption bit.
        if cpu::has_encrypted_memory() {
            return Ok(Err(UnsupportedHost::EncryptedMemory));
        }
        // CPUID.1:ECX.OSXSAVE. Nobody has tried a processor with SVM but without XSAVE yet.
        if cpu::cpuid(1, 0).ecx & (1 << 27) == 0 {
            return Ok(Err(UnsupportedHost::Lacks("XSAVE")));
        }
        if features.asids < 2 {
            return Ok(Err(UnsupportedHost::Lacks("ASIDs")));
        }
        let mut msr = MsrPermissionMap::new()?;
        for m in [
            PassThrough::SysenterCs,
            PassThrough::SysenterEsp,
            PassThrough::SysenterEip,
            PassThrough::Star,
            PassThrough::Lstar,
            PassThrough::Cstar,
            PassThrough::SfMask,
            PassThrough::FsBase,
            PassThrough::GsBase,
            PassThrough::KernelGsBase,
        ] {
            msr.pass_through(m);
        }
        let nested_paging = nested_paging && features.nested_paging;
        let maps = PermissionMaps { msr, io: IoMap::new()?, nothing: KernelPages::new(0)?, nested_paging };
        let maps = Arc::new(maps, GFP_KERNEL)?;
        let cpus = areas(&features, &maps)?;
        let levels = if cpu::has_la57() { TableLevels::Five } else { TableLevels::Four };
        let host_mce = cpu::cr4() & Cr4::MCE.bits();
        Ok(Ok(Svm { features, host_mce, quirks: quirks(), cpus, maps, levels }))
    }
}

impl VendorBackend for Svm {
    type Vcpu = vcpu::SvmVcpu;
    type Format = Npt;

    const NAME: &'static str = "SVM";
    const VENDOR: u32 = VENDOR_SVM;
    // APM, "Nested Paging": they are read from memory.
    const HAS_PDPTES: bool = false;
    const SHOWS_CACHES: bool = false;

    #[inline(always)]
    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<SvmWindow<'a>> {
        let area = self.cpus.get(cpu.id() as usize)?;
        let fits = area.is_checked() || (features_of_this_cpu() == Some(self.features) && area.check(cpu));
        if fits {
            SvmWindow::open(area, cpu, self.quirks)
        } else {
            None
        }
    }

    fn new_vcpu(&self) -> Result<vcpu::SvmVcpu> {
        let vmcb = VmcbPage::new(self.maps.clone())?;
        vcpu::SvmVcpu::new(&self.features, self.host_mce, vmcb)
    }

    fn format(&self) -> Option<Npt> {
        let npt = Npt { levels: self.levels, gib_pages: false, encryption_mask: 0 };
        self.maps.nested_paging.then_some(npt)
    }
}
