// SPDX-License-Identifier: GPL-2.0

//! The MSRs that a guest has: a table from number to policy.
//!
//! | policy | meaning |
//! |---|---|
//! | [`MsrPolicy::State`] | a register of the vCPU's state |
//! | [`MsrPolicy::Handled`] | an access does something |
//! | [`MsrPolicy::Stored`] | keeps what was written, in [`MsrStore`] |
//! | [`MsrPolicy::HostSet`] | the same for user space; the guest's writes are dropped, or fault |
//! | [`MsrPolicy::Fixed`] | reads a constant, writes are dropped |
//! | [`MsrPolicy::ReadOnly`] | reads a constant, writes fault |
//!
//! Everything else faults. What is fixed is there because Linux touches it on some processor without
//! asking CPUID first, as a real machine always has it; the value says "nothing here". Features that
//! `vcpu::cpuid` does not offer have no MSRs here, so that a guest's probe faults as it should.
//!
//! SDM, "Model-Specific Registers (MSRs)"; APM, "Model-Specific Registers (MSRs)"; Linux,
//! "KVM-specific MSRs".

use crate::arch::addr::is_canonical;
use crate::arch::cpuid::CpuVendor;
use crate::arch::hyperv::HvMsr;
use crate::arch::msr::*;
use crate::arch::slice::count_first;
use crate::machine::msr_filter::{GuestMsrFilter, MsrUse};
use core::ops::RangeInclusive;
use kernel::prelude::*;
use kernel::sync::Arc;
use static_assertions::const_assert_eq;

/// Bits of machine-check capability that KVM_X86_SETUP_MCE may set, beside the number of banks:
/// MCG_CTL exists.
pub(crate) const MCG_CAP: u64 = 1 << 8;
/// Banks of machine-check registers.
pub(crate) const MCE_BANKS: u32 = 10;

/// What KVM_GET_MSR_INDEX_LIST gives: what must be saved and restored to move a vCPU, beside what the
/// register ioctls move.
pub(crate) const INDEX_LIST: &[u32] = &[
    TSC,
    TSC_ADJUST,
    UCODE_REV,
    PLATFORM_INFO,
    SYSENTER_CS,
    SYSENTER_ESP,
    SYSENTER_EIP,
    PAT,
    STAR,
    LSTAR,
    CSTAR,
    SFMASK,
    KERNEL_GS_BASE,
    TSC_AUX,
    MISC_ENABLE,
    TSC_DEADLINE,
    MCG_STATUS,
    MCG_CTL,
    HWCR,
    DE_CFG,
    KVM_WALL_CLOCK,
    KVM_SYSTEM_TIME,
    KVM_WALL_CLOCK_NEW,
    KVM_SYSTEM_TIME_NEW,
    KVM_PV_EOI_EN,
    KVM_STEAL_TIME,
    // Hyper-V's: guest, hypercalls, times, frequencies.
    0x4000_0000,
    0x4000_0001,
    0x4000_0020,
    0x4000_0021,
    0x4000_0022,
    0x4000_0023,
    // A crash and its parameters; reset.
    0x4000_0100,
    0x4000_0101,
    0x4000_0102,
    0x4000_0103,
    0x4000_0104,
    0x4000_0105,
    0x4000_0003,
    // The virtual processor: index, run time, assist page.
    0x4000_0002,
    0x4000_0010,
    0x4000_0073,
    // The synthetic interrupt controller and its timers, of which these stand for all.
    0x4000_0080,
    0x4000_00b0,
    // What becomes of the TSC's frequency.
    0x4000_0106,
    0x4000_0107,
    0x4000_0108,
    0x4000_0118,
    // The debugger.
    0x4000_00ff,
    0x4000_00f1,
    0x4000_00f2,
    0x4000_00f3,
    0x4000_00f4,
    0x4000_00f5,
];

/// What KVM_GET_MSR_FEATURE_INDEX_LIST gives: MSRs that say what the processor is like.
pub(crate) const FEATURE_LIST: &[u32] = &[UCODE_REV, PLATFORM_INFO, DE_CFG];

