// SPDX-License-Identifier: GPL-2.0

//! CPUID leaves as values, and the feature bits that guests may be offered, by register.
//!
//! SDM, "CPUID—CPU Identification"; APM, "Obtaining Processor Information Via the CPUID Instruction".
//! A bit that is not named here is never offered: see `vcpu::cpuid` for the policy.

/// The four registers that CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuidRegs {
    /// EAX.
    pub(crate) eax: u32,
    /// EBX.
    pub(crate) ebx: u32,
    /// ECX.
    pub(crate) ecx: u32,
    /// EDX.
    pub(crate) edx: u32,
}

/// Who made the processor, as far as CPUID behaves differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CpuVendor {
    /// AMD or Hygon.
    Amd,
    /// Intel, and all others.
    Intel,
}

impl CpuVendor {
    /// Returns the vendor by leaf 0.
    pub(crate) fn of(leaf0: CpuidRegs) -> CpuVendor {
        const AMD: [u32; 3] = signature(b"AuthenticAMD");
        const HYGON: [u32; 3] = signature(b"HygonGenuine");
        let name = [leaf0.ebx, leaf0.edx, leaf0.ecx];
        if name == AMD || name == HYGON {
            CpuVendor::Amd
        } else {
            CpuVendor::Intel
        }
    }
}

/// Cuts a 12-byte signature into three little-endian words.
pub(crate) const fn signature(s: &[u8; 12]) -> [u32; 3] {
    [
        u32::from_le_bytes([s[0], s[1], s[2], s[3]]),
        u32::from_le_bytes([s[4], s[5], s[6], s[7]]),
        u32::from_le_bytes([s[8], s[9], s[10], s[11]]),
    ]
}

