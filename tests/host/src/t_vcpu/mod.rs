// SPDX-License-Identifier: GPL-2.0

//! Tests of the virtual processor: CPUID, MSRs and the paravirtual clock.

mod controls;
mod cpuid_policy;
mod cpuid_table;
mod ioevent;
mod mce;
mod msr_table;
mod poll;
mod progress;
mod pvclock;
mod record;
mod steal;
mod timer_advance;
