// SPDX-License-Identifier: GPL-2.0

//! The state of a counter in the terms of KVM's `struct kvm_pit_channel_state`.

use super::channel::{PHASE_COUNTING, PHASE_HELD, PHASE_WAITING};
use super::{CountPhase, PitClock, SavedPitChannel};
use crate::abi::vm::PitChannelState;
use crate::arch::time::Ns;

/// `RW_STATE_WORD1`: the high byte of a word comes next.
const WORD_HIGH: u8 = 4;
/// The mode of a counter that has had no control word yet.
const NO_MODE: u8 = 0xff;
/// The count that 0 stands for.
const LARGEST: u32 = 0x1_0000;

impl SavedPitChannel {
    /// Returns KVM's view at `now`. A counter that has no new count is shown with the old one, and a new count that
    /// waits for the end of a period as if it counted already, which is what KVM itself does.
    pub(crate) fn to_kvm(self, now: Ns) -> PitChannelState {
        let word_state = if self.read_high != 0 { WORD_HIGH } else { self.rw_mode };
        let loaded = match self.phase() {
            CountPhase::Waiting => now,
            CountPhase::Counting { since } => Ns(PitClock::ns(since)),
            CountPhase::Held { done } => Ns(now.since(Ns(PitClock::ns(done)))),
        };
        PitChannelState {
            count: if self.written == 0 { self.count } else { self.written },
            latched_count: self.latched_count,
            count_latched: if self.has_latched_count != 0 { word_state } else { 0 },
            status_latched: self.has_latched_status,
            status: self.latched_status,
            read_state: if self.has_latched_count == 0 { word_state } else { self.rw_mode },
            write_state: if self.has_write_low != 0 { WORD_HIGH } else { self.rw_mode },
            write_latch: self.write_low,
            rw_mode: self.rw_mode,
            mode: if self.is_programmed() { self.mode } else { NO_MODE },
            bcd: self.bcd,
            gate: self.gate,
            count_load_time: i64::try_from(loaded.0).unwrap_or(i64::MAX),
        }
    }

    /// Returns whether a control word came since power-on.
    fn is_programmed(&self) -> bool {
        self.null_count != 0 || self.written != 0 || self.phase() != CountPhase::Waiting
    }

    /// Reads KVM's view at `now`. An end of a one-shot count that lies in the past was seen.
    pub(crate) fn from_kvm(raw: &PitChannelState, now: Ns) -> SavedPitChannel {
        let is_programmed = raw.mode != NO_MODE;
        let count = if raw.count == 0 { LARGEST } else { raw.count };
        let loaded = Ns(u64::try_from(raw.count_load_time).unwrap_or(0));
        let gone = PitClock::ticks(now.since(loaded));
        let gate = raw.gate != 0;
        let (phase, ticks) = match (gate, raw.mode) {
            (_, NO_MODE) => (PHASE_WAITING, 0),
            (false, 0 | 2 | 3 | 4) => (PHASE_HELD, gone),
            _ => (PHASE_COUNTING, PitClock::ticks(loaded.0)),
        };
        SavedPitChannel {
            ticks,
            count,
            written: if is_programmed { count } else { 0 },
            latched_count: raw.latched_count,
            phase,
            null_count: 0,
            fired: u8::from(is_programmed && gone > u64::from(count)),
            has_write_low: u8::from(raw.write_state == WORD_HIGH),
            write_low: raw.write_latch,
            read_high: u8::from(raw.read_state == WORD_HIGH || raw.count_latched == WORD_HIGH),
            has_latched_count: u8::from(raw.count_latched != 0),
            has_latched_status: u8::from(raw.status_latched != 0),
            latched_status: raw.status,
            rw_mode: raw.rw_mode,
            mode: if is_programmed { raw.mode } else { 0 },
            bcd: u8::from(raw.bcd != 0),
            gate: u8::from(gate),
            pad: 0,
        }
    }
}
