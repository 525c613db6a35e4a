// SPDX-License-Identifier: GPL-2.0

//! Fetches, decodes and carries out one instruction.
//!
//! ```text
//! bytes ──decode──> Insn ──dispatch──> one family ──> Next ──> RIP, RF
//! ```
//!
//! Every family reads and writes memory first and registers last, so a fault or a retry leaves
//! nothing half done. A repeated string instruction counts its elements in the registers as it goes.
//!
//! Not done here: the single-step trap and the interrupt shadow, which are the run loop's.

use super::context::{linear, InsnCx, NextStep, GP0, UD};
use super::decode::{decode, CodeMode, DecodeError, DecodedInsn, MAX_LEN};
use super::interrupt::InterruptCause;
use super::machine::{EmulatedStep, InsnMachine, MemAccess, StopReason};
use super::table::OpcodeMap;
use crate::arch::addr::Gva;
use crate::arch::cr::{Efer, Rflags};
use crate::arch::segment::SegReg;

/// Emulates the instruction at RIP.
///
/// `bytes` is what the processor saved of it (decode assists), from none to all; the rest is fetched.
/// On success every effect has happened, RIP included; a repeated string instruction with more to do
/// leaves RIP where it is. It does at most a bounded batch, so interrupts can be taken in between.
///
/// # Errors
/// - [`StopReason::Fault`]: to be injected; RIP is that of the instruction, nothing has changed but the
///   elements that a repeated string instruction finished. Or a task was switched, and it is the new one's.
/// - [`StopReason::Retry`]: as the machine said; nothing has changed but such elements.
/// - [`StopReason::Unhandled`]: nothing has changed.
#[allow(dead_code, reason = "used by the tests")]
pub(crate) fn emulate<M: InsnMachine>(m: &mut M, bytes: Option<&[u8]>) -> EmulatedStep<()> {
    let mode = mode_of(m);
    let insn = fetch(m, mode, bytes.unwrap_or(&[]))?;
    carry_out(m, insn, mode)
}

/// As [`emulate`], for the instruction at RIP that was decoded already, in the mode of now.
///
/// # Errors
/// As [`emulate`].
pub(crate) fn carry_out<M: InsnMachine>(m: &mut M, insn: DecodedInsn, mode: CodeMode) -> EmulatedStep<()> {
    let mut cx = InsnCx { m, insn, mode };
    // Before the operands are looked at, whose faults come after #UD.
    check_lock(&insn)?;
    let rip = match cx.dispatch()? {
        NextStep::Advance => cx.next_rip(),
        NextStep::Goto(target) => target,
        NextStep::Again => {
            // A breakpoint at it has been seen to. SDM, "System Flags and Fields in the EFLAGS Register".
            let rflags = cx.m.rflags();
            cx.m.set_rflags(rflags | Rflags::RF.bits());
            return Ok(());
        }
    };
    cx.m.set_rip(rip);
    let rflags = cx.m.rflags();
    cx.m.set_rflags(rflags & !Rflags::RF.bits());
    Ok(())
}

/// Goes to the handler of an interrupt or exception; RIP is where it comes back to.
///
/// # Errors
/// As [`emulate`]; [`StopReason::Unhandled`] for what [`super::interrupt`] does not know.
pub(crate) fn deliver<M: InsnMachine>(m: &mut M, vector: u8, cause: InterruptCause) -> EmulatedStep<()> {
    let (mode, back) = (mode_of(m), m.rip());
    // There is no instruction, and nothing of this one counts.
    let insn = decode(&[0xcc], mode).map_err(|_| StopReason::Unhandled)?;
    let mut cx = InsnCx { m, insn, mode };
    if let NextStep::Goto(target) = cx.interrupt(vector, back, cause)? {
        cx.m.set_rip(target);
    }
    Ok(())
}

/// Returns the code size that a machine's state gives.
pub(crate) fn mode_of<M: InsnMachine>(m: &M) -> CodeMode {
    let code = m.segment(SegReg::Cs).attr;
    if Efer::from_bits_truncate(m.efer()).contains(Efer::LMA) && code.is_long() {
        CodeMode::Bits64
    } else if code.is_big() {
        CodeMode::Bits32
    } else {
        CodeMode::Bits16
    }
}

