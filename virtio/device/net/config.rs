// SPDX-License-Identifier: GPL-2.0

//! What a network device is like: features and configuration space.
//!
//! Follows VIRTIO 1.2, "Network Device", "Feature bits" and "Device configuration layout".

/// Most pairs of queues: with the control queue and the configuration vector, well below the vectors there
/// can be.
pub(crate) const MAX_PAIRS: u16 = 8;

/// VIRTIO_NET_F_CSUM.
const F_CSUM: u64 = 1 << 0;
/// VIRTIO_NET_F_GUEST_CSUM.
const F_GUEST_CSUM: u64 = 1 << 1;
/// VIRTIO_NET_F_CTRL_GUEST_OFFLOADS.
pub(super) const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// VIRTIO_NET_F_MTU.
const F_MTU: u64 = 1 << 3;
/// VIRTIO_NET_F_MAC.
const F_MAC: u64 = 1 << 5;
/// VIRTIO_NET_F_GUEST_TSO4.
const F_GUEST_TSO4: u64 = 1 << 7;
/// VIRTIO_NET_F_GUEST_TSO6.
const F_GUEST_TSO6: u64 = 1 << 8;
/// VIRTIO_NET_F_GUEST_ECN.
const F_GUEST_ECN: u64 = 1 << 9;
/// VIRTIO_NET_F_HOST_TSO4.
const F_HOST_TSO4: u64 = 1 << 11;
/// VIRTIO_NET_F_HOST_TSO6.
const F_HOST_TSO6: u64 = 1 << 12;
/// VIRTIO_NET_F_HOST_ECN.
const F_HOST_ECN: u64 = 1 << 13;
/// VIRTIO_NET_F_MRG_RXBUF.
pub(super) const F_MRG_RXBUF: u64 = 1 << 15;
/// VIRTIO_NET_F_STATUS.
const F_STATUS: u64 = 1 << 16;
/// VIRTIO_NET_F_CTRL_VQ.
pub(super) const F_CTRL_VQ: u64 = 1 << 17;
/// VIRTIO_NET_F_MQ.
pub(super) const F_MQ: u64 = 1 << 22;
/// VIRTIO_NET_F_GUEST_USO4.
const F_GUEST_USO4: u64 = 1 << 54;
/// VIRTIO_NET_F_GUEST_USO6.
const F_GUEST_USO6: u64 = 1 << 55;
/// VIRTIO_NET_F_HOST_USO.
const F_HOST_USO: u64 = 1 << 56;

/// What the driver can switch while the device runs.
pub(super) const GUEST_OFFLOADS: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6;

/// Class VIRTIO_NET_CTRL_MQ with its command VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET.
pub(super) const CLASS_MQ: u8 = 4;
pub(super) const MQ_PAIRS_SET: u8 = 0;
/// Class VIRTIO_NET_CTRL_GUEST_OFFLOADS with its command VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET.
pub(super) const CLASS_OFFLOADS: u8 = 5;
pub(super) const OFFLOADS_SET: u8 = 0;
/// Bytes of the longest command that is known.
pub(super) const COMMAND_BYTES: usize = 10;

/// Status: the link is up.
const LINK_UP: u16 = 1;
/// Where the status is; its upper byte has nothing in it.
pub(super) const CONFIG_STATUS: usize = 6;
/// Address, status, most pairs, MTU.
pub(super) const CONFIG_BYTES: usize = 12;

bitflags::bitflags! {
    /// What may be left to the receiver of a packet. The bits are those of Linux's TUNSETOFFLOAD.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct NetOffloads: u32 {
        /// The checksum.
        const CSUM = 1 << 0;
        /// Cutting TCP over IPv4 into segments.
        const TSO4 = 1 << 1;
        /// Cutting TCP over IPv6 into segments.
        const TSO6 = 1 << 2;
        /// The same with ECN.
        const ECN = 1 << 3;
        /// Cutting UDP over IPv4 into datagrams.
        const USO4 = 1 << 5;
        /// Cutting UDP over IPv6 into datagrams.
        const USO6 = 1 << 6;
    }
}

impl NetOffloads {
    /// Returns what a driver takes that accepted these features.
    pub(super) fn of_features(features: u64) -> NetOffloads {
        let pairs = [
            (F_GUEST_CSUM, NetOffloads::CSUM),
            (F_GUEST_TSO4, NetOffloads::TSO4),
            (F_GUEST_TSO6, NetOffloads::TSO6),
            (F_GUEST_ECN, NetOffloads::ECN),
            (F_GUEST_USO4, NetOffloads::USO4),
            (F_GUEST_USO6, NetOffloads::USO6),
        ];
        let has = pairs.into_iter().filter(|(feature, _)| features & feature != 0);
        has.fold(NetOffloads::empty(), |all, (_, offload)| all | offload)
    }
}

/// What a network device is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetConfig {
    /// The guest's address.
    pub(crate) mac: [u8; 6],
    /// The largest packet without its Ethernet header, in bytes; 0 to say nothing.
    pub(crate) mtu: u16,
    /// Pairs of queues.
    pub(crate) pairs: u16,
    /// Who carries the packets takes and gives unfinished checksums and TCP segments of 64 KiB.
    pub(crate) offloads: bool,
    /// The same for UDP.
    pub(crate) udp_offloads: bool,
}

impl NetConfig {
    /// Returns the features to offer.
    pub(super) fn features(&self) -> u64 {
        let mut features = F_MAC | F_MRG_RXBUF | F_STATUS;
        if self.mtu != 0 {
            features |= F_MTU;
        }
        if self.offloads {
            features |= F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN;
            features |= F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;
        }
        if self.offloads && self.udp_offloads {
            features |= F_HOST_USO | F_GUEST_USO4 | F_GUEST_USO6;
        }
        if self.pairs > 1 {
            features |= F_CTRL_VQ | F_MQ | F_CTRL_GUEST_OFFLOADS;
        }
        features
    }

    /// Returns the configuration space.
    pub(super) fn bytes(&self) -> [u8; CONFIG_BYTES] {
        let [m0, m1, m2, m3, m4, m5] = self.mac;
        let [s0, s1] = LINK_UP.to_le_bytes();
        let [p0, p1] = self.pairs.to_le_bytes();
        let [u0, u1] = self.mtu.to_le_bytes();
        [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, u0, u1]
    }
}
