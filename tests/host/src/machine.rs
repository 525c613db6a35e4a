// SPDX-License-Identifier: GPL-2.0

//! The pure part of the machine: what does not run on the kernel's services.

#[path = "../../../machine/counters.rs"]
pub(crate) mod counters;
#[path = "../../../machine/deferred.rs"]
pub(crate) mod deferred;
#[path = "../../../machine/ioevent.rs"]
pub(crate) mod ioevent;
#[path = "../../../machine/power.rs"]
pub(crate) mod power;
#[path = "../../../machine/pvclock.rs"]
pub(crate) mod pvclock;
#[path = "../../../machine/settings.rs"]
pub(crate) mod settings;
