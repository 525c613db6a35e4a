// SPDX-License-Identifier: GPL-2.0

//! The virtual processor: from one exit of the guest to the next entry. Each row imports only what stands above it.
//!
//! | file | holds |
//! |---|---|
//! | [`backend`], [`exit`], [`event`], [`state`], [`controls`] | the contract with the vendor's extension, in values |
//! | [`outcome`], [`io`], [`debugger`] | what a handler decided; what user space answers; what a debugger asks |
//! | [`cpuid`], [`msr_table`], [`mce`], [`pv`], [`steal`], [`vapic`], [`hyperv`] | what the guest's processor is |
//! | [`poll`], [`timer_advance`], [`progress`], [`record`] | before a halted vCPU sleeps; before its timer is due; how long a window stays open; the last exits |
//! | [`emulate`], [`code_cache`] | instructions in software; those that exited lately, decoded |
//! | [`second_level`], [`vm`], [`paging`] | the table that shows guest memory to the processor; the VM as a vCPU sees it; which table it walks |
//! | [`core`], [`context`] | everything of one vCPU; what handlers have before them |
//! | [`guest_debug`], [`inject`], [`synic`], [`requests`] | a debugger outside the guest; what an entry delivers; the timers of Hyper-V's interrupt controller; what others ask |
//! | [`access`] | what an address reaches |
//! | [`emul`] | the emulator on a vCPU |
//! | [`handle`] | one handler for each family of exits |
//! | [`fast_path`] | the inner loop of exits that are answered at once |
//! | [`run`] | the run loop |

#![forbid(unsafe_code)]

pub(crate) mod access;
pub(crate) mod backend;
pub(crate) mod code_cache;
pub(crate) mod context;
pub(crate) mod controls;
pub(crate) mod core;
pub(crate) mod cpuid;
pub(crate) mod debugger;
pub(crate) mod emul;
pub(crate) mod emulate;
pub(crate) mod event;
pub(crate) mod exit;
pub(crate) mod fast_path;
pub(crate) mod guest_debug;
pub(crate) mod handle;
pub(crate) mod hyperv;
pub(crate) mod inject;
pub(crate) mod io;
pub(crate) mod mce;
pub(crate) mod msr_table;
pub(crate) mod outcome;
pub(crate) mod paging;
pub(crate) mod poll;
pub(crate) mod progress;
pub(crate) mod pv;
pub(crate) mod record;
mod requests;
pub(crate) mod run;
pub(crate) mod second_level;
pub(crate) mod state;
pub(crate) mod steal;
pub(crate) mod synic;
pub(crate) mod timer_advance;
pub(crate) mod vapic;
pub(crate) mod vm;
