// SPDX-License-Identifier: GPL-2.0

//! The parts of `rvmm-run` and `rvmmctl`, as a library so that tests and fuzzers reach each of them.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | what the user asks for, as plain data; the memory map |
//! | [`cmd`] | runs a guest, or `--check` |
//! | [`vm`] | one VM: memory, devices, processors, threads |
//! | [`devices`], [`console`] | the host's side of disks, network cards and the console |
//! | [`control`] | signals, and the socket by which a VM is steered |
//! | [`ctl`] | `rvmmctl`, which does that |
//! | [`kernel`], [`acpi`] | loaders of kernels and their modules; ACPI tables |
//! | [`events`], [`error`], [`errno`], [`klog`], [`exit_status`] | what the user is told, and how a run ends |
//! | [`sys`] | the one file with unsafe code |
//! | `abi` | the module's own files of what it and its users say to each other |

#[path = "../../../abi/mod.rs"]
mod abi;
pub mod acpi;
pub mod cmd;
pub mod config;
pub mod console;
pub mod control;
pub mod ctl;
pub mod devices;
pub mod errno;
pub mod error;
pub mod events;
pub mod exit_status;
pub mod kernel;
pub mod klog;
pub mod sys;
pub mod vm;
