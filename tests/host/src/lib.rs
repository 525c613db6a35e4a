// SPDX-License-Identifier: GPL-2.0

//! The module's pure code, compiled by cargo from the very files that Kbuild compiles.
//!
//! Each folder of tests lies beside this file and is named for what it tests.

// Another thread may run before each atomic access.
extern crate interleaved as core;

#[path = "../../../abi/mod.rs"]
pub(crate) mod abi;
#[path = "../../../arch/mod.rs"]
pub(crate) mod arch;
#[path = "../../../chipset/mod.rs"]
pub(crate) mod chipset;
#[path = "../host/mod.rs"]
pub(crate) mod host;
#[path = "../../../kvm/mod.rs"]
pub(crate) mod kvm;
#[path = "../../../machine/mod.rs"]
pub(crate) mod machine;
#[path = "../../../mmu/mod.rs"]
pub(crate) mod mmu;
pub(crate) mod svm;
#[path = "../../../vcpu/mod.rs"]
pub(crate) mod vcpu;
#[path = "../../../virtio/mod.rs"]
pub(crate) mod virtio;
pub(crate) mod vmx;

#[cfg(test)]
mod fake;
#[cfg(test)]
#[path = "../fuzz/subjects/mod.rs"]
mod fuzz;
#[cfg(test)]
mod t_abi;
#[cfg(test)]
mod t_apic;
#[cfg(test)]
mod t_arch;
#[cfg(test)]
mod t_bus;
#[cfg(test)]
mod t_chipset;
#[cfg(test)]
mod t_emulate;
#[cfg(test)]
mod t_host;
#[cfg(test)]
mod t_mmu;
#[cfg(test)]
mod t_run;
#[cfg(test)]
mod t_saved;
#[cfg(test)]
mod t_svm;
#[cfg(test)]
mod t_vcpu;
#[cfg(test)]
mod t_vcpu_event;
#[cfg(test)]
mod t_virtio;
#[cfg(test)]
mod t_vmx;
