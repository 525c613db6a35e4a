// SPDX-License-Identifier: GPL-2.0

//! Control registers, EFER, XCR0 and RFLAGS as bit sets.
//!
//! SDM, "Control Registers", "EFLAGS Register"; APM, "Extended Feature Enable Register (EFER)".
//!
//! [`CrRules`] is the one place that says which values a guest's control registers and EFER take: exits of
//! both backends, the emulator, WRMSR and the ioctls ask it. What is allowed follows the guest's CPUID.

use super::cpuid::{CpuidRegs, F1Ecx, F7Ebx, F7Ecx, FExtEdx};

bitflags::bitflags! {
    /// CR0.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Cr0: u64 {
        /// Protection enable.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulation: no x87.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type; always one.
        const ET = 1 << 4;
        /// Numeric error.
        const NE = 1 << 5;
        /// Write protect.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
    }

    /// CR4.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at CPL 0.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// 4 MiB pages.
        const PSE = 1 << 4;
        /// Physical address extension.
        const PAE = 1 << 5;
        /// Machine-check enable.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at any CPL.
        const PCE = 1 << 8;
        /// FXSAVE and SSE.
        const OSFXSR = 1 << 9;
        /// Unmasked SIMD exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// 5-level paging.
        const LA57 = 1 << 12;
        /// VMX enable.
        const VMXE = 1 << 13;
        /// RDFSBASE and friends.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
        /// Protection keys for user pages.
        const PKE = 1 << 22;
        /// Control-flow enforcement.
        const CET = 1 << 23;
        /// Protection keys for supervisor pages.
        const PKS = 1 << 24;
        /// Flexible return and event delivery.
        const FRED = 1 << 32;
    }

    /// EFER.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Efer: u64 {
        /// SYSCALL enable.
        const SCE = 1 << 0;
        /// Long mode enable.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute enable.
        const NXE = 1 << 11;
        /// Secure virtual machine enable.
        const SVME = 1 << 12;
        /// Long mode segment limit enable.
        const LMSLE = 1 << 13;
        /// Fast FXSAVE and FXRSTOR.
        const FFXSR = 1 << 14;
        /// Translation cache extension.
        const TCE = 1 << 15;
        /// Automatic IBRS.
        const AUTOIBRS = 1 << 21;
    }

    /// RFLAGS.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const ONE = 1 << 1;
        /// Parity.
        const PF = 1 << 2;
        /// Auxiliary carry.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: single step.
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction: string instructions go down.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, both bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: suppresses instruction breakpoints once.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check; SMAP override.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID exists.
        const ID = 1 << 21;
    }

    /// XCR0: the state components that XSAVE manages. SDM, "Extended Control Registers".
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Xcr0: u64 {
        /// x87; always one.
        const X87 = 1 << 0;
        /// XMM registers and MXCSR.
        const SSE = 1 << 1;
        /// High halves of YMM.
        const AVX = 1 << 2;
        /// AVX-512 opmask.
        const OPMASK = 1 << 5;
        /// AVX-512: high halves of ZMM0 to ZMM15.
        const ZMM_HI256 = 1 << 6;
        /// AVX-512: ZMM16 to ZMM31.
        const HI16_ZMM = 1 << 7;
        /// Protection key rights.
        const PKRU = 1 << 9;
    }
}

impl Xcr0 {
    const AVX512: Xcr0 = Xcr0::OPMASK.union(Xcr0::ZMM_HI256).union(Xcr0::HI16_ZMM);

    /// Returns whether XSETBV would take this value on a processor that supports all its bits.
    ///
    /// SDM, "XSAVE-Supported Features and State-Component Bitmaps".
    pub(crate) fn is_consistent(self) -> bool {
        let avx = self.contains(Xcr0::AVX);
        let avx512 = self.intersection(Xcr0::AVX512);
        self.contains(Xcr0::X87)
            && (!avx || self.contains(Xcr0::SSE))
            && (avx512.is_empty() || (avx512 == Xcr0::AVX512 && avx))
    }
}

/// Bits of CR0 whose change loads the PDPTEs. SDM, "PDPTE Registers".
const CR0_LOADS: u64 = Cr0::CD.union(Cr0::NW).union(Cr0::PG).bits();
/// As [`CR0_LOADS`], of CR4.
const CR4_LOADS: u64 = Cr4::PAE.union(Cr4::PGE).union(Cr4::PSE).union(Cr4::SMEP).bits();
/// The PCID in CR3.
const CR3_PCID: u64 = 0xfff;
/// In a value for CR3, with PCIDs: translations of the PCID stay. Not kept.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// The bits of CR3 that name PAE's directory pointers.
const CR3_PDPT: u64 = 0xffff_ffe0;

/// The registers that decide what another value of one of them means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CrState {
    /// CR0.
    pub(crate) cr0: u64,
    /// CR3.
    pub(crate) cr3: u64,
    /// CR4.
    pub(crate) cr4: u64,
    /// EFER.
    pub(crate) efer: u64,
    /// CS.L: the code segment is one of 64-bit code in IA-32e mode.
    pub(crate) cs_long: bool,
}

