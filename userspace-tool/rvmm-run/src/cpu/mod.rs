// SPDX-License-Identifier: GPL-2.0

//! Virtual processors: their CPUID, their state at the kernel's entry, the loop around `KVM_RUN` and dumps.

pub mod cpuid;
pub mod dump;
pub mod regs;
pub mod run;
