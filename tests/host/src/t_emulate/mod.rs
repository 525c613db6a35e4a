// SPDX-License-Identifier: GPL-2.0

//! Tests of the instruction emulator.
//!
//! | file | holds |
//! |---|---|
//! | machine | a machine of arrays |
//! | decoder | lengths, shapes, totality |
//! | families | instructions by example, in all modes |
//! | restart | what is left behind by a fault or a retry |
//! | native | the processor itself as the reference; the only unsafe code |
//! | differential | the same instruction emulated and native |

mod decoder;
mod differential;
mod families;
mod far;
pub(crate) mod machine;
#[cfg(target_arch = "x86_64")]
mod native;
mod restart;
