// SPDX-License-Identifier: GPL-2.0

//! Accesses that user space answers.
//!
//! An emulated instruction that reads a device of user space cannot wait for it. So it stops with
//! "retry"; user space answers; and the instruction runs again from its start, this time finding the
//! answers, in order, in the log. Writes are logged as done in the same way. The log is forgotten once
//! the instruction has completed.
//!
//! Nothing may come in between: an event would be delivered before the instruction, and its handler find the
//! answers. So the instruction is kept, and the next KVM_RUN finishes it before anything else, as it was
//! decoded, whatever has become of its bytes.

use crate::arch::addr::{Gpa, Width};
use crate::vcpu::emulate::decode::{Insn, Mode};

/// The most accesses of one instruction: a 16-byte operand in 8-byte pieces, twice, with room.
const LOG: usize = 8;

/// One answered access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answer {
    gpa: Gpa,
    data: u64,
    len: u8,
    is_write: bool,
}

/// An instruction that waits for user space.
#[derive(Clone, Copy)]
struct Waiting {
    insn: Insn,
    mode: Mode,
    rip: u64,
}

/// The most bytes of a REP OUTS that user space gets at once.
pub(crate) const OUT: usize = 256;

/// What waits for user space and what it has answered.
pub(crate) struct PendingIo {
    log: [Answer; LOG],
    len: usize,
    used: usize,
    /// The access that user space is working on.
    asked: Option<(Gpa, u8, bool)>,
    /// The instruction that asked.
    waiting: Option<Waiting>,
    /// A port read that user space is working on: its width.
    pub(crate) port_in: Option<Width>,
    /// What a REP OUTS writes: elements one after the other.
    pub(crate) out: [u8; OUT],
}

impl PendingIo {
    /// Nothing pending.
    pub(crate) fn new() -> PendingIo {
        PendingIo {
            log: [Answer::default(); LOG],
            len: 0,
            used: 0,
            asked: None,
            waiting: None,
            port_in: None,
            out: [0; OUT],
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
        self.waiting = None;
    }

    /// Keeps the instruction at `rip`, which has asked, until it is done.
    pub(crate) fn keep(&mut self, insn: Insn, mode: Mode, rip: u64) {
        self.waiting = Some(Waiting { insn, mode, rip });
    }

    /// Returns whether an instruction waits to be finished.
    #[inline]
    pub(crate) fn is_unfinished(&self) -> bool {
        self.waiting.is_some()
    }

    /// Returns the instruction that is to be finished, if it is still the one at `rip`: user space may have sent
    /// the vCPU elsewhere.
    pub(crate) fn unfinished(&self, rip: u64) -> Option<(Insn, Mode)> {
        self.waiting.filter(|w| w.rip == rip).map(|w| (w.insn, w.mode))
    }

    /// Returns the answer to the next access, if user space has given it.
    pub(crate) fn answer(&mut self, gpa: Gpa, len: u8, is_write: bool) -> Option<u64> {
        let a = self.log.get(self.used).filter(|_| self.used < self.len)?;
        if a.gpa != gpa || a.len != len || a.is_write != is_write {
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

    /// Notes that user space is asked.
    pub(crate) fn ask(&mut self, gpa: Gpa, len: u8, is_write: bool) {
        self.asked = Some((gpa, len, is_write));
    }

    /// User space has answered with `data`. Returns whether it had been asked.
    pub(crate) fn complete(&mut self, data: u64) -> bool {
        let Some((gpa, len, is_write)) = self.asked.take() else { return false };
        if let Some(slot) = self.log.get_mut(self.len) {
            *slot = Answer { gpa, data, len, is_write };
            self.len = self.len.wrapping_add(1);
        }
        true
    }
}
