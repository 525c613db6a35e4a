// SPDX-License-Identifier: GPL-2.0

//! The instruction emulator: a decoder and an executor over a [`machine::InsnMachine`].
//!
//! Used where the processor says that an instruction needs help but does not say what it does: an
//! access to a device's memory, string I/O, and exits of processors that do not tell the length of
//! the instruction. And for all instructions in modes of the guest that the processor cannot run.
//!
//! | file | holds |
//! |---|---|
//! | table, decode | opcode maps; bytes to [`decode::DecodedInsn`] |
//! | exit_insn | which instruction exited, and its length |
//! | alu, shift, muldiv | arithmetic and flags, pure |
//! | descriptor | segment descriptors in memory |
//! | context | registers, segments and memory under an instruction |
//! | execute | fetch, dispatch, RIP |
//! | moves, arith, bits, exchange, string, stack, flow, far, interrupt, system | the instructions, by family |
//! | task | switches between tasks |

#![forbid(unsafe_code)]

pub(crate) mod decode;
pub(crate) mod execute;
pub(crate) mod exit_insn;
pub(crate) mod interrupt;
pub(crate) mod machine;
pub(crate) mod table;

mod alu;
mod arith;
mod bits;
mod context;
mod descriptor;
mod exchange;
mod far;
mod flow;
mod moves;
mod muldiv;
mod shift;
mod stack;
mod string;
mod system;
mod task;
