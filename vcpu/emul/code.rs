// SPDX-License-Identifier: GPL-2.0

//! The instruction that exited, from the cache of those that exited lately ([`crate::vcpu::code_cache`]), or walked
//! to, fetched and decoded, and put there.

use crate::arch::addr::{Gpa, Gva, Hva};
use crate::machine::memory::SlotLookup;
use crate::machine::ram::GuestRam;
use crate::mmu::mem::{GuestMem, MemError};
use crate::mmu::walk::{self, AccessKind, AccessPrivilege};
use crate::vcpu::backend::{BackendVcpu, CodeContext, VendorBackend};
use crate::vcpu::code_cache::{CodeKey, WordTrail, CODE};
use crate::vcpu::context::VcpuCx;
use crate::vcpu::emulate::decode::{decode, CodeMode, DecodedInsn};
use crate::vcpu::exit::RawExit;
use crate::vcpu::state::StateGroups;
use core::cell::Cell;
use kernel::prelude::*;

/// Returns the instruction that exited, in 64-bit code, if one look tells that it is known. Needs no
/// registers fetched; touches no memory but to compare it.
#[inline(always)]
pub(crate) fn known<'c, B: VendorBackend>(
    cx: &'c VcpuCx<'_, '_, B>,
    context: &CodeContext,
) -> Option<&'c DecodedInsn> {
    cx.core.code.quick_look(cx.core.state.rip, context, || cx.vm.machine.ram.stable_sequence())
}

/// Returns the address of the instruction after the one that exited so, if the processor told it or one look tells.
#[inline(always)]
pub(crate) fn next_rip<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, raw: &RawExit) -> Option<u64> {
    next_rip_and_cpl(cx, raw).map(|(next, _)| next)
}

/// As [`next_rip`], and the privilege level, if the same look tells that.
#[inline(always)]
pub(crate) fn next_rip_and_cpl<B: VendorBackend>(
    cx: &VcpuCx<'_, '_, B>,
    raw: &RawExit,
) -> Option<(u64, Option<u8>)> {
    if let Some(next) = cx.core.hw.next_rip(raw) {
        return Some((next, None));
    }
    let context = cx.core.hw.code_context()?;
    let insn = known(cx, &context)?;
    Some((CodeMode::Bits64.next_rip(cx.core.state.rip, insn), Some(context.cpl)))
}

/// Returns the instruction at RIP and its mode, if it is of a kind that is kept and all of it can be
/// read at once.
#[inline]
pub(crate) fn current<B: VendorBackend>(cx: &mut VcpuCx<'_, '_, B>) -> Option<(DecodedInsn, CodeMode)> {
    cx.core.fetch(StateGroups::CONTROL);
    cx.core.state.fetch_code(&cx.core.hw);
    let key = CodeKey::of(&cx.core.state)?;
    // Before anything is read: after a change meanwhile nobody finds what is learnt by this number.
    let sequence = cx.vm.machine.ram.stable_sequence()?;
    if let Some(insn) = cx.core.code.look(&key, sequence) {
        return Some((insn, key.mode));
    }
    let (trail, insn) = learn(cx, &key)?;
    cx.core.code.learn(key, sequence, cx.core.hw.code_context(), insn, trail);
    Some((insn, key.mode))
}

/// Walks, fetches and decodes, and notes every word that this rests on.
fn learn<B: VendorBackend>(cx: &VcpuCx<'_, '_, B>, key: &CodeKey) -> Option<(WordTrail, DecodedInsn)> {
    let ram = &*cx.vm.machine.ram;
    let witness = CodeWitness { ram, trail: Cell::new(Some(WordTrail::new())) };
    let privilege = if key.is_user { AccessPrivilege::User } else { AccessPrivilege::Supervisor };
    let how = walk::WalkAccess { kind: AccessKind::Fetch, privilege };
    let found = walk::walk(&witness, &cx.guest_paging(), Gva(key.at), how).ok()?;
    // At the end of a page it is the page's last bytes that are looked at.
    let before = (CODE as u64).saturating_sub(found.gpa.left_in_page());
    let window = Gpa(found.gpa.0.wrapping_sub(before));
    let mut bytes = [0u8; CODE];
    ram.read(window, &mut bytes).ok()?;
    let here = bytes.get(before as usize..)?;
    let mut code = [0u8; CODE];
    code.get_mut(..here.len())?.copy_from_slice(here);
    let insn = decode(&code, key.mode).ok().filter(|insn| usize::from(insn.len) <= here.len())?;
    let mut trail = witness.trail.get()?;
    let (hva, _) = ram.user_range(window, false)?;
    // Bytes beside the instruction do not matter.
    let (first, last) = (before, before.wrapping_add(insn.len.into()));
    for (part, at) in bytes.chunks_exact(8).zip([0u64, 8]) {
        let is_its = first < at.wrapping_add(8) && at < last;
        let value = u64::from_le_bytes(part.try_into().ok()?);
        if is_its && !trail.push(Hva(hva.0.wrapping_add(at)), value) {
            return None;
        }
    }
    Some((trail, insn))
}

/// Guest memory that notes what a walk reads of it; nothing once a walk does what cannot be noted.
struct CodeWitness<'a> {
    ram: &'a GuestRam,
    trail: Cell<Option<WordTrail>>,
}

impl GuestMem for CodeWitness<'_> {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        self.ram.read(gpa, buf)?;
        let noted = || {
            let mut trail = self.trail.get()?;
            let value = u64::from_le_bytes((&*buf).try_into().ok()?);
            let (hva, _) = self.ram.user_range(gpa, false)?;
            trail.push(hva, value).then_some(trail)
        };
        self.trail.set(noted());
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        self.trail.set(None);
        self.ram.write(gpa, buf)
    }

    fn cmpxchg(&self, gpa: Gpa, bytes: usize, old: u64, new: u64) -> Result<u64, MemError> {
        // An accessed bit is being set: the next time, the entry is as it will stay.
        self.trail.set(None);
        self.ram.cmpxchg(gpa, bytes, old, new)
    }
}
