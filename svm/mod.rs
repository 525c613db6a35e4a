// SPDX-License-Identifier: GPL-2.0

//! AMD's Secure Virtual Machine extension as a backend.
//!
//! | file | holds |
//! |---|---|
//! | [`vmcb`] | the layout of the control block |
//! | [`region`] | the pages shared with the processor, and the window of root operation |
//! | [`asm`] | the instructions; enter.S has the world switch |
//! | [`exit`] | exit codes to typed exits |
//! | [`vcpu`] | one virtual processor |

#![deny(unsafe_code)]

mod asm;
mod exit;
mod region;
mod vcpu;
mod vmcb;

use crate::arch::cpuid::CpuidRegs;
use crate::arch::msr::VM_CR;
use crate::host::cpu::{self, PinnedCpu};
use crate::kvm::abi::rvmm::VENDOR_SVM;
use crate::mmu::format::{Levels, Npt};
use crate::vcpu::backend::{Backend, Unsupported};
use kernel::prelude::*;
use kernel::sync::Arc;
use region::{CpuArea, IoMap, Maps, MsrMap, PassThrough, VmcbPage, Window, SVMDIS};

/// What the processor's SVM can do. APM, "CPUID Fn8000_000A".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Features {
    asids: u32,
    nested_paging: bool,
    next_rip: bool,
    flush_by_asid: bool,
    decode_assist: bool,
}

impl Features {
    /// Reads them with `cpuid`, which executes that instruction. `None` for a processor without SVM.
    fn of(cpuid: impl Fn(u32) -> CpuidRegs) -> Option<Features> {
        if cpuid(0x8000_0000).eax < 0x8000_000a || cpuid(0x8000_0001).ecx & 4 == 0 {
            return None;
        }
        let svm = cpuid(0x8000_000a);
        Some(Features {
            asids: svm.ebx,
            nested_paging: svm.edx & 1 != 0,
            next_rip: svm.edx & (1 << 3) != 0,
            flush_by_asid: svm.edx & (1 << 6) != 0,
            decode_assist: svm.edx & (1 << 7) != 0,
        })
    }

    fn of_this_cpu() -> Option<Features> {
        Features::of(|leaf| cpu::cpuid(leaf, 0))
    }

    /// Checks that CPU `id` is like the one that was probed. One that is offline is checked when its
    /// first window opens.
    fn check(&self, id: u32) -> core::result::Result<(), Unsupported> {
        if cpu::cpuid_on(id, 0, 0).is_err() {
            return Ok(());
        }
        let there = Features::of(|leaf| cpu::cpuid_on(id, leaf, 0).unwrap_or_default());
        match cpu::rdmsr_on(id, VM_CR) {
            _ if there != Some(*self) => Err(Unsupported::MixedCpus),
            Ok(v) if v & SVMDIS != 0 => Err(Unsupported::Firmware),
            Ok(_) => Ok(()),
            Err(_) => Err(Unsupported::MixedCpus),
        }
    }
}

/// SVM on this machine.
pub(crate) struct Svm {
    features: Features,
    cpus: KVec<CpuArea>,
    maps: Arc<Maps>,
    levels: Levels,
}

impl Svm {
    /// Probes every CPU and allocates what each needs.
    ///
    /// # Errors
    /// The reason why this machine cannot run guests, or the host's error.
    pub(crate) fn new() -> Result<core::result::Result<Svm, Unsupported>> {
        let Some(features) = Features::of_this_cpu() else { return Ok(Err(Unsupported::NoExtension)) };
        for id in 0..cpu::limit() {
            if let Err(why) = features.check(id) {
                return Ok(Err(why));
            }
        }
        // Addresses in the VMCB and in nested tables would need the host's encryption bit.
        if cpu::has_encrypted_memory() {
            return Ok(Err(Unsupported::EncryptedMemory));
        }
        // CPUID.1:ECX.OSXSAVE. Nobody has tried a processor with SVM but without XSAVE yet.
        if cpu::cpuid(1, 0).ecx & (1 << 27) == 0 {
            return Ok(Err(Unsupported::Lacks("XSAVE")));
        }
        if !features.nested_paging {
            return Ok(Err(Unsupported::Lacks("nested paging")));
        }
        if features.asids < 2 {
            return Ok(Err(Unsupported::Lacks("ASIDs")));
        }
        let mut msr = MsrMap::new()?;
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
        let mut cpus = KVec::with_capacity(cpu::limit() as usize, GFP_KERNEL)?;
        for id in 0..cpu::limit() {
            cpus.push_within_capacity(CpuArea::new(id, features.asids.saturating_sub(1))?)?;
        }
        let maps = Arc::new(Maps { msr, io: IoMap::new()? }, GFP_KERNEL)?;
        let levels = if cpu::has_la57() { Levels::Five } else { Levels::Four };
        Ok(Ok(Svm { features, cpus, maps, levels }))
    }
}

impl Backend for Svm {
    type Vcpu = vcpu::SvmVcpu;
    type Format = Npt;
    type Window<'a> = Window<'a>;

    const VENDOR: u32 = VENDOR_SVM;

    fn name(&self) -> &'static str {
        "SVM"
    }

    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<Window<'a>> {
        let area = self.cpus.get(cpu.id() as usize)?;
        let fits = area.is_checked() || (Features::of_this_cpu() == Some(self.features) && area.check(cpu));
        fits.then(|| Window::open(area, cpu))
    }

    fn new_vcpu(&self) -> Result<vcpu::SvmVcpu> {
        Ok(vcpu::SvmVcpu::new(self, VmcbPage::new(self.maps.clone())?))
    }

    fn format(&self) -> Npt {
        Npt { levels: self.levels, gib_pages: false, encryption_mask: 0 }
    }
}
