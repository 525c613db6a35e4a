// SPDX-License-Identifier: GPL-2.0

//! A hypercall as the guest makes it: its first word and two more, in registers that depend on the mode.
//!
//! TLFS, "Hypercall Inputs", "Hypercall Outputs" and "Virtual Processor Sets". The input is words, one after the other, in
//! guest memory or in registers.

use crate::arch::addr::Gpa;
use crate::arch::hyperv::{hypercall, HvStatus};
use crate::machine::mailbox::MAX_VCPUS;
use crate::mmu::mem::{GuestMem, MemError};
use crate::vcpu::state::{VcpuState, R8, RAX, RBX, RCX, RDI, RDX, RSI};

/// A hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HvCall {
    /// The first word.
    pub(crate) control: u64,
    /// Where input and output lie; or, of a fast one, the first words of the input.
    pub(crate) params: [u64; 2],
    /// It is made in 64-bit mode.
    pub(crate) is_long: bool,
}

impl HvCall {
    /// Returns the hypercall that the registers hold.
    pub(crate) fn of(state: &VcpuState, is_long: bool) -> HvCall {
        let g = &state.gprs;
        let pair = |high: usize, low: usize| g[high] << 32 | g[low] & 0xffff_ffff;
        let (control, params) = if is_long {
            (g[RCX], [g[RDX], g[R8]])
        } else {
            (pair(RDX, RAX), [pair(RBX, RCX), pair(RDI, RSI)])
        };
        HvCall { control, params, is_long }
    }

    /// Returns its number.
    pub(crate) fn code(&self) -> u16 {
        self.control as u16
    }

    /// Returns whether its input is in registers.
    pub(crate) fn is_fast(&self) -> bool {
        self.control & hypercall::FAST != 0
    }

    /// Returns how many words its header has beyond the fixed part.
    pub(crate) fn header_words(&self) -> u64 {
        self.control >> hypercall::HEADER_SHIFT & 0x3ff
    }

    /// Returns how many elements it is about.
    pub(crate) fn repeats(&self) -> u64 {
        self.control >> hypercall::REPEATS_SHIFT & 0xfff
    }

    /// Returns the first of them that is to be done.
    pub(crate) fn start(&self) -> u64 {
        self.control >> hypercall::START_SHIFT & 0xfff
    }

    /// Returns whether a bit is set that must not be.
    pub(crate) fn has_reserved(&self) -> bool {
        self.control & hypercall::RESERVED != 0
    }

    /// Puts an answer into the registers.
    pub(crate) fn answer(state: &mut VcpuState, is_long: bool, answer: u64) {
        if is_long {
            state.gprs[RAX] = answer;
        } else {
            state.set_edx_eax(answer);
        }
    }
}

impl HvStatus {
    /// Returns the answer that says so, and nothing else.
    pub(crate) fn answer(self) -> u64 {
        (self as u16).into()
    }
}

/// Why input is not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InputStop {
    /// It is not there, or impossible.
    Invalid,
    /// This page of guest memory is to be made resident first.
    Missing(Gpa),
}

/// Words of XMM0 to XMM5.
pub(crate) const XMM_WORDS: usize = 12;
/// Words of input that registers hold: two general ones, and those.
const FAST_WORDS: usize = 2 + XMM_WORDS;

/// Where a hypercall's input is.
pub(crate) enum CallInput<'a, M: GuestMem> {
    /// In memory.
    Memory(&'a M, Gpa),
    /// In registers.
    Registers([u64; FAST_WORDS]),
}

impl<M: GuestMem> CallInput<'_, M> {
    /// Returns the input of a fast call; `xmm` is what the XMM registers hold, of a call that uses them.
    pub(crate) fn fast(call: &HvCall, xmm: Option<[u64; XMM_WORDS]>) -> Self {
        let mut words = [0; FAST_WORDS];
        let all = Iterator::chain(call.params.into_iter(), xmm.into_iter().flatten());
        for (to, from) in words.iter_mut().zip(all) {
            *to = from;
        }
        CallInput::Registers(words)
    }

    /// Returns a word.
    ///
    /// # Errors
    /// As [`InputStop`].
    pub(crate) fn word(&self, n: usize) -> Result<u64, InputStop> {
        match self {
            CallInput::Registers(words) => words.get(n).copied().ok_or(InputStop::Invalid),
            CallInput::Memory(mem, at) => {
                let at = at.wrapping_add((n as u64).wrapping_mul(8));
                mem.read_obj(at).map_err(|why| match why {
                    MemError::NotResident(gpa) => InputStop::Missing(gpa),
                    MemError::NoSlot(_) => InputStop::Invalid,
                })
            }
        }
    }
}

/// Words of a set: a bit for each vCPU that there can be.
const SET_WORDS: usize = MAX_VCPUS / 64;

/// A set of virtual processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VpSet {
    /// All of them.
    All,
    /// Those whose bits are set.
    Some([u64; SET_WORDS]),
}

impl VpSet {
    /// Returns those of the first 64 whose bits are set.
    pub(crate) fn of_mask(mask: u64) -> VpSet {
        let mut words = [0; SET_WORDS];
        words[0] = mask;
        VpSet::Some(words)
    }

    /// Reads a sparse set, of which only the words in `mask` are given, `count` of them from word `at` on. Those of
    /// processors that cannot be are not looked at.
    ///
    /// # Errors
    /// As [`CallInput::word`].
    pub(crate) fn read<M: GuestMem>(
        input: &CallInput<'_, M>,
        (at, count): (usize, usize),
        mask: u64,
    ) -> Result<VpSet, InputStop> {
        if let (CallInput::Registers(words), Some(end)) = (input, at.checked_add(count)) {
            if end > words.len() {
                return Err(InputStop::Invalid);
            }
        }
        let mut words = [0; SET_WORDS];
        let mut given = at;
        for (bank, word) in words.iter_mut().enumerate() {
            if mask >> bank & 1 != 0 {
                *word = input.word(given)?;
                given = given.wrapping_add(1);
            }
        }
        Ok(VpSet::Some(words))
    }

    /// Returns whether a processor is in it.
    pub(crate) fn has(&self, index: u32) -> bool {
        match self {
            VpSet::All => true,
            VpSet::Some(words) => {
                words.get(index as usize >> 6).is_some_and(|word| word >> (index & 63) & 1 != 0)
            }
        }
    }
}
