// SPDX-License-Identifier: GPL-2.0

//! What a disk is like, and how its configuration structure tells the driver.
//!
//! Follows VIRTIO 1.2, "Block Device", "Device configuration layout".

/// log2 of the unit of all positions and capacities.
pub(crate) const SECTOR_SHIFT: u32 = 9;
/// Length of the serial number; a shorter one is padded with zeroes.
pub(crate) const ID_BYTES: usize = 20;
/// Most sectors in one discard request: 1 GiB, to bound the time that it takes.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << (30 - SECTOR_SHIFT);
/// The same in one write-zeroes request: 16 MiB, for there are files in which all of them have to be written.
pub(super) const MAX_ZEROES_SECTORS: u32 = 1 << (24 - SECTOR_SHIFT);

/// Bytes of the structure, up to the fields of write zeroes.
pub(super) const CONFIG_BYTES: usize = 60;
const CONFIG_CAPACITY: usize = 0;
const CONFIG_SEG_MAX: usize = 12;
const CONFIG_BLK_SIZE: usize = 20;
const CONFIG_PHYSICAL_BLOCK_EXP: usize = 24;
const CONFIG_MIN_IO: usize = 26;
const CONFIG_OPT_IO: usize = 28;
const CONFIG_WRITEBACK: usize = 32;
const CONFIG_NUM_QUEUES: usize = 34;
const CONFIG_DISCARD_SECTORS: usize = 36;
const CONFIG_DISCARD_SEG: usize = 40;
const CONFIG_DISCARD_ALIGNMENT: usize = 44;
const CONFIG_ZEROES_SECTORS: usize = 48;
const CONFIG_ZEROES_SEG: usize = 52;
const CONFIG_ZEROES_UNMAP: usize = 56;

/// What a disk is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskGeometry {
    /// Size in sectors of 512 bytes; what is beyond the last whole block cannot be reached.
    pub(crate) sectors: u64,
    /// log2 of the block size in bytes, 9 to 12: positions and lengths are multiples of it.
    pub(crate) block_shift: u32,
    /// Nothing may be written.
    pub(crate) read_only: bool,
    /// Discard and write-zeroes are offered.
    pub(crate) discard: bool,
    /// The serial number.
    pub(crate) serial: [u8; ID_BYTES],
}

impl DiskGeometry {
    /// Returns a mask of the sectors of a block.
    pub(super) fn block_mask(&self) -> u64 {
        let sectors = self.block_shift.saturating_sub(SECTOR_SHIFT);
        1u64.wrapping_shl(sectors).wrapping_sub(1)
    }

    /// Returns the capacity in sectors: whole blocks only.
    pub(super) fn capacity(&self) -> u64 {
        self.sectors & !self.block_mask()
    }
}

/// Returns the configuration structure of a disk with `queues` queues, whose requests have up to `seg_max`
/// data segments.
pub(super) fn config_of(geometry: &DiskGeometry, seg_max: u16, queues: u16) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut set = |at: usize, bytes: &[u8]| {
        for (to, from) in config.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    };
    let block = 1u32.wrapping_shl(geometry.block_shift);
    let sectors = 1u32.wrapping_shl(geometry.block_shift.saturating_sub(SECTOR_SHIFT));
    // What the host caches and most disks write is 4 KiB: say how many blocks that is, as a power.
    let physical = 12u32.saturating_sub(geometry.block_shift);
    set(CONFIG_CAPACITY, &geometry.capacity().to_le_bytes());
    set(CONFIG_SEG_MAX, &u32::from(seg_max).to_le_bytes());
    set(CONFIG_BLK_SIZE, &block.to_le_bytes());
    set(CONFIG_PHYSICAL_BLOCK_EXP, &[(physical & 0xff) as u8]);
    set(CONFIG_MIN_IO, &1u16.to_le_bytes());
    set(CONFIG_OPT_IO, &0u32.to_le_bytes());
    set(CONFIG_WRITEBACK, &[1]);
    set(CONFIG_NUM_QUEUES, &queues.to_le_bytes());
    if geometry.discard {
        set(CONFIG_DISCARD_SECTORS, &MAX_DISCARD_SECTORS.to_le_bytes());
        set(CONFIG_DISCARD_SEG, &1u32.to_le_bytes());
        set(CONFIG_DISCARD_ALIGNMENT, &sectors.to_le_bytes());
        set(CONFIG_ZEROES_SECTORS, &MAX_ZEROES_SECTORS.to_le_bytes());
        set(CONFIG_ZEROES_SEG, &1u32.to_le_bytes());
        set(CONFIG_ZEROES_UNMAP, &[1]);
    }
    config
}

/// Takes over the capacity of a disk whose size has changed.
pub(super) fn set_capacity(config: &mut [u8; CONFIG_BYTES], geometry: &DiskGeometry) {
    // The capacity is the first field.
    for (to, from) in config.iter_mut().zip(geometry.capacity().to_le_bytes()) {
        *to = from;
    }
}
