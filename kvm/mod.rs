// SPDX-License-Identifier: GPL-2.0

//! KVM's ioctl interface: what user space sees of the module.
//!
//! | file | fd |
//! |---|---|
//! | [`sys`], [`caps`] | /dev/rvmm itself, and what it says that it can |
//! | [`vm`], [`enable_cap`], [`irqchip`], [`eventfd`], [`dirty_log`], [`dirty_ring`] | a VM: its ioctls, what is chosen for it, interrupt controllers, eventfds, dirty logs and rings |
//! | [`vcpu`], [`regs`], `segment`, [`events`], [`guest_debug`] | a vCPU: its ioctls, register formats, what it is about to be given, translations for debuggers |
//! | [`run`], [`sync_regs`], [`coalesced`] | KVM_RUN, registers in its page, and writes that do not end it |
//! | [`hyperv`] | what is asked of Hyper-V's interface |
//! | [`pre_fault`] | mapping memory before the guest touches it |
//! | [`stats`], [`recorder`] | counters of a VM and its vCPUs, a vCPU's last exits, and why it stopped |
//! | [`observe`], [`debug_files`], [`vm_name`] | what debugfs shows of all VMs, and what tells them apart |
//! | [`state`], [`vcpu_attr`] | a machine at rest, and its state; the attributes of a vCPU |
//! | [`device`], [`console`] | a device of the in-kernel machine; what reads and writes of its fd do |
//! | [`user`] | copies from and to user space |

#![forbid(unsafe_code)]

mod caps;
mod coalesced;
mod console;
pub(crate) mod debug_files;
pub(crate) mod device;
pub(crate) mod dirty_log;
pub(crate) mod dirty_ring;
mod enable_cap;
mod eventfd;
mod events;
mod guest_debug;
mod hyperv;
mod irqchip;
pub(crate) mod observe;
mod pre_fault;
mod recorder;
mod regs;
mod run;
mod segment;
mod state;
mod stats;
mod sync_regs;
pub(crate) mod sys;
mod user;
mod vcpu;
mod vcpu_attr;
mod vm;
mod vm_name;