/// Returns the most that such an MSR can be made to say.
pub(crate) fn feature(index: u32) -> Option<u64> {
    match index {
        UCODE_REV => Some(MICROCODE),
        PLATFORM_INFO => Some(0),
        DE_CFG => Some(DE_CFG_LFENCE),
        _ => None,
    }
}

const TSC: u32 = 0x10;
const APIC_BASE: u32 = 0x1b;
const TSC_ADJUST: u32 = 0x3b;
/// The microcode's revision.
const UCODE_REV: u32 = 0x8b;
const PLATFORM_INFO: u32 = 0xce;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
/// GuestMachine-check status.
pub(crate) const MCG_STATUS: u32 = 0x17a;
/// GuestMachine-check control.
pub(crate) const MCG_CTL: u32 = 0x17b;
const PAT: u32 = 0x277;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const TSC_DEADLINE: u32 = 0x6e0;
const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const HWCR: u32 = 0xc001_0015;
const DE_CFG: u32 = 0xc001_1029;
/// DE_CFG: LFENCE serializes. It always does.
const DE_CFG_LFENCE: u64 = 1 << 1;

/// A register of the vCPU's state that has an MSR number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateMsr {
    /// EFER.
    Efer,
    /// STAR.
    Star,
    /// LSTAR.
    Lstar,
    /// CSTAR.
    Cstar,
    /// SFMASK.
    Sfmask,
    /// FS base.
    FsBase,
    /// GS base.
    GsBase,
    /// KERNEL_GS_BASE.
    KernelGsBase,
    /// SYSENTER_CS.
    SysenterCs,
    /// SYSENTER_ESP.
    SysenterEsp,
    /// SYSENTER_EIP.
    SysenterEip,
    /// Page attribute table.
    Pat,
}

impl StateMsr {
    /// Returns what WRMSR keeps of `value`: AMD's processors have 32 bits of the addresses for SYSENTER, which they
    /// know in legacy mode alone. APM, "SYSENTER and SYSEXIT MSRs".
    pub(crate) fn kept(self, value: u64, vendor: CpuVendor) -> u64 {
        match self {
            StateMsr::SysenterEsp | StateMsr::SysenterEip if vendor == CpuVendor::Amd => {
                value & u64::from(u32::MAX)
            }
            _ => value,
        }
    }

    /// Returns whether WRMSR takes `value`, for linear addresses of `va_bits` bits (48 or 57).
    ///
    /// EFER depends on more than its value: here only bits that no processor has are refused.
    pub(crate) fn accepts(self, value: u64, va_bits: u32) -> bool {
        match self {
            StateMsr::Lstar
            | StateMsr::Cstar
            | StateMsr::FsBase
            | StateMsr::GsBase
            | StateMsr::KernelGsBase
            | StateMsr::SysenterEsp
            | StateMsr::SysenterEip => is_canonical(value, va_bits),
            StateMsr::Pat => value.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7)),
            StateMsr::Efer => crate::arch::cr::Efer::from_bits(value).is_some(),
            StateMsr::Star | StateMsr::SysenterCs => true,
            StateMsr::Sfmask => value >> 32 == 0,
        }
    }
}

/// An MSR whose access does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandledMsr {
    /// The time stamp counter.
    Tsc,
    /// What the guest's own writes have added to it, where CPUID offers that.
    TscAdjust,
    /// The local APIC's timer in deadline mode.
    TscDeadline,
    /// The local APIC's mode and address.
    ApicBase,
    /// A register of the local APIC in x2APIC mode: its offset in the xAPIC's page is 16 times this.
    X2Apic(u8),
    /// TSC_AUX, where CPUID offers RDTSCP or RDPID.
    TscAux,
    /// SPEC_CTRL, where CPUID offers it.
    SpecCtrl,
    /// PRED_CMD, where CPUID offers it.
    PredCmd,
    /// One of Hyper-V's interface.
    HyperV(HvMsr),
    /// GuestMachine-check capability, which user space sets.
    McgCap,
    /// The guest physical address for the paravirtual wall clock.
    KvmWallClock,
    /// The guest physical address for the paravirtual clock of this vCPU, and its enable bit.
    KvmSystemTime,
    /// The guest physical address for the paravirtual end of interrupt, and its enable bit.
    KvmPvEoi,
    /// The time that other threads of the host take.
    KvmStealTime,
    /// Switches of features, some of which the guest cannot move, and one of which shows in CPUID.
    MiscEnable,
}

