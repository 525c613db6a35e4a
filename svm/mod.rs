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

use crate::arch::msr::VM_CR;
use crate::host::cpu::{self, PinnedCpu};
use crate::mmu::format::{Levels, Npt};
use crate::vcpu::backend::{Backend, Unsupported};
use kernel::prelude::*;
use kernel::sync::Arc;
use region::{CpuArea, IoMap, Maps, MsrMap, PassThrough, VmcbPage, Window};

/// VM_CR.SVMDIS. APM, "VM_CR MSR".
const SVMDIS: u64 = 1 << 4;

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
    fn of_this_cpu() -> Option<Features> {
        let svm = cpuid(0x8000_0000)?.0 >= 0x8000_000a && cpuid(0x8000_0001)?.2 & 4 != 0;
        if !svm {
            return None;
        }
        let (_, ebx, _, edx) = cpuid(0x8000_000a)?;
        Some(Features {
            asids: ebx,
            nested_paging: edx & 1 != 0,
            next_rip: edx & (1 << 3) != 0,
            flush_by_asid: edx & (1 << 6) != 0,
            decode_assist: edx & (1 << 7) != 0,
        })
    }
}

fn cpuid(leaf: u32) -> Option<(u32, u32, u32, u32)> {
    let r = crate::host::cpu::cpuid(leaf, 0);
    Some((r.eax, r.ebx, r.ecx, r.edx))
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
            match cpu::rdmsr_on(id, VM_CR) {
                Ok(v) if v & SVMDIS != 0 => return Ok(Err(Unsupported::Firmware)),
                Ok(_) => {}
                Err(e) if e == ENXIO => {}
                Err(_) => return Ok(Err(Unsupported::MixedCpus)),
            }
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

    fn name(&self) -> &'static str {
        "SVM"
    }

    fn open<'a>(&'a self, cpu: &'a PinnedCpu) -> Option<Window<'a>> {
        Some(Window::open(self.cpus.get(cpu.id() as usize)?, cpu))
    }

    fn new_vcpu(&self) -> Result<vcpu::SvmVcpu> {
        Ok(vcpu::SvmVcpu::new(self, VmcbPage::new(self.maps.clone())?))
    }

    fn format(&self) -> Npt {
        Npt { levels: self.levels, gib_pages: false, encryption_mask: 0 }
    }
}
