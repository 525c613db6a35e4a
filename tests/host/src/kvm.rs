// SPDX-License-Identifier: GPL-2.0

//! The pure part of `kvm/`.

#[path = "../../../kvm/abi/mod.rs"]
pub(crate) mod abi;
