// SPDX-License-Identifier: GPL-2.0

//! The device types.

pub(crate) mod blk;
pub(crate) mod console;
pub(crate) mod net;
pub(crate) mod rng;
