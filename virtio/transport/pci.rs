// SPDX-License-Identifier: GPL-2.0

//! The virtio transport over PCI, modern only.
//!
//! Follows VIRTIO 1.2, "Virtio Over PCI Bus" and "Device Initialization". Not modelled: the legacy
//! interface, queue reset, notification data, shared memory regions.
//!
//! | BAR | offset | holds |
//! |---|---|---|
//! | 0 | 0x0000 | common configuration |
//! | 0 | 0x1000 | ISR status |
//! | 0 | 0x2000 | device configuration |
//! | 0 | 0x3000 | notifications, 4 bytes a queue, on a page of their own: [`kick`] needs no lock |
//! | 1 | 0x000 | MSI-X table |
//! | 1 | 0x800 | MSI-X pending bits |
//!
//! The life of a device, in its status register; each arrow is a write of the driver:
//!
//! ```text
//! 0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK     0 written: reset
//!                               refused unless the features fit
//! ```
//!
//! A reset ends only when no request is in flight any more, because until then a worker still
//! reads and writes the guest's buffers: the status register keeps its value, the driver sees it and
//! waits. A driver that broke a queue's rules finds NEEDS_RESET set, and the device stands still.
//!
//! Without MSI-X the device interrupts by its INTx pin, which is asserted as long as the ISR status is not 0; reading that
//! clears it ([`VirtioPci::asserts_pin`]).
//!
//! The caller holds the device's lock around every call, except [`kick`].

use super::common::{CommonConfig, DeviceStatus};
use super::features::{F_RING_PACKED, F_TRANSPORT};
use super::msix::MsixTable;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::chipset::pci::{ConfigSpace, MsixMessage, PciCommand, PciInterrupt, TouchedRegs};
use crate::chipset::saved::{BadState, StateReader, StateWriter};
use crate::mmu::mem::GuestMem;
use crate::virtio::queue::{QueueFault, VirtQueue};
use kernel::prelude::*;

mod layout;
pub(crate) mod save;

pub(crate) use layout::{BAR_MSIX, BAR_STRUCTURES};
use layout::{
    DEVICE, ISR, MSIX_BYTES, MSIX_PENDING, NOTIFY, NOTIFY_MULTIPLIER, PCI_CFG_BAR, PCI_CFG_DATA,
    PCI_CFG_LENGTH, PCI_CFG_OFFSET, STRUCTURES_BYTES,
};

/// ISR status: a buffer was used.
const ISR_QUEUE: u8 = 1;
/// ISR status: the device's configuration changed.
const ISR_CONFIG: u8 = 2;

/// What a device type adds to the transport.
pub(crate) trait VirtioDevice {
    /// Device type: "Device Types".
    const TYPE: u16;
    /// PCI class code, base class in bits 23 to 16.
    const CLASS: u32;

    /// Returns the features of the type's own, bits 0 to 23 and 50 to 63.
    fn features(&self) -> u64;

    /// Takes the features that the driver accepted; called before a queue is enabled.
    fn accept(&mut self, features: u64);

    /// Returns the largest size of each queue.
    fn queues(&self) -> &[u16];

    /// Returns how many descriptors a buffer may have.
    fn max_chain(&self) -> usize;

    /// Returns the device configuration.
    fn config(&self) -> &[u8];

    /// Writes what the type has of state besides the features that the driver accepted.
    fn save_own(&self, _instance: u32, _out: &mut StateWriter) {}

    /// Takes that over; the features have been accepted.
    ///
    /// # Errors
    /// As [`BadState`].
    fn restore_own(&mut self, _instance: u32, _from: &mut StateReader<'_>) -> Result<(), BadState> {
        Ok(())
    }

    /// Takes a write of the driver's to the device configuration. Returns whether there is anything to write
    /// there.
    fn write_config(&mut self, _at: u32, _width: AccessWidth, _value: u64) -> bool {
        false
    }
}

