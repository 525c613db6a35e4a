// SPDX-License-Identifier: GPL-2.0

//! What must be done on processors with known faults, and on hosts that use what a guest would meet.
//!
//! The host's kernel knows its processor's faults and what its user wants done about them; it says so in
//! [`HostFlags`]. Here is decided what follows for running guests, in pure functions. What costs one instruction
//! at an entry or exit is not here: the assembly of the world switches is patched by the same flags of the kernel.
//! docs/threat-model.md, "What only real processors show", has the list.

use super::cpuid::{CpuidRegs, F7Edx, F7s2Edx, FExt8Ebx};

bitflags::bitflags! {
    /// What the host's kernel found and wants, in the numbers of host/shim.h.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct HostFlags: u32 {
        /// Booted with `mitigations=off`.
        const MITIGATIONS_OFF = 1 << 0;
        /// Indirect branches follow what others trained.
        const SPECTRE_V2 = 1 << 1;
        /// There is a barrier between one's training and another's branches.
        const IBPB = 1 << 2;
        /// Speculation reads the L1 data cache by the addresses in absent page table entries.
        const L1TF = 1 << 3;
        /// One command flushes the L1 data cache.
        const FLUSH_L1D = 1 << 4;
        /// A change of the size of an executable page can stop the machine.
        const ITLB_MULTIHIT = 1 << 5;
        /// A bit of an MSR keeps guests from training the host's returns, and the kernel wants it set.
        const BP_SPEC_REDUCE = 1 << 6;
        /// FXRSTOR leaves the pointers of the last x87 instruction as they are.
        const FXSAVE_LEAK = 1 << 7;
        /// Locked accesses that split a cache line raise #AC.
        const SPLIT_LOCK_DETECT = 1 << 8;
        /// Precise samples are written to memory by linear address.
        const PEBS = 1 << 9;
        /// The processor can trace what it executes.
        const INTEL_PT = 1 << 10;
        /// Locked accesses that split a cache line can raise #DB.
        const BUS_LOCK_DETECT = 1 << 11;
    }
}

/// What is done about the L1 terminal fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L1dFlush {
    /// Nothing: not affected, not wanted, or done by the hypervisor below.
    None,
    /// The L1 data cache is flushed before a guest runs.
    Command,
    /// It should be, but the microcode has no command for it.
    Lacking,
}

/// IA32_ARCH_CAPABILITIES: the hypervisor below flushes the L1 data cache itself.
const SKIP_L1D_FLUSH: u64 = 1 << 3;

/// What a processor can do against speculation across privileges, by CPUID.
///
/// SDM, "Speculation Control"; APM, "Speculation Control MSRs".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SpecFeatures {
    /// The bits that MSR SPEC_CTRL takes; 0 where there is no such MSR.
    pub(crate) control: u32,
    /// MSR PRED_CMD takes the barrier command.
    pub(crate) barrier: bool,
}

impl SpecFeatures {
    /// Asks `cpuid`, which executes that instruction with a leaf and a subleaf.
    pub(crate) fn of(cpuid: impl Fn(u32, u32) -> CpuidRegs) -> SpecFeatures {
        // SDM, "CPUID—CPU Identification": beyond the last leaf Intel's processors answer with that one, whose bits
        // mean other things.
        let leaf7 = if cpuid(0, 0).eax >= 7 { cpuid(7, 0) } else { CpuidRegs::default() };
        let intel = F7Edx::from_bits_truncate(leaf7.edx);
        let more = match leaf7.eax {
            2.. => F7s2Edx::from_bits_truncate(cpuid(7, 2).edx),
            _ => F7s2Edx::empty(),
        };
        let amd = match cpuid(0x8000_0000, 0).eax {
            0x8000_0008.. => FExt8Ebx::from_bits_truncate(cpuid(0x8000_0008, 0).ebx),
            _ => FExt8Ebx::empty(),
        };
        let bits = |on: bool, value: u32| if on { value } else { 0 };
        // Intel has one bit for IBRS and the barrier together, AMD one for each.
        let control = bits(intel.contains(F7Edx::SPEC_CTRL) || amd.contains(FExt8Ebx::IBRS), 1 << 0)
            | bits(intel.contains(F7Edx::STIBP) || amd.contains(FExt8Ebx::STIBP), 1 << 1)
            | bits(intel.contains(F7Edx::SSBD) || amd.contains(FExt8Ebx::SSBD), 1 << 2)
            | bits(more.contains(F7s2Edx::IPRED_CTRL), 3 << 3)
            | bits(more.contains(F7s2Edx::RRSBA_CTRL), 3 << 5)
            | bits(more.contains(F7s2Edx::PSFD) || amd.contains(FExt8Ebx::PSFD), 1 << 7)
            | bits(more.contains(F7s2Edx::DDPD_U), 1 << 8)
            | bits(more.contains(F7s2Edx::BHI_CTRL), 1 << 10);
        let barrier = intel.contains(F7Edx::SPEC_CTRL) || amd.contains(FExt8Ebx::IBPB);
        SpecFeatures { control, barrier }
    }
}

impl HostFlags {
    /// Returns whether a barrier is executed where another vCPU runs on a CPU than the last one.
    ///
    /// The kernel has a switch of its own for this, which modules do not see; so it is done wherever it may be
    /// wanted.
    pub(crate) fn wants_guest_barrier(self) -> bool {
        self.is_wanted() && self.contains(HostFlags::SPECTRE_V2 | HostFlags::IBPB)
    }

    /// Decides about the L1 terminal fault; `arch_capabilities`: that MSR, 0 where there is none.
    pub(crate) fn l1d_flush(self, arch_capabilities: u64) -> L1dFlush {
        if !self.is_wanted() || !self.contains(HostFlags::L1TF) || arch_capabilities & SKIP_L1D_FLUSH != 0 {
            return L1dFlush::None;
        }
        match self.contains(HostFlags::FLUSH_L1D) {
            true => L1dFlush::Command,
            false => L1dFlush::Lacking,
        }
    }

    /// Returns whether only pages of 4 KiB may be executable; `choice` is the module's parameter: 0 never, 1
    /// always, else where the processor needs it.
    pub(crate) fn wants_small_code(self, choice: u8) -> bool {
        match choice {
            0 => false,
            1 => true,
            _ => self.is_wanted() && self.contains(HostFlags::ITLB_MULTIHIT),
        }
    }

    /// Returns whether #AC was raised for a locked access that split a cache line: alignment checks are of code at
    /// `cpl` 3 with CR0.AM and RFLAGS.AC.
    pub(crate) fn is_split_lock(self, cpl: u8, am: bool, ac: bool) -> bool {
        self.contains(HostFlags::SPLIT_LOCK_DETECT) && !(cpl == 3 && am && ac)
    }

    fn is_wanted(self) -> bool {
        !self.contains(HostFlags::MITIGATIONS_OFF)
    }
}