impl CrState {
    /// Returns whether PAE paging is on, the mode with directory pointers in registers.
    pub(crate) fn is_pae_paging(&self) -> bool {
        let on = self.cr0 & Cr0::PG.bits() != 0 && self.cr4 & Cr4::PAE.bits() != 0;
        on && self.efer & Efer::LMA.bits() == 0
    }

    /// Returns where PAE's four directory pointers lie in guest physical memory.
    pub(crate) fn pdpt(&self) -> u64 {
        self.cr3 & CR3_PDPT
    }

    fn is_paging(&self) -> bool {
        self.cr0 & Cr0::PG.bits() != 0
    }

    fn is_long(&self) -> bool {
        self.efer & Efer::LMA.bits() != 0
    }
}

/// What a write that the processor takes comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrWrite {
    /// The registers after it.
    pub(crate) state: CrState,
    /// It loads the PDPTEs from memory, which must be as [`CrRules::are_pdptes`] wants them.
    pub(crate) loads_pdptes: bool,
}

/// The processor does not take the value: #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadCr;

/// Which values the control registers of a guest take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrRules {
    /// Bits of CR4 that may be set.
    cr4: Cr4,
    /// Bits of EFER that may be set.
    efer: Efer,
    /// Bits of a guest physical address.
    phys_bits: u32,
}

impl CrRules {
    /// Bits of CR4 that no bit of CPUID hides, as KVM has it: old processors' features, and MCE.
    const CR4_ALWAYS: Cr4 = Cr4::VME
        .union(Cr4::PVI)
        .union(Cr4::TSD)
        .union(Cr4::DE)
        .union(Cr4::PSE)
        .union(Cr4::PAE)
        .union(Cr4::MCE)
        .union(Cr4::PGE)
        .union(Cr4::PCE)
        .union(Cr4::OSFXSR)
        .union(Cr4::OSXMMEXCPT);

    /// The rules of a guest that has not been told what CPUID answers.
    pub(crate) const WITHOUT_CPUID: CrRules =
        CrRules { cr4: CrRules::CR4_ALWAYS, efer: Efer::SCE, phys_bits: 36 };

    /// The rules of a guest whose leaf `l` of CPUID, subleaf 0, is `leaf(l)`.
    ///
    /// Never allowed: VMXE, CET, PKS and FRED in CR4, and in EFER SVME, LMSLE, FFXSR, TCE and automatic IBRS,
    /// which no guest is offered and whose state nobody switches.
    pub(crate) fn of_cpuid(leaf: impl Fn(u32) -> CpuidRegs) -> CrRules {
        let ecx1 = F1Ecx::from_bits_retain(leaf(1).ecx);
        let seven = leaf(7);
        let (ebx7, ecx7) = (F7Ebx::from_bits_retain(seven.ebx), F7Ecx::from_bits_retain(seven.ecx));
        let ext = FExtEdx::from_bits_retain(leaf(0x8000_0001).edx);
        let mut cr4 = CrRules::CR4_ALWAYS;
        cr4.set(Cr4::PCIDE, ecx1.contains(F1Ecx::PCID));
        cr4.set(Cr4::OSXSAVE, ecx1.contains(F1Ecx::XSAVE));
        cr4.set(Cr4::FSGSBASE, ebx7.contains(F7Ebx::FSGSBASE));
        cr4.set(Cr4::SMEP, ebx7.contains(F7Ebx::SMEP));
        cr4.set(Cr4::SMAP, ebx7.contains(F7Ebx::SMAP));
        cr4.set(Cr4::UMIP, ecx7.contains(F7Ecx::UMIP));
        cr4.set(Cr4::PKE, ecx7.contains(F7Ecx::PKU));
        let mut efer = Efer::SCE;
        efer.set(Efer::LME | Efer::LMA, ext.contains(FExtEdx::LM));
        efer.set(Efer::NXE, ext.contains(FExtEdx::NX));
        let phys_bits = match leaf(0x8000_0008).eax & 0xff {
            // A guest without the leaf: SDM, "CPUID—CPU Identification", has 36 for processors with PAE.
            0 => 36,
            bits => bits.clamp(32, 52),
        };
        CrRules { cr4, efer, phys_bits }
    }

    /// Returns the bits of CR4 that may be set.
    pub(crate) fn cr4_bits(&self) -> u64 {
        self.cr4.bits()
    }

    fn is_address(&self, bits: u64) -> bool {
        bits.wrapping_shr(self.phys_bits) == 0
    }