/// What a guest's access asks the caller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum AccessEffect {
    /// Nothing.
    None,
    /// The driver made buffers available in this queue: wake its worker.
    Kick(u16),
    /// The driver is ready: wake the worker of every queue, buffers may be waiting.
    Activated,
    /// The driver wrote to the device configuration, and the device took it.
    Configured,
    /// The driver asked for a reset. Requests in flight should end soon: cancel what can be.
    Reset,
    /// Vectors may have been unmasked: send what [`VirtioPci::take_pending`] gives.
    Msix,
    /// Decoding or bus mastering changed: call `PciRoot::update`, then act as for `MsixTable` and
    /// `Activated`.
    Decode,
    /// The driver broke the rules: the device needs a reset. Send the message, if there is one.
    Broken(Option<PciInterrupt>),
}

/// What serving a queue without a worker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum QueueServed {
    /// All buffers are served: send the message, if there is one.
    Empty(Option<PciInterrupt>),
    /// The bound was reached: send the message, and call again at leisure.
    More(Option<PciInterrupt>),
    /// The page at this address has to be faulted in, without the lock; send the message, then call
    /// again.
    NotResident(Gpa, Option<PciInterrupt>),
    /// The driver broke the rules and the device stands still: send the message, if there is one.
    Broken(Option<PciInterrupt>),
}

/// Returns the queue that a write to a virtio BAR notifies.
///
/// Needs no lock and no device: whoever handles the write can wake the queue's worker at once. The
/// queue may not exist or not be ready; the worker will find nothing then.
pub(crate) fn kick(bar: u8, offset: u64) -> Option<u16> {
    let at = offset.checked_sub(u64::from(NOTIFY))?;
    if bar == BAR_STRUCTURES {
        u16::try_from(at >> NOTIFY_MULTIPLIER.trailing_zeros()).ok()
    } else {
        None
    }
}

bitflags::bitflags! {
    /// What keeps buffers from being taken out of a device's queues, beside its status.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct TakeBar: u8 {
        /// A reset waits for `in_flight` to become 0. What is given back is dropped, too.
        const RESETTING = 1 << 0;
        /// The machine comes to rest, or is.
        const AT_REST = 1 << 1;
    }
}

/// A virtio device on PCI.
#[derive(Debug)]
pub(crate) struct VirtioPci<D> {
    /// Offset of the capability that gives access to BARs.
    pci_cfg: u8,
    config: ConfigSpace,
    common: CommonConfig,
    queues: KVec<VirtQueue>,
    msix: MsixTable,
    isr: u8,
    /// Buffers that a worker has.
    in_flight: u32,
    /// Why nothing is taken, whatever the status says.
    bars: TakeBar,
    /// How the driver last broke the rules.
    fault: Option<QueueFault>,
    /// Packed rings are offered.
    offers_packed: bool,
    device: D,
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Returns a device at reset.
    ///
    /// # Errors
    /// `EINVAL`: the type wants queues that cannot be. `ENOMEM`.
    pub(crate) fn new(device: D) -> Result<VirtioPci<D>> {
        let mut queues = KVec::with_capacity(device.queues().len(), GFP_KERNEL_ACCOUNT)?;
        for size in device.queues() {
            queues.push_within_capacity(VirtQueue::new(*size, device.max_chain())?)?;
        }
        // One vector a queue and one for configuration changes.
        let vectors = u16::try_from(queues.len()).ok().and_then(|n| n.checked_add(1)).ok_or(EINVAL)?;
        let msix = MsixTable::new(vectors)?;
        let (config, pci_cfg) = layout::config_space(D::TYPE, D::CLASS, vectors)?;
        let common = CommonConfig::new();
        Ok(VirtioPci {
            pci_cfg,
            config,
            common,
            queues,
            msix,
            isr: 0,
            in_flight: 0,
            bars: TakeBar::empty(),
            fault: None,
            offers_packed: false,
            device,
        })
    }

    /// Offers the driver packed rings, too; made before the guest sees the device.
    pub(crate) fn offer_packed(mut self, offer: bool) -> VirtioPci<D> {
        self.offers_packed = offer;
        self
    }

    /// Returns the configuration space, for `PciRoot::add`, `update` and `reset_function`.
    pub(crate) fn config_space(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// Returns what the device type holds.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Resets the whole function, as a platform reset does. The caller has drained its requests, or
    /// completes them later: they are then dropped. The BARs are for `PciRoot::reset_function`.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.begin_reset();
    }

