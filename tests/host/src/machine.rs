// SPDX-License-Identifier: GPL-2.0

//! The pure part of the machine: what does not run on the kernel's services.

#[path = "../../../machine/ioevent.rs"]
pub(crate) mod ioevent;
#[path = "../../../machine/pvclock.rs"]
pub(crate) mod pvclock;
