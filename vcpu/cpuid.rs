// SPDX-License-Identifier: GPL-2.0

//! What CPUID answers: the table that user space set, and the bits that follow the vCPU's state.

use crate::arch::cpuid::CpuidRegs;
use crate::arch::cr::Cr4;
use crate::kvm::abi::sys::CpuidEntry2;
use kernel::prelude::*;

/// What decides which features guests are offered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// Frequency of the TSC.
    pub(crate) tsc_khz: u32,
}

/// The guest's leaves.
pub(crate) struct CpuidTable {
    entries: KVec<CpuidEntry2>,
}

impl CpuidTable {
    /// No leaves.
    pub(crate) fn new() -> CpuidTable {
        CpuidTable { entries: KVec::new() }
    }

    /// The leaves of KVM_SET_CPUID2.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn from_entries(entries: &[CpuidEntry2]) -> Result<CpuidTable> {
        let mut v = KVec::new();
        v.extend_from_slice(entries, GFP_KERNEL_ACCOUNT)?;
        Ok(CpuidTable { entries: v })
    }

    /// Returns the leaves.
    pub(crate) fn entries(&self) -> &[CpuidEntry2] {
        &self.entries
    }

    fn find(&self, function: u32, index: u32) -> Option<&CpuidEntry2> {
        self.entries.iter().find(|e| e.function == function && (!e.has_index() || e.index == index))
    }

    /// Answers CPUID.
    pub(crate) fn query(&self, function: u32, index: u32, cr4: u64, xcr0: u64) -> CpuidRegs {
        let Some(e) = self.find(function, index) else { return CpuidRegs::default() };
        let mut r = e.regs();
        match function {
            1 => {
                r.ecx &= !(1 << 27);
                if cr4 & Cr4::OSXSAVE.bits() != 0 {
                    r.ecx |= 1 << 27;
                }
            }
            7 if index == 0 => {
                r.ecx &= !(1 << 4);
                if cr4 & Cr4::PKE.bits() != 0 {
                    r.ecx |= 1 << 4;
                }
            }
            0xd if index == 0 => r.ebx = self.xsave_size(xcr0),
            _ => {}
        }
        r
    }

    fn xsave_size(&self, xcr0: u64) -> u32 {
        let mut size = 576;
        for e in self.entries.iter().filter(|e| e.function == 0xd && e.index >= 2 && e.index < 64) {
            if xcr0 & (1 << e.index) != 0 {
                size = size.max(e.eax.saturating_add(e.ebx));
            }
        }
        size
    }
}

/// What GET_SUPPORTED_CPUID answers.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn supported(host: impl Fn(u32, u32) -> CpuidRegs, facts: &Facts) -> Result<KVec<CpuidEntry2>> {
    let mut out = KVec::new();
    let mut put = |e: CpuidEntry2| out.push(e, GFP_KERNEL);
    let max = host(0, 0).eax.min(0x1f);
    put(CpuidEntry2::leaf(0, CpuidRegs { eax: max.min(0xd), ..host(0, 0) }))?;
    let mut l1 = host(1, 0);
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, PDCM, DCA, OSXSAVE go; x2APIC, TSC deadline, hypervisor come.
    l1.ecx &= !((1 << 2)
        | (1 << 3)
        | (1 << 4)
        | (1 << 5)
        | (1 << 6)
        | (1 << 7)
        | (1 << 8)
        | (1 << 15)
        | (1 << 18)
        | (1 << 27));
    l1.ecx |= (1 << 21) | (1 << 24) | (1 << 31);
    // DS, ACPI, SS, TM, PBE.
    l1.edx &= !((1 << 21) | (1 << 22) | (1 << 29) | (1 << 31));
    put(CpuidEntry2::leaf(1, l1))?;
    let mut l7 = host(7, 0);
    l7.eax = 0;
    // FSGSBASE BMI1 AVX2 SMEP BMI2 ERMS INVPCID AVX512* RDSEED ADX SMAP CLFLUSHOPT CLWB SHA
    l7.ebx &= 0xfbed_27a9 & !(1 << 25) & !(1 << 2) & !(1 << 4) & !(1 << 11) & !(1 << 12) & !(1 << 15);
    // UMIP, PKU is left out, VAES, VPCLMULQDQ, RDPID
    l7.ecx &= (1 << 1)
        | (1 << 2)
        | (1 << 6)
        | (1 << 8)
        | (1 << 9)
        | (1 << 10)
        | (1 << 11)
        | (1 << 12)
        | (1 << 14)
        | (1 << 22);
    l7.edx &= 1 << 4;
    put(CpuidEntry2::subleaf(7, 0, l7))?;
    let xcr0 = crate::host::fpu::supported_xcr0().bits();
    let mut d0 = host(0xd, 0);
    d0.eax = xcr0 as u32;
    d0.edx = 0;
    d0.ebx = 576;
    let mut size = 576;
    for i in 2..64u32 {
        if xcr0 & (1 << i) != 0 {
            let r = host(0xd, i);
            size = size.max(r.eax.saturating_add(r.ebx));
        }
    }
    d0.ecx = size;
    put(CpuidEntry2::subleaf(0xd, 0, d0))?;
    let d1 = CpuidRegs { eax: host(0xd, 1).eax & 0x7, ..CpuidRegs::default() };
    put(CpuidEntry2::subleaf(0xd, 1, d1))?;
    for i in 2..64u32 {
        if xcr0 & (1 << i) != 0 {
            put(CpuidEntry2::subleaf(0xd, i, CpuidRegs { ecx: 0, edx: 0, ..host(0xd, i) }))?;
        }
    }
    put(CpuidEntry2::leaf(
        0x4000_0000,
        CpuidRegs { eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d },
    ))?;
    // NOP_IO_DELAY.
    put(CpuidEntry2::leaf(0x4000_0001, CpuidRegs { eax: 1 << 1, ..CpuidRegs::default() }))?;
    let _ = facts;
    put(CpuidEntry2::leaf(0x8000_0000, CpuidRegs { eax: 0x8000_0008, ..host(0x8000_0000, 0) }))?;
    let mut e1 = host(0x8000_0001, 0);
    // LAHF, ABM, SSE4A, MISALIGNSSE, 3DNOWPREFETCH; not SVM.
    e1.ecx &= (1 << 0) | (1 << 5) | (1 << 6) | (1 << 7) | (1 << 8);
    put(CpuidEntry2::leaf(0x8000_0001, e1))?;
    for l in 0x8000_0002..=0x8000_0006 {
        put(CpuidEntry2::leaf(l, host(l, 0)))?;
    }
    // Invariant TSC.
    put(CpuidEntry2::leaf(
        0x8000_0007,
        CpuidRegs { edx: host(0x8000_0007, 0).edx & (1 << 8), ..CpuidRegs::default() },
    ))?;
    let w = host(0x8000_0008, 0);
    put(CpuidEntry2::leaf(0x8000_0008, CpuidRegs { eax: w.eax & 0xffff, ..CpuidRegs::default() }))?;
    Ok(out)
}
