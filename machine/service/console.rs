// SPDX-License-Identifier: GPL-2.0

//! A virtio console: the vCPU that writes to it takes its output out of the guest's memory, and whoever brings input
//! puts it there.

use super::function::{ServiceLeft, VirtioFunction, VirtioService};
use crate::host::file::signal_pending;
use crate::machine::interrupts::ChipsetLock;
use crate::machine::ram::GuestRam;
use crate::virtio::device::console::VirtioConsole;
use crate::virtio::transport::pci::VirtioPci;
use kernel::prelude::*;
use kernel::sync::Arc;

/// A virtio console.
#[pin_data]
pub(crate) struct ConsoleService {
    #[pin]
    function: VirtioFunction<VirtioConsole>,
}

impl ConsoleService {
    /// Returns the service of `console`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new(
        console: VirtioPci<VirtioConsole>,
        ram: Arc<GuestRam>,
        interrupts: Arc<ChipsetLock>,
    ) -> Result<Arc<ConsoleService>> {
        let function = VirtioFunction::new(console, KVec::new(), ram, interrupts);
        Arc::pin_init(pin_init!(ConsoleService { function <- function }), GFP_KERNEL_ACCOUNT)
    }

    /// Gives waiting input to the guest, and wakes who waits for output or for room.
    fn serve_input(&self) -> ServiceLeft {
        let news = self.function.with(|console| console.take_news());
        let unserved = self.function.serve(|console| console.serve_input(&*self.function.ram));
        if news | self.function.with(|console| console.take_news()) {
            self.function.interrupts.console.wake();
        }
        unserved
    }

    /// Brings bytes to the guest, for which there is room. What is left of them reaches it when it next kicks.
    pub(crate) fn push_input(&self, bytes: &[u8]) {
        self.function.with(|console| console.push_input(bytes));
        loop {
            let goes_on = match self.serve_input() {
                ServiceLeft::Nothing => false,
                ServiceLeft::More => !signal_pending(),
                ServiceLeft::NotResident(gpa) => self.function.ram.fault_in(gpa, true).is_ok(),
            };
            if !goes_on {
                return;
            }
        }
    }
}

impl VirtioService for ConsoleService {
    type Device = VirtioConsole;

    fn function(&self) -> &VirtioFunction<VirtioConsole> {
        &self.function
    }

    fn serve_deferred(&self, _queues: u64) -> ServiceLeft {
        match self.function.serve(|console| console.serve_output(&*self.function.ram)) {
            ServiceLeft::Nothing => self.serve_input(),
            unserved => unserved,
        }
    }
}
