// SPDX-License-Identifier: GPL-2.0

//! rvmm: a hypervisor as a kernel module.

use kernel::prelude::*;

pub(crate) mod arch;
pub(crate) mod host;

module! {
    type: Rvmm,
    name: "rvmm",
    authors: ["The rvmm developers"],
    description: "Hypervisor with KVM's ioctl interface",
    license: "GPL",
}

/// Returns this module, as files name their owner.
pub(crate) const fn owner() -> *mut kernel::bindings::module {
    kernel::module::this_module::<Rvmm>().as_ptr()
}

struct Rvmm;

impl kernel::Module for Rvmm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Rvmm)
    }
}
