// SPDX-License-Identifier: GPL-2.0

//! What a machine is like just now, in words, for whoever reads its fdinfo.
//!
//! Every lock is taken for a copy of one thing and is free again before that is written down, so a reader holds up
//! nobody, and what stands in two lines may be of two moments. A line for each thing; the text is no ABI.

use super::functions::each_function;
use super::service::function::{VirtioFunction, VirtioService};
use super::whole::GuestMachine;
use crate::chipset::bus::save::with_chips;
use crate::chipset::bus::ChipBus;
use crate::chipset::pci::PciSlot;
use crate::chipset::saved::HasState;
use crate::virtio::queue::VirtQueue;
use crate::virtio::transport::pci::VirtioDevice;
use core::fmt::Debug;
use kernel::fmt::{Formatter, Result};

impl GuestMachine {
    /// Writes down the chips that there are, with all that a guest could find out of them.
    pub(crate) fn show_chips(&self, f: &mut Formatter<'_>) -> Result {
        macro_rules! show_each {
            ($($chip:ident)*) => {
                $(self.show_chip(f, stringify!($chip), |bus| bus.$chip.as_ref().map(HasState::save))?;)*
            };
        }
        with_chips!(show_each!());
        Ok(())
    }

    fn show_chip<S: Debug>(
        &self,
        f: &mut Formatter<'_>,
        name: &str,
        save: impl FnOnce(&ChipBus) -> Option<S>,
    ) -> Result {
        match self.interrupts.look_at(save) {
            Some(state) => writeln!(f, "{name} {state:x?}"),
            None => Ok(()),
        }
    }

    /// Writes down the functions on the PCI bus: what the driver has made of each, and where its queues are.
    pub(crate) fn show_devices(&self, f: &mut Formatter<'_>) -> Result {
        for slot in (0..32).filter_map(PciSlot::new) {
            let Some(function) = self.pci.function(slot) else { continue };
            write!(f, "{} {}", slot.number(), function.name())?;
            each_function!(function, service => show_function(service.function(), f))?;
        }
        Ok(())
    }

    /// Writes down the memory slots in the order of guest addresses, and how the host's changes of memory stand.
    pub(crate) fn show_memory(&self, f: &mut Formatter<'_>) -> Result {
        let mut index = 0usize;
        while let Some(slot) = self.ram.slot_at(index) {
            let (gpa, bytes) = (slot.base.0 << 12, slot.npages << 12);
            writeln!(f, "slot {} gpa {gpa:#x} bytes {bytes:#x} hva {:#x}", slot.id, slot.hva.0)?;
            index = index.saturating_add(1);
        }
        match self.ram.stable_sequence() {
            Some(changes) => writeln!(f, "changes {changes}"),
            None => writeln!(f, "changes under way"),
        }
    }

    /// Writes down where each vCPU is, and what is asked of it.
    pub(crate) fn show_vcpus(&self, f: &mut Formatter<'_>) -> Result {
        for vcpu in self.mailboxes.iter() {
            match vcpu.running_on() {
                Some(cpu) => write!(f, "{} in guest mode on CPU {cpu}", vcpu.id)?,
                None => write!(f, "{} outside", vcpu.id)?,
            }
            writeln!(f, ", asked {:?}", vcpu.requests())?;
        }
        Ok(())
    }
}

/// Writes down a function, and a line for each queue that its driver has enabled.
fn show_function<D: VirtioDevice + Unpin>(function: &VirtioFunction<D>, f: &mut Formatter<'_>) -> Result {
    let (transport, in_flight, fault) = function.with(|m| (m.save(), m.in_flight(), m.fault()));
    write!(f, " status {:#x} features {:#x}", transport.status, transport.driver_features)?;
    match fault {
        Some(fault) => writeln!(f, " in flight {in_flight} broken {fault:?}")?,
        None => writeln!(f, " in flight {in_flight}")?,
    }
    let queues = function.with(|m| u16::try_from(m.device().queues().len()).unwrap_or(0));
    for index in 0..queues {
        let copy = |queue: &VirtQueue| (queue.save(), queue.in_flight());
        let Some((queue, in_flight)) = function.with(|m| m.queue(index).filter(|q| q.is_ready()).map(copy))
        else {
            continue;
        };
        write!(f, "  queue {index} size {} next {} used {}", queue.size, queue.next_avail, queue.next_used)?;
        writeln!(f, " in flight {in_flight} at {:#x} {:#x} {:#x}", queue.desc, queue.avail, queue.used)?;
    }
    Ok(())
}
