// SPDX-License-Identifier: GPL-2.0

//! KVM's ioctl interface: what user space sees of the module.
//!
//! | file | fd |
//! |---|---|
//! | [`sys`], [`caps`] | /dev/rvmm itself, and what it says that it can |
//! | [`vm`], [`irqchip`], [`eventfd`], [`dirty_log`] | a VM: its ioctls, interrupt controllers, eventfds, dirty logs |
//! | [`vcpu`], [`regs`], `segment`, [`guest_debug`], [`run`] | a vCPU: its ioctls, register formats, translations for debuggers, and KVM_RUN |
//! | [`stats`], [`recorder`] | counters of a vCPU, its last exits, and why it stopped |
//! | [`observe`], [`debug_files`], [`vm_name`] | what debugfs shows of all VMs, and what tells them apart |
//! | [`state`] | a machine at rest, and its state |
//! | [`device`], [`console`] | a device of the in-kernel machine; what reads and writes of its fd do |
//! | [`user`] | copies from and to user space |

#![forbid(unsafe_code)]

mod caps;
mod console;
pub(crate) mod debug_files;
pub(crate) mod device;
pub(crate) mod dirty_log;
mod eventfd;
mod guest_debug;
mod irqchip;
pub(crate) mod observe;
mod recorder;
mod regs;
mod run;
mod segment;
mod state;
mod stats;
pub(crate) mod sys;
mod user;
mod vcpu;
mod vm;
mod vm_name;
