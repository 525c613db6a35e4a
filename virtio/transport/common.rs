// SPDX-License-Identifier: GPL-2.0

//! The common configuration structure of virtio over PCI, and the device status in it.
//!
//! Follows VIRTIO 1.2, "Common configuration structure layout" and "Device Status Field". Each field
//! is accessed with its own width; the 64-bit addresses also by halves. Anything else reads as ones
//! and is not written.

use super::features::{F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED, F_VERSION_1};
use super::msix::MAX_VECTORS;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::chipset::saved::state_struct;
use crate::virtio::queue::{QueueFault, QueueFeatures, VirtQueue};

const DEVICE_FEATURE_SELECT: u32 = 0x00;
const DEVICE_FEATURE: u32 = 0x04;
const DRIVER_FEATURE_SELECT: u32 = 0x08;
const DRIVER_FEATURE: u32 = 0x0c;
const CONFIG_VECTOR: u32 = 0x10;
const NUM_QUEUES: u32 = 0x12;
const DEVICE_STATUS: u32 = 0x14;
const CONFIG_GENERATION: u32 = 0x15;
const QUEUE_SELECT: u32 = 0x16;
const QUEUE_SIZE: u32 = 0x18;
const QUEUE_VECTOR: u32 = 0x1a;
const QUEUE_ENABLE: u32 = 0x1c;
const QUEUE_NOTIFY_OFF: u32 = 0x1e;
const QUEUE_DESC: u32 = 0x20;
const QUEUE_DRIVER: u32 = 0x28;
const QUEUE_DEVICE: u32 = 0x30;
const END: u32 = 0x38;

/// No vector: VIRTIO_MSI_NO_VECTOR.
const NO_VECTOR: u16 = 0xffff;

bitflags::bitflags! {
    /// The device status field.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct DeviceStatus: u8 {
        /// The guest found the device.
        const ACKNOWLEDGE = 1 << 0;
        /// The guest has a driver for it.
        const DRIVER = 1 << 1;
        /// The driver is ready.
        const DRIVER_OK = 1 << 2;
        /// The features are agreed on.
        const FEATURES_OK = 1 << 3;
        /// The device cannot go on. Set by the device only.
        const NEEDS_RESET = 1 << 6;
        /// The driver gave up.
        const FAILED = 1 << 7;
    }
}

/// State of the common configuration structure, as far as it is not in the queues.
#[derive(Debug)]
pub(crate) struct CommonConfig {
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    /// Vector of each queue.
    vectors: [u16; MAX_VECTORS as usize],
    /// Vector of configuration changes.
    pub(super) config_vector: u16,
    /// What the driver accepts so far.
    pub(super) driver_features: u64,
    /// Device status.
    pub(super) status: DeviceStatus,
    /// Changes whenever the device configuration does.
    pub(super) generation: u8,
}

impl CommonConfig {
    /// Returns the state after reset.
    pub(super) fn new() -> CommonConfig {
        CommonConfig {
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            vectors: [NO_VECTOR; MAX_VECTORS as usize],
            config_vector: NO_VECTOR,
            driver_features: 0,
            status: DeviceStatus::empty(),
            generation: 0,
        }
    }

    /// Resets everything but the generation, which only ever goes on.
    pub(super) fn reset(&mut self) {
        *self = CommonConfig { generation: self.generation, ..CommonConfig::new() };
    }

    /// Returns a queue's vector.
    pub(super) fn queue_vector(&self, queue: u16) -> u16 {
        self.vectors.get(usize::from(queue)).copied().unwrap_or(NO_VECTOR)
    }

    /// Returns whether an access is one to the device status.
    pub(super) fn is_status(at: u32, width: AccessWidth) -> bool {
        at == DEVICE_STATUS && width == AccessWidth::B1
    }

    /// Takes over status bits from the driver, which can only add some.
    ///
    /// FEATURES_OK is refused unless `offered` holds all that the driver accepted and VERSION_1 is
    /// among them; DRIVER_OK is refused before FEATURES_OK.
    pub(super) fn set_status(&mut self, value: DeviceStatus, offered: u64) {
        let mut value = value.difference(DeviceStatus::NEEDS_RESET);
        let fits = self.driver_features & !offered == 0 && self.driver_features & F_VERSION_1 != 0;
        if !fits {
            value.remove(DeviceStatus::FEATURES_OK);
        }
        if !self.status.union(value).contains(DeviceStatus::FEATURES_OK) {
            value.remove(DeviceStatus::DRIVER_OK);
        }
        self.status |= value;
    }

