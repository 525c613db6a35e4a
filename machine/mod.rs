// SPDX-License-Identifier: GPL-2.0

//! A machine without its processors: what a guest has of devices, interrupts and the ways between them.
//!
//! Nothing here knows how a guest is entered, nor whose processor does it.
//!
//! | file | holds |
//! |---|---|
//! | [`interrupts`] | the chips behind their one lock, and messages to local APICs |
//! | [`mailbox`] | what others ask of a vCPU |
//! | [`ram`], [`memory`] | guest memory: slots and what changes below them; reads and writes |
//! | [`pvclock`] | the structures of the paravirtual clock |
//! | [`ioevent`] | writes that signal user space without an exit to it |
//! | [`worker`], [`deferred`] | who serves a queue; what an access to a device leaves to be done |

#![forbid(unsafe_code)]

pub(crate) mod deferred;
pub(crate) mod interrupts;
pub(crate) mod ioevent;
pub(crate) mod mailbox;
pub(crate) mod memory;
pub(crate) mod pvclock;
pub(crate) mod ram;
pub(crate) mod worker;
