// SPDX-License-Identifier: GPL-2.0

//! Plain MOV to and from a device: what drivers do, without the emulator.
//!
//! Such an instruction has one memory operand, so the address that the fault told is that operand's, or the
//! start of its second page, and the processor has checked segment, rights and paging before it faulted. All
//! else, and operands that cross a page, are for [`super::insn::emulate`].

use super::code;
use super::machine::CxMachine;
use crate::arch::addr::{AccessWidth, PAGE_SIZE};
use crate::arch::segment::SegReg;
use crate::vcpu::access::mmio;
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emulate::decode::{CodeMode, DecodedInsn};
use crate::vcpu::emulate::machine::StopReason;
use crate::vcpu::emulate::table::OpcodeMap;
use crate::vcpu::exit::GuestPageFault;
use crate::vcpu::outcome::{ExitOutcome, FastExit};
use crate::vcpu::record::count;
use crate::vcpu::state::StateGroups;

/// What is moved.
#[derive(Clone, Copy)]
enum MovInsn {
    /// Into a register, merged as its width asks.
    Load(usize),
    /// Into a register, the rest of it cleared.
    LoadZero(usize),
    /// A value.
    Store(u64),
}

/// Returns the move and the width of its memory operand, for the instructions that are done here.
#[inline]
fn plan(insn: &DecodedInsn, gprs: &[u64; 16]) -> Option<(MovInsn, AccessWidth)> {
    insn.mem?;
    let reg = usize::from(insn.reg & 15);
    // Without REX, 4 to 7 are AH to BH.
    let has_byte = insn.prefixes.rex != 0 || reg < 4;
    let value = *gprs.get(reg)?;
    Some(match (insn.map, insn.opcode) {
        (OpcodeMap::One, 0x8b) => (MovInsn::Load(reg), insn.op_size),
        (OpcodeMap::One, 0x89) => (MovInsn::Store(value), insn.op_size),
        (OpcodeMap::One, 0xc7) if insn.ext == 0 => (MovInsn::Store(insn.imm), insn.op_size),
        (OpcodeMap::One, 0x8a) if has_byte => (MovInsn::Load(reg), AccessWidth::B1),
        (OpcodeMap::One, 0x88) if has_byte => (MovInsn::Store(value), AccessWidth::B1),
        (OpcodeMap::One, 0xc6) if insn.ext == 0 => (MovInsn::Store(insn.imm), AccessWidth::B1),
        // MOVZX; to 16 bits it would keep the rest.
        (OpcodeMap::Two, 0xb6) if insn.op_size != AccessWidth::B2 => {
            (MovInsn::LoadZero(reg), AccessWidth::B1)
        }
        (OpcodeMap::Two, 0xb7) if insn.op_size != AccessWidth::B2 => {
            (MovInsn::LoadZero(reg), AccessWidth::B2)
        }
        _ => return None,
    })
}

/// Returns whether the memory operand of `insn`, `bytes` long, lies in the one page that the access faulted at.
#[inline(always)]
fn is_in_one_page<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    fault: &GuestPageFault,
    (insn, mode): (&DecodedInsn, CodeMode),
    bytes: usize,
) -> bool {
    let (offset, bytes) = (fault.gpa.page_offset(), bytes as u64);
    // An operand that began in the page before would end within its own length.
    let is_clear = offset.wrapping_add(1) >= bytes;
    offset.wrapping_add(bytes) <= PAGE_SIZE && (is_clear || operand_offset(cx, insn, mode) == Some(offset))
}

/// Returns the offset in its page of the memory operand, whose linear address has it in its low bits: address sizes
/// and paging change none of them.
#[inline(always)]
fn operand_offset<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    insn: &DecodedInsn,
    mode: CodeMode,
) -> Option<u64> {
    let mem = insn.mem?;
    let gprs = &cx.core.state.gprs;
    let mut at = mem.disp;
    if let Some(base) = mem.base {
        at = at.wrapping_add(gprs[usize::from(base & 15)]);
    }
    if let Some(index) = mem.index {
        at = at.wrapping_add(gprs[usize::from(index & 15)].wrapping_shl(u32::from(mem.scale)));
    }
    if mem.rip_relative {
        at = at.wrapping_add(mode.next_rip(cx.core.state.rip, insn));
    }
    if mode != CodeMode::Bits64 || matches!(mem.seg, SegReg::Fs | SegReg::Gs) {
        cx.core.fetch(StateGroups::SEGMENTS);
        at = at.wrapping_add(cx.core.state.seg(mem.seg).base);
    }
    Some(at % PAGE_SIZE)
}

/// Returns a register after `value` of `width` was loaded into it.
#[inline]
fn merge(old: u64, width: AccessWidth, value: u64) -> u64 {
    match width {
        AccessWidth::B4 | AccessWidth::B8 => value,
        _ => (old & !width.mask()) | (value & width.mask()),
    }
}