/// Decodes the instruction at RIP of `m` without carrying it out.
///
/// # Errors
/// As [`emulate`], for what fetching and decoding meet.
pub(crate) fn fetch_and_decode<M: InsnMachine>(m: &mut M, bytes: Option<&[u8]>) -> EmulatedStep<DecodedInsn> {
    let mode = mode_of(m);
    fetch(m, mode, bytes.unwrap_or(&[]))
}

/// Decodes the instruction at RIP from `known` bytes and, where they do not do, from memory: first
/// what is left of the page, the next page only when the instruction goes on there.
fn fetch<M: InsnMachine>(m: &mut M, mode: CodeMode, known: &[u8]) -> EmulatedStep<DecodedInsn> {
    let mut buf = [0u8; MAX_LEN];
    let mut have = known.len().min(MAX_LEN);
    for (to, from) in buf.iter_mut().zip(known) {
        *to = *from;
    }
    loop {
        match decode(buf.get(..have).unwrap_or(&[]), mode) {
            Ok(insn) => return Ok(insn),
            Err(DecodeError::Truncated) => {}
            Err(DecodeError::TooLong) => return Err(GP0),
            Err(DecodeError::Undefined) => return Err(UD),
            Err(DecodeError::Unknown) => return Err(StopReason::Unhandled),
        }
        have = fetch_more(m, mode, &mut buf, have)?;
    }
}

/// Reads bytes behind the first `have`, up to the end of the page or of the code segment; returns
/// how many there are now, always more than before.
fn fetch_more<M: InsnMachine>(
    m: &mut M,
    mode: CodeMode,
    buf: &mut [u8; MAX_LEN],
    have: usize,
) -> EmulatedStep<usize> {
    let rip = m.rip();
    let mask = if mode == CodeMode::Bits64 { u64::MAX } else { 0xffff_ffff };
    let offset = rip.wrapping_add(u64::try_from(have).unwrap_or(0)) & mask;
    // One byte: the instruction may end before the limit does, so that is looked at below.
    let gva: Gva = linear(m, mode, SegReg::Cs, offset, 1, MemAccess::Fetch)?;
    let mut room = gva.left_in_page();
    if mode != CodeMode::Bits64 {
        let limit = u64::from(m.segment(SegReg::Cs).limit);
        room = room.min(limit.wrapping_sub(offset).saturating_add(1));
    }
    let upto = have.saturating_add(usize::try_from(room).unwrap_or(MAX_LEN)).min(MAX_LEN);
    let Some(part) = buf.get_mut(have..upto) else { return Err(GP0) };
    m.read(gva, part, MemAccess::Fetch)?;
    Ok(upto)
}

/// Refuses LOCK where the instruction may not have it: #UD.
///
/// SDM, "LOCK—Assert LOCK# Signal Prefix".
fn check_lock(insn: &DecodedInsn) -> EmulatedStep<()> {
    if !insn.prefixes.lock || insn.alternate_cr8() {
        return Ok(());
    }
    let lockable = match (insn.map, insn.opcode) {
        (OpcodeMap::One, op @ 0x00..=0x37) => op & 7 < 2,
        (OpcodeMap::One, 0x80..=0x83) => insn.ext != 7,
        (OpcodeMap::One, 0x86 | 0x87) => true,
        (OpcodeMap::One, 0xf6 | 0xf7) => matches!(insn.ext, 2 | 3),
        (OpcodeMap::One, 0xfe | 0xff) => insn.ext < 2,
        (OpcodeMap::Two, 0xab | 0xb3 | 0xbb | 0xb0 | 0xb1 | 0xc0 | 0xc1) => true,
        (OpcodeMap::Two, 0xba) => insn.ext > 4,
        (OpcodeMap::Two, 0xc7) => insn.ext == 1,
        _ => false,
    };
    if lockable && insn.mem.is_some() {
        Ok(())
    } else {
        Err(UD)
    }
}

