// SPDX-License-Identifier: GPL-2.0

//! The entropy of a virtio entropy source: the host's, brought to the guest by the vCPU that asks for it.

use super::function::{ServiceLeft, VirtioFunction, VirtioService};
use crate::host::random;
use crate::machine::interrupts::ChipsetLock;
use crate::machine::ram::GuestRam;
use crate::virtio::device::rng::VirtioRng;
use crate::virtio::transport::pci::VirtioPci;
use kernel::prelude::*;
use kernel::sync::Arc;

/// An entropy source.
#[pin_data]
pub(crate) struct RngService {
    #[pin]
    function: VirtioFunction<VirtioRng>,
}

impl RngService {
    /// Returns the service of `rng`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        rng: VirtioPci<VirtioRng>,
        ram: Arc<GuestRam>,
        interrupts: Arc<ChipsetLock>,
    ) -> Result<Arc<RngService>> {
        let function = VirtioFunction::new(rng, KVec::new(), ram, interrupts);
        Arc::pin_init(pin_init!(RngService { function <- function }), GFP_KERNEL_ACCOUNT)
    }
}

impl VirtioService for RngService {
    type Device = VirtioRng;

    fn function(&self) -> &VirtioFunction<VirtioRng> {
        &self.function
    }

    fn serve_deferred(&self, _queues: u64) -> ServiceLeft {
        self.function.serve(|rng| rng.serve(&*self.function.ram, random::fill))
    }
}
