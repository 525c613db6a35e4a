// SPDX-License-Identifier: GPL-2.0

//! The state of a virtio device on PCI, of its queues, and of what its type adds.
//!
//! Only a device at rest is saved: no request of the guest's is with a worker, and no reset waits for one. That is what
//! [`Quiesced`] stands for, and nothing else gives a state or takes one.
//!
//! The caller takes over afterwards what the device decodes (`PciRoot::update`), sends what was pending
//! ([`VirtioPci::take_pending`]), carries the pin's level ([`VirtioPci::asserts_pin`]), and serves all queues, as after `Activated`.

use super::{VirtioDevice, VirtioPci, ISR_CONFIG, ISR_QUEUE};
use crate::chipset::pci::PciCommand;
use crate::chipset::saved::{BadState, HasState, SectionId, StateReader, StateWriter};
use crate::virtio::transport::common::{DeviceStatus, SavedTransport};

/// Bytes that the sections of a device take at most, with the rings of a console.
pub(crate) const DEVICE_STATE_BYTES: usize = 80 << 10;

/// A device of which nothing is under way.
pub(crate) struct Quiesced<'a, D>(&'a mut VirtioPci<D>);

impl<D: VirtioDevice> HasState for VirtioPci<D> {
    const SECTION: SectionId = SectionId { id: 0x24, version: 1 };
    type State = SavedTransport;

    fn save(&self) -> SavedTransport {
        let VirtioPci {
            pci_cfg: _,
            config: _,
            common,
            queues: _,
            msix: _,
            isr,
            in_flight: _,
            bars: _,
            fault: _,
            offers_packed: _,
            device: _,
        } = self;
        common.to_state(*isr)
    }

    fn set_state(&mut self, state: &SavedTransport) {
        let (features, vectors) = (self.features(), self.msix.vectors());
        self.common.set_from(state, features, vectors, self.queues.len());
        self.isr = state.isr & (ISR_QUEUE | ISR_CONFIG);
        let agreed = self.common.status.contains(DeviceStatus::FEATURES_OK);
        self.device.accept(if agreed { self.common.driver_features } else { 0 });
    }
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Returns the device if nothing of it is under way.
    pub(crate) fn quiesced(&mut self) -> Option<Quiesced<'_, D>> {
        self.is_quiet().then_some(Quiesced(self))
    }
}

impl<D: VirtioDevice> Quiesced<'_, D> {
    /// Writes the state of the device in `slot`.
    pub(crate) fn save(&self, slot: u8, out: &mut StateWriter) {
        let device = &*self.0;
        let instance = u32::from(slot) << 16;
        out.put(instance, &device.config);
        device.msix.save_table(instance, out);
        out.put(instance, device);
        for (n, queue) in (instance..=u32::MAX).zip(&device.queues) {
            out.put(n, queue);
        }
        device.device.save_own(instance, out);
    }

    /// Takes over the state of the device in `slot`.
    ///
    /// # Errors
    /// As [`BadState`]; some of the device has its new state then, and the device is to be thrown away.
    pub(crate) fn restore(&mut self, slot: u8, from: &mut StateReader<'_>) -> Result<(), BadState> {
        let device = &mut *self.0;
        let instance = u32::from(slot) << 16;
        from.get(instance, &mut device.config)?;
        let bus_master = device.config.command().contains(PciCommand::BUS_MASTER);
        device.msix.set_control(device.config.msix_control(), bus_master);
        device.msix.restore_table(instance, from)?;
        from.get(instance, &mut *device)?;
        (instance..=u32::MAX).zip(&mut device.queues).try_for_each(|(n, queue)| from.get(n, queue))?;
        device.device.restore_own(instance, from)
    }
}
