// SPDX-License-Identifier: GPL-2.0

//! Devices: the module's own, and the host's side of disks and network cards.

pub mod device;
pub mod disk;
pub mod file_id;
pub mod net;
pub mod passt;