/// Carries out a plain MOV on an interrupt controller, if it is one and the instruction is known.
#[inline(always)]
pub(crate) fn answer<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, fault: &GuestPageFault) -> FastExit {
    // No slot lies there as long as nothing has changed since this was found out.
    let is_device = cx.core.no_slot == Some((fault.gpa.gfn(), cx.vm.machine.ram.generation()));
    // An access to a page table on the way has no operand at this address.
    if !is_device || fault.reserved || !fault.is_final {
        return FastExit::Not;
    }
    let is_controller = mmio::is_interrupt_controller(cx, fault.gpa);
    // Beside the controllers only ioeventfds are served here, and no read signals one.
    if !is_controller && !fault.write {
        return FastExit::Not;
    }
    let Some(context) = cx.core.hw.code_context() else { return FastExit::Not };
    let Some(insn) = code::known(cx, &context) else { return FastExit::Not };
    let insn = *insn;
    if !is_controller {
        return signal(cx, fault, &insn);
    }
    match carry_out(cx, fault, &insn, CodeMode::Bits64) {
        Some(ExitOutcome::Resume) => {
            count(&cx.record.stats.page_faults);
            count(&cx.record.stats.mmio);
            // A write may have ended an interrupt or lowered the priority, so that another one can be taken.
            if fault.write {
                FastExit::Prepare
            } else {
                FastExit::Again
            }
        }
        _ => FastExit::Not,
    }
}

/// Carries out a plain MOV that signals user space, if it is one.
#[inline(never)]
fn signal<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    fault: &GuestPageFault,
    insn: &DecodedInsn,
) -> FastExit {
    let Some((MovInsn::Store(value), width)) = plan(insn, &cx.core.state.gprs) else { return FastExit::Not };
    let is_whole = is_in_one_page(cx, fault, (insn, CodeMode::Bits64), width.bytes());
    if insn.prefixes.lock || !is_whole || !mmio::signal(cx, fault.gpa, width, value) {
        return FastExit::Not;
    }
    count(&cx.record.stats.page_faults);
    count(&cx.record.stats.mmio);
    count(&cx.record.stats.emulated);
    let next = CodeMode::Bits64.next_rip(cx.core.state.rip, insn);
    cx.core.go_past(next, false);
    FastExit::Again
}

/// Carries out a plain MOV on the device that `fault` hit. `None`: it is another instruction.
#[inline]
pub(crate) fn handle<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    fault: &GuestPageFault,
) -> Option<ExitOutcome> {
    if !fault.is_final {
        return None;
    }
    let known = cx.core.hw.code_context().and_then(|context| code::known(cx, &context).copied());
    let (insn, mode) = match known {
        Some(insn) => (insn, CodeMode::Bits64),
        None => code::current(cx)?,
    };
    carry_out(cx, fault, &insn, mode)
}

/// Carries out `insn`. `None`: it is not a plain MOV, or another must do it; nothing has been done.
#[inline]
fn carry_out<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    fault: &GuestPageFault,
    insn: &DecodedInsn,
    mode: CodeMode,
) -> Option<ExitOutcome> {
    let (what, width) = plan(insn, &cx.core.state.gprs)?;
    let bytes = width.bytes();
    // With LOCK it is #UD, which the emulator finds out.
    if insn.prefixes.lock || !is_in_one_page(cx, fault, (insn, mode), bytes) {
        return None;
    }
    count(&cx.record.stats.emulated);
    cx.core.io.begin();
    let stepping = cx.core.is_stepping();
    let mut machine = CxMachine::new(cx);
    let mut data = [0u8; 8];
    let done = match what {
        MovInsn::Store(value) => {
            data = value.to_le_bytes();
            data.get(..bytes).map(|part| machine.device_write(fault.gpa, part, false))
        }
        _ => data.get_mut(..bytes).map(|part| machine.device_read(fault.gpa, part, false)),
    };
    let after = machine.after;
    match done? {
        Ok(()) => {}
        Err(StopReason::Retry) => {
            cx.core.io.keep(*insn, mode, cx.core.state.rip);
            return Some(after.outcome());
        }
        // No part of the access was made: the emulator comes to the same end and says what follows.
        Err(_) => return None,
    }
    let next = mode.next_rip(cx.core.state.rip, insn);
    end(cx, what, width, u64::from_le_bytes(data), next, stepping);
    Some(ExitOutcome::Resume)
}

/// Finishes the instruction that waits, if it is a plain MOV whose one access user space has carried out. Returns whether
/// it is.
#[inline]
pub(crate) fn finish<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> bool {
    let state = &cx.core.state;
    let Some((insn, mode)) = cx.core.io.unfinished(state.rip) else { return false };
    let Some((what, width)) = plan(insn, &state.gprs) else { return false };
    let next = mode.next_rip(state.rip, insn);
    let is_write = matches!(what, MovInsn::Store(_));
    let Some(value) = cx.core.io.only_answer(width.bytes() as u8, is_write) else { return false };
    let stepping = cx.core.is_stepping();
    // User space may have left anything behind the bytes that it was asked for.
    end(cx, what, width, value & width.mask(), next, stepping);
    true
}

/// Loads the register, if it is a load, and goes to `next`.
#[inline(always)]
fn end<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    what: MovInsn,
    width: AccessWidth,
    value: u64,
    next: u64,
    stepping: bool,
) {
    let gprs = &mut cx.core.state.gprs;
    match what {
        MovInsn::Load(reg) => gprs[reg & 15] = merge(gprs[reg & 15], width, value),
        MovInsn::LoadZero(reg) => gprs[reg & 15] = value,
        MovInsn::Store(_) => {}
    }
    cx.core.io.forget();
    cx.core.go_past(next, stepping);
}
