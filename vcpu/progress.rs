// SPDX-License-Identifier: GPL-2.0

//! How long a window may stay open while the guest does not get on.
//!
//! A processor takes the host's interrupts between two instructions of the guest. So an exit that an
//! instruction caused tells that the host had none when that instruction began. Other turns of the run
//! loop tell nothing: requests of others that are taken one after the other, windows for interrupts that
//! come before the host's, an instruction that is carried out in software. A guest or its VMM can make
//! these follow each other without end, so a row of them ends with the window closed: after [`TURNS`], or
//! once [`NS`] have gone by, whichever is first. Then the host takes what waits.
//!
//! That an exit tells of the host's interrupts is not true everywhere: Bochs 3.0 holds them back from a guest that has its
//! own off. A timer then ends the guest after so much time of its own, which the answers to its exits can be a thousand
//! times of. So a window in which the run loop answers exits ends after [`LONGEST`] as well, when a host's own tick
//! is due. The exits that the fast path answers are over so soon that the guest's timer is enough for them.
//!
//! Exits that cut the delivery of an event short, and exceptions that exit, need no row: they close the
//! window at once ([`super::run`]). A delivery is no instruction, and can be made to repeat for ever.

/// The longest row of turns.
pub(crate) const TURNS: u32 = 64;
/// The longest time of a row, in nanoseconds, beside its last turn.
const NS: u64 = 200_000;
/// How long a window stays open once the run loop has answered an exit in it, in longest rows, beside the last answer.
pub(crate) const LONGEST: u64 = 20;

/// A row of turns in which the guest did not get on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowProgress {
    turns: u32,
    /// The TSC when the row began.
    since: u64,
    /// The longest row in ticks of the TSC.
    limit: u64,
    /// The TSC when the run loop had first answered an exit in this window; 0: it has not.
    answered: u64,
}

impl WindowProgress {
    /// A window is opened. The TSC has `khz` kHz.
    pub(crate) fn new(khz: u32) -> WindowProgress {
        let limit = (NS / 1_000).saturating_mul(khz.into()) / 1_000;
        WindowProgress { turns: 0, since: 0, limit, answered: 0 }
    }

    /// An instruction of the guest exited.
    #[inline(always)]
    pub(crate) fn made(&mut self) {
        self.turns = 0;
    }

    /// The run loop has answered such an exit, at `tsc`. Returns whether the window must be closed.
    #[inline(always)]
    pub(crate) fn answered(&mut self, tsc: u64) -> bool {
        self.made();
        if self.answered == 0 {
            self.answered = tsc;
        }
        tsc.wrapping_sub(self.answered) >= self.limit.wrapping_mul(LONGEST)
    }

    /// Another turn ended without, at `tsc`. Returns whether the window must be closed.
    pub(crate) fn is_over(&mut self, tsc: u64) -> bool {
        if self.turns == 0 {
            self.since = tsc;
        }
        self.turns = self.turns.saturating_add(1);
        self.turns >= TURNS || tsc.wrapping_sub(self.since) >= self.limit
    }
}
