// SPDX-License-Identifier: GPL-2.0

//! Tests of the instruction emulator.
//!
//! | file | holds |
//! |---|---|
//! | machine | a machine of arrays |
//! | decoder | lengths, shapes, totality |
//! | families | instructions by example, in all modes |
//! | far | far branches, descriptors, the table of real mode |
//! | interrupt | events through the gates of protected mode |
//! | task | switches between tasks |
//! | restart | what is left behind by a fault or a retry |
//! | native | the processor itself as the reference; the only unsafe code |
//! | differential | the same instruction emulated and native |

mod decoder;
mod differential;
mod families;
mod far;
mod interrupt;
pub(crate) mod machine;
#[cfg(target_arch = "x86_64")]
mod native;
mod restart;
mod task;
