// SPDX-License-Identifier: GPL-2.0

//! How a running VM is steered from outside.

pub mod signals;
