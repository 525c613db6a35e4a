// SPDX-License-Identifier: GPL-2.0

//! What CPUID answers to a guest, and what it may be made to answer.
//!
//! [`supported`] is the policy: the host's leaves, cut down to what this module virtualizes. User
//! space takes that list, changes what it likes (topology, above all) and gives it to each vCPU as
//! its [`CpuidTable`]. The table is not checked: a guest that is told of features it does not have
//! harms itself only.
//!
//! Never offered: nested virtualization, MONITOR and MWAIT, performance counters, thermal and power
//! management, transactional memory, AMX, SGX, processor trace, control-flow enforcement, user
//! interrupts, and XSAVES, as no supervisor state is switched.

use crate::abi::sys::{CpuidEntry2, CPUID_FLAG_SIGNIFICANT_INDEX, MAX_CPUID_ENTRIES};
use crate::arch::cpuid::*;
use crate::arch::cr::{Cr4, CrRules, Xcr0};
use crate::arch::rule::rule;
use crate::arch::slice::count_first;
use crate::chipset::lapic::base::base_reserved;
use core::mem::swap;
use kernel::prelude::*;

/// The first leaf of KVM's paravirtual interface.
pub(crate) const KVM_SIGNATURE: u32 = 0x4000_0000;
/// The leaf of KVM's paravirtual features.
pub(crate) const KVM_FEATURES: u32 = 0x4000_0001;

/// What the first leaf says in EBX, ECX and EDX.
const KVM_NAME: [u32; 3] = signature(b"KVMKVMKVM\0\0\0");
/// Hypervisors begin their leaves below this one, at multiples of 0x100.
const LAST_SIGNATURE: u32 = 0x4001_0000;

/// The frequency of the local APIC's bus clock, as the guest is told it.
const APIC_BUS_HZ: u32 = 1_000_000_000;
/// Components of the extended state that leaf 0xD can describe.
const XSTATE_COMPONENTS: u32 = 63;

/// What decides which features guests are offered, beside the host's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuidInputs {
    /// Frequency of the guest's TSC in kHz.
    pub(crate) tsc_khz: u32,
    /// The processor walks the guest's page tables itself (NPT or EPT).
    pub(crate) hardware_paging: bool,
    /// The second-level tables take guest addresses of more than 48 bits, and CR4.LA57 is handled.
    pub(crate) la57: bool,
    /// The most bits of a guest physical address.
    pub(crate) max_phys_bits: u8,
    /// The components of extended state that are switched.
    pub(crate) xcr0: Xcr0,
    /// MSR TSC_AUX is switched.
    pub(crate) tsc_aux: bool,
    /// MSRs SPEC_CTRL and PRED_CMD are switched and passed on.
    pub(crate) spec_ctrl: bool,
    /// The local APIC is in the module.
    pub(crate) lapic: bool,
    /// The paravirtual features.
    pub(crate) pv: KvmFeatures,
}

impl Default for CpuidInputs {
    /// A module with nested paging that switches no MSR beyond the basic and has no paravirtual MSRs.
    fn default() -> CpuidInputs {
        CpuidInputs {
            tsc_khz: 0,
            hardware_paging: true,
            la57: false,
            max_phys_bits: 48,
            xcr0: Xcr0::all(),
            tsc_aux: false,
            spec_ctrl: false,
            lapic: true,
            pv: KvmFeatures::NOP_IO_DELAY,
        }
    }
}

/// Builds the answer to KVM_GET_SUPPORTED_CPUID; `host` executes CPUID with a leaf and a subleaf.
///
/// # Errors
/// `ENOMEM`.
pub(crate) fn supported(
    host: impl Fn(u32, u32) -> CpuidRegs,
    facts: &CpuidInputs,
) -> Result<KVec<CpuidEntry2>> {
    let leaf0 = host(0, 0);
    let mut list = CpuidBuilder {
        vendor: CpuVendor::of(leaf0),
        xcr0: supported_xcr0(host(0xd, 0), leaf0, facts),
        host,
        facts,
        out: KVec::with_capacity(MAX_CPUID_ENTRIES, GFP_KERNEL)?,
    };
    list.basic(leaf0)?;
    list.kvm()?;
    list.extended()?;
    Ok(list.out)
}

