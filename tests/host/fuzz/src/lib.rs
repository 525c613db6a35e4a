// SPDX-License-Identifier: GPL-2.0

//! The subjects with what they stand on, outside of the tests.

#[path = "../../../../abi/mod.rs"]
pub(crate) mod abi;
#[path = "../../../../arch/mod.rs"]
pub(crate) mod arch;
#[path = "../../../../chipset/mod.rs"]
pub(crate) mod chipset;
#[path = "../../host/mod.rs"]
pub(crate) mod host;
#[path = "../../../../machine/mod.rs"]
pub(crate) mod machine;
#[path = "../../../../mmu/mod.rs"]
pub(crate) mod mmu;
#[path = "../../../../vcpu/mod.rs"]
pub(crate) mod vcpu;
#[path = "../../../../virtio/mod.rs"]
pub(crate) mod virtio;

#[path = "../../src/t_apic/mod.rs"]
mod t_apic;
#[path = "../../src/t_chipset/mod.rs"]
mod t_chipset;
#[path = "../../src/t_emulate/mod.rs"]
mod t_emulate;
#[path = "../../src/t_mmu/mod.rs"]
mod t_mmu;
#[path = "../../src/t_virtio/mod.rs"]
mod t_virtio;

#[path = "../subjects/mod.rs"]
mod fuzz;

mod config;
mod control;
mod loader;

fn all() -> impl Iterator<Item = &'static fuzz::Target> {
    fuzz::TARGETS.iter().chain(loader::TARGETS).chain(config::TARGETS).chain(control::TARGETS)
}

/// Returns the names of all subjects.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|t| t.0)
}

/// Returns the subject of that name.
pub fn subject(name: &str) -> Option<fn(&[u8])> {
    all().find(|t| t.0 == name).map(|t| t.1)
}
