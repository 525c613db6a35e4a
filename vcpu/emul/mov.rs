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
use crate::vcpu::access::mmio::{self, InterruptController};
use crate::vcpu::backend::{BackendVcpu, VendorBackend};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emulate::decode::{CodeMode, DecodedInsn};
use crate::vcpu::emulate::machine::StopReason;
use crate::vcpu::emulate::table::OpcodeMap;
use crate::vcpu::exit::{FaultFlags, GuestPageFault};
use crate::vcpu::outcome::{ExitOutcome, FastExit};
use crate::vcpu::record::count;
use crate::vcpu::state::{StateGroups, VcpuState};

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

/// Returns whether a memory operand of `bytes` lies in the one page that the access faulted at; `offset` returns its
/// offset in a page.
#[inline(always)]
fn is_in_one_page(fault: &GuestPageFault, bytes: usize, offset: impl FnOnce() -> Option<u64>) -> bool {
    let (at, bytes) = (fault.gpa.page_offset(), bytes as u64);
    // An operand that began in the page before would end within its own length.
    let is_clear = at.wrapping_add(1) >= bytes;
    at.wrapping_add(bytes) <= PAGE_SIZE && (is_clear || offset() == Some(at))
}

/// Returns the memory operand's offset in its segment, in whose low bits nothing changes by the size of addresses.
#[inline(always)]
fn operand_offset(state: &VcpuState, insn: &DecodedInsn, mode: CodeMode) -> Option<u64> {
    let mem = insn.mem?;
    let mut at = mem.disp;
    if let Some(base) = mem.base {
        at = at.wrapping_add(state.gprs[usize::from(base & 15)]);
    }
    if let Some(index) = mem.index {
        at = at.wrapping_add(state.gprs[usize::from(index & 15)].wrapping_shl(u32::from(mem.scale)));
    }
    if mem.rip_relative {
        at = at.wrapping_add(mode.next_rip(state.rip, insn));
    }
    Some(at)
}

/// Returns whether the memory operand's segment has a base, in 64-bit mode.
#[inline(always)]
fn has_base(insn: &DecodedInsn) -> bool {
    insn.mem.is_some_and(|mem| matches!(mem.seg, SegReg::Fs | SegReg::Gs))
}

/// Returns the offset in its page of the memory operand.
#[inline(always)]
fn page_offset<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    insn: &DecodedInsn,
    mode: CodeMode,
) -> Option<u64> {
    let mut at = operand_offset(&cx.core.state, insn, mode)?;
    if mode != CodeMode::Bits64 || has_base(insn) {
        cx.core.fetch(StateGroups::SEGMENTS);
        at = at.wrapping_add(cx.core.state.seg(insn.mem?.seg).base);
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

/// A plain MOV of 64-bit code.
struct KnownMov {
    what: MovInsn,
    width: AccessWidth,
    next: u64,
}

impl KnownMov {
    /// Returns the one that faulted, if one look tells that it is one and that its operand lies in one page.
    #[inline(always)]
    fn of<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, fault: &GuestPageFault) -> Option<KnownMov> {
        let context = cx.core.hw.code_context()?;
        let insn = code::known(cx, &context)?;
        let state = &cx.core.state;
        let (what, width) = plan(insn, &state.gprs)?;
        let offset = || {
            let at = operand_offset(state, insn, CodeMode::Bits64)?;
            (!has_base(insn)).then_some(at % PAGE_SIZE)
        };
        // With LOCK it is #UD, which the emulator finds out.
        let is_plain = !insn.prefixes.lock && is_in_one_page(fault, width.bytes(), offset);
        is_plain.then(|| KnownMov { what, width, next: CodeMode::Bits64.next_rip(state.rip, insn) })
    }
}

/// Carries out a plain MOV in the inner loop: one to or from an interrupt controller, or one that signals user space.
#[inline(always)]
pub(crate) fn answer<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, fault: &GuestPageFault) -> FastExit {
    // No slot lies there as long as nothing has changed since this was found out.
    let is_device = cx.core.no_slot == Some((fault.gpa.gfn(), cx.vm.machine.ram.generation()));
    // An access to a page table on the way has no operand at this address.
    let is_operand = fault.flags & (FaultFlags::FINAL | FaultFlags::RESERVED) == FaultFlags::FINAL;
    if !is_device || !is_operand {
        return FastExit::Not;
    }
    let controller = InterruptController::at(cx, fault.gpa);
    // No read signals user space.
    if controller.is_none() && !fault.flags.contains(FaultFlags::WRITE) {
        return FastExit::Not;
    }
    let Some(KnownMov { what, width, next }) = KnownMov::of(cx, fault) else { return FastExit::Not };
    let answer = match (controller, what) {
        (Some(controller), MovInsn::Store(value)) => {
            if !controller.write(cx, fault.gpa, width, value & width.mask()) {
                return FastExit::Not;
            }
            // It may have ended an interrupt or lowered the priority, so that another one can be taken.
            FastExit::Prepare
        }
        (Some(controller), _) => {
            let Some(value) = controller.read(cx, fault.gpa, width) else { return FastExit::Not };
            load(&mut cx.core.state.gprs, what, width, value);
            FastExit::Again
        }
        (None, MovInsn::Store(value)) if mmio::signal(cx, fault.gpa, width, value) => FastExit::Again,
        (None, _) => return FastExit::Not,
    };
    count(&cx.record.stats.page_faults);
    count(&cx.record.stats.mmio);
    count(&cx.record.stats.emulated);
    cx.core.go_past(next, false);
    answer
}

/// Carries out a plain MOV on the device that `fault` hit. `None`: it is another instruction.
#[inline]
pub(crate) fn handle<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    fault: &GuestPageFault,
) -> Option<ExitOutcome> {
    if !fault.flags.contains(FaultFlags::FINAL) {
        return None;
    }
    if let Some(insn) = cx.core.hw.code_context().and_then(|context| code::known(cx, &context)) {
        // Copied once: it lies in what is lent mutably now.
        let insn = *insn;
        return carry_out(cx, fault, &insn, CodeMode::Bits64);
    }
    let (insn, mode) = code::current(cx)?;
    carry_out(cx, fault, &insn, mode)
}

/// Carries out `insn`. `None`: it is not a plain MOV, or another must do it; nothing has been done.
#[inline(never)]
fn carry_out<B: VendorBackend>(
    cx: &mut VcpuCx<'_, '_, B>,
    fault: &GuestPageFault,
    insn: &DecodedInsn,
    mode: CodeMode,
) -> Option<ExitOutcome> {
    let (what, width) = plan(insn, &cx.core.state.gprs)?;
    let bytes = width.bytes();
    if insn.prefixes.lock || !is_in_one_page(fault, bytes, || page_offset(cx, insn, mode)) {
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
    load(&mut cx.core.state.gprs, what, width, value);
    cx.core.io.forget();
    cx.core.go_past(next, stepping);
}

/// Loads the register, if it is a load.
#[inline(always)]
fn load(gprs: &mut [u64; 16], what: MovInsn, width: AccessWidth, value: u64) {
    match what {
        MovInsn::Load(reg) => gprs[reg & 15] = merge(gprs[reg & 15], width, value),
        MovInsn::LoadZero(reg) => gprs[reg & 15] = value,
        MovInsn::Store(_) => {}
    }
}
