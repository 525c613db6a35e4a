// SPDX-License-Identifier: GPL-2.0

//! Instructions that exited lately, decoded: for processors that do not tell the next RIP or the
//! instruction's bytes.
//!
//! An entry holds what its decoding rests on: the registers that code fetches depend on, the guest's
//! page table entries on the way to the code, and the code's bytes, each with its place in the VMM's
//! memory. It serves as long as all of them are the same, which one look at each tells. So the
//! answer is that of a fresh walk, fetch and decoding, whatever the guest does to its tables and its
//! code meanwhile.
//!
//! Only code is kept whose 16 bytes lie in one page, in 64-bit mode or in a segment of 4 GiB, and
//! only where page table entries have 8 bytes. All else is fetched and decoded each time.

use super::machine::paging;
use super::Cx;
use crate::arch::addr::{Gpa, Gva, Hva};
use crate::arch::cr::Efer;
use crate::arch::segment::SegReg;
use crate::host::guest_ram::{are_unchanged, is_unchanged, Word};
use crate::mmu::mem::{GuestMem, MemError};
use crate::mmu::walk::{self, AccessKind, Privilege};
use crate::vcpu::backend::{Backend, BackendVcpu, CodeContext};
use crate::vcpu::emulate::decode::{decode, Insn, Mode};
use crate::vcpu::memory::InSlots;
use crate::vcpu::space::Space;
use crate::vcpu::state::{Groups, VcpuState};
use core::cell::Cell;
use kernel::prelude::*;

/// How many instructions are kept.
const ENTRIES: usize = 16;
/// The bytes of code that an entry holds: an instruction has at most 15.
const CODE: usize = 16;
/// Page table entries of the deepest walk, and the code.
const WORDS: usize = 5 + CODE / 8;

/// What a fetch depends on beside memory.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    at: u64,
    cr3: u64,
    cr0: u64,
    cr4: u64,
    efer: u64,
    mode: Mode,
    is_user: bool,
}

impl Key {
    /// Returns the key of the instruction at RIP, if it is of a kind that is kept.
    #[inline]
    fn of(s: &VcpuState) -> Option<Key> {
        let cs = s.seg(SegReg::Cs);
        let (at, mode) = if s.is_64bit() {
            (s.rip, Mode::Bits64)
        } else if cs.limit == u32::MAX {
            let mode = if cs.attr.is_big() { Mode::Bits32 } else { Mode::Bits16 };
            (cs.base.wrapping_add(s.rip) & 0xffff_ffff, mode)
        } else {
            return None;
        };
        let fits = Gva(at).left_in_page() >= CODE as u64;
        let is_user = s.cpl() == 3;
        fits.then_some(Key { at, cr3: s.cr3, cr0: s.cr0, cr4: s.cr4, efer: s.efer, mode, is_user })
    }
}

/// Returns the number of the entry for the instruction at linear address `at`; the one beside it, whose number
/// differs in the lowest bit, is its second place.
#[inline(always)]
fn slot(at: u64) -> usize {
    // Fibonacci hashing: neighbours and equal offsets in several pages spread evenly.
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % ENTRIES
}

/// Words that were seen, in order.
#[derive(Clone, Copy)]
struct Trail {
    words: [Word; WORDS],
    len: usize,
}

impl Trail {
    fn new() -> Trail {
        Trail { words: [Word::default(); WORDS], len: 0 }
    }

    /// Adds the word at `hva`, which had `value` a moment ago. Returns whether it still has, and there
    /// was room.
    fn push(&mut self, hva: Hva, value: u64) -> bool {
        match (self.words.get_mut(self.len), Word::read(hva)) {
            (Some(place), Ok(word)) if word.value() == value => {
                *place = word;
                self.len = self.len.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    /// Returns the words as five, the last one repeated, if there are no more.
    fn five(&self) -> Option<[Word; 5]> {
        let seen = self.words.get(..self.len)?;
        let last = *seen.last()?;
        (seen.len() <= 5).then(|| [0, 1, 2, 3, 4].map(|i: usize| seen.get(i).copied().unwrap_or(last)))
    }
}

/// What a quick look goes by: 64-bit code alone, where the processor has just fetched the instruction
/// itself. Then rights do not matter, nor paging's mode: CR4 and EFER stay the same over it.
#[derive(Clone, Copy)]
struct Quick {
    rip: u64,
    context: CodeContext,
    words: [Word; 5],
}

/// No RIP, for it does not fit into its page.
const NOWHERE: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct Entry {
    quick: Quick,
    sequence: u64,
    insn: Insn,
    key: Key,
    trail: Trail,
}

/// See the module's description.
pub(crate) struct CodeCache(KVec<Option<Entry>>);

impl CodeCache {
    /// Nothing known.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<CodeCache> {
        Ok(CodeCache(KVec::from_elem(None, ENTRIES, GFP_KERNEL_ACCOUNT)?))
    }

    /// Returns the entry for a quick look at the instruction at `rip`.
    #[inline(always)]
    fn quick(&self, rip: u64) -> Option<&Entry> {
        let at = slot(rip);
        match self.0.get(at) {
            Some(Some(e)) if e.quick.rip == rip => Some(e),
            _ => self.0.get(at ^ 1)?.as_ref().filter(|e| e.quick.rip == rip),
        }
    }

    /// Returns the entry of an instruction.
    fn entry(&self, key: &Key) -> Option<&Entry> {
        let at = slot(key.at);
        [at, at ^ 1].iter().find_map(|at| self.0.get(*at)?.as_ref().filter(|e| e.key == *key))
    }

    /// Keeps an entry in the first of its places. What was there moves to the second, unless that was the same
    /// instruction: two that are executed in turn keep a place each.
    fn keep(&mut self, entry: Entry) {
        let at = slot(entry.key.at);
        let Some(earlier) = self.0.get_mut(at).and_then(|place| place.replace(entry)) else { return };
        if earlier.key.at == entry.key.at {
            return;
        }
        if let Some(second) = self.0.get_mut(at ^ 1) {
            *second = Some(earlier);
        }
    }
}

/// Returns the instruction that exited, in 64-bit code, if one look tells that it is known. Needs no
/// registers fetched; touches no memory but to compare it.
#[inline(always)]
pub(crate) fn known<'c, B: Backend>(cx: &'c Cx<'_, '_, B>, context: &CodeContext) -> Option<&'c Insn> {
    let rip = cx.core.state.rip;
    let e = cx.core.code.quick(rip)?;
    let same = e.quick.context.fetches_as(context)
        && cx.vm.space.stable_sequence() == Some(e.sequence)
        && are_unchanged(&e.quick.words);
    same.then_some(&e.insn)
}