    /// Reads a field, or `None` where there is none of that width.
    pub(super) fn read(
        &self,
        at: u32,
        width: AccessWidth,
        features: u64,
        queues: &[VirtQueue],
    ) -> Option<u64> {
        let queue = queues.get(usize::from(self.queue_select));
        let layout = || queue.map(VirtQueue::layout).unwrap_or_default();
        Some(match (at, width) {
            (DEVICE_FEATURE_SELECT, AccessWidth::B4) => u64::from(self.device_feature_select),
            (DEVICE_FEATURE, AccessWidth::B4) => half(features, self.device_feature_select),
            (DRIVER_FEATURE_SELECT, AccessWidth::B4) => u64::from(self.driver_feature_select),
            (DRIVER_FEATURE, AccessWidth::B4) => half(self.driver_features, self.driver_feature_select),
            (CONFIG_VECTOR, AccessWidth::B2) => u64::from(self.config_vector),
            (NUM_QUEUES, AccessWidth::B2) => queues.len() as u64 & 0xffff,
            (DEVICE_STATUS, AccessWidth::B1) => u64::from(self.status.bits()),
            (CONFIG_GENERATION, AccessWidth::B1) => u64::from(self.generation),
            (QUEUE_SELECT, AccessWidth::B2) => u64::from(self.queue_select),
            (QUEUE_SIZE, AccessWidth::B2) => u64::from(queue.map_or(0, VirtQueue::size)),
            (QUEUE_VECTOR, AccessWidth::B2) => {
                u64::from(queue.map_or(NO_VECTOR, |_| self.queue_vector(self.queue_select)))
            }
            (QUEUE_ENABLE, AccessWidth::B2) => u64::from(queue.is_some_and(VirtQueue::is_ready)),
            (QUEUE_NOTIFY_OFF, AccessWidth::B2) => u64::from(queue.map_or(0, |_| self.queue_select)),
            (QUEUE_DESC..QUEUE_DRIVER, _) => read_address(layout().desc, at, width)?,
            (QUEUE_DRIVER..QUEUE_DEVICE, _) => read_address(layout().avail, at, width)?,
            (QUEUE_DEVICE..END, _) => read_address(layout().used, at, width)?,
            _ => return None,
        })
    }

    /// Writes a field other than the status; `vectors` is how many there are.
    ///
    /// # Errors
    /// A queue was enabled that cannot be.
    pub(super) fn write(
        &mut self,
        at: u32,
        width: AccessWidth,
        value: u64,
        vectors: u16,
        queues: &mut [VirtQueue],
    ) -> Result<(), QueueFault> {
        let word = (value & 0xffff_ffff) as u32;
        let short = (value & 0xffff) as u16;
        match (at, width) {
            (DEVICE_FEATURE_SELECT, AccessWidth::B4) => self.device_feature_select = word,
            (DRIVER_FEATURE_SELECT, AccessWidth::B4) => self.driver_feature_select = word,
            (DRIVER_FEATURE, AccessWidth::B4) => self.write_features(word),
            (CONFIG_VECTOR, AccessWidth::B2) => self.config_vector = existing(short, vectors),
            (QUEUE_SELECT, AccessWidth::B2) => self.queue_select = short,
            _ => return self.write_queue(at, width, value, vectors, queues),
        }
        Ok(())
    }

    fn write_features(&mut self, word: u32) {
        // Once agreed on, features stay.
        if self.status.contains(DeviceStatus::FEATURES_OK) {
            return;
        }
        let (keep, new) = match self.driver_feature_select {
            0 => (!0xffff_ffff, u64::from(word)),
            1 => (0xffff_ffff, u64::from(word) << 32),
            _ => return,
        };
        self.driver_features = (self.driver_features & keep) | new;
    }