    /// Says what MOV to CR0 makes of `value`. Reserved bits of the lower half are ignored.
    ///
    /// SDM, "Control Registers", "Initializing IA-32e Mode", "MOV—Move to/from Control Registers".
    ///
    /// # Errors
    /// [`BadCr`].
    pub(crate) fn check_cr0(&self, now: &CrState, value: u64) -> Result<CrWrite, BadCr> {
        let cr0 = Cr0::from_bits_truncate(value) | Cr0::ET;
        let paging = cr0.contains(Cr0::PG);
        if value >> 32 != 0 || !is_cr0(cr0) {
            return Err(BadCr);
        }
        let lme = now.efer & Efer::LME.bits() != 0;
        // SDM, "Initializing IA-32e Mode": it needs PAE, and is not entered from a segment that would be 64-bit code at
        // once.
        if paging && !now.is_paging() && lme && (now.cr4 & Cr4::PAE.bits() == 0 || now.cs_long) {
            return Err(BadCr);
        }
        let in_long_code = now.is_long() && now.cs_long;
        // 64-bit code has no mode to go on in without paging, compatibility mode has; and PCIDs are of IA-32e mode.
        if !paging && (in_long_code || now.cr4 & Cr4::PCIDE.bits() != 0) {
            return Err(BadCr);
        }
        let lma = if paging && lme { Efer::LMA.bits() } else { 0 };
        let state = CrState { cr0: cr0.bits(), efer: (now.efer & !Efer::LMA.bits()) | lma, ..*now };
        let changes = (now.cr0 ^ state.cr0) & CR0_LOADS != 0;
        Ok(CrWrite { state, loads_pdptes: changes && state.is_pae_paging() })
    }

    /// As [`CrRules::check_cr0`], of CR3.
    ///
    /// # Errors
    /// [`BadCr`].
    pub(crate) fn check_cr3(&self, now: &CrState, value: u64) -> Result<CrWrite, BadCr> {
        let ignored = if now.cr4 & Cr4::PCIDE.bits() != 0 { CR3_NO_FLUSH } else { 0 };
        let state = CrState { cr3: value & !ignored, ..*now };
        if !self.is_address(state.cr3) {
            return Err(BadCr);
        }
        Ok(CrWrite { state, loads_pdptes: state.is_pae_paging() })
    }

    /// As [`CrRules::check_cr0`], of CR4; no reserved bit is ignored.
    ///
    /// # Errors
    /// [`BadCr`].
    pub(crate) fn check_cr4(&self, now: &CrState, value: u64) -> Result<CrWrite, BadCr> {
        let changed = now.cr4 ^ value;
        // SDM, "MOV—Move to/from Control Registers": PCIDs are turned on in IA-32e mode only, with PCID 0 in CR3.
        let sets_pcide = value & changed & Cr4::PCIDE.bits() != 0;
        if value & !self.cr4.bits() != 0
            || (now.is_long() && (value & Cr4::PAE.bits() == 0 || changed & Cr4::LA57.bits() != 0))
            || (sets_pcide && (!now.is_long() || now.cr3 & CR3_PCID != 0))
        {
            return Err(BadCr);
        }
        let state = CrState { cr4: value, ..*now };
        Ok(CrWrite { state, loads_pdptes: changed & CR4_LOADS != 0 && state.is_pae_paging() })
    }

    /// Says what WRMSR of EFER makes of `value`: LMA is not its to change.
    ///
    /// # Errors
    /// [`BadCr`].
    pub(crate) fn check_efer(&self, now: &CrState, value: u64) -> Result<CrWrite, BadCr> {
        let changes_lme = (now.efer ^ value) & Efer::LME.bits() != 0;
        // The mode is entered and left by CR0.PG, so LME must not change under it.
        if value & !self.efer.bits() != 0 || (changes_lme && now.is_paging()) {
            return Err(BadCr);
        }
        let lma = Efer::LMA.bits();
        let state = CrState { efer: (value & !lma) | (now.efer & lma), ..*now };
        Ok(CrWrite { state, loads_pdptes: false })
    }

    /// Returns whether a processor can be in `state`, as user space sets it.
    pub(crate) fn allows(&self, state: &CrState) -> bool {
        let lme = state.efer & Efer::LME.bits() != 0;
        // All registers come in one call, so only what they come to counts, not the way there.
        let modes_agree = match lme && state.is_paging() {
            true => state.is_long() && state.cr4 & Cr4::PAE.bits() != 0 && self.is_address(state.cr3),
            false => !state.is_long() && !state.cs_long,
        };
        modes_agree
            && state.cr0 >> 32 == 0
            && is_cr0(Cr0::from_bits_truncate(state.cr0))
            && state.cr4 & !self.cr4.bits() == 0
            && state.efer & !self.efer.bits() == 0
    }

    /// Returns whether PAE's directory pointers may be loaded: one that is present has no reserved bit.
    pub(crate) fn are_pdptes(&self, entries: &[u64; 4]) -> bool {
        const PRESENT: u64 = 1;
        // SDM, "PDPTE Registers": bits 2:1 and 8:5; those above the address are looked at below.
        const RESERVED: u64 = 0x1e6;
        entries.iter().all(|e| e & PRESENT == 0 || (e & RESERVED == 0 && self.is_address(*e)))
    }
}

/// Returns whether the bits of CR0 agree with each other.
fn is_cr0(cr0: Cr0) -> bool {
    let paged = !cr0.contains(Cr0::PG) || cr0.contains(Cr0::PE);
    paged && (!cr0.contains(Cr0::NW) || cr0.contains(Cr0::CD))
}