    /// Returns whether a worker may touch guest memory: the driver is ready, the function is bus
    /// master, and no reset is under way or needed.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running_but_for(TakeBar::RESETTING)
    }

    /// One comparison for all of `bars`: this is asked for every buffer.
    #[inline(always)]
    fn is_running_but_for(&self, bars: TakeBar) -> bool {
        let stopped = DeviceStatus::FAILED | DeviceStatus::NEEDS_RESET;
        self.common.status.contains(DeviceStatus::DRIVER_OK)
            && !self.common.status.intersects(stopped)
            && !self.bars.intersects(bars)
            && self.config.command().contains(PciCommand::BUS_MASTER)
    }

    /// Lets nothing be taken out of the queues any more, while the machine is at rest; what is under way can be given
    /// back.
    pub(crate) fn set_at_rest(&mut self, at_rest: bool) {
        self.bars.set(TakeBar::AT_REST, at_rest);
    }

    /// Returns whether nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && !self.is_resetting()
    }

    /// Returns whether a reset waits for requests in flight.
    pub(crate) fn is_resetting(&self) -> bool {
        self.bars.contains(TakeBar::RESETTING)
    }

    /// Returns how many buffers workers have.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Returns a queue, in whatever state.
    pub(crate) fn queue(&self, index: u16) -> Option<&VirtQueue> {
        self.queues.get(usize::from(index))
    }

    /// Returns how the driver last broke the rules, for fdinfo.
    pub(crate) fn fault(&self) -> Option<QueueFault> {
        self.fault
    }

    /// Looks whether the invariants of configuration space and queues hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.config.check()?;
        self.queues.iter().try_for_each(VirtQueue::check)
    }

    /// Reads configuration space.
    pub(crate) fn config_read(&mut self, register: u8, width: AccessWidth) -> u32 {
        if self.is_pci_cfg_data(register) {
            if let Some((bar, offset, length)) = self.pci_cfg_window() {
                return (self.bar_read(bar, offset, length) & width.mask() & 0xffff_ffff) as u32;
            }
        }
        // PCI, "Device Status": the bit tells of the wish, whether or not the command register disables the pin. It is
        // there for this read alone: the space is saved as it is, and a wish is no state of it.
        self.config.set_interrupt_status(self.wants_pin());
        let value = self.config.read(register, width);
        self.config.set_interrupt_status(false);
        value
    }

    /// Writes configuration space.
    pub(crate) fn config_write(&mut self, register: u8, width: AccessWidth, value: u32) -> AccessEffect {
        let touched = self.config.write(register, width, value);
        if self.is_pci_cfg_data(register) {
            return match self.pci_cfg_window() {
                Some((bar, offset, length)) => self.bar_write(bar, offset, length, u64::from(value)),
                None => AccessEffect::None,
            };
        }
        if touched.is_empty() {
            return AccessEffect::None;
        }
        let bus_master = self.config.command().contains(PciCommand::BUS_MASTER);
        self.msix.set_control(self.config.msix_control(), bus_master);
        if touched.contains(TouchedRegs::DECODE) {
            AccessEffect::Decode
        } else {
            AccessEffect::Msix
        }
    }

    /// Reads a BAR. What is not there, or not with that width, reads as ones.
    pub(crate) fn bar_read(&mut self, bar: u8, offset: u64, width: AccessWidth) -> u64 {
        let Ok(at) = u32::try_from(offset) else { return width.mask() };
        match (bar, at) {
            (BAR_STRUCTURES, 0..ISR) => self.common_read(at, width),
            (BAR_STRUCTURES, ISR) => u64::from(core::mem::take(&mut self.isr)),
            (BAR_STRUCTURES, DEVICE..NOTIFY) => self.device_read(at.wrapping_sub(DEVICE), width),
            (BAR_MSIX, 0..MSIX_PENDING) => self.msix.read_table(offset, width),
            (BAR_MSIX, MSIX_PENDING..MSIX_BYTES) => {
                self.msix.read_pending(u64::from(at.wrapping_sub(MSIX_PENDING)), width)
            }
            _ => width.mask(),
        }
    }

    /// Writes a BAR. What is not there, or not with that width, is ignored.
    pub(crate) fn bar_write(&mut self, bar: u8, offset: u64, width: AccessWidth, value: u64) -> AccessEffect {
        let Ok(at) = u32::try_from(offset) else { return AccessEffect::None };
        match (bar, at) {
            (BAR_STRUCTURES, NOTIFY..STRUCTURES_BYTES) => match kick(bar, offset) {
                Some(queue) if self.is_ready(queue) => AccessEffect::Kick(queue),
                _ => AccessEffect::None,
            },
            (BAR_STRUCTURES, 0..ISR) => self.common_write(at, width, value & width.mask()),
            (BAR_STRUCTURES, DEVICE..NOTIFY) => {
                if self.device.write_config(at.wrapping_sub(DEVICE), width, value & width.mask()) {
                    AccessEffect::Configured
                } else {
                    AccessEffect::None
                }
            }
            (BAR_MSIX, 0..MSIX_PENDING) => {
                self.msix.write_table(offset, width, value);
                AccessEffect::Msix
            }
            _ => AccessEffect::None,
        }
    }

    /// Returns a message that was pending and may be sent now; to be called until it gives none.
    pub(crate) fn take_pending(&mut self) -> Option<MsixMessage> {
        self.msix.take_pending()
    }

    /// Tells the driver, if there is one, that the device configuration changed. Returns the message to send.
    pub(crate) fn config_changed(&mut self) -> Option<PciInterrupt> {
        self.common.generation = self.common.generation.wrapping_add(1);
        self.config_interrupt()
    }

    /// Returns a queue's interrupt, if it can be sent now.
    pub(crate) fn interrupt(&mut self, queue: u16) -> Option<PciInterrupt> {
        if !self.msix.is_enabled() {
            return self.assert_pin(ISR_QUEUE);
        }
        self.msix.notify(self.common.queue_vector(queue)).map(PciInterrupt::Message)
    }

    /// Returns whether the INTx pin is asserted.
    pub(crate) fn asserts_pin(&self) -> bool {
        self.wants_pin() && !self.config.command().contains(PciCommand::INTX_DISABLE)
    }

    /// Returns whether the device interrupts by its pin, if that is not disabled.
    fn wants_pin(&self) -> bool {
        self.isr != 0 && !self.msix.is_enabled() && !self.is_resetting()
    }

    /// Notes why the device interrupts, where it has only the pin for that.
    #[cold]
    fn assert_pin(&mut self, why: u8) -> Option<PciInterrupt> {
        let is_new = self.isr & why != why;
        self.isr |= why;
        is_new.then_some(PciInterrupt::Pin)
    }

    /// Ends a request: returns the message of its queue's interrupt if the driver wants one.
    pub(in crate::virtio) fn used<M: GuestMem>(&mut self, index: u16, mem: &M) -> Option<PciInterrupt> {
        let queue = self.queues.get_mut(usize::from(index))?;
        if queue.needs_notification(mem) {
            self.interrupt(index)
        } else {
            None
        }
    }

    /// Notes that the driver broke the rules. Returns the message that tells it so.
    pub(in crate::virtio) fn fail(&mut self, why: QueueFault) -> Option<PciInterrupt> {
        self.fault = Some(why);
        // VIRTIO, "Device Status Field": a driver that runs is told of this bit as of a change of the configuration.
        self.common.status |= DeviceStatus::NEEDS_RESET;
        self.config_interrupt()
    }

    /// Returns a queue that buffers may be taken out of now, with the device type.
    pub(in crate::virtio) fn taking(&mut self, queue: u16) -> Option<(&mut D, &mut VirtQueue)> {
        if !self.is_running_but_for(TakeBar::all()) {
            return None;
        }
        let queue = self.queues.get_mut(usize::from(queue)).filter(|q| q.is_ready())?;
        Some((&mut self.device, queue))
    }

    /// Returns a queue that buffers may be given back to now, with the device type.
    pub(in crate::virtio) fn running(&mut self, queue: u16) -> Option<(&mut D, &mut VirtQueue)> {
        if !self.is_running() {
            return None;
        }
        let queue = self.queues.get_mut(usize::from(queue)).filter(|q| q.is_ready())?;
        Some((&mut self.device, queue))
    }

    /// Returns the device type, whatever the state.
    pub(in crate::virtio) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Notes that a worker took a buffer.
    pub(in crate::virtio) fn began(&mut self) {
        self.began_some(1);
    }

    /// As [`VirtioPci::began`], for `count` buffers.
    pub(in crate::virtio) fn began_some(&mut self, count: u32) {
        self.in_flight = self.in_flight.saturating_add(count);
    }

    /// Notes that a worker is done with a buffer; the last one ends a reset that waited for it.
    pub(in crate::virtio) fn ended(&mut self) {
        self.ended_some(1);
    }

    /// As [`VirtioPci::ended`], for `count` buffers.
    pub(in crate::virtio) fn ended_some(&mut self, count: u32) {
        self.in_flight = self.in_flight.saturating_sub(count);
        self.finish_reset();
    }

    fn features(&self) -> u64 {
        let packed = if self.offers_packed { F_RING_PACKED } else { 0 };
        self.device.features() | F_TRANSPORT | packed
    }

    fn is_ready(&self, queue: u16) -> bool {
        self.is_running() && self.queues.get(usize::from(queue)).is_some_and(VirtQueue::is_ready)
    }

    fn config_interrupt(&mut self) -> Option<PciInterrupt> {
        if !self.common.status.contains(DeviceStatus::DRIVER_OK) {
            return None;
        }
        if !self.msix.is_enabled() {
            return self.assert_pin(ISR_CONFIG);
        }
        self.msix.notify(self.common.config_vector).map(PciInterrupt::Message)
    }

    fn device_read(&self, at: u32, width: AccessWidth) -> u64 {
        let mut value = [0u8; 8];
        let from = self.device.config().iter().skip(at as usize);
        for (to, from) in value.iter_mut().zip(from) {
            *to = *from;
        }
        u64::from_le_bytes(value) & width.mask()
    }

    fn common_read(&self, at: u32, width: AccessWidth) -> u64 {
        self.common.read(at, width, self.features(), &self.queues).unwrap_or(width.mask())
    }

    fn common_write(&mut self, at: u32, width: AccessWidth, value: u64) -> AccessEffect {
        if self.is_resetting() {
            return AccessEffect::None;
        }
        if CommonConfig::is_status(at, width) {
            return self.write_status((value & 0xff) as u8);
        }
        let vectors = self.msix.vectors();
        match self.common.write(at, width, value, vectors, &mut self.queues) {
            Ok(()) => AccessEffect::None,
            Err(fault) => AccessEffect::Broken(self.fail(fault)),
        }
    }

    fn write_status(&mut self, raw: u8) -> AccessEffect {
        if raw == 0 {
            self.begin_reset();
            return AccessEffect::Reset;
        }
        let before = self.common.status;
        self.common.set_status(DeviceStatus::from_bits_truncate(raw), self.features());
        let gained = self.common.status.difference(before);
        if gained.contains(DeviceStatus::FEATURES_OK) {
            self.device.accept(self.common.driver_features);
        }
        if gained.contains(DeviceStatus::DRIVER_OK) {
            AccessEffect::Activated
        } else {
            AccessEffect::None
        }
    }

    fn begin_reset(&mut self) {
        self.bars.insert(TakeBar::RESETTING);
        self.finish_reset();
    }

    fn finish_reset(&mut self) {
        if !self.is_resetting() || self.in_flight != 0 {
            return;
        }
        self.bars.remove(TakeBar::RESETTING);
        self.isr = 0;
        // The vector table is the bus driver's and stays; which vectors the queues use goes with the rest.
        self.common.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        // What the last driver agreed to must not hold for the next one.
        self.device.accept(0);
    }

    fn is_pci_cfg_data(&self, register: u8) -> bool {
        register == self.pci_cfg.wrapping_add(PCI_CFG_DATA)
    }

    /// Returns the access that the driver set up in the capability, if it is a valid one.
    fn pci_cfg_window(&self) -> Option<(u8, u64, AccessWidth)> {
        let field = |at: u8| self.config.read(self.pci_cfg.wrapping_add(at), AccessWidth::B4);
        let bar = (field(PCI_CFG_BAR) & 0xff) as u8;
        let offset = field(PCI_CFG_OFFSET);
        let width = AccessWidth::from_bytes(usize::try_from(field(PCI_CFG_LENGTH)).ok()?)?;
        let aligned = u64::from(offset) & (width.bytes() as u64).wrapping_sub(1) == 0;
        (width != AccessWidth::B8 && aligned).then_some((bar, u64::from(offset), width))
    }
}