impl<M: InsnMachine> InsnCx<'_, M> {
    fn dispatch(&mut self) -> EmulatedStep<NextStep> {
        match self.insn.map {
            OpcodeMap::One => self.one_byte(),
            OpcodeMap::Two => self.two_byte(),
            OpcodeMap::Three38 => self.three_byte_38(),
            OpcodeMap::Three3a => Err(StopReason::Unhandled),
        }
    }

    fn one_byte(&mut self) -> EmulatedStep<NextStep> {
        match self.insn.opcode {
            op @ 0x00..=0x3f if op & 7 < 6 => self.alu_row(),
            0x06 | 0x0e | 0x16 | 0x1e => self.push_segment(),
            0x07 | 0x17 | 0x1f => self.pop_segment(),
            0x40..=0x4f => self.inc_dec_short(),
            0x50..=0x57 => self.push_reg(),
            0x58..=0x5f => self.pop_reg(),
            0x60 => self.pusha(),
            0x61 => self.popa(),
            0x63 if self.mode == CodeMode::Bits64 => self.movsxd(),
            0x68 | 0x6a => self.push_immediate(),
            0x69 | 0x6b => self.imul_immediate(),
            0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf => self.string(),
            0x70..=0x7f => self.jcc(),
            0x80..=0x83 => self.alu_immediate(),
            0x84 | 0x85 | 0xa8 | 0xa9 => self.test(),
            0x86 | 0x87 => self.xchg(),
            0x88..=0x8b => self.mov(),
            0x8c => self.mov_from_segment(),
            0x8d => self.lea(),
            0x8e => self.mov_to_segment(),
            0x8f => self.pop_rm(),
            0x90..=0x97 => self.xchg_accumulator(),
            0x98 | 0x99 => self.convert(),
            0x9a | 0xea => self.far_immediate(),
            0x9c => self.pushf(),
            0x9d => self.popf(),
            0x9e | 0x9f => self.flags_ah(),
            _ => self.one_byte_upper(),
        }
    }

    fn one_byte_upper(&mut self) -> EmulatedStep<NextStep> {
        match self.insn.opcode {
            0xa0..=0xa3 => self.mov_offset(),
            0xb0..=0xbf => self.mov_immediate_short(),
            0xc0 | 0xc1 | 0xd0..=0xd3 => self.shift(),
            0xc2 | 0xc3 => self.ret(),
            0xc6 | 0xc7 => self.mov_immediate(),
            0xc8 => self.enter(),
            0xc9 => self.leave(),
            0xca | 0xcb => self.far_return(),
            0xcc..=0xce => self.int(),
            0xcf => self.iret(),
            0xd7 => self.xlat(),
            0xe0..=0xe3 => self.loop_or_jcxz(),
            0xe4..=0xe7 | 0xec..=0xef => self.port(),
            0xe8 => self.call(),
            0xe9 | 0xeb => self.jmp(),
            0xf5 | 0xf8 | 0xf9 | 0xfc | 0xfd => self.flag_bit(),
            0xf6 | 0xf7 => self.group3(),
            0xfe | 0xff => self.group5(),
            _ => Err(StopReason::Unhandled),
        }
    }

    fn two_byte(&mut self) -> EmulatedStep<NextStep> {
        match self.insn.opcode {
            0x00 => self.load_system(),
            0x01 if self.insn.ext < 4 && self.insn.mem.is_some() => self.descriptor_table(),
            0x01 => self.group7(),
            0x06 => self.clts(),
            0x0b | 0xb9 | 0xff => Err(UD),
            0x0d | 0x18..=0x1f => self.nop(),
            0x20 | 0x22 => self.mov_cr(),
            0x40..=0x4f => self.cmovcc(),
            0x80..=0x8f => self.jcc(),
            0x90..=0x9f => self.setcc(),
            0xa0 | 0xa8 => self.push_segment(),
            0xa1 | 0xa9 => self.pop_segment(),
            0xa3 | 0xab | 0xb3 | 0xbb => self.bit_test(),
            0xba if self.insn.ext < 4 => Err(UD),
            0xba => self.bit_test(),
            0xa4 | 0xa5 | 0xac | 0xad => self.shift_double(),
            0xaf => self.imul_reg(),
            0xb0 | 0xb1 => self.cmpxchg(),
            0xb6 | 0xb7 | 0xbe | 0xbf => self.mov_extend(),
            0xb8 => self.popcnt(),
            0xbc | 0xbd => self.bit_scan(),
            0xc0 | 0xc1 => self.xadd(),
            0xc3 => self.movnti(),
            0xc7 => self.cmpxchg_double(),
            0xc8..=0xcf => self.bswap(),
            _ => Err(StopReason::Unhandled),
        }
    }

    fn three_byte_38(&mut self) -> EmulatedStep<NextStep> {
        match self.insn.opcode {
            0xf0 | 0xf1 => self.movbe(),
            _ => Err(StopReason::Unhandled),
        }
    }
}
