// SPDX-License-Identifier: GPL-2.0

//! Virtio devices as pure state machines over guest memory.
//!
//! Follows "Virtual I/O Device (VIRTIO) Version 1.2". The layers, each knowing only the one below:
//!
//! | module | holds |
//! |---|---|
//! | [`device`] | what a device type does with a buffer: disk, console, card, entropy source |
//! | [`transport`] | over PCI: configuration space, BARs, status, features; MSI-X: vector table and pending bits |
//! | [`queue`], [`segment`] | virtqueues, split and packed, and the buffers in them |
//!
//! Nothing here has a lock, a clock or a callback, and nothing sleeps. One lock per device has to be
//! held around every call; guest memory is reached only through
//! [`GuestMem`](crate::mmu::mem::GuestMem). A page that is not resident is reported to the caller,
//! who faults it in without the lock and calls again: every call that reports it changed nothing.

#![forbid(unsafe_code)]

pub(crate) mod device;
pub(crate) mod queue;
pub(crate) mod segment;
pub(crate) mod transport;
