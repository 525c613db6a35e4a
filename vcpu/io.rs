// SPDX-License-Identifier: GPL-2.0

//! Accesses that user space answers.
//!
//! An emulated instruction that reads a device of user space cannot wait for it. So it stops with
//! "retry"; user space answers; and the instruction runs again from its start, this time finding the
//! answers, in order, in the log. Writes are logged as done in the same way, and so is what the instruction has
//! done in the kernel and must not do twice. The log is forgotten once the instruction has completed.
//!
//! Nothing may come in between: an event would be delivered before the instruction, and its handler find the
//! answers. So the instruction is kept, and the next KVM_RUN finishes it before anything else, as it was
//! decoded, whatever has become of its bytes.

use crate::arch::addr::{AccessWidth, Gpa};
use crate::vcpu::emulate::decode::{CodeMode, DecodedInsn};

/// The most accesses of one instruction: POPA from a device whose every word lies in two pages.
const LOG: usize = 16;

/// One answered access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct IoAnswer {
    gpa: Gpa,
    data: u64,
    len: u8,
    is_write: bool,
}

/// An instruction that waits for user space.
#[derive(Clone, Copy)]
struct WaitingIo {
    insn: (DecodedInsn, CodeMode),
    rip: u64,
}

/// RDMSR or WRMSR that user space carries out or refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PendingMsr {
    /// The instruction.
    pub(crate) rip: u64,
    /// The one after it.
    pub(crate) next: u64,
    /// RDMSR.
    pub(crate) is_read: bool,
}

/// The most bytes of a REP INS or OUTS for which user space is asked at once.
pub(crate) const STRING: usize = 256;

/// What user space has given a REP INS and what the instruction has taken of it.
#[derive(Clone, Copy, Debug, Default)]
struct StringInput {
    /// The port and the bytes of an element, as they are in the log.
    key: Gpa,
    len: u8,
    /// The elements that are left lie in [`PendingIo::string`] from here on.
    next: usize,
    end: usize,
}

/// What waits for user space and what it has answered.
pub(crate) struct PendingIo {
    log: [IoAnswer; LOG],
    len: usize,
    used: usize,
    /// The access that user space is working on.
    asked: Option<(Gpa, u8, bool)>,
    input: StringInput,
    /// The instruction that asked.
    waiting: Option<WaitingIo>,
    /// A port read that user space is working on: its width.
    pub(crate) port_in: Option<AccessWidth>,
    /// An access to an MSR that user space is working on.
    pub(crate) msr: Option<PendingMsr>,
    /// What a REP OUTS writes, or a REP INS was given: elements one after the other.
    pub(crate) string: [u8; STRING],
}

impl PendingIo {
    /// Nothing pending.
    pub(crate) fn new() -> PendingIo {
        PendingIo {
            log: [IoAnswer::default(); LOG],
            len: 0,
            used: 0,
            asked: None,
            input: StringInput::default(),
            waiting: None,
            port_in: None,
            msr: None,
            string: [0; STRING],
        }
    }

    /// The instruction starts (again): its first access takes the first answer.
    pub(crate) fn begin(&mut self) {
        self.used = 0;
    }

    /// The instruction is done.
    pub(crate) fn forget(&mut self) {
        self.len = 0;
        self.used = 0;
        self.asked = None;
        self.input = StringInput::default();
        self.waiting = None;
    }

    /// An element of a string instruction is done: its accesses are forgotten, not what was given for the next ones.
    pub(crate) fn forget_element(&mut self) {
        let input = self.input;
        self.forget();
        self.input = input;
    }

    /// Keeps the instruction at `rip`, which has asked, until it is done.
    pub(crate) fn keep(&mut self, insn: DecodedInsn, mode: CodeMode, rip: u64) {
        self.waiting = Some(WaitingIo { insn: (insn, mode), rip });
    }

    /// Returns whether the instruction has done something that must not be done again.
    pub(crate) fn has_begun(&self) -> bool {
        self.len != 0 || self.has_input()
    }

