// SPDX-License-Identifier: GPL-2.0

//! Who carries out what a guest asks of its virtio devices.
//!
//! | file | serves |
//! |---|---|
//! | [`function`] | what all have in common: the lock around the registers and queues, and the way to the guest |
//! | [`worker`] | the thread that a queue waits for |
//! | [`blk`] | disks |
//! | [`net`], [`net_queue`], [`net_tap`], [`net_stream`] | network cards, on a tap or a stream socket |
//! | [`console`] | consoles |
//! | [`threadless`] | devices that need no thread |

pub(crate) mod blk;
pub(crate) mod console;
pub(crate) mod function;
pub(crate) mod net;
mod net_queue;
mod net_stream;
mod net_tap;
pub(crate) mod threadless;
pub(crate) mod worker;
