// SPDX-License-Identifier: GPL-2.0

//! The virtual processor: from one exit of the guest to the next entry.

#![forbid(unsafe_code)]

pub(crate) mod backend;
pub(crate) mod emulate;
pub(crate) mod event;
pub(crate) mod exit;
pub(crate) mod state;
