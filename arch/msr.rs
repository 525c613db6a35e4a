// SPDX-License-Identifier: GPL-2.0

//! MSR numbers that the crate `x86` does not name, and those of the KVM paravirtual interface.
//!
//! Everything else comes from [`x86::msr`].

/// Switches of the processor's features. SDM volume 4, "IA32_MISC_ENABLE".
pub(crate) const MISC_ENABLE: u32 = 0x1a0;
/// [`MISC_ENABLE`]: MONITOR and MWAIT.
pub(crate) const MISC_ENABLE_MWAIT: u64 = 1 << 18;
/// Selects the physical page of the host state save area. APM, "VM_HSAVE_PA MSR".
pub(crate) const VM_HSAVE_PA: u32 = 0xc001_0117;
/// SVM enabling and lock. APM, "VM_CR MSR".
pub(crate) const VM_CR: u32 = 0xc001_0114;
/// TSC_AUX, read by RDTSCP and RDPID.
pub(crate) const TSC_AUX: u32 = 0xc000_0103;
/// Speculation control.
pub(crate) const SPEC_CTRL: u32 = 0x48;
/// Prediction command.
pub(crate) const PRED_CMD: u32 = 0x49;
/// Which faults the processor has not, and what it does about others. SDM, "IA32_ARCH_CAPABILITIES".
pub(crate) const ARCH_CAPABILITIES: u32 = 0x10a;
/// Extended supervisor state that XSAVES and XRSTORS move.
pub(crate) const XSS: u32 = 0xda0;
/// Branch predictor configuration of AMD's processors since family 0x19.
pub(crate) const BP_CFG: u32 = 0xc001_102e;
/// In [`BP_CFG`]: guests cannot train the host's returns. AMD, "Technical Update Regarding Speculative Return Stack
/// Overflow".
pub(crate) const BP_SPEC_REDUCE: u64 = 1 << 4;
/// Precise event-based sampling, a bit for each counter. SDM, "Processor Event Based Sampling (PEBS)".
pub(crate) const PEBS_ENABLE: u32 = 0x3f1;
/// Test control: switches of the processor.
pub(crate) const TEST_CTRL: u32 = 0x33;
/// In [`TEST_CTRL`]: #AC for a locked access that splits a cache line. SDM, "Features to Disable Bus Locks".
pub(crate) const TEST_CTRL_SPLIT_LOCK: u64 = 1 << 29;
/// x2APIC registers: first and last.
pub(crate) const X2APIC_FIRST: u32 = 0x800;
/// See [`X2APIC_FIRST`].
pub(crate) const X2APIC_LAST: u32 = 0x8ff;

/// KVM paravirtual wall clock.
pub(crate) const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
/// KVM paravirtual system time of a vCPU.
pub(crate) const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// KVM paravirtual end of interrupt.
pub(crate) const KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
/// Where the time is told that other threads of the host take.
pub(crate) const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
/// The older number of [`KVM_WALL_CLOCK_NEW`].
pub(crate) const KVM_WALL_CLOCK: u32 = 0x11;
/// The older number of [`KVM_SYSTEM_TIME_NEW`].
pub(crate) const KVM_SYSTEM_TIME: u32 = 0x12;
