// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the Linux `kernel` crate, as much of it as the module uses.
//!
//! Everything has the kernel's names and signatures. What tests need beside them:
//!
//! | file | gives |
//! |---|---|
//! | [`alloc`] | fallible allocation: a test can make the n-th from now fail |
//! | [`context`] | what the calling code may do: who sleeps with interrupts off panics |
//! | [`sched`] | threads of which one runs at a time, changed at random where they could meet |
//! | [`process`] | the memory of the process that calls, of pages that come and go |
//! | [`sync`] | locks that know their order |

pub mod alloc;
pub mod context;
pub mod debugfs;
pub mod error;
pub mod init;
pub mod interrupt;
pub mod iov;
pub mod mm;
pub mod print;
pub mod process;
pub mod sched;
pub mod sync;
pub mod task;
pub mod uaccess;

pub use core::fmt;

/// What `use kernel::prelude::*` brings in.
pub mod prelude {
    pub use crate::alloc::{flags::*, KBox, KVVec, KVec, VVec};
    pub use crate::error::{code::*, Error, Result};
    pub use crate::init::PinInit;
    pub use crate::{pin_init, pr_err, pr_info, pr_warn, try_pin_init};
    pub use core::ffi::CStr;
    pub use core::mem::{align_of, align_of_val, size_of, size_of_val};
    pub use core::pin::Pin;
    pub use kernel_macros::pin_data;
    pub use zerocopy::{FromBytes, IntoBytes};
    pub use zerocopy_derive::{FromBytes, IntoBytes};
}
