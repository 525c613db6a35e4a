// SPDX-License-Identifier: GPL-2.0

//! The pure part of the VMX backend.

#[path = "../../../vmx/capability.rs"]
pub(crate) mod capability;
#[path = "../../../vmx/check.rs"]
pub(crate) mod check;
#[path = "../../../vmx/event.rs"]
pub(crate) mod event;
#[path = "../../../vmx/exit.rs"]
pub(crate) mod exit;
#[path = "../../../vmx/quirks.rs"]
pub(crate) mod quirks;
#[path = "../../../vmx/vmcs.rs"]
pub(crate) mod vmcs;
