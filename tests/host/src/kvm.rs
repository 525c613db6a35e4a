// SPDX-License-Identifier: GPL-2.0

//! The pure part of the ioctl layer.

#[path = "../../../kvm/abi/mod.rs"]
pub(crate) mod abi;