/// What an MSR is: see the module's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MsrPolicy {
    /// A register of the vCPU's state.
    State(StateMsr),
    /// An access does something.
    Handled(HandledMsr),
    /// Keeps what was written.
    Stored(MsrSlot),
    /// Keeps what user space wrote. A guest's write is dropped, or faults.
    HostSet {
        /// Where.
        slot: MsrSlot,
        /// A guest's write is dropped.
        drops: bool,
    },
    /// Reads a constant; writes are dropped.
    Fixed(u64),
    /// Reads a constant; writes fault.
    ReadOnly(u64),
}

/// The place of an MSR in [`MsrStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsrSlot {
    at: u16,
    /// The row, whose rule it goes by.
    row: u16,
}
// A policy goes from hand to hand in two registers.
const_assert_eq!(core::mem::size_of::<MsrPolicy>(), 16);

/// What WRMSR does with a value for a stored MSR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MsrRule {
    /// Bits that are kept.
    keep: u64,
    /// Bits that may be set and are dropped; all others fault.
    drop: u64,
    check: MsrCheck,
}

/// What a value must be beyond its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MsrCheck {
    /// Anything.
    None,
    /// The low byte is a memory type.
    MemoryType,
    /// Each byte is a memory type.
    MemoryTypes,
}

/// A one in each byte.
const EACH_BYTE: u64 = u64::from_le_bytes([1; 8]);

impl MsrCheck {
    #[inline]
    fn allows(self, value: u64) -> bool {
        let is_type = |t: &u8| matches!(t, 0 | 1 | 4 | 5 | 6);
        let [low, ..] = value.to_le_bytes();
        match self {
            MsrCheck::None => true,
            MsrCheck::MemoryType => is_type(&low),
            // All bytes are one of them where they are equal, as they mostly are.
            MsrCheck::MemoryTypes if value == u64::from(low).wrapping_mul(EACH_BYTE) => is_type(&low),
            MsrCheck::MemoryTypes => value.to_le_bytes().iter().all(is_type),
        }
    }
}

/// What the table says of a row's MSRs.
#[derive(Clone, Copy)]
enum MsrKind {
    Stored { rule: MsrRule, reset: u64 },
    HostSet { rule: MsrRule, drops: bool },
    Fixed(u64),
    ReadOnly(u64),
}

/// Consecutive MSRs with the same policy.
struct MsrRow {
    numbers: RangeInclusive<u32>,
    kind: MsrKind,
}

const fn fixed(first: u32, last: u32, value: u64) -> MsrRow {
    MsrRow { numbers: first..=last, kind: MsrKind::Fixed(value) }
}

const fn read_only(index: u32, value: u64) -> MsrRow {
    MsrRow { numbers: index..=index, kind: MsrKind::ReadOnly(value) }
}

const fn stored(first: u32, last: u32, keep: u64, drop: u64, reset: u64, check: MsrCheck) -> MsrRow {
    let rule = MsrRule { keep, drop, check };
    MsrRow { numbers: first..=last, kind: MsrKind::Stored { rule, reset } }
}

const fn host_set(index: u32, keep: u64, drops: bool) -> MsrRow {
    let rule = MsrRule { keep, drop: !keep, check: MsrCheck::None };
    MsrRow { numbers: index..=index, kind: MsrKind::HostSet { rule, drops } }
}

