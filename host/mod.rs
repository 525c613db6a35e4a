// SPDX-License-Identifier: GPL-2.0

//! The only caller of the Linux C API.
//!
//! Every file here wraps one kernel service in a type that safe code cannot misuse; the files say
//! why. Nothing in this folder knows of guests' instructions or devices.
//!
//! | file | wraps |
//! |---|---|
//! | [`cpu`] | interrupts off on one CPU, kicks, pending work |
//! | [`fpu`] | the guest's extended state in the processor |
//! | [`debug`] | the debug registers |
//! | [`msr`] | MSRs, and those that are switched over a window |
//! | [`mitigation`] | the processor's faults, as the kernel found them, and machine checks |
//! | [`boxed`] | large arrays on the heap |
//! | [`page`] | owned pages, and the pool that page tables are made of |
//! | [`guest_ram`] | the memory of the VMM process: copies and page look-ups |
//! | [`node`] | KVM's own device node |
//! | [`notifier`] | being told when that memory changes |
//! | [`timer`] | clocks and high-resolution timers |
//! | [`wait`] | blocking one thread |
//! | [`mutex`] | a mutex whose waiters can be killed |
//! | [`signal`] | the calling thread's blocked signals |
//! | [`random`] | the host's random numbers |
//! | [`iovec`] | the parts of that memory that one transfer is made of |
//! | [`inflight`] | which transfers are under way, and which have ended |
//! | [`blkio`] | reading and writing a disk's backing file |
//! | [`netio`] | packets through a tap device, bytes through a stream socket |
//! | [`eventfd`] | signalling an eventfd, and hearing one |
//! | [`fault`], [`fault_check`] | instructions that may fault, and whether they go on |
//! | [`file`] | anonymous files with ioctls |
//! | [`rcu`] | a value replaced under its readers; one that lives as long as the module |
//! | [`trace`] | tracepoints |
//! | [`log`] | how often a caller may make the module write into the log |

pub(crate) mod blkio;
pub(crate) mod boxed;
pub(crate) mod cpu;
pub(crate) mod debug;
pub(crate) mod eventfd;
pub(crate) mod fault;
pub(crate) mod fault_check;
mod ffi;
pub(crate) mod file;
pub(crate) mod fpu;
pub(crate) mod guest_ram;
pub(crate) mod inflight;
pub(crate) mod iovec;
pub(crate) mod log;
pub(crate) mod mitigation;
pub(crate) mod msr;
pub(crate) mod mutex;
pub(crate) mod netio;
pub(crate) mod node;
pub(crate) mod notifier;
pub(crate) mod page;
pub(crate) mod random;
pub(crate) mod rcu;
pub(crate) mod signal;
pub(crate) mod timer;
pub(crate) mod trace;
pub(crate) mod wait;
