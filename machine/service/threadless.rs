// SPDX-License-Identifier: GPL-2.0

//! A virtio device without a thread of its own: whichever vCPU writes to a queue serves it, once it is out of the
//! window. For what needs no waiting, but for pages of the guest's.
//!
//! A device type says how one queue is served, and has its service by that:
//!
//! ```text
//! impl ThreadlessDevice for VirtioRng {
//!     fn serve(rng: &mut VirtioPci<VirtioRng>, _queue: u16, ram: &GuestRam) -> QueueServed {
//!         rng.serve(ram, random::fill)
//!     }
//! }
//! ```

use super::function::{queue_bit, ServiceLeft, VirtioFunction, VirtioService};
use crate::machine::interrupts::ChipsetLock;
use crate::machine::ram::GuestRam;
use crate::virtio::transport::pci::{QueueServed, VirtioDevice, VirtioPci};
use kernel::prelude::*;
use kernel::sync::Arc;

/// A device type that a [`ThreadlessService`] serves.
pub(crate) trait ThreadlessDevice: VirtioDevice + Unpin {
    /// Serves a queue: a bounded number of its buffers, under the device's lock.
    fn serve(device: &mut VirtioPci<Self>, queue: u16, ram: &GuestRam) -> QueueServed
    where
        Self: Sized;
}

/// The service of such a device.
#[pin_data]
pub(crate) struct ThreadlessService<D> {
    #[pin]
    function: VirtioFunction<D>,
    queues: u16,
}

impl<D: ThreadlessDevice> ThreadlessService<D> {
    /// Returns the service of `device`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        device: VirtioPci<D>,
        ram: Arc<GuestRam>,
        interrupts: Arc<ChipsetLock>,
    ) -> Result<Arc<ThreadlessService<D>>> {
        let queues = u16::try_from(device.device().queues().len())?;
        let function = VirtioFunction::new(device, KVec::new(), ram, interrupts);
        Arc::pin_init(pin_init!(ThreadlessService { function <- function, queues }), GFP_KERNEL_ACCOUNT)
    }
}

impl<D: ThreadlessDevice> VirtioService for ThreadlessService<D> {
    type Device = D;

    fn function(&self) -> &VirtioFunction<D> {
        &self.function
    }

    fn serve_deferred(&self, queues: u64) -> ServiceLeft {
        for queue in (0..self.queues).filter(|queue| queues & queue_bit(*queue) != 0) {
            let left = self.function.serve(|device| D::serve(device, queue, &self.function.ram));
            if left != ServiceLeft::Nothing {
                return left;
            }
        }
        ServiceLeft::Nothing
    }
}