/// Physical address bits that MTRRs may hold.
const MTRR_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// MTRRcap: eight variable ranges, fixed ranges, write combining.
const MTRR_CAP: u64 = 8 | 1 << 8 | 1 << 10;
/// Bits of MISC_ENABLE that there are; others are dropped.
pub(crate) const MISC_ENABLE_KEEP: u64 = 0x4_00c5_1889;
/// Bits of MISC_ENABLE that are set and that the guest cannot change: no branch trace, no precise sampling.
pub(crate) const MISC_ENABLE_FIXED: u64 = 1 << 11 | 1 << 12;
/// The microcode's revision, where AMD has it (low half) and where Intel has it (high half).
const MICROCODE: u64 = 1 << 32 | 0x0100_0065;
/// HWCR: machine-check status may be written; the TSC counts at the rate of P-state 0.
const HWCR_KEEP: u64 = 1 << 18 | 1 << 24;
/// HWCR: switches of old processors, for the TLB's cache, its flush filter and IGNNE#.
const HWCR_DROP: u64 = 1 << 3 | 1 << 6 | 1 << 8;

/// The rows, by number. Kept sorted: a host test checks that, and that none overlap.
const ROWS: [MsrRow; 61] = [
    // P5 machine check address and type.
    fixed(0x0, 0x1, 0),
    // PLATFORM_ID.
    fixed(0x17, 0x17, 0),
    // EBL_CR_POWERON: bus ratio 1.
    fixed(0x2a, 0x2a, 1 << 24),
    // FEAT_CTL: locked, nothing enabled.
    fixed(0x3a, 0x3a, 1),
    // Microcode update trigger.
    fixed(0x79, 0x79, 0),
    // Linux on Intel writes 0 before it reads.
    host_set(UCODE_REV, u64::MAX, true),
    // P6 performance counters.
    fixed(0xc1, 0xc2, 0),
    // FSB_FREQ: 100 MHz.
    fixed(0xcd, 0xcd, 3),
    // Bit 31 would let the guest have CPUID fault, in MISC_FEATURES_ENABLES.
    host_set(PLATFORM_INFO, !(1 << 31), false),
    read_only(0xfe, MTRR_CAP),
    // BBL_CR_CTL3: L2 cache enabled.
    fixed(0x11e, 0x11e, 0xbe70_2111),
    // MISC_FEATURES_ENABLES.
    fixed(0x140, 0x140, 0),
    // MCG_STATUS: restart valid, error valid, in progress.
    stored(MCG_STATUS, MCG_STATUS, 7, 0, 0, MsrCheck::None),
    stored(MCG_CTL, MCG_CTL, u64::MAX, 0, u64::MAX, MsrCheck::None),
    // P6 event selectors.
    fixed(0x186, 0x187, 0),
    // PERF_STATUS: ratio 10 and 40, as others report it for a virtual processor.
    fixed(0x198, 0x198, 1000 | 4 << 40),
    // PERF_CTL.
    fixed(0x199, 0x199, 0),
    stored(MISC_ENABLE, MISC_ENABLE, MISC_ENABLE_KEEP, u64::MAX, MISC_ENABLE_FIXED, MsrCheck::None),
    // DEBUGCTL: neither branch records nor single step on branches.
    fixed(0x1d9, 0x1d9, 0),
    // Last branch and exception records.
    fixed(0x1db, 0x1de, 0),
    // POWER_CTL.
    fixed(0x1fc, 0x1fc, 0),
    // Variable MTRRs: base and mask of each.
    stored(0x200, 0x200, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x201, 0x201, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x202, 0x202, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x203, 0x203, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x204, 0x204, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x205, 0x205, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x206, 0x206, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x207, 0x207, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x208, 0x208, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x209, 0x209, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x20a, 0x20a, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x20b, 0x20b, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x20c, 0x20c, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x20d, 0x20d, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    stored(0x20e, 0x20e, MTRR_ADDRESS | 0xff, 0, 0, MsrCheck::MemoryType),
    stored(0x20f, 0x20f, MTRR_ADDRESS | 1 << 11, 0, 0, MsrCheck::None),
    // Fixed MTRRs: 64 KiB, 16 KiB and 4 KiB ranges.
    stored(0x250, 0x250, u64::MAX, 0, 0, MsrCheck::MemoryTypes),
    stored(0x258, 0x259, u64::MAX, 0, 0, MsrCheck::MemoryTypes),
    stored(0x268, 0x26f, u64::MAX, 0, 0, MsrCheck::MemoryTypes),
    // Default type; bits 10 and 11 enable fixed ranges and all.
    stored(MTRR_DEF_TYPE, MTRR_DEF_TYPE, 0xcff, 0, 0, MsrCheck::MemoryType),
    // GuestMachine-check banks: CTL, STATUS, ADDR, MISC of each.
    stored(0x400, 0x400 + 4 * MCE_BANKS - 1, u64::MAX, 0, 0, MsrCheck::None),
    // Energy counters of RAPL: unit, package, DRAM, cores, graphics, platform.
    fixed(0x606, 0x606, 0),
    fixed(0x611, 0x611, 0),
    fixed(0x619, 0x619, 0),
    fixed(0x639, 0x639, 0),
    fixed(0x641, 0x641, 0),
    // AMD: performance counters of family 0xf and later.
    fixed(0xc001_0000, 0xc001_0007, 0),
    // SYSCFG.
    fixed(0xc001_0010, 0xc001_0010, 0),
    stored(HWCR, HWCR, HWCR_KEEP, HWCR_DROP, 0, MsrCheck::None),
    // IORR, TOP_MEM and TOP_MEM2; then NB_CFG.
    fixed(0xc001_0016, 0xc001_001f, 0),
    // PATCH_LOADER.
    fixed(0xc001_0020, 0xc001_0020, 0),
    // GuestMachine-check control masks.
    fixed(0xc001_0044, 0xc001_004f, 0),
    // INT_PENDING_MSG to the MMIO configuration base.
    fixed(0xc001_0055, 0xc001_0058, 0),
    // P-states: limit, control, status, and their definitions.
    fixed(0xc001_0061, 0xc001_006b, 0),
    // TSEG address and mask.
    fixed(0xc001_0112, 0xc001_0113, 0),
    // VM_CR: SVM disabled and locked.
    fixed(VM_CR, VM_CR, 1 << 3 | 1 << 4),
    // Performance counters of family 0x15 and later.
    fixed(0xc001_0200, 0xc001_020b, 0),
    // IC_CFG to FP_CFG: switches for errata, all dropped.
    fixed(0xc001_1021, 0xc001_1028, 0),
    stored(DE_CFG, DE_CFG, DE_CFG_LFENCE, 0, 0, MsrCheck::None),
    // BU_CFG2 and its neighbours.
    fixed(0xc001_102a, 0xc001_102d, 0),
];

/// Where each row's MSRs start in [`MsrStore`], and behind the last row, how many there are.
const STARTS: [usize; ROWS.len() + 1] = {
    let mut starts = [0; ROWS.len() + 1];
    let mut i = 0;
    while i < ROWS.len() {
        let count = match ROWS[i].kind {
            MsrKind::Stored { .. } | MsrKind::HostSet { .. } => {
                (*ROWS[i].numbers.end() - *ROWS[i].numbers.start() + 1) as usize
            }
            _ => 0,
        };
        starts[i + 1] = starts[i] + count;
        i += 1;
    }
    starts
};

/// The rule of each row; where nothing is stored, that everything faults.
const RULES: &[MsrRule; ROWS.len()] = &{
    let mut rules = [MsrRule { keep: 0, drop: 0, check: MsrCheck::None }; ROWS.len()];
    let mut i = 0;
    while i < ROWS.len() {
        if let MsrKind::Stored { rule, .. } | MsrKind::HostSet { rule, .. } = ROWS[i].kind {
            rules[i] = rule;
        }
        i += 1;
    }
    rules
};

/// MSRs that are plain storage.
const STORED: usize = STARTS[ROWS.len()];

/// The table, of which a reference makes one place in read-only data; a constant array would be copied where it is used.
const TABLE: &[MsrRow; ROWS.len()] = &ROWS;

/// Returns what the MSR `index` is, or `None` for one that faults.
#[inline]
pub(crate) fn lookup(index: u32) -> Option<MsrPolicy> {
    // Those that exit often come first.
    Some(match index {
        TSC_DEADLINE => MsrPolicy::Handled(HandledMsr::TscDeadline),
        X2APIC_FIRST..=X2APIC_LAST => MsrPolicy::Handled(HandledMsr::X2Apic((index & 0xff) as u8)),
        SPEC_CTRL => MsrPolicy::Handled(HandledMsr::SpecCtrl),
        PRED_CMD => MsrPolicy::Handled(HandledMsr::PredCmd),
        TSC => MsrPolicy::Handled(HandledMsr::Tsc),
        TSC_ADJUST => MsrPolicy::Handled(HandledMsr::TscAdjust),
        TSC_AUX => MsrPolicy::Handled(HandledMsr::TscAux),
        FS_BASE => MsrPolicy::State(StateMsr::FsBase),
        GS_BASE => MsrPolicy::State(StateMsr::GsBase),
        KERNEL_GS_BASE => MsrPolicy::State(StateMsr::KernelGsBase),
        EFER => MsrPolicy::State(StateMsr::Efer),
        STAR => MsrPolicy::State(StateMsr::Star),
        LSTAR => MsrPolicy::State(StateMsr::Lstar),
        CSTAR => MsrPolicy::State(StateMsr::Cstar),
        SFMASK => MsrPolicy::State(StateMsr::Sfmask),
        SYSENTER_CS => MsrPolicy::State(StateMsr::SysenterCs),
        SYSENTER_ESP => MsrPolicy::State(StateMsr::SysenterEsp),
        SYSENTER_EIP => MsrPolicy::State(StateMsr::SysenterEip),
        PAT => MsrPolicy::State(StateMsr::Pat),
        APIC_BASE => MsrPolicy::Handled(HandledMsr::ApicBase),
        0x179 => MsrPolicy::Handled(HandledMsr::McgCap),
        MISC_ENABLE => MsrPolicy::Handled(HandledMsr::MiscEnable),
        KVM_WALL_CLOCK | KVM_WALL_CLOCK_NEW => MsrPolicy::Handled(HandledMsr::KvmWallClock),
        KVM_SYSTEM_TIME | KVM_SYSTEM_TIME_NEW => MsrPolicy::Handled(HandledMsr::KvmSystemTime),
        KVM_PV_EOI_EN => MsrPolicy::Handled(HandledMsr::KvmPvEoi),
        KVM_STEAL_TIME => MsrPolicy::Handled(HandledMsr::KvmStealTime),
        0x4000_0000..=0x4000_0fff => MsrPolicy::Handled(HandledMsr::HyperV(HvMsr::of(index)?)),
        _ => return lookup_row(index),
    })
}

fn lookup_row(index: u32) -> Option<MsrPolicy> {
    let at = count_first(TABLE.len(), |i| TABLE.get(i).is_some_and(|row| *row.numbers.end() < index));
    let row = TABLE.get(at).filter(|row| row.numbers.contains(&index))?;
    let offset = index.wrapping_sub(*row.numbers.start()) as usize;
    let slot =
        || STARTS.get(at).map(|start| MsrSlot { at: start.wrapping_add(offset) as u16, row: at as u16 });
    Some(match &row.kind {
        MsrKind::Fixed(value) => MsrPolicy::Fixed(*value),
        MsrKind::ReadOnly(value) => MsrPolicy::ReadOnly(*value),
        MsrKind::Stored { .. } => MsrPolicy::Stored(slot()?),
        MsrKind::HostSet { drops, .. } => MsrPolicy::HostSet { slot: slot()?, drops: *drops },
    })
}

/// The MSRs that were looked up last: [`lookup`], mostly without looking. Those that the guest may not read or may not
/// write are not among them.
pub(crate) struct RecentMsrs {
    found: KBox<[Option<(u32, MsrPolicy)>; RECENT]>,
    filter: Option<Arc<GuestMsrFilter>>,
}

/// How many MSRs are remembered.
const RECENT: usize = 16;

impl RecentMsrs {
    /// None yet.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<RecentMsrs> {
        Ok(RecentMsrs { found: KBox::new([None; RECENT], GFP_KERNEL_ACCOUNT)?, filter: None })
    }

    /// Goes by another filter.
    pub(crate) fn set_filter(&mut self, filter: Option<Arc<GuestMsrFilter>>) {
        // What was learnt by the old filter may be forbidden by the new one.
        self.found.fill(None);
        self.filter = filter;
    }

    /// Returns whether the guest may use an MSR so.
    pub(crate) fn allows(&self, index: u32, access: MsrUse) -> bool {
        self.filter.as_ref().is_none_or(|f| f.allows(index, access))
    }

    /// Returns what [`lookup`] does, of an MSR that the guest may read and write.
    #[inline(always)]
    pub(crate) fn lookup(&mut self, index: u32) -> Option<MsrPolicy> {
        match self.found.get(index as usize % RECENT) {
            Some(&Some((i, policy))) if i == index => Some(policy),
            _ => self.learn(index),
        }
    }

    #[cold]
    #[inline(never)]
    fn learn(&mut self, index: u32) -> Option<MsrPolicy> {
        if self.filter.as_ref().is_some_and(|f| !f.allows_all(index)) {
            return None;
        }
        let policy = lookup(index)?;
        if let Some(slot) = self.found.get_mut(index as usize % RECENT) {
            *slot = Some((index, policy));
        }
        Some(policy)
    }
}