/// Returns the address of the next instruction, if the processor told it or one look tells.
#[inline(always)]
pub(crate) fn next_rip<B: Backend>(cx: &Cx<'_, '_, B>) -> Option<u64> {
    if let Some(next) = cx.core.hw.next_rip() {
        return Some(next);
    }
    let context = cx.core.hw.code_context()?;
    let insn = known(cx, &context)?;
    Some(Mode::Bits64.next_rip(cx.core.state.rip, insn))
}

/// Returns the instruction at RIP and its mode, if it is of a kind that is kept and all of it can be
/// read at once.
#[inline]
pub(super) fn current<B: Backend>(cx: &mut Cx<'_, '_, B>) -> Option<(Insn, Mode)> {
    cx.core.fetch(Groups::CONTROL);
    cx.core.state.fetch_code(&cx.core.hw);
    let key = Key::of(&cx.core.state)?;
    let sequence = cx.vm.space.stable_sequence()?;
    if let Some(e) = cx.core.code.entry(&key) {
        if e.sequence == sequence && e.trail.words.get(..e.trail.len).is_some_and(is_unchanged) {
            return Some((e.insn, key.mode));
        }
    }
    let (trail, insn) = learn(cx, &key)?;
    let context = cx.core.hw.code_context().filter(|c| c.efer & Efer::LMA.bits() != 0);
    let quick = match (key.mode, context, trail.five()) {
        (Mode::Bits64, Some(context), Some(words)) => Quick { rip: key.at, context, words },
        _ => Quick { rip: NOWHERE, context: CodeContext::default(), words: [Word::default(); 5] },
    };
    cx.core.code.keep(Entry { quick, sequence, insn, key, trail });
    Some((insn, key.mode))
}

/// Walks, fetches and decodes, and notes every word that this rests on.
fn learn<B: Backend>(cx: &Cx<'_, '_, B>, key: &Key) -> Option<(Trail, Insn)> {
    let space: &Space<B> = &cx.vm.space;
    let witness = Witness { space, trail: Cell::new(Some(Trail::new())) };
    let privilege = if key.is_user { Privilege::User } else { Privilege::Supervisor };
    let how = walk::Access { kind: AccessKind::Fetch, privilege };
    let found = walk::walk(&witness, &paging(cx), Gva(key.at), how).ok()?;
    let mut code = [0u8; CODE];
    space.read(found.gpa, &mut code).ok()?;
    let insn = decode(&code, key.mode).ok()?;
    let mut trail = witness.trail.get()?;
    let (hva, _) = space.user_range(found.gpa, false)?;
    // Bytes behind the instruction do not matter.
    let parts = if insn.len <= 8 { 1 } else { 2 };
    for (part, at) in code.chunks_exact(8).zip([0, 8]).take(parts) {
        let value = u64::from_le_bytes(part.try_into().ok()?);
        if !trail.push(Hva(hva.0.wrapping_add(at)), value) {
            return None;
        }
    }
    Some((trail, insn))
}

/// Guest memory that notes what a walk reads of it; nothing once a walk does what cannot be noted.
struct Witness<'a, B: Backend> {
    space: &'a Space<B>,
    trail: Cell<Option<Trail>>,
}

impl<B: Backend> GuestMem for Witness<'_, B> {
    fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<(), MemError> {
        self.space.read(gpa, buf)?;
        let noted = || {
            let mut trail = self.trail.get()?;
            let value = u64::from_le_bytes((&*buf).try_into().ok()?);
            let (hva, _) = self.space.user_range(gpa, false)?;
            trail.push(hva, value).then_some(trail)
        };
        self.trail.set(noted());
        Ok(())
    }

    fn write(&self, gpa: Gpa, buf: &[u8]) -> Result<(), MemError> {
        self.trail.set(None);
        self.space.write(gpa, buf)
    }

    fn cmpxchg(&self, gpa: Gpa, bytes: usize, old: u64, new: u64) -> Result<u64, MemError> {
        // An accessed bit is being set: the next time, the entry is as it will stay.
        self.trail.set(None);
        self.space.cmpxchg(gpa, bytes, old, new)
    }
}
