// SPDX-License-Identifier: GPL-2.0

//! The emulator on a vCPU: the instruction at RIP, known, fetched or decoded, and carried out.
//!
//! The emulator itself ([`crate::vcpu::emulate`]) knows no vCPU; [`machine`] and [`operand`] are what it runs on.

pub(crate) mod code;
pub(crate) mod insn;
pub(crate) mod machine;
pub(crate) mod mov;
mod operand;
