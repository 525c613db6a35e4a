// SPDX-License-Identifier: GPL-2.0

//! REP OUTS to a port of user space: many elements in one exit, as KVM_EXIT_IO's count allows.
//!
//! Done here are forward moves in 64-bit mode, at a privilege level that IOPL allows, from memory
//! within one page. All else is for the emulator, one element at a time.

use crate::arch::addr::{is_canonical, Gva};
use crate::arch::cr::Rflags;
use crate::arch::segment::SegReg;
use crate::vcpu::access::port;
use crate::vcpu::backend::VendorBackend;
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emul::code;
use crate::vcpu::emul::machine::CxMachine;
use crate::vcpu::emulate::decode::{CodeMode, RepPrefix};
use crate::vcpu::exit::PioAccess;
use crate::vcpu::io::STRING;
use crate::vcpu::outcome::{ExitOutcome, UserExit};
use crate::vcpu::state::{RCX, RSI};

/// Bits of a linear address, with 4-level paging.
const VA_BITS: u32 = 48;

/// Takes up to [`STRING`] bytes to user space. `None`: not this kind, or memory that needs more care.
pub(crate) fn handle<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>, a: PioAccess) -> Option<ExitOutcome> {
    if a.is_in() || !port::is_for_user(cx, a.port()) {
        return None;
    }
    let (insn, mode) = code::current(cx)?;
    let p = insn.prefixes;
    let s = &cx.core.state;
    let iopl = ((s.rflags >> 12) & 3) as u8;
    let is_flat = !matches!(p.seg, Some(SegReg::Fs | SegReg::Gs));
    // A single step traps after each element.
    let forward = s.rflags & (Rflags::DF | Rflags::TF).bits() == 0;
    if mode != CodeMode::Bits64
        || p.size_67
        || p.rep != Some(RepPrefix::E)
        || !is_flat
        || !forward
        || s.cpl() > iopl
    {
        return None;
    }
    let from = Gva(s.gprs[RSI]);
    // The upper half of a page is canonical when its first byte is.
    if !is_canonical(from.0, VA_BITS) {
        return None;
    }
    let width = a.width().bytes();
    let room = usize::try_from(from.left_in_page()).ok()?.min(STRING).checked_div(width)?;
    let left = s.gprs[RCX];
    let count = usize::try_from(left).unwrap_or(room).min(room);
    let bytes = count.checked_mul(width)?;
    if count == 0 {
        return None;
    }
    let mut data = [0u8; STRING];
    CxMachine::new(cx).read_memory(from, data.get_mut(..bytes)?)?;
    cx.core.io.forget();
    cx.core.io.string = data;
    // As after so many elements: an event may be taken before the rest.
    let s = &mut cx.core.state;
    s.gprs[RSI] = from.0.wrapping_add(bytes as u64);
    s.gprs[RCX] = left.wrapping_sub(count as u64);
    let exit = UserExit::IoString { port: a.port(), width: a.width(), count: count as u32, is_in: false };
    Some(if s.gprs[RCX] == 0 { cx.core.skip_to_user(exit) } else { cx.core.leave_for_user(exit) })
}
