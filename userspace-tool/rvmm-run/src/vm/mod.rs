// SPDX-License-Identifier: GPL-2.0

//! One virtual machine: made from what was prepared, run until it ends, and torn down.
//!
//! A reset of the guest makes a new machine of the same parts, so nothing of the old one can survive in it.
//!
//! | module | what it does |
//! |---|---|
//! | [`prepared`] | what was checked and opened before |
//! | [`contents`] | guest memory with all that the guest starts from |
//! | [`machine`] | the VM itself: interrupt controllers, timer, and all the rest in its order |
//! | `firmware` | what a PC's firmware would have left in the chips |
//! | [`devices`], [`device_types`], [`vcpus`] | its devices, the module's types of devices, and its processors |
//! | [`cpuid`], [`regs`] | what a processor says of itself, and its state at the kernel's entry |
//! | [`run`], `shared`, [`vcpu_loop`] | the threads, what they share, and the loop around `KVM_RUN` |
//! | [`handle`] | the VM as its control socket sees it |
//! | [`disks`], [`pause`] | what the host cannot do for a disk, and the pause that may come of it |
//! | [`dump`], [`stats`] | what is told of a processor that failed, and of all at the end |

pub mod contents;
pub mod cpuid;
pub mod device_types;
pub mod devices;
pub mod disks;
pub mod dump;
mod firmware;
pub mod handle;
pub mod machine;
pub mod pause;
pub mod prepared;
pub mod regs;
pub mod run;
mod shared;
pub mod stats;
pub mod vcpu_loop;
pub mod vcpus;
