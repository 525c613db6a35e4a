// SPDX-License-Identifier: GPL-2.0

//! How a running VM is steered from outside: by signals, and by its control socket.
//!
//! There is no daemon. A VM with a name has a socket of its own, and whoever may connect to it may steer the VM.
//!
//! | module | what it does |
//! |---|---|
//! | [`signals`] | signals, as events |
//! | [`place`], [`claim`] | where sockets are, and the one of this VM |
//! | [`protocol`], [`lines`] | what is said, in lines of JSON |
//! | [`steered`] | what can be done to a VM |
//! | [`feed`] | what happens to it |
//! | [`session`], [`server`] | one client, and the thread that serves all |
//! | [`client`] | the other side |
//! | [`notify`] | what the service manager is told |

pub mod claim;
pub mod client;
pub mod feed;
pub mod lines;
pub mod notify;
pub mod place;
pub mod protocol;
pub mod server;
pub mod session;
pub mod signals;
pub mod steered;