    fn write_queue(
        &mut self,
        at: u32,
        width: AccessWidth,
        value: u64,
        vectors: u16,
        queues: &mut [VirtQueue],
    ) -> Result<(), QueueFault> {
        let agreed = self.status.contains(DeviceStatus::FEATURES_OK);
        let index = usize::from(self.queue_select);
        let Some(queue) = queues.get_mut(index) else { return Ok(()) };
        let Some(vector) = self.vectors.get_mut(index) else { return Ok(()) };
        let short = (value & 0xffff) as u16;
        let mut layout = queue.layout();
        match (at, width) {
            (QUEUE_SIZE, AccessWidth::B2) => queue.set_size(short, self.driver_features & F_RING_PACKED != 0),
            (QUEUE_VECTOR, AccessWidth::B2) => *vector = existing(short, vectors),
            // 0 does nothing: without VIRTIO_F_RING_RESET only a reset of the device disables a queue.
            (QUEUE_ENABLE, AccessWidth::B2) if short == 1 && agreed && !queue.is_ready() => {
                return queue.enable(QueueFeatures {
                    indirect: self.driver_features & F_INDIRECT_DESC != 0,
                    event_idx: self.driver_features & F_EVENT_IDX != 0,
                    packed: self.driver_features & F_RING_PACKED != 0,
                });
            }
            (QUEUE_DESC..QUEUE_DRIVER, _) => write_address(&mut layout.desc, at, width, value),
            (QUEUE_DRIVER..QUEUE_DEVICE, _) => write_address(&mut layout.avail, at, width, value),
            (QUEUE_DEVICE..END, _) => write_address(&mut layout.used, at, width, value),
            _ => return Ok(()),
        }
        if at >= QUEUE_DESC {
            queue.set_layout(layout);
        }
        Ok(())
    }
}

state_struct! {
    /// The common configuration structure and the ISR status.
    struct SavedTransport = 152 {
        /// What the driver accepts.
        driver_features: u64,
        /// Select registers.
        device_feature_select: u32,
        /// The same.
        driver_feature_select: u32,
        /// The same.
        queue_select: u16,
        /// Vector of configuration changes.
        config_vector: u16,
        /// Device status.
        status: u8,
        /// Generation of the device configuration.
        generation: u8,
        /// ISR status.
        isr: u8,
        /// 0.
        pad: u8,
        /// Vector of each queue.
        vectors: [u16; 64],
    }
}

impl CommonConfig {
    /// Returns the state, with this ISR status.
    pub(super) fn to_state(&self, isr: u8) -> SavedTransport {
        let CommonConfig {
            device_feature_select,
            driver_feature_select,
            queue_select,
            vectors,
            config_vector,
            driver_features,
            status,
            generation,
        } = *self;
        SavedTransport {
            driver_features,
            device_feature_select,
            driver_feature_select,
            queue_select,
            config_vector,
            status: status.bits(),
            generation,
            isr,
            pad: 0,
            vectors,
        }
    }

    /// Takes a state over, as far as it can be one of a device that offers `offered`, and has so many vectors and
    /// queues.
    pub(super) fn set_from(&mut self, state: &SavedTransport, offered: u64, vectors: u16, queues: usize) {
        let SavedTransport {
            driver_features,
            device_feature_select,
            driver_feature_select,
            queue_select,
            config_vector,
            status,
            generation,
            isr: _,
            pad: _,
            vectors: mut of_queues,
        } = *state;
        for (n, vector) in of_queues.iter_mut().enumerate() {
            *vector = if n < queues { existing(*vector, vectors) } else { NO_VECTOR };
        }
        let status = DeviceStatus::from_bits_truncate(status);
        *self = CommonConfig {
            device_feature_select,
            driver_feature_select,
            queue_select,
            vectors: of_queues,
            config_vector: existing(config_vector, vectors),
            driver_features,
            status: DeviceStatus::empty(),
            generation,
        };
        // As the driver would have set it, and the device.
        self.set_status(status, offered);
        self.status |= status & DeviceStatus::NEEDS_RESET;
    }
}

/// Returns the vector if it exists; the driver reads back whether it does.
fn existing(vector: u16, vectors: u16) -> u16 {
    if vector < vectors {
        vector
    } else {
        NO_VECTOR
    }
}

/// Returns the half of a 64-bit set of features that `select` names; there are only two.
fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

fn read_address(gpa: Gpa, at: u32, width: AccessWidth) -> Option<u64> {
    match (at & 7, width) {
        (0, AccessWidth::B8) => Some(gpa.0),
        (0, AccessWidth::B4) => Some(gpa.0 & 0xffff_ffff),
        (4, AccessWidth::B4) => Some(gpa.0 >> 32),
        _ => None,
    }
}

fn write_address(gpa: &mut Gpa, at: u32, width: AccessWidth, value: u64) {
    match (at & 7, width) {
        (0, AccessWidth::B8) => gpa.0 = value,
        (0, AccessWidth::B4) => gpa.0 = (gpa.0 & !0xffff_ffff) | (value & 0xffff_ffff),
        (4, AccessWidth::B4) => gpa.0 = (gpa.0 & 0xffff_ffff) | value << 32,
        _ => {}
    }
}
