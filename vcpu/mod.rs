// SPDX-License-Identifier: GPL-2.0

//! The virtual processor: from one exit of the guest to the next entry.
//!
//! | file | holds |
//! |---|---|
//! | [`backend`], [`exit`], [`event`] | the contract with the vendor's extension |
//! | [`state`], [`core`] | registers, and everything else of one vCPU |
//! | [`shared`] | what other threads may touch of it |
//! | [`ram`], [`space`], [`memory`] | guest memory: slots and what changes below them; the second-level table; reads and writes |
//! | [`vm`] | the VM as a vCPU sees it |
//! | [`pci`] | the PCI bus |
//! | [`worker`], [`disk`], [`net`] | who serves a queue, and how those of a disk and of a network card are |
//! | [`run`], [`quick`] | the loop, and the inner one of exits that are answered at once |
//! | [`progress`] | how long a window stays open while the guest does not get on |
//! | [`poll`], [`lead`] | before a halted vCPU sleeps; before its timer is due |
//! | [`record`] | the last exits, and how long they take |
//! | [`handle`] | one handler for each family of exits |
//! | [`outcome`], [`io`] | what a handler decided; what user space answers |
//! | [`ioevent`] | writes that signal user space without an exit to it |
//! | [`cpuid`], [`msr_table`], [`mce`], [`pv`], [`pvclock`] | what the guest's processor and its clock are |
//! | [`emulate`] | instructions in software |

#![forbid(unsafe_code)]

pub(crate) mod backend;
pub(crate) mod core;
pub(crate) mod cpuid;
pub(crate) mod disk;
pub(crate) mod emulate;
pub(crate) mod event;
pub(crate) mod exit;
pub(crate) mod handle;
pub(crate) mod io;
pub(crate) mod ioevent;
pub(crate) mod lead;
pub(crate) mod mce;
pub(crate) mod memory;
pub(crate) mod msr_table;
pub(crate) mod net;
mod netstream;
mod nettap;
pub(crate) mod outcome;
pub(crate) mod pci;
pub(crate) mod poll;
pub(crate) mod progress;
pub(crate) mod pv;
pub(crate) mod pvclock;
pub(crate) mod quick;
pub(crate) mod ram;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod space;
pub(crate) mod state;
pub(crate) mod vm;
pub(crate) mod worker;
