// SPDX-License-Identifier: GPL-2.0

//! The instructions that cause exits: which one is it, and how long.
//!
//! For processors that do not save the next RIP (no NRIP save, or an exit that does not give a
//! length). Another vCPU may have changed the bytes since the exit, so a handler compares the
//! instruction with what exited before it skips anything.

use super::decode::{decode, CodeMode, DecodedInsn, RepPrefix};
use super::table::OpcodeMap;

/// An instruction that can be intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitInsn {
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// PAUSE.
    Pause,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// RDPRU.
    Rdpru,
    /// XSETBV.
    Xsetbv,
    /// XGETBV.
    Xgetbv,
    /// VMMCALL of AMD.
    Vmmcall,
    /// VMCALL of Intel.
    Vmcall,
    /// VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT, INVLPGA.
    Svm,
    /// IN to the accumulator.
    In,
    /// OUT from the accumulator.
    Out,
    /// INS, repeated or not.
    Ins,
    /// OUTS, repeated or not.
    Outs,
    /// INVLPG.
    Invlpg,
    /// INVPCID.
    Invpcid,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// MONITOR or MONITORX.
    Monitor,
    /// MWAIT or MWAITX.
    Mwait,
    /// MOV from a control register (number).
    MovFromCr(u8),
    /// MOV to a control register (number).
    MovToCr(u8),
    /// MOV from a debug register (number).
    MovFromDr(u8),
    /// MOV to a debug register (number).
    MovToDr(u8),
    /// CLTS.
    Clts,
    /// LMSW.
    Lmsw,
    /// SMSW.
    Smsw,
    /// LGDT, LIDT, SGDT or SIDT.
    DescriptorTable,
    /// LLDT, LTR, SLDT or STR.
    TaskOrLdt,
    /// INT3 (CC).
    Int3,
    /// INT n.
    Int(u8),
    /// INTO.
    Into,
    /// INT1, ICEBP (F1).
    Int1,
    /// IRET.
    Iret,
    /// PUSHF.
    Pushf,
    /// POPF.
    Popf,
    /// RSM.
    Rsm,
    /// UD0, UD1 or UD2.
    Ud,
    /// Anything else.
    Other,
}

/// Returns the length in bytes of the instruction at the start of `bytes`, or `None` where it cannot
/// be told: cut short, too long, undefined, or a vector encoding.
#[allow(
    dead_code,
    reason = "for processors that do not tell the length of an instruction; used by the tests"
)]
pub(crate) fn insn_len(bytes: &[u8], mode: CodeMode) -> Option<usize> {
    decode(bytes, mode).ok().map(|insn| usize::from(insn.len))
}

/// Returns which instruction stands at the start of `bytes`, and its length in bytes; `None` as
/// [`insn_len`].
#[allow(
    dead_code,
    reason = "for processors that do not tell the length of an instruction; used by the tests"
)]
pub(crate) fn decode_exit_insn(bytes: &[u8], mode: CodeMode) -> Option<(ExitInsn, usize)> {
    let insn = decode(bytes, mode).ok()?;
    Some((ExitInsn::of(&insn), usize::from(insn.len)))
}

impl ExitInsn {
    /// Returns which one a decoded instruction is.
    pub(crate) fn of(insn: &DecodedInsn) -> ExitInsn {
        match insn.map {
            OpcodeMap::One => one_byte(insn),
            OpcodeMap::Two => two_byte(insn),
            OpcodeMap::Three38 if insn.opcode == 0x82 && insn.prefixes.size_66 => ExitInsn::Invpcid,
            _ => ExitInsn::Other,
        }
    }
}

fn one_byte(insn: &DecodedInsn) -> ExitInsn {
    match insn.opcode {
        0x6c | 0x6d => ExitInsn::Ins,
        0x6e | 0x6f => ExitInsn::Outs,
        0x90 if insn.prefixes.rep == Some(RepPrefix::E) => ExitInsn::Pause,
        0x9c => ExitInsn::Pushf,
        0x9d => ExitInsn::Popf,
        0xcc => ExitInsn::Int3,
        0xcd => ExitInsn::Int((insn.imm & 0xff) as u8),
        0xce => ExitInsn::Into,
        0xcf => ExitInsn::Iret,
        0xe4 | 0xe5 | 0xec | 0xed => ExitInsn::In,
        0xe6 | 0xe7 | 0xee | 0xef => ExitInsn::Out,
        0xf1 => ExitInsn::Int1,
        0xf4 => ExitInsn::Hlt,
        _ => ExitInsn::Other,
    }
}

fn two_byte(insn: &DecodedInsn) -> ExitInsn {
    match insn.opcode {
        0x00 if insn.ext < 4 => ExitInsn::TaskOrLdt,
        0x01 => group7(insn),
        0x06 => ExitInsn::Clts,
        0x08 => ExitInsn::Invd,
        0x09 => ExitInsn::Wbinvd,
        0x0b | 0xb9 | 0xff => ExitInsn::Ud,
        0x20 if insn.alternate_cr8() => ExitInsn::MovFromCr(8),
        0x22 if insn.alternate_cr8() => ExitInsn::MovToCr(8),
        0x20 => ExitInsn::MovFromCr(insn.reg),
        0x21 => ExitInsn::MovFromDr(insn.reg),
        0x22 => ExitInsn::MovToCr(insn.reg),
        0x23 => ExitInsn::MovToDr(insn.reg),
        0x30 => ExitInsn::Wrmsr,
        0x31 => ExitInsn::Rdtsc,
        0x32 => ExitInsn::Rdmsr,
        0x33 => ExitInsn::Rdpmc,
        0xa2 => ExitInsn::Cpuid,
        0xaa => ExitInsn::Rsm,
        _ => ExitInsn::Other,
    }
}

/// 0F 01: with a memory operand by reg field alone, else by both fields of ModRM.
fn group7(insn: &DecodedInsn) -> ExitInsn {
    match (insn.ext, insn.mem.is_some(), insn.rm & 7) {
        (4, _, _) => ExitInsn::Smsw,
        (6, _, _) => ExitInsn::Lmsw,
        (7, true, _) => ExitInsn::Invlpg,
        (0..=3, true, _) => ExitInsn::DescriptorTable,
        (0, _, 1) => ExitInsn::Vmcall,
        (1, _, 0) | (7, _, 2) => ExitInsn::Monitor,
        (1, _, 1) | (7, _, 3) => ExitInsn::Mwait,
        (2, _, 0) => ExitInsn::Xgetbv,
        (2, _, 1) => ExitInsn::Xsetbv,
        (3, _, 1) => ExitInsn::Vmmcall,
        (3, _, _) => ExitInsn::Svm,
        (7, _, 1) => ExitInsn::Rdtscp,
        (7, _, 5) => ExitInsn::Rdpru,
        _ => ExitInsn::Other,
    }
}