macro_rules! features {
    ($($(#[$($doc:tt)*])* $name:ident { $($(#[$($bdoc:tt)*])* $flag:ident = $bit:literal,)* })*) => {
        bitflags::bitflags! {
            $(
                $(#[$($doc)*])*
                #[derive(Clone, Copy, Debug, PartialEq, Eq)]
                pub(crate) struct $name: u32 {
                    $($(#[$($bdoc)*])* const $flag = 1 << $bit;)*
                }
            )*
        }
    };
}

features! {
    /// Leaf 1, ECX.
    F1Ecx {
        /// SSE3.
        SSE3 = 0,
        /// Carry-less multiplication.
        PCLMULQDQ = 1,
        /// MONITOR and MWAIT.
        MONITOR = 3,
        /// SSSE3.
        SSSE3 = 9,
        /// Fused multiply-add.
        FMA = 12,
        /// CMPXCHG16B.
        CX16 = 13,
        /// Process-context identifiers.
        PCID = 17,
        /// SSE4.1.
        SSE4_1 = 19,
        /// SSE4.2.
        SSE4_2 = 20,
        /// x2APIC mode of the local APIC.
        X2APIC = 21,
        /// MOVBE.
        MOVBE = 22,
        /// POPCNT.
        POPCNT = 23,
        /// TSC deadline mode of the local APIC's timer.
        TSC_DEADLINE = 24,
        /// AES round instructions.
        AES = 25,
        /// XSAVE and extended control registers.
        XSAVE = 26,
        /// CR4.OSXSAVE is set.
        OSXSAVE = 27,
        /// AVX.
        AVX = 28,
        /// Half-precision conversion.
        F16C = 29,
        /// RDRAND.
        RDRAND = 30,
        /// A hypervisor is present.
        HYPERVISOR = 31,
    }

    /// Leaf 1, EDX.
    F1Edx {
        /// x87.
        FPU = 0,
        /// Virtual-8086 extensions.
        VME = 1,
        /// Debugging extensions.
        DE = 2,
        /// 4 MiB pages.
        PSE = 3,
        /// RDTSC.
        TSC = 4,
        /// RDMSR and WRMSR.
        MSR = 5,
        /// Physical address extension.
        PAE = 6,
        /// Machine-check exception.
        MCE = 7,
        /// CMPXCHG8B.
        CX8 = 8,
        /// Local APIC, present and enabled.
        APIC = 9,
        /// SYSENTER.
        SEP = 11,
        /// Memory type range registers.
        MTRR = 12,
        /// Global pages.
        PGE = 13,
        /// Machine-check architecture.
        MCA = 14,
        /// CMOV.
        CMOV = 15,
        /// Page attribute table.
        PAT = 16,
        /// 36-bit 4 MiB pages.
        PSE36 = 17,
        /// CLFLUSH.
        CLFLUSH = 19,
        /// MMX.
        MMX = 23,
        /// FXSAVE.
        FXSR = 24,
        /// SSE.
        SSE = 25,
        /// SSE2.
        SSE2 = 26,
        /// Self-snoop.
        SELF_SNOOP = 27,
    }

    /// Leaf 7, subleaf 0, EBX.
    F7Ebx {
        /// RDFSBASE and friends.
        FSGSBASE = 0,
        /// MSR TSC_ADJUST.
        TSC_ADJUST = 1,
        /// Bit manipulation 1.
        BMI1 = 3,
        /// AVX2.
        AVX2 = 5,
        /// The x87 data pointer changes on exceptions only.
        FDP_EXCPTN_ONLY = 6,
        /// Supervisor-mode execution prevention.
        SMEP = 7,
        /// Bit manipulation 2.
        BMI2 = 8,
        /// Fast REP MOVSB.
        ERMS = 9,
        /// INVPCID.
        INVPCID = 10,
        /// The x87 CS and DS selectors are always 0.
        ZERO_FCS_FDS = 13,
        /// AVX-512 foundation.
        AVX512F = 16,
        /// AVX-512 doublewords and quadwords.
        AVX512DQ = 17,
        /// RDSEED.
        RDSEED = 18,
        /// ADCX and ADOX.
        ADX = 19,
        /// Supervisor-mode access prevention.
        SMAP = 20,
        /// AVX-512 integer multiply-add.
        AVX512IFMA = 21,
        /// CLFLUSHOPT.
        CLFLUSHOPT = 23,
        /// CLWB.
        CLWB = 24,
        /// AVX-512 prefetch.
        AVX512PF = 26,
        /// AVX-512 exponential.
        AVX512ER = 27,
        /// AVX-512 conflict detection.
        AVX512CD = 28,
        /// SHA.
        SHA = 29,
        /// AVX-512 bytes and words.
        AVX512BW = 30,
        /// AVX-512 vector lengths.
        AVX512VL = 31,
    }

    /// Leaf 7, subleaf 0, ECX.
    F7Ecx {
        /// AVX-512 byte permutation.
        AVX512_VBMI = 1,
        /// User-mode instruction prevention.
        UMIP = 2,
        /// Protection keys for user pages.
        PKU = 3,
        /// CR4.PKE is set.
        OSPKE = 4,
        /// AVX-512 byte permutation 2.
        AVX512_VBMI2 = 6,
        /// Galois field instructions.
        GFNI = 8,
        /// Vector AES.
        VAES = 9,
        /// Vector carry-less multiplication.
        VPCLMULQDQ = 10,
        /// AVX-512 neural network instructions.
        AVX512_VNNI = 11,
        /// AVX-512 bit algorithms.
        AVX512_BITALG = 12,
        /// AVX-512 population count.
        AVX512_VPOPCNTDQ = 14,
        /// 5-level paging.
        LA57 = 16,
        /// RDPID.
        RDPID = 22,
        /// CLDEMOTE.
        CLDEMOTE = 25,
        /// MOVDIRI.
        MOVDIRI = 27,
        /// MOVDIR64B.
        MOVDIR64B = 28,
    }

    /// Leaf 7, subleaf 0, EDX.
    F7Edx {
        /// AVX-512 4-iteration dot product.
        AVX512_4VNNIW = 2,
        /// AVX-512 4-iteration multiply-add.
        AVX512_4FMAPS = 3,
        /// Fast short REP MOVSB.
        FSRM = 4,
        /// AVX-512 intersection.
        AVX512_VP2INTERSECT = 8,
        /// VERW clears buffers.
        MD_CLEAR = 10,
        /// SERIALIZE.
        SERIALIZE = 14,
        /// AVX-512 half precision.
        AVX512_FP16 = 23,
        /// MSRs SPEC_CTRL and PRED_CMD.
        SPEC_CTRL = 26,
        /// Single-thread indirect branch predictors.
        STIBP = 27,
        /// Speculative store bypass disable.
        SSBD = 31,
    }

    /// Leaf 7, subleaf 1, EAX.
    F7s1Eax {
        /// AVX neural network instructions.
        AVX_VNNI = 4,
        /// AVX-512 bfloat16.
        AVX512_BF16 = 5,
        /// CMPccXADD.
        CMPCCXADD = 7,
        /// Fast zero-length REP MOVSB.
        FZRM = 10,
        /// Fast short REP STOSB.
        FSRS = 11,
        /// Fast short REP CMPSB and SCASB.
        FSRC = 12,
        /// AVX integer multiply-add.
        AVX_IFMA = 23,
    }

    /// Leaf 7, subleaf 2, EDX: bits of MSR SPEC_CTRL. SDM, "IA32_SPEC_CTRL MSR".
    F7s2Edx {
        /// Predictive store forwarding disable.
        PSFD = 0,
        /// Indirect branches not predicted, by privilege.
        IPRED_CTRL = 1,
        /// Returns not predicted by the alternate predictors, by privilege.
        RRSBA_CTRL = 2,
        /// Data dependent prefetcher disable, for user code.
        DDPD_U = 3,
        /// Branch history of user code not used for indirect branches.
        BHI_CTRL = 4,
    }

    /// Leaf 0xD, subleaf 1, EAX.
    FDs1Eax {
        /// XSAVEOPT.
        XSAVEOPT = 0,
        /// XSAVEC and the compacted format.
        XSAVEC = 1,
        /// XGETBV with ECX = 1.
        XGETBV1 = 2,
    }

    /// Leaf 0x8000_0001, ECX.
    FExtEcx {
        /// LAHF in 64-bit mode.
        LAHF = 0,
        /// CR8 in legacy modes.
        CR8_LEGACY = 4,
        /// LZCNT.
        ABM = 5,
        /// SSE4a.
        SSE4A = 6,
        /// Misaligned SSE.
        MISALIGN_SSE = 7,
        /// PREFETCHW.
        PREFETCHW = 8,
        /// XOP.
        XOP = 11,
        /// Four-operand FMA.
        FMA4 = 16,
        /// Trailing bit manipulation.
        TBM = 21,
    }

    /// Leaf 0x8000_0001, EDX. AMD repeats bits of leaf 1 here; those are [`FExtEdx::REPEATED`].
    FExtEdx {
        /// SYSCALL.
        SYSCALL = 11,
        /// No-execute.
        NX = 20,
        /// AMD's MMX extensions.
        MMXEXT = 22,
        /// 1 GiB pages.
        PAGE_1G = 26,
        /// RDTSCP.
        RDTSCP = 27,
        /// Long mode.
        LM = 29,
    }

    /// Leaf 0x8000_0007, EDX.
    FExt7Edx {
        /// The TSC counts at one rate, always.
        INVARIANT_TSC = 8,
    }

    /// Leaf 0x8000_0008, EBX.
    FExt8Ebx {
        /// CLZERO.
        CLZERO = 0,
        /// XRSTOR always restores the x87 error pointers.
        XSAVEERPTR = 2,
        /// Indirect branch prediction barrier.
        IBPB = 12,
        /// Indirect branch restricted speculation.
        IBRS = 14,
        /// Single-thread indirect branch predictors.
        STIBP = 15,
        /// Speculative store bypass disable.
        SSBD = 24,
        /// Speculative store bypass is no issue.
        SSB_NO = 26,
        /// Predictive store forwarding disable.
        PSFD = 28,
    }

    /// Leaf 0x8000_0021, EAX.
    FExt21Eax {
        /// Nested data breakpoints are ignored.
        NO_NESTED_DATA_BP = 0,
        /// LFENCE always serializes.
        LFENCE_SERIALIZING = 2,
        /// Loading a null selector clears the base.
        NULL_SEL_CLR_BASE = 6,
        /// Fast short REP STOSB.
        FSRS = 10,
        /// Fast short REP CMPSB.
        FSRC = 11,
    }

    /// Leaf 0x4000_0001, EAX: KVM's paravirtual features.
    KvmFeatures {
        /// The clock, by MSRs 0x11 and 0x12.
        CLOCKSOURCE = 0,
        /// Port accesses need no delay.
        NOP_IO_DELAY = 1,
        /// The clock, by MSRs 0x4b564d00 and 0x4b564d01.
        CLOCKSOURCE2 = 3,
        /// Stolen time, by MSR 0x4b564d03.
        STEAL_TIME = 5,
        /// End of interrupt without an exit.
        PV_EOI = 6,
        /// A hypercall that wakes a halted processor.
        PV_UNHALT = 7,
        /// One hypercall for interrupts to many processors.
        PV_SEND_IPI = 11,
        /// A hypercall that names the processor to run.
        PV_SCHED_YIELD = 13,
        /// The clock's stability flag can be trusted.
        CLOCKSOURCE_STABLE = 24,
    }
}

impl FExtEdx {
    /// The bits that AMD repeats from leaf 1, EDX.
    pub(crate) const REPEATED: u32 = 0x0183_f3ff;
}