/// Returns the state components that both the host and the module have, made consistent.
fn supported_xcr0(leaf: CpuidRegs, leaf0: CpuidRegs, facts: &CpuidInputs) -> Xcr0 {
    if leaf0.eax < 0xd {
        return Xcr0::empty();
    }
    let both = facts.xcr0.intersection(Xcr0::from_bits_truncate(leaf.eax.into()));
    let avx512 = Xcr0::OPMASK | Xcr0::ZMM_HI256 | Xcr0::HI16_ZMM;
    match both.contains(avx512 | Xcr0::AVX) {
        true => both,
        false => both.difference(avx512),
    }
}

/// The list under construction.
struct CpuidBuilder<'a, H: Fn(u32, u32) -> CpuidRegs> {
    host: H,
    facts: &'a CpuidInputs,
    vendor: CpuVendor,
    xcr0: Xcr0,
    out: KVec<CpuidEntry2>,
}

impl<H: Fn(u32, u32) -> CpuidRegs> CpuidBuilder<'_, H> {
    fn leaf(&mut self, function: u32, regs: CpuidRegs) -> Result {
        Ok(self.out.push_within_capacity(CpuidEntry2::leaf(function, regs))?)
    }

    fn subleaf(&mut self, function: u32, index: u32, regs: CpuidRegs) -> Result {
        Ok(self.out.push_within_capacity(CpuidEntry2::subleaf(function, index, regs))?)
    }

    fn basic(&mut self, leaf0: CpuidRegs) -> Result {
        let last = leaf0.eax.min(if self.vendor == CpuVendor::Intel { 0x16 } else { 0xd });
        self.leaf(0, CpuidRegs { eax: last, ..leaf0 })?;
        for function in 1..=last {
            match function {
                1 => self.leaf(1, self.leaf1())?,
                2 => self.leaf(2, (self.host)(2, 0))?,
                4 => self.caches()?,
                // ARAT: the local APIC's timer never stops.
                6 => self.leaf(6, CpuidRegs { eax: 1 << 2, ..CpuidRegs::default() })?,
                7 => self.features7()?,
                0xb => self.topology()?,
                0xd => self.xstate()?,
                0x15 if self.facts.tsc_khz != 0 => self.leaf(0x15, self.crystal())?,
                0x16 if self.facts.tsc_khz != 0 => self.leaf(0x16, self.frequency())?,
                // What is left out reads as 0: the guest does not have it.
                _ => {}
            }
        }
        Ok(())
    }

    fn leaf1(&self) -> CpuidRegs {
        let host = (self.host)(1, 0);
        let mut ecx = F1Ecx::from_bits_truncate(host.ecx);
        // OSXSAVE follows CR4. The local APIC is the module's own, whatever the host's can do.
        ecx.remove(F1Ecx::MONITOR | F1Ecx::OSXSAVE | F1Ecx::X2APIC | F1Ecx::TSC_DEADLINE);
        ecx.insert(F1Ecx::HYPERVISOR);
        if !self.facts.hardware_paging {
            ecx.remove(F1Ecx::PCID);
        }
        if !self.xcr0.contains(Xcr0::X87) {
            ecx.remove(F1Ecx::XSAVE);
        }
        if !self.xcr0.contains(Xcr0::AVX) {
            ecx.remove(F1Ecx::AVX | F1Ecx::FMA | F1Ecx::F16C);
        }
        if self.facts.lapic {
            ecx.insert(F1Ecx::X2APIC | F1Ecx::TSC_DEADLINE);
        }
        CpuidRegs {
            eax: host.eax,
            // The cache line size for CLFLUSH; one logical processor, APIC id 0.
            ebx: host.ebx & 0xff00 | 1 << 16,
            ecx: ecx.bits(),
            edx: F1Edx::from_bits_truncate(host.edx).bits(),
        }
    }

    /// Deterministic cache parameters, each cache private to its core: user space knows better.
    fn caches(&mut self) -> Result {
        for index in 0..16 {
            let regs = (self.host)(4, index);
            if regs.eax & 0x1f == 0 {
                return self.subleaf(4, index, CpuidRegs::default());
            }
            self.subleaf(4, index, CpuidRegs { eax: regs.eax & 0x3fff, ..regs })?;
        }
        Ok(())
    }

    fn features7(&mut self) -> Result {
        let host = (self.host)(7, 0);
        let last = host.eax.min(2);
        let (mut ebx, mut ecx) =
            (F7Ebx::from_bits_truncate(host.ebx), F7Ecx::from_bits_truncate(host.ecx) & !F7Ecx::OSPKE);
        let mut edx = F7Edx::from_bits_truncate(host.edx);
        // The guest's TSC is the module's own, whatever the host's can do.
        ebx.insert(F7Ebx::TSC_ADJUST);
        if !self.facts.hardware_paging {
            ebx.remove(F7Ebx::INVPCID);
        }
        if !self.xcr0.contains(Xcr0::PKRU) || !self.facts.hardware_paging {
            ecx.remove(F7Ecx::PKU);
        }
        if !self.facts.la57 {
            ecx.remove(F7Ecx::LA57);
        }
        if !self.facts.tsc_aux {
            ecx.remove(F7Ecx::RDPID);
        }
        if !self.facts.spec_ctrl {
            edx.remove(F7Edx::SPEC_CTRL | F7Edx::STIBP | F7Edx::SSBD);
        }
        if !self.xcr0.contains(Xcr0::AVX) {
            ebx.remove(F7Ebx::AVX2);
            ecx.remove(F7Ecx::VAES | F7Ecx::VPCLMULQDQ);
        }
        let avx512 = self.xcr0.contains(Xcr0::OPMASK);
        if !avx512 {
            ebx.remove(AVX512_EBX);
            ecx.remove(AVX512_ECX);
            edx.remove(AVX512_EDX);
        }
        self.subleaf(7, 0, CpuidRegs { eax: last, ebx: ebx.bits(), ecx: ecx.bits(), edx: edx.bits() })?;
        if last >= 1 {
            let mut eax = F7s1Eax::from_bits_truncate((self.host)(7, 1).eax);
            if !self.xcr0.contains(Xcr0::AVX) {
                eax.remove(F7s1Eax::AVX_VNNI | F7s1Eax::AVX_IFMA);
            }
            if !avx512 {
                eax.remove(F7s1Eax::AVX512_BF16);
            }
            self.subleaf(7, 1, CpuidRegs { eax: eax.bits(), ..CpuidRegs::default() })?;
        }
        if last == 2 {
            let edx = F7s2Edx::from_bits_truncate((self.host)(7, 2).edx);
            let edx = if self.facts.spec_ctrl { edx.bits() } else { 0 };
            self.subleaf(7, 2, CpuidRegs { edx, ..CpuidRegs::default() })?;
        }
        Ok(())
    }

    /// Extended topology of a lone processor with APIC id 0: user space fills in the rest.
    fn topology(&mut self) -> Result {
        let level = |ebx, ecx| CpuidRegs { eax: 0, ebx, ecx, edx: 0 };
        self.subleaf(0xb, 0, level(1, 1 << 8))?;
        self.subleaf(0xb, 1, level(1, 2 << 8 | 1))?;
        self.subleaf(0xb, 2, level(0, 2))
    }

    fn xstate(&mut self) -> Result {
        if !self.xcr0.contains(Xcr0::X87) {
            return Ok(());
        }
        let at = self.out.len();
        let bits = self.xcr0.bits();
        self.subleaf(0xd, 0, CpuidRegs { eax: bits as u32, ebx: 0, ecx: 0, edx: (bits >> 32) as u32 })?;
        let eax = FDs1Eax::from_bits_truncate((self.host)(0xd, 1).eax).bits();
        self.subleaf(0xd, 1, CpuidRegs { eax, ..CpuidRegs::default() })?;
        for component in 2..XSTATE_COMPONENTS {
            if bits >> component & 1 == 0 {
                continue;
            }
            let host = (self.host)(0xd, component);
            // Bit 1 of ECX: aligned to 64 bytes in the compacted format. Bit 0 would be supervisor state.
            self.subleaf(0xd, component, CpuidRegs { ecx: host.ecx & 2, edx: 0, ..host })?;
        }
        let size = standard_size(self.out.get(at..).unwrap_or(&[]), bits);
        if let Some(entry) = self.out.get_mut(at) {
            entry.ebx = size;
            entry.ecx = size;
        }
        Ok(())
    }

    /// TSC and crystal clock: the crystal is the local APIC's bus clock, as Linux takes it for that.
    fn crystal(&self) -> CpuidRegs {
        CpuidRegs { eax: APIC_BUS_HZ / 1000, ebx: self.facts.tsc_khz, ecx: APIC_BUS_HZ, edx: 0 }
    }

    /// Base and maximum frequency in MHz.
    fn frequency(&self) -> CpuidRegs {
        let mhz = self.facts.tsc_khz.checked_div(1000).unwrap_or(0) & 0xffff;
        CpuidRegs { eax: mhz, ebx: mhz, ecx: 100, edx: 0 }
    }

    fn kvm(&mut self) -> Result {
        let [ebx, ecx, edx] = KVM_NAME;
        self.leaf(KVM_SIGNATURE, CpuidRegs { eax: KVM_FEATURES, ebx, ecx, edx })?;
        self.leaf(KVM_FEATURES, CpuidRegs { eax: self.facts.pv.bits(), ..CpuidRegs::default() })
    }

    fn extended(&mut self) -> Result {
        let first = (self.host)(0x8000_0000, 0);
        // A processor without extended leaves answers as for its highest basic one.
        if first.eax < 0x8000_0000 {
            return Ok(());
        }
        let last = first.eax.min(if self.vendor == CpuVendor::Amd { 0x8000_0021 } else { 0x8000_0008 });
        self.leaf(0x8000_0000, CpuidRegs { eax: last, ..first })?;
        for function in 0x8000_0001..=last {
            let host = (self.host)(function, 0);
            match function & 0xff {
                1 => self.leaf(function, self.extended1(host))?,
                // The brand string; caches and TLBs; large TLBs; width of the vector units.
                2..=6 | 0x19 | 0x1a => self.leaf(function, host)?,
                7 => {
                    let edx = FExt7Edx::from_bits_truncate(host.edx).bits();
                    self.leaf(function, CpuidRegs { edx, ..CpuidRegs::default() })?;
                }
                8 => self.leaf(function, self.extended8(host))?,
                0x21 => {
                    let eax = FExt21Eax::from_bits_truncate(host.eax).bits();
                    self.leaf(function, CpuidRegs { eax, ..CpuidRegs::default() })?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn extended1(&self, host: CpuidRegs) -> CpuidRegs {
        let mut ecx = FExtEcx::from_bits_truncate(host.ecx);
        let mut edx = FExtEdx::from_bits_truncate(host.edx);
        if !self.xcr0.contains(Xcr0::AVX) {
            ecx.remove(FExtEcx::XOP | FExtEcx::FMA4);
        }
        if !self.facts.tsc_aux {
            edx.remove(FExtEdx::RDTSCP);
        }
        if !self.facts.hardware_paging {
            edx.remove(FExtEdx::PAGE_1G);
        }
        // Intel's processors have these bits in leaf 1 alone.
        let repeated = match self.vendor {
            CpuVendor::Amd => host.edx & FExtEdx::REPEATED & F1Edx::all().bits(),
            CpuVendor::Intel => 0,
        };
        CpuidRegs { eax: host.eax, ebx: host.ebx, ecx: ecx.bits(), edx: edx.bits() | repeated }
    }

    /// Address widths, and some features. One thread, so no core count.
    fn extended8(&self, host: CpuidRegs) -> CpuidRegs {
        let phys = (host.eax & 0xff).min(self.facts.max_phys_bits.into());
        let linear = if self.facts.la57 { host.eax >> 8 & 0xff } else { 48 };
        let mut ebx = FExt8Ebx::from_bits_truncate(host.ebx);
        if !self.facts.spec_ctrl {
            ebx.remove(FExt8Ebx::IBPB | FExt8Ebx::IBRS | FExt8Ebx::STIBP | FExt8Ebx::SSBD | FExt8Ebx::PSFD);
        }
        CpuidRegs { eax: phys | linear << 8, ebx: ebx.bits(), ecx: 0, edx: 0 }
    }
}

const AVX512_EBX: F7Ebx = F7Ebx::AVX512F
    .union(F7Ebx::AVX512DQ)
    .union(F7Ebx::AVX512IFMA)
    .union(F7Ebx::AVX512PF)
    .union(F7Ebx::AVX512ER)
    .union(F7Ebx::AVX512CD)
    .union(F7Ebx::AVX512BW)
    .union(F7Ebx::AVX512VL);
const AVX512_ECX: F7Ecx = F7Ecx::AVX512_VBMI
    .union(F7Ecx::AVX512_VBMI2)
    .union(F7Ecx::AVX512_VNNI)
    .union(F7Ecx::AVX512_BITALG)
    .union(F7Ecx::AVX512_VPOPCNTDQ);
const AVX512_EDX: F7Edx = F7Edx::AVX512_4VNNIW
    .union(F7Edx::AVX512_4FMAPS)
    .union(F7Edx::AVX512_VP2INTERSECT)
    .union(F7Edx::AVX512_FP16);

/// Bytes of the legacy area and the header of an XSAVE image. SDM, "XSAVE Area".
const XSAVE_HEADER_END: u32 = 576;

/// Returns the bytes of a standard-format image with the components `xcr0`, by leaf 0xD's entries.
fn standard_size(entries: &[CpuidEntry2], xcr0: u64) -> u32 {
    let ends = components(entries, xcr0).map(|e| e.ebx.saturating_add(e.eax));
    ends.fold(XSAVE_HEADER_END, u32::max)
}

/// Returns the bytes of a compacted image with the components `xcr0`, by leaf 0xD's entries.
fn compacted_size(entries: &[CpuidEntry2], xcr0: u64) -> u32 {
    components(entries, xcr0).fold(XSAVE_HEADER_END, |at, e| {
        let start = if e.ecx & 2 != 0 { at.saturating_add(63) & !63 } else { at };
        start.saturating_add(e.eax)
    })
}

/// Returns the entries of the components in `xcr0` that lie behind the header.
fn components(entries: &[CpuidEntry2], xcr0: u64) -> impl Iterator<Item = &CpuidEntry2> {
    entries.iter().filter(move |e| {
        e.function == 0xd && (2..64).contains(&e.index) && xcr0.wrapping_shr(e.index) & 1 != 0
    })
}

/// What CPUID answers to one vCPU: the list that user space gave, and the bits that follow the
/// vCPU's state.
///
/// # Invariants
/// The first `sorted` of `order` are indices of `entries`, sorted by leaf, subleaf and position.
pub(crate) struct CpuidTable {
    entries: KVec<CpuidEntry2>,
    order: [u8; MAX_CPUID_ENTRIES],
    sorted: usize,
    vendor: CpuVendor,
    max_basic: u32,
    phys_bits: u32,
    /// The local APIC is not switched off by MSR APIC_BASE.
    apic_enabled: bool,
    /// Whether there are MONITOR and MWAIT, where that is not for the list to say.
    mwait: Option<bool>,
    /// What follows for the control registers.
    cr_rules: CrRules,
    /// What was asked lately and does not follow the vCPU's state.
    recent: [Option<(u32, u32, CpuidRegs)>; RECENT],
}

/// How many answers are remembered.
const RECENT: usize = 8;
/// The bits of a physical address of a processor without leaf 0x8000_0008.
const PHYS_BITS: u32 = 36;

impl CpuidTable {
    /// The table before user space gave one: everything is 0.
    pub(crate) const fn new() -> CpuidTable {
        CpuidTable {
            entries: KVec::new(),
            order: [0; MAX_CPUID_ENTRIES],
            sorted: 0,
            vendor: CpuVendor::Intel,
            max_basic: 0,
            phys_bits: PHYS_BITS,
            apic_enabled: true,
            mwait: None,
            cr_rules: CrRules::WITHOUT_CPUID,
            recent: [None; RECENT],
        }
    }

    /// The table of a list that user space gave. Of entries for the same subleaf the first counts.
    ///
    /// # Errors
    /// `E2BIG` for more than [`MAX_CPUID_ENTRIES`] entries, `ENOMEM`.
    pub(crate) fn from_entries(list: &[CpuidEntry2]) -> Result<CpuidTable> {
        if list.len() > MAX_CPUID_ENTRIES {
            return Err(E2BIG);
        }
        let mut entries = KVec::with_capacity(list.len(), GFP_KERNEL_ACCOUNT)?;
        for entry in list {
            entries.push_within_capacity(*entry)?;
        }
        let mut table = CpuidTable { entries, ..CpuidTable::new() };
        for (entry, i) in list.iter().zip(0u8..=u8::MAX) {
            table.insert(key(entry), i);
        }
        if let Some(leaf0) = table.find(0, 0).map(CpuidEntry2::regs) {
            table.vendor = CpuVendor::of(leaf0);
            table.max_basic = leaf0.eax;
        }
        if let Some(leaf) = table.find(0x8000_0008, 0) {
            table.phys_bits = leaf.eax & 0xff;
        }
        table.cr_rules =
            CrRules::of_cpuid(|leaf| table.find(leaf, 0).map_or_else(CpuidRegs::default, |e| e.regs()));
        debug_assert_eq!(table.check(), Ok(()));
        Ok(table)
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    fn check(&self) -> Result<(), &'static str> {
        rule(self.sorted == self.entries.len(), "the order has all entries")?;
        let place = |i: usize| self.order.get(i).zip(self.at(i)).map(|(place, e)| (key(e), *place));
        let sorted = (1..self.sorted).all(|i| place(i).is_some() && place(i.wrapping_sub(1)) < place(i));
        rule(sorted, "the order is by leaf, subleaf and position")
    }

    /// Puts entry `i` into the order, behind those with the same key.
    fn insert(&mut self, wanted: (u32, u32), i: u8) {
        let at = self.lower_bound(|k| k <= wanted);
        let mut carried = i;
        for slot in self.order.get_mut(at..self.sorted.wrapping_add(1)).unwrap_or(&mut []) {
            swap(slot, &mut carried);
        }
        self.sorted = self.sorted.wrapping_add(1);
    }

    /// Returns how many entries at the start of the order have keys for which `before` holds.
    fn lower_bound(&self, before: impl Fn((u32, u32)) -> bool) -> usize {
        count_first(self.sorted, |i| self.at(i).is_some_and(|e| before(key(e))))
    }

    /// Returns the list that user space gave, with the bits that follow the vCPU's state as they are now.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn entries_now(&self, cr4: u64, xcr0: u64) -> Result<KVec<CpuidEntry2>> {
        let mut entries = KVec::with_capacity(self.entries.len(), GFP_KERNEL_ACCOUNT)?;
        for e in &self.entries {
            entries.push_within_capacity(self.entry_now(e, cr4, xcr0))?;
        }
        Ok(entries)
    }

    /// Returns whether this list, in the place of the vCPU's own, would say the same of the processor, whatever it says
    /// of the vCPU's state.
    pub(crate) fn could_replace(&mut self, own: &CpuidTable, cr4: u64, xcr0: u64) -> bool {
        (self.apic_enabled, self.mwait) = (own.apic_enabled, own.mwait);
        let now = |table: &CpuidTable, e| {
            let e = table.entry_now(e, cr4, xcr0);
            (e.function, e.index, e.flags, e.regs())
        };
        self.entries.len() == own.entries.len()
            && self.entries.iter().zip(&own.entries).all(|(a, b)| now(self, a) == now(own, b))
    }

    fn entry_now(&self, e: &CpuidEntry2, cr4: u64, xcr0: u64) -> CpuidEntry2 {
        let mut regs = e.regs();
        self.apply_state(e, &mut regs, cr4, xcr0);
        CpuidEntry2 { eax: regs.eax, ebx: regs.ebx, ecx: regs.ecx, edx: regs.edx, ..*e }
    }

    /// Returns the bits of IA32_APIC_BASE that cannot be set.
    pub(crate) fn apic_base_reserved(&self) -> u64 {
        let has_x2apic = self.regs_of(1).ecx & F1Ecx::X2APIC.bits() != 0;
        base_reserved(self.phys_bits() as u8, has_x2apic)
    }

    /// Returns which values the control registers take.
    pub(crate) fn cr_rules(&self) -> &CrRules {
        &self.cr_rules
    }

    /// Returns whose processor it is.
    pub(crate) fn vendor(&self) -> CpuVendor {
        self.vendor
    }

    /// Returns whether MSR TSC_AUX is offered: by RDTSCP or RDPID, which read it.
    pub(crate) fn has_tsc_aux(&self) -> bool {
        self.regs_of(0x8000_0001).edx & FExtEdx::RDTSCP.bits() != 0
            || self.regs_of(7).ecx & F7Ecx::RDPID.bits() != 0
    }

    /// Returns whether MSR TSC_ADJUST is offered.
    pub(crate) fn has_tsc_adjust(&self) -> bool {
        self.regs_of(7).ebx & F7Ebx::TSC_ADJUST.bits() != 0
    }

    /// Returns the paravirtual features that are offered: those behind KVM's signature, wherever that is among the
    /// leaves of hypervisors.
    pub(crate) fn pv_features(&self) -> KvmFeatures {
        KvmFeatures::from_bits_retain(self.pv_leaf().map_or(0, |leaf| self.regs_of(leaf).eax))
    }

    /// Takes back what user space's list offers of them.
    pub(crate) fn withdraw_pv(&mut self, features: KvmFeatures) {
        let leaf = self.pv_leaf();
        if let Some(entry) = self.entries.iter_mut().find(|e| Some(e.function) == leaf) {
            entry.eax &= !features.bits();
        }
    }

    /// Returns the leaf that they are in.
    fn pv_leaf(&self) -> Option<u32> {
        let base = (KVM_SIGNATURE..LAST_SIGNATURE).step_by(0x100).find(|base| {
            let CpuidRegs { ebx, ecx, edx, .. } = self.regs_of(*base);
            [ebx, ecx, edx] == KVM_NAME
        })?;
        Some(base | KVM_FEATURES)
    }

    /// Returns the first subleaf of a leaf as user space gave it, zeros for none.
    pub(crate) fn regs_of(&self, function: u32) -> CpuidRegs {
        self.find(function, 0).map_or_else(CpuidRegs::default, |e| e.regs())
    }

    /// Tells whether the local APIC is switched on by MSR APIC_BASE: a bit of leaf 1 follows.
    pub(crate) fn set_apic_enabled(&mut self, on: bool) {
        self.apic_enabled = on;
    }

    /// Sets whether there are MONITOR and MWAIT; `None`: as the list says. A bit of leaf 1 follows.
    pub(crate) fn set_mwait(&mut self, on: Option<bool>) {
        self.mwait = on;
    }

    /// Returns whether there are MONITOR and MWAIT.
    pub(crate) fn has_mwait(&self) -> bool {
        self.mwait.unwrap_or_else(|| self.regs_of(1).ecx & F1Ecx::MONITOR.bits() != 0)
    }

    /// Returns whether there are the instructions of SSE3.
    pub(crate) fn has_sse3(&self) -> bool {
        self.regs_of(1).ecx & F1Ecx::SSE3.bits() != 0
    }

    /// Returns what [`CpuidTable::query`] does for any state of the vCPU, if that is remembered.
    #[inline(always)]
    pub(crate) fn recall(&self, function: u32, index: u32) -> Option<&CpuidRegs> {
        match self.recent.get(place(function))? {
            Some((f, i, regs)) if *f == function && *i == index => Some(regs),
            _ => None,
        }
    }

    /// Remembers the answer `regs` of [`CpuidTable::query`], if it is the same for any state.
    pub(crate) fn remember(&mut self, function: u32, index: u32, regs: CpuidRegs) {
        // A leaf that does not exist may give another one that follows the state.
        let follows = |f: u32| matches!(f, 1 | 7 | 0xd);
        let exists = self.find(function, index).is_some();
        if let Some(slot) = self.recent.get_mut(place(function)).filter(|_| exists && !follows(function)) {
            *slot = Some((function, index, regs));
        }
    }

    /// Returns what CPUID gives for EAX = `function` and ECX = `index`.
    ///
    /// For a leaf that does not exist, Intel's processors give the highest basic leaf, AMD's 0.
    #[inline]
    pub(crate) fn query(&self, function: u32, index: u32, cr4: u64, xcr0: u64) -> CpuidRegs {
        let Some(entry) = self.find(function, index).or_else(|| self.find_out_of_range(function, index))
        else {
            return self.missing_subleaf(function, index);
        };
        let mut regs = entry.regs();
        self.apply_state(entry, &mut regs, cr4, xcr0);
        regs
    }

    /// Returns the bits of a guest physical address by leaf 0x8000_0008.
    #[inline]
    pub(crate) fn phys_bits(&self) -> u32 {
        self.phys_bits
    }

    fn at(&self, position: usize) -> Option<&CpuidEntry2> {
        self.order.get(..self.sorted)?.get(position).and_then(|&i| self.entries.get(usize::from(i)))
    }

    /// Returns the entry of a leaf, or of a subleaf where the leaf has them.
    fn find(&self, function: u32, index: u32) -> Option<&CpuidEntry2> {
        let first = self.at(self.lower_bound(|k| k < (function, 0))).filter(|e| e.function == function)?;
        if !first.has_index() {
            return Some(first);
        }
        self.at(self.lower_bound(|k| k < (function, index))).filter(|e| key(e) == (function, index))
    }

    fn find_out_of_range(&self, function: u32, index: u32) -> Option<&CpuidEntry2> {
        // A leaf that is there is in range, whichever of its subleaves is missing.
        if self.vendor == CpuVendor::Amd || self.find(function, 0).is_some() {
            return None;
        }
        let class = match function {
            0x4000_0000..=0x4fff_ffff => function & 0xffff_ff00,
            _ => function & 0x8000_0000,
        };
        match self.find(class, 0) {
            // Within its class: user space has left the leaf out, and it reads as 0.
            Some(head) if function <= head.eax => None,
            _ => self.find(self.max_basic, index),
        }
    }

    /// Returns the answer where no entry is: 0, but topology leaves repeat the level and the APIC id.
    fn missing_subleaf(&self, function: u32, index: u32) -> CpuidRegs {
        match (function, self.find(function, 0)) {
            (0xb | 0x1f, Some(level0)) => CpuidRegs { eax: 0, ebx: 0, ecx: index & 0xff, edx: level0.edx },
            _ => CpuidRegs::default(),
        }
    }

    /// Sets the bits that follow the vCPU's state.
    fn apply_state(&self, entry: &CpuidEntry2, regs: &mut CpuidRegs, cr4: u64, xcr0: u64) {
        let set = |word: &mut u32, bit: u32, on: bool| *word = if on { *word | bit } else { *word & !bit };
        let cr4 = Cr4::from_bits_retain(cr4);
        match (entry.function, entry.index) {
            (1, _) => {
                let has_xsave = regs.ecx & F1Ecx::XSAVE.bits() != 0;
                set(&mut regs.ecx, F1Ecx::OSXSAVE.bits(), has_xsave && cr4.contains(Cr4::OSXSAVE));
                if let Some(on) = self.mwait {
                    set(&mut regs.ecx, F1Ecx::MONITOR.bits(), on);
                }
                if !self.apic_enabled {
                    regs.edx &= !F1Edx::APIC.bits();
                }
            }
            (7, 0) => {
                let has_pku = regs.ecx & F7Ecx::PKU.bits() != 0;
                set(&mut regs.ecx, F7Ecx::OSPKE.bits(), has_pku && cr4.contains(Cr4::PKE));
            }
            (0xd, 0) => regs.ebx = standard_size(&self.entries, xcr0),
            (0xd, 1) if regs.eax & FDs1Eax::XSAVEC.bits() != 0 => {
                regs.ebx = compacted_size(&self.entries, xcr0);
            }
            _ => {}
        }
    }
}

/// Returns the place of a leaf among the remembered ones.
#[inline(always)]
fn place(function: u32) -> usize {
    // The classes differ in their highest bits.
    (function ^ function.wrapping_shr(28)) as usize % RECENT
}

/// Returns what entries are sorted by.
fn key(e: &CpuidEntry2) -> (u32, u32) {
    (e.function, if e.has_index() { e.index } else { 0 })
}

impl CpuidEntry2 {
    /// An entry of a leaf without subleaves.
    pub(crate) const fn leaf(function: u32, regs: CpuidRegs) -> CpuidEntry2 {
        let CpuidRegs { eax, ebx, ecx, edx } = regs;
        CpuidEntry2 { function, index: 0, flags: 0, eax, ebx, ecx, edx, padding: [0; 3] }
    }

    /// An entry of one subleaf.
    pub(crate) const fn subleaf(function: u32, index: u32, regs: CpuidRegs) -> CpuidEntry2 {
        let mut entry = CpuidEntry2::leaf(function, regs);
        entry.index = index;
        entry.flags = CPUID_FLAG_SIGNIFICANT_INDEX;
        entry
    }

    /// Returns the four registers.
    pub(crate) const fn regs(&self) -> CpuidRegs {
        CpuidRegs { eax: self.eax, ebx: self.ebx, ecx: self.ecx, edx: self.edx }
    }
}
