// SPDX-License-Identifier: GPL-2.0

//! The pure part of the vCPU: what does not run on the kernel's services.

#[path = "../../../vcpu/controls.rs"]
pub(crate) mod controls;
#[path = "../../../vcpu/cpuid.rs"]
pub(crate) mod cpuid;
#[path = "../../../vcpu/emulate/mod.rs"]
pub(crate) mod emulate;
#[path = "../../../vcpu/event.rs"]
pub(crate) mod event;
#[path = "../../../vcpu/exit.rs"]
pub(crate) mod exit;
#[path = "../../../vcpu/io.rs"]
pub(crate) mod io;
#[path = "../../../vcpu/mce.rs"]
pub(crate) mod mce;
#[path = "../../../vcpu/msr_table.rs"]
pub(crate) mod msr_table;
#[path = "../../../vcpu/outcome.rs"]
pub(crate) mod outcome;
#[path = "../../../vcpu/poll.rs"]
pub(crate) mod poll;
#[path = "../../../vcpu/progress.rs"]
pub(crate) mod progress;
#[path = "../../../vcpu/record.rs"]
pub(crate) mod record;
#[path = "../../../vcpu/state.rs"]
pub(crate) mod state;
#[path = "../../../vcpu/timer_advance.rs"]
pub(crate) mod timer_advance;