/// The value cannot be written: #GP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MsrRefused;

/// The MSRs of one vCPU that are plain storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MsrStore {
    values: [u64; STORED],
    /// MCG_CAP: the banks that there are, and what they can do.
    pub(crate) mcg_cap: u64,
}

impl MsrStore {
    /// All at their values after reset, on a processor of that vendor.
    pub(crate) fn new(vendor: CpuVendor) -> MsrStore {
        let mut values = [0; STORED];
        for (row, start) in TABLE.iter().zip(STARTS) {
            if let MsrKind::Stored { reset, .. } = row.kind {
                let count = row.numbers.end().wrapping_sub(*row.numbers.start()) as usize;
                let end = start.wrapping_add(count);
                values.get_mut(start..=end).unwrap_or(&mut []).fill(reset);
            }
        }
        let mut store = MsrStore { values, mcg_cap: MCG_CAP | u64::from(MCE_BANKS) };
        let half = if vendor == CpuVendor::Amd { u32::MAX.into() } else { !u64::from(u32::MAX) };
        store.put(UCODE_REV, MICROCODE & half);
        store
    }

    /// Returns whether the vCPU has the MSR `index`: not the banks that MCG_CAP does not count.
    #[inline]
    pub(crate) fn has(&self, index: u32) -> bool {
        // A number below the banks wraps, and is no bank either.
        let bank = index.wrapping_sub(0x400) >> 2;
        bank >= MCE_BANKS || u64::from(bank) < self.mcg_cap & 0xff
    }

