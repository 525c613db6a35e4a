// SPDX-License-Identifier: GPL-2.0

//! The pure part of `vcpu/`.

#[path = "../../../vcpu/cpuid.rs"]
pub(crate) mod cpuid;
#[path = "../../../vcpu/emulate/mod.rs"]
pub(crate) mod emulate;
#[path = "../../../vcpu/msr_table.rs"]
pub(crate) mod msr_table;
#[path = "../../../vcpu/pvclock.rs"]
pub(crate) mod pvclock;
