// SPDX-License-Identifier: GPL-2.0

//! The feature bits that are the transport's and the queues', whatever the device.
//!
//! Follows VIRTIO 1.2, "Reserved Feature Bits".

/// VIRTIO_F_INDIRECT_DESC.
pub(crate) const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub(crate) const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub(crate) const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_RING_PACKED.
pub(crate) const F_RING_PACKED: u64 = 1 << 34;
/// What the transport and the queues add to a device's features.
pub(super) const F_TRANSPORT: u64 = F_INDIRECT_DESC | F_EVENT_IDX | F_VERSION_1;