    /// Returns the value of the stored MSR `index`, 0 for any other.
    pub(crate) fn get(&self, index: u32) -> u64 {
        match lookup_row(index) {
            Some(MsrPolicy::Stored(slot) | MsrPolicy::HostSet { slot, .. }) => self.read(slot),
            _ => 0,
        }
    }

    /// Sets the stored MSR `index` to a value that is known to be possible.
    pub(crate) fn put(&mut self, index: u32, value: u64) {
        if let Some(MsrPolicy::Stored(slot) | MsrPolicy::HostSet { slot, .. }) = lookup_row(index) {
            if let Some(to) = self.values.get_mut(usize::from(slot.at)) {
                *to = value;
            }
        }
    }

    /// Returns the value of a stored MSR.
    pub(crate) fn read(&self, slot: MsrSlot) -> u64 {
        self.values.get(usize::from(slot.at)).copied().unwrap_or(0)
    }

    /// Writes a stored MSR.
    ///
    /// # Errors
    /// [`MsrRefused`] for a value with a reserved bit or an impossible memory type.
    #[inline]
    pub(crate) fn write(&mut self, slot: MsrSlot, value: u64) -> Result<(), MsrRefused> {
        let Some(MsrRule { keep, drop, check }) = RULES.get(usize::from(slot.row)) else {
            return Err(MsrRefused);
        };
        if value & !(keep | drop) != 0 || !check.allows(value) {
            return Err(MsrRefused);
        }
        if let Some(to) = self.values.get_mut(usize::from(slot.at)) {
            *to = value & keep;
        }
        Ok(())
    }
}
