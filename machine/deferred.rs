// SPDX-License-Identifier: GPL-2.0

//! What an access to a device leaves to be done once the thread may sleep.

use crate::chipset::pci::PciSlot;

/// A queue of a device on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueId {
    /// Which device.
    pub(crate) slot: PciSlot,
    /// Which of its queues.
    pub(crate) queue: u16,
}

/// What a write to a device leaves to be done by the vCPU that wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeferredWork {
    /// Nothing.
    None,
    /// Queues without a worker have work: any vCPU serves them.
    Service,
    /// This vCPU serves the queue, in the place of its worker, or hands it to the worker.
    Inline(QueueId),
}
