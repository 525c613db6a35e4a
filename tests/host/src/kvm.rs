// SPDX-License-Identifier: GPL-2.0

//! The pure part of the ioctl interface.

#[path = "../../../kvm/segment.rs"]
mod segment;
