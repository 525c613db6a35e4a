// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the Linux `kernel` crate, as much of it as the module's pure code uses.
//!
//! Allocation is fallible as in the kernel, and a test can make the n-th allocation from now fail:
//! see [`alloc::fail_nth`]. Everything else has the kernel's names and signatures.

pub mod alloc;
pub mod error;

/// What `use kernel::prelude::*` brings in.
pub mod prelude {
    pub use crate::alloc::{flags::*, KBox, KVVec, KVec, VVec};
    pub use crate::error::{code::*, Error, Result};
    pub use core::mem::{align_of, align_of_val, size_of, size_of_val};
    pub use zerocopy::{FromBytes, IntoBytes};
    pub use zerocopy_derive::{FromBytes, IntoBytes};
}
