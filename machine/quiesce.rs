// SPDX-License-Identifier: GPL-2.0

//! A machine at rest: no vCPU is in the guest, nobody works for a device, no request is under way, and the time of the
//! devices stands still. What a guest can see changes only by what user space does then.
//!
//! ```text
//! gate closed ──> vCPUs asked out ──> devices take nothing more, workers finish ──> time stops
//! gate open   <── vCPUs look at their timers <── devices look at their queues   <── time goes on
//! ```
//!
//! Each wait is for what ends by itself: an exit of a vCPU and the inline service that it began, transfers that the host's
//! device has. Threads that are lent to queues stay in the kernel meanwhile, and find nothing to do.

use super::mailbox::VcpuRequests;
use super::whole::GuestMachine;
use core::ops::Deref;
use kernel::prelude::*;

/// A machine is at rest while this lives.
#[must_use = "the machine goes on when this is dropped"]
pub(crate) struct AtRest<M: Deref<Target = GuestMachine>>(M);

impl<M: Deref<Target = GuestMachine>> AtRest<M> {
    /// Brings a machine to rest. The caller sees to it that one thread at a time does; under the VM's configuration
    /// lock, which neither a vCPU nor a worker waits for.
    ///
    /// # Errors
    /// `EINTR` on a signal; the machine goes on then.
    pub(crate) fn new(machine: M) -> Result<AtRest<M>> {
        // From here on its drop undoes what was done, however far that went.
        let at_rest = AtRest(machine);
        let machine = &*at_rest.0;
        let gate = &machine.interrupts.gate;
        gate.close();
        for vcpu in machine.mailboxes.iter() {
            vcpu.request(VcpuRequests::REST);
        }
        gate.wait_for_rest(|| machine.mailboxes.iter().all(|vcpu| !vcpu.activity.is_active()))?;
        // The vCPUs first: they make work for the devices.
        machine.pci.begin_rest();
        gate.wait_for_rest(|| machine.pci.is_at_rest())?;
        // Last, so that those who finished their work did it in the machine's time.
        machine.interrupts.stop_time();
        Ok(at_rest)
    }

    /// Returns the machine.
    pub(super) fn machine(&self) -> &GuestMachine {
        &self.0
    }
}

impl<M: Deref<Target = GuestMachine>> Drop for AtRest<M> {
    fn drop(&mut self) {
        let machine = &*self.0;
        machine.interrupts.go_on_time();
        machine.pci.end_rest();
        if let Some(vcpu) = machine.mailboxes.first() {
            vcpu.request(VcpuRequests::SERVICE);
        }
        for vcpu in machine.mailboxes.iter() {
            // Armed for the host's time at which the deadline would have come without the rest.
            vcpu.request(VcpuRequests::TIMER);
        }
        machine.interrupts.gate.open();
    }
}
