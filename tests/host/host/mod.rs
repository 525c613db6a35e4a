// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the module's `host` folder: the same types over a machine made of plain values.
//!
//! A test makes a [`world::World`] and enters it; all that the module then asks of its host, that answers. It is no
//! friendlier than a kernel: who sleeps where that is not allowed panics, a waiter that nobody wakes waits for ever
//! and is found, an interrupt waits while interrupts are off, a page that has gone has another frame when it comes
//! back, and what user space closes is closed.
//!
//! | file | what tests find there beside the module's interface |
//! |---|---|
//! | [`world`] | the machine: CPUs and their interrupts, the clock, the process and its memory |
//! | [`processor`] | what CPUID says, and the registers that are switched for guests |
//! | [`blkio`] | disks whose transfers end at once, later, in part or not at all |
//! | [`netio`] | taps and streams with two ends |
//! | [`eventfd`] | eventfds and their counts |
//! | [`file`] | the process's files: ioctl, mmap, read, write, poll and close on them |

pub(crate) mod blkio;
pub(crate) mod boxed;
pub(crate) mod cpu;
pub(crate) mod debug;
pub(crate) mod eventfd;
pub(crate) mod file;
pub(crate) mod fpu;
pub(crate) mod guest_ram;
#[path = "../../../host/inflight.rs"]
pub(crate) mod inflight;
#[path = "../../../host/iovec.rs"]
pub(crate) mod iovec;
pub(crate) mod log;
pub(crate) mod mitigation;
pub(crate) mod msr;
pub(crate) mod mutex;
pub(crate) mod netio;
pub(crate) mod notifier;
pub(crate) mod page;
pub(crate) mod processor;
pub(crate) mod random;
pub(crate) mod rcu;
pub(crate) mod signal;
pub(crate) mod timer;
pub(crate) mod trace;
pub(crate) mod wait;
pub(crate) mod world;