    /// Returns whether an instruction waits to be finished.
    #[inline]
    pub(crate) fn is_unfinished(&self) -> bool {
        self.waiting.is_some()
    }

    /// Returns the instruction that is to be finished, if it is still the one at `rip`: user space may have sent
    /// the vCPU elsewhere.
    pub(crate) fn unfinished(&self, rip: u64) -> Option<&(DecodedInsn, CodeMode)> {
        self.waiting.as_ref().filter(|w| w.rip == rip).map(|w| &w.insn)
    }

    /// Returns the answer to the next access, if it is known. Where the instruction takes another way than it did
    /// before, what was known of the old one is forgotten.
    #[inline]
    pub(crate) fn answer(&mut self, gpa: Gpa, len: u8, is_write: bool) -> Option<u64> {
        if self.used >= self.len {
            return None;
        }
        let a = self.log.get(self.used)?;
        if a.gpa != gpa || a.len != len || a.is_write != is_write {
            self.len = self.used;
            return None;
        }
        self.used = self.used.wrapping_add(1);
        Some(a.data)
    }

    /// Returns the one answer that there is, if it is to an access of this length and direction.
    #[inline]
    pub(crate) fn only_answer(&self, len: u8, is_write: bool) -> Option<u64> {
        let [a, ..] = self.log;
        (self.len == 1 && a.len == len && a.is_write == is_write).then_some(a.data)
    }

    /// Notes that user space is asked for the next access. Returns whether its answer has room.
    pub(crate) fn ask(&mut self, gpa: Gpa, len: u8, is_write: bool) -> bool {
        let has_room = self.len < LOG;
        self.asked = has_room.then_some((gpa, len, is_write));
        has_room
    }

    /// Notes an access that is done, and is not to be done again should the instruction start again; `data` is what
    /// it gave. What finds no room could be followed by nothing that is asked for.
    pub(crate) fn done(&mut self, gpa: Gpa, len: u8, is_write: bool, data: u64) {
        self.push(IoAnswer { gpa, data, len, is_write });
        self.used = self.len;
    }

    /// Notes that user space is asked for `count` elements of a string, of which [`PendingIo::string`] has room for all.
    pub(crate) fn ask_string(&mut self, key: Gpa, len: u8, count: u32) {
        self.asked = Some((key, len, false));
        let end = usize::from(len).saturating_mul(count as usize).min(STRING);
        self.input = StringInput { key, len, next: end, end };
    }

    /// User space has written what it was asked for to [`PendingIo::string`].
    pub(crate) fn complete_string(&mut self) {
        if self.asked.take().is_some() {
            self.input.next = 0;
        }
    }

    /// Returns whether there are elements that user space has given and the instruction has not taken.
    pub(crate) fn has_input(&self) -> bool {
        self.input.next != self.input.end
    }

    /// Returns the next element that user space has given for this port.
    pub(crate) fn next_input(&mut self, key: Gpa, len: u8) -> Option<u32> {
        let StringInput { next, end, .. } = self.input;
        let after = next.checked_add(usize::from(len)).filter(|after| *after <= end)?;
        if (self.input.key, self.input.len) != (key, len) {
            return None;
        }
        let mut value = [0u8; 4];
        let element = self.string.get(next..after)?;
        value.get_mut(..element.len())?.copy_from_slice(element);
        self.input.next = after;
        Some(u32::from_le_bytes(value))
    }

    /// User space has answered with `data`. Returns whether it had been asked.
    pub(crate) fn complete(&mut self, data: u64) -> bool {
        let Some((gpa, len, is_write)) = self.asked.take() else { return false };
        self.push(IoAnswer { gpa, data, len, is_write });
        true
    }

    fn push(&mut self, answer: IoAnswer) {
        if let Some(slot) = self.log.get_mut(self.len) {
            *slot = answer;
            self.len = self.len.wrapping_add(1);
        }
    }
}
