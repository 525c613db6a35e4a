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
//! Only an instruction is kept that lies in one page, in 64-bit mode or in a segment of 4 GiB, and
//! only where page table entries have 8 bytes. All else is fetched and decoded each time.

use super::backend::CodeContext;
use super::emulate::decode::{decode, CodeMode, DecodedInsn};
use super::state::VcpuState;
use crate::arch::addr::Hva;
use crate::arch::cr::Efer;
use crate::arch::segment::SegReg;
use crate::host::boxed;
use crate::host::guest_ram::{are_unchanged, is_unchanged, UserWord};
use kernel::prelude::*;

/// How many instructions are kept.
const ENTRIES: usize = 16;
/// The bytes of code that an entry holds: an instruction has at most 15.
pub(crate) const CODE: usize = 16;
/// Page table entries of the deepest walk, and the code.
const WORDS: usize = 5 + CODE / 8;

/// NOPs.
const NOPS: [u8; CODE] = [0x90; CODE];

/// What a fetch depends on beside memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CodeKey {
    /// The linear address.
    pub(crate) at: u64,
    cr3: u64,
    cr0: u64,
    cr4: u64,
    efer: u64,
    /// How the code is read.
    pub(crate) mode: CodeMode,
    /// The privilege level is 3.
    pub(crate) is_user: bool,
}

