// SPDX-License-Identifier: GPL-2.0

//! What a processor's SVM can do, and whether a CPU may run guests. Pure.

use crate::arch::cpuid::{CpuidRegs, F1Ecx};

/// VM_CR.SVMDIS. APM, "VM_CR MSR".
const SVMDIS: u64 = 1 << 4;

/// What the processor's SVM can do. APM, "CPUID Fn8000_000A".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SvmFeatures {
    /// Address space identifiers, the host's included.
    pub(crate) asids: u32,
    /// Nested paging.
    pub(crate) nested_paging: bool,
    /// The VMCB tells the next RIP.
    pub(crate) next_rip: bool,
    /// The TLB can be flushed for one ASID.
    pub(crate) flush_by_asid: bool,
    /// The VMCB tells the instruction's bytes.
    pub(crate) decode_assist: bool,
}

/// What is to be said of one CPU beside the one that was probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FeatureFit {
    /// It is like the other.
    Alike,
    /// Its SVM is another one, or it has none.
    Differs,
    /// The firmware switched its SVM off.
    SwitchedOff,
}

impl SvmFeatures {
    /// Reads them with `cpuid`, which executes that instruction. `None` for a processor without SVM.
    pub(crate) fn of(cpuid: impl Fn(u32) -> CpuidRegs) -> Option<SvmFeatures> {
        if cpuid(0x8000_0000).eax < 0x8000_000a || cpuid(0x8000_0001).ecx & 4 == 0 {
            return None;
        }
        let svm = cpuid(0x8000_000a);
        Some(SvmFeatures {
            asids: svm.ebx,
            nested_paging: svm.edx & 1 != 0,
            next_rip: svm.edx & (1 << 3) != 0,
            flush_by_asid: svm.edx & (1 << 6) != 0,
            decode_assist: svm.edx & (1 << 7) != 0,
        })
    }

    /// Compares with a CPU that has the features `there` and the VM_CR `vm_cr`; `None` for one without.
    pub(crate) fn fit(&self, there: Option<SvmFeatures>, vm_cr: Option<u64>) -> FeatureFit {
        match vm_cr {
            _ if there != Some(*self) => FeatureFit::Differs,
            None => FeatureFit::Differs,
            Some(vm_cr) if is_switched_off(vm_cr) => FeatureFit::SwitchedOff,
            Some(_) => FeatureFit::Alike,
        }
    }
}

/// Returns whether XSAVES and IA32_XSS exist and are in use, with `cpuid`, which executes that instruction with a
/// leaf and a subleaf.
pub(crate) fn has_xss(cpuid: impl Fn(u32, u32) -> CpuidRegs) -> bool {
    let uses_xsave = F1Ecx::from_bits_retain(cpuid(1, 0).ecx).contains(F1Ecx::OSXSAVE);
    // XSAVES.
    uses_xsave && cpuid(0, 0).eax >= 0xd && cpuid(0xd, 1).eax & (1 << 3) != 0
}

/// Returns whether a VM_CR forbids SVM.
pub(crate) fn is_switched_off(vm_cr: u64) -> bool {
    vm_cr & SVMDIS != 0
}
