// SPDX-License-Identifier: GPL-2.0

//! The state of a counter in the terms of KVM's `struct kvm_pit_channel_state`.

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
        let word_state = if self.read_high { WORD_HIGH } else { self.rw_mode };
        let loaded = match self.phase {
            CountPhase::Waiting => now,
            CountPhase::Counting { since } => Ns(PitClock::ns(since)),
            CountPhase::Held { done } => Ns(now.since(Ns(PitClock::ns(done)))),
        };
        PitChannelState {
            count: if self.written == 0 { self.count } else { self.written },
            latched_count: self.latched_count.unwrap_or(0),
            count_latched: if self.latched_count.is_some() { word_state } else { 0 },
            status_latched: u8::from(self.latched_status.is_some()),
            status: self.latched_status.unwrap_or(0),
            read_state: if self.latched_count.is_none() { word_state } else { self.rw_mode },
            write_state: if self.write_low.is_some() { WORD_HIGH } else { self.rw_mode },
            write_latch: self.write_low.unwrap_or(0),
            rw_mode: self.rw_mode,
            mode: if self.is_programmed() { self.mode } else { NO_MODE },
            bcd: u8::from(self.bcd),
            gate: u8::from(self.gate),
            count_load_time: i64::try_from(loaded.0).unwrap_or(i64::MAX),
        }
    }

    /// Returns whether a control word came since power-on.
    fn is_programmed(&self) -> bool {
        self.null_count || self.written != 0 || self.phase != CountPhase::Waiting
    }

    /// Reads KVM's view at `now`. An end of a one-shot count that lies in the past was seen.
    pub(crate) fn from_kvm(raw: &PitChannelState, now: Ns) -> SavedPitChannel {
        let is_programmed = raw.mode != NO_MODE;
        let count = if raw.count == 0 { LARGEST } else { raw.count };
        let loaded = Ns(u64::try_from(raw.count_load_time).unwrap_or(0));
        let gone = PitClock::ticks(now.since(loaded));
        let gate = raw.gate != 0;
        let phase = match (gate, raw.mode) {
            (_, NO_MODE) => CountPhase::Waiting,
            (false, 0 | 2 | 3 | 4) => CountPhase::Held { done: gone },
            _ => CountPhase::Counting { since: PitClock::ticks(loaded.0) },
        };
        SavedPitChannel {
            count,
            written: if is_programmed { count } else { 0 },
            null_count: false,
            phase,
            fired: is_programmed && gone > u64::from(count),
            write_low: (raw.write_state == WORD_HIGH).then_some(raw.write_latch),
            read_high: raw.read_state == WORD_HIGH || raw.count_latched == WORD_HIGH,
            latched_count: (raw.count_latched != 0).then_some(raw.latched_count),
            latched_status: (raw.status_latched != 0).then_some(raw.status),
            rw_mode: raw.rw_mode,
            mode: if is_programmed { raw.mode } else { 0 },
            bcd: raw.bcd != 0,
            gate,
        }
    }
}