impl CodeKey {
    /// Returns the key of the instruction at RIP, if it may be of a kind that is kept.
    #[inline]
    pub(crate) fn of(s: &VcpuState) -> Option<CodeKey> {
        let cs = s.seg(SegReg::Cs);
        let (at, mode) = if s.is_64bit() {
            (s.rip, CodeMode::Bits64)
        } else if cs.limit == u32::MAX {
            let mode = if cs.attr.is_big() { CodeMode::Bits32 } else { CodeMode::Bits16 };
            (cs.base.wrapping_add(s.rip) & 0xffff_ffff, mode)
        } else {
            return None;
        };
        let is_user = s.cpl() == 3;
        Some(CodeKey { at, cr3: s.cr3, cr0: s.cr0, cr4: s.cr4, efer: s.efer, mode, is_user })
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
pub(crate) struct WordTrail {
    words: [UserWord; WORDS],
    len: usize,
}

impl WordTrail {
    /// Nothing seen.
    pub(crate) fn new() -> WordTrail {
        WordTrail { words: [UserWord::default(); WORDS], len: 0 }
    }

    /// Adds the word at `hva`, which had `value` a moment ago. Returns whether it still has, and there
    /// was room.
    pub(crate) fn push(&mut self, hva: Hva, value: u64) -> bool {
        match (self.words.get_mut(self.len), UserWord::read(hva)) {
            (Some(place), Ok(word)) if word.value() == value => {
                *place = word;
                self.len = self.len.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    /// Repeats the last word in the places that are left. Returns whether the first five are then all that was seen.
    fn pad(&mut self) -> bool {
        let Some(last) = self.len.checked_sub(1).and_then(|at| self.words.get(at)).copied() else {
            return false;
        };
        if let Some(rest) = self.words.get_mut(self.len..) {
            rest.fill(last);
        }
        self.len <= 5
    }

    /// Returns the first five words.
    #[inline(always)]
    fn five(&self) -> &[UserWord; 5] {
        let [five @ .., _, _] = &self.words;
        five
    }
}

/// What a quick look goes by, beside the words: 64-bit code alone, where the processor has just fetched the
/// instruction itself. Then rights do not matter, nor paging's mode: CR4 and EFER stay the same over it.
#[derive(Clone, Copy)]
struct QuickLook {
    rip: u64,
    context: CodeContext,
}

impl QuickLook {
    /// Finds nothing.
    const NONE: QuickLook =
        QuickLook { rip: NOWHERE, context: CodeContext { cr3: 0, cr4: 0, efer: 0, cs: 0, cpl: 0 } };
}

/// The RIP of entries without a quick look. One for an instruction that is there has another context.
const NOWHERE: u64 = u64::MAX;

#[derive(Clone, Copy)]
struct CachedInsn {
    quick: QuickLook,
    sequence: u64,
    insn: DecodedInsn,
    key: CodeKey,
    trail: WordTrail,
}

/// See the module's description.
pub(crate) struct CodeCache(KBox<[CachedInsn; ENTRIES]>);

impl CodeCache {
    /// Nothing known.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<CodeCache> {
        // Of no guest's code: paging is off there, and yet it is in 64-bit mode.
        let key =
            CodeKey { at: NOWHERE, cr3: 0, cr0: 0, cr4: 0, efer: 0, mode: CodeMode::Bits64, is_user: false };
        let insn = decode(&NOPS, key.mode).map_err(|_| EINVAL)?;
        let nothing = CachedInsn { quick: QuickLook::NONE, sequence: 0, insn, key, trail: WordTrail::new() };
        Ok(CodeCache(boxed::array(nothing)?))
    }

    /// Returns the instruction at `rip` in 64-bit code that the processor has just fetched, if one look tells that
    /// it is known; `sequence` returns that of memory now, if it is stable.
    #[inline(always)]
    pub(crate) fn quick_look(
        &self,
        rip: u64,
        context: &CodeContext,
        sequence: impl FnOnce() -> Option<u64>,
    ) -> Option<&DecodedInsn> {
        let e = self.quick(rip)?;
        let same = e.quick.context.fetches_as(context)
            && sequence() == Some(e.sequence)
            && are_unchanged(e.trail.five());
        same.then_some(&e.insn)
    }

    /// Returns the instruction of `key`, if all that it rests on is as it was; `sequence` is that of memory now.
    pub(crate) fn look(&self, key: &CodeKey, sequence: u64) -> Option<DecodedInsn> {
        let e = self.entry(key)?;
        let seen = e.trail.words.get(..e.trail.len)?;
        (e.sequence == sequence && is_unchanged(seen)).then_some(e.insn)
    }

    /// Keeps the instruction of `key`, which rests on `trail`. `context`: what the processor had fetched it by, for
    /// [`CodeCache::quick_look`].
    pub(crate) fn learn(
        &mut self,
        key: CodeKey,
        sequence: u64,
        context: Option<CodeContext>,
        insn: DecodedInsn,
        mut trail: WordTrail,
    ) {
        // So that whoever comes with the same EFER and CS later is in 64-bit mode without a look at anything else.
        let context = context.filter(|c| c.efer & Efer::LMA.bits() != 0);
        let quick = match (key.mode, context, trail.pad()) {
            (CodeMode::Bits64, Some(context), true) => QuickLook { rip: key.at, context },
            _ => QuickLook::NONE,
        };
        self.keep(CachedInsn { quick, sequence, insn, key, trail });
    }

    /// Returns the entry for a quick look at the instruction at `rip`.
    #[inline(always)]
    fn quick(&self, rip: u64) -> Option<&CachedInsn> {
        let at = slot(rip);
        match self.0.get(at) {
            Some(e) if e.quick.rip == rip => Some(e),
            _ => self.0.get(at ^ 1).filter(|e| e.quick.rip == rip),
        }
    }

    /// Returns the entry of an instruction.
    fn entry(&self, key: &CodeKey) -> Option<&CachedInsn> {
        let at = slot(key.at);
        [at, at ^ 1].iter().find_map(|at| self.0.get(*at).filter(|e| e.key == *key))
    }

    /// Keeps an entry in the first of its places. What was there moves to the second, unless that was the same
    /// instruction: two that are executed in turn keep a place each.
    fn keep(&mut self, entry: CachedInsn) {
        let at = slot(entry.key.at);
        let Some(place) = self.0.get_mut(at) else { return };
        let earlier = core::mem::replace(place, entry);
        if earlier.key.at == entry.key.at {
            return;
        }
        if let Some(second) = self.0.get_mut(at ^ 1) {
            *second = earlier;
        }
    }
}
