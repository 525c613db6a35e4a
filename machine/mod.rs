// SPDX-License-Identifier: GPL-2.0

//! A machine without its processors: what a guest has of memory, devices, interrupts, and the ways between them.
//!
//! Nothing here knows how a guest is entered, nor whose processor does it. Each row imports only what stands above it.
//!
//! | file | holds |
//! |---|---|
//! | [`dirty`], [`dirty_ring`], [`memory`], [`ram`] | how dirty logs are kept, and who is told of their marks; reads and writes of guest memory; the slots, and what changes below them |
//! | [`gate`], [`mailbox`] | where vCPUs stop while the machine is at rest; what others ask of a vCPU |
//! | [`irqchip`], [`resample`], [`interrupts`] | which interrupt controllers there are; who is told of the ends of interrupts; the chips behind their one lock, and messages to local APICs |
//! | [`sints`], [`reference_timer`] | what others must know of a vCPU's synthetic interrupt controller; what wakes it for its timers |
//! | [`clock`], [`pvclock`] | the TSC and the paravirtual clock, and its structures in guest memory |
//! | [`hyperv`] | what the virtual processors of a Hyper-V partition share |
//! | [`power`] | what a guest asked of its platform |
//! | [`ioevent`] | writes that signal user space without an exit to it |
//! | [`service`] | who carries out what a guest asks of its virtio devices |
//! | [`counters`], [`settings`] | what all machines count together; what the module was loaded with |
//! | [`msr_filter`], [`choices`] | which MSRs a guest may use; what else user space chose for a machine |
//! | [`functions`] | the table of what user space can put on the PCI bus |
//! | [`deferred`], [`pci`] | what an access to a device leaves to be done; the PCI bus |
//! | [`whole`], [`quiesce`], [`snapshot`] | all of it; the same at rest; its state |
//! | [`console`] | the other side of consoles |
//! | [`show`] | what a machine is like just now, in words |
//! | [`devices`] | the table of what else user space can put into a machine, and what it does with a device |

#![forbid(unsafe_code)]

pub(crate) mod choices;
pub(crate) mod clock;
pub(crate) mod console;
pub(crate) mod counters;
pub(crate) mod deferred;
pub(crate) mod devices;
pub(crate) mod dirty;
pub(crate) mod dirty_ring;
pub(crate) mod functions;
pub(crate) mod gate;
pub(crate) mod hyperv;
pub(crate) mod interrupts;
pub(crate) mod ioevent;
pub(crate) mod irqchip;
pub(crate) mod mailbox;
pub(crate) mod memory;
pub(crate) mod msr_filter;
pub(crate) mod pci;
pub(crate) mod power;
pub(crate) mod pvclock;
pub(crate) mod quiesce;
pub(crate) mod ram;
pub(crate) mod reference_timer;
mod resample;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod show;
pub(crate) mod sints;
mod snapshot;
pub(crate) mod whole;
