// SPDX-License-Identifier: GPL-2.0

//! The host's side of disks and network cards.

pub mod disk;
pub mod file_id;
pub mod net;
pub mod passt;
