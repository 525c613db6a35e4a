// SPDX-License-Identifier: GPL-2.0

//! One counter of the 8254.
//!
//! Follows the 82C54 datasheet, "Mode Definitions" and "Read Operations". Times are ticks of
//! [`PitClock`](super::PitClock); the caller brings the counter to `t` with [`PitChannel::advance`] before it asks
//! anything else of that time.

use crate::arch::rule::rule;
use crate::chipset::saved::state_struct;
use crate::chipset::PinLevel;

/// The six modes of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CountMode {
    /// Interrupt on terminal count.
    #[default]
    Terminal,
    /// Hardware retriggerable one-shot.
    OneShot,
    /// Rate generator.
    Rate,
    /// Square wave.
    Square,
    /// Software triggered strobe.
    SoftStrobe,
    /// Hardware triggered strobe.
    HardStrobe,
}

impl CountMode {
    /// Decodes the three bits of a control word; 6 and 7 are 2 and 3.
    fn from_bits(bits: u8) -> CountMode {
        match bits & 7 {
            0 => CountMode::Terminal,
            1 => CountMode::OneShot,
            2 | 6 => CountMode::Rate,
            3 | 7 => CountMode::Square,
            4 => CountMode::SoftStrobe,
            _ => CountMode::HardStrobe,
        }
    }

    fn bits(self) -> u8 {
        match self {
            CountMode::Terminal => 0,
            CountMode::OneShot => 1,
            CountMode::Rate => 2,
            CountMode::Square => 3,
            CountMode::SoftStrobe => 4,
            CountMode::HardStrobe => 5,
        }
    }

    pub(super) fn is_periodic(self) -> bool {
        matches!(self, CountMode::Rate | CountMode::Square)
    }

    /// Returns whether a rising gate starts the count, rather than a written count.
    fn is_triggered(self) -> bool {
        matches!(self, CountMode::OneShot | CountMode::HardStrobe)
    }
}

/// How the guest reads and writes a 16-bit count through an 8-bit port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum CountAccess {
    Low,
    High,
    #[default]
    Word,
}

impl CountAccess {
    pub(super) fn from_bits(bits: u8) -> Option<CountAccess> {
        Some(match bits & 3 {
            1 => CountAccess::Low,
            2 => CountAccess::High,
            3 => CountAccess::Word,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            CountAccess::Low => 1,
            CountAccess::High => 2,
            CountAccess::Word => 3,
        }
    }
}

/// Where a counting element is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CountPhase {
    /// No count since the control word, or no trigger yet.
    #[default]
    Waiting,
    /// Held its count at tick `since` of [`PitClock`](super::PitClock).
    Counting {
        /// The tick.
        since: u64,
    },
    /// The gate stopped it when `done` ticks had passed.
    Held {
        /// Ticks.
        done: u64,
    },
}

/// One counter.
///
/// # Invariants
/// A count is 1 to 65536, and one that was written at most that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PitChannel {
    pub(super) mode: CountMode,
    access: CountAccess,
    bcd: bool,
    pub(super) gate: bool,
    /// The count in progress, 1 to 65536 (10000 in BCD).
    count: u32,
    /// The count register: what was written last; 0 for nothing since the control word.
    written: u32,
    /// The count register waits to be taken over.
    null_count: bool,
    phase: CountPhase,
    /// A one-shot mode has reached its end, and that was seen.
    fired: bool,
    /// First byte of a word, when the second is awaited.
    write_low: Option<u8>,
    /// The next read of a word gives its high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl PitChannel {
    pub(super) fn at_reset(gate: bool) -> PitChannel {
        PitChannel { gate, count: 0x1_0000, ..PitChannel::default() }
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        rule((1..=0x1_0000).contains(&self.count), "a count has 16 bits, and 0 is 65536")?;
        rule(self.written <= 0x1_0000, "so has one that was written")
    }

    /// Returns what the counter counts modulo.
    fn modulus(&self) -> u32 {
        if self.bcd {
            10_000
        } else {
            0x1_0000
        }
    }

    /// Brings the state to tick `t`. Returns how often the output rose in between.
    ///
    /// Afterwards a periodic channel is within its first period.
    pub(super) fn advance(&mut self, t: u64) -> u64 {
        let CountPhase::Counting { since } = self.phase else { return 0 };
        let gone = t.saturating_sub(since);
        if !self.mode.is_periodic() {
            return self.advance_single(gone);
        }
        let count = u64::from(self.count.max(1));
        if gone < count {
            return 0;
        }
        if self.written == self.count || self.written == 0 {
            let periods = gone.checked_div(count).unwrap_or(0);
            self.null_count = false;
            self.phase = CountPhase::Counting { since: since.saturating_add(periods.saturating_mul(count)) };
            return periods;
        }
        // The period in progress ends with the old count; then the new one counts.
        self.count = self.written;
        self.null_count = false;
        self.phase = CountPhase::Counting { since: since.saturating_add(count) };
        let next = u64::from(self.count.max(1));
        let left = gone.saturating_sub(count);
        let periods = left.checked_div(next).unwrap_or(0);
        let start = since.saturating_add(count).saturating_add(periods.saturating_mul(next));
        self.phase = CountPhase::Counting { since: start };
        periods.saturating_add(1)
    }

    fn advance_single(&mut self, gone: u64) -> u64 {
        if self.fired || gone < self.single_edge() {
            return 0;
        }
        self.fired = true;
        1
    }

    /// Returns after how many ticks the output of a one-shot mode rises.
    fn single_edge(&self) -> u64 {
        let count = u64::from(self.count);
        match self.mode {
            // The strobe is low for one tick.
            CountMode::SoftStrobe | CountMode::HardStrobe => count.saturating_add(1),
            _ => count,
        }
    }

    /// Returns the tick at which the output rises next.
    #[inline]
    pub(super) fn next_edge(&self) -> Option<u64> {
        let CountPhase::Counting { since } = self.phase else { return None };
        if self.mode.is_periodic() {
            return Some(since.saturating_add(u64::from(self.count.max(1))));
        }
        (!self.fired).then(|| since.saturating_add(self.single_edge()))
    }

    /// Returns whether time changes what the counter shows.
    #[inline]
    pub(super) fn is_counting(&self) -> bool {
        matches!(self.phase, CountPhase::Counting { .. })
    }

    /// Returns the ticks since the count was loaded, or `None` before that.
    fn gone(&self, t: u64) -> Option<u64> {
        match self.phase {
            CountPhase::Waiting => None,
            CountPhase::Counting { since } => Some(t.saturating_sub(since)),
            CountPhase::Held { done } => Some(done),
        }
    }

    /// Returns the level of OUT. [`PitChannel::advance`] was called for `t`.
    #[inline]
    pub(super) fn output(&self, t: u64) -> PinLevel {
        let count = u64::from(self.count);
        // 82C54, "Mode Definitions": the control word alone sets the output, low in mode 0 and high in all others.
        let Some(gone) = self.gone(t) else { return PinLevel::from(self.mode != CountMode::Terminal) };
        PinLevel::from(match self.mode {
            CountMode::Terminal | CountMode::OneShot => gone >= count,
            // In these two modes a low gate forces the output high at once. A count of 1, which the datasheet forbids in
            // mode 2, leaves no clock to be high in; here the output never falls.
            CountMode::Rate => !self.gate || count < 2 || gone != count.saturating_sub(1),
            CountMode::Square => !self.gate || gone < self.high_half(),
            CountMode::SoftStrobe | CountMode::HardStrobe => gone != count,
        })
    }

    /// Returns the length of the high half of a square wave; the longer one of an odd count.
    fn high_half(&self) -> u64 {
        u64::from(self.count).saturating_add(1) >> 1
    }

    /// Returns the counting element as it would be read. [`PitChannel::advance`] was called for `t`.
    #[inline]
    fn current(&self, t: u64) -> u16 {
        let gone = self.gone(t).unwrap_or(0);
        let value = match self.mode {
            CountMode::Rate => u64::from(self.count).saturating_sub(gone),
            CountMode::Square => {
                // Both halves run down from the even part of the count, by two.
                let half = self.high_half();
                let pos = if gone < half { gone } else { gone.saturating_sub(half) };
                let down = pos.saturating_mul(2);
                if self.count & 1 == 0 {
                    u64::from(self.count).saturating_sub(down)
                } else {
                    u64::from(self.count & !1).saturating_sub(down)
                }
            }
            _ => self.run_down(gone),
        };
        // A full count, 65536 or 10000 in BCD, reads as 0: the element has no digit more.
        let value = u16::try_from(value & 0xffff).unwrap_or(0);
        if self.bcd {
            to_bcd(value)
        } else {
            value
        }
    }

    /// Returns `count - gone` on a counter that wraps.
    fn run_down(&self, gone: u64) -> u64 {
        if !self.bcd {
            return u64::from(self.count).wrapping_sub(gone) & 0xffff;
        }
        let modulus = u64::from(self.modulus());
        let gone = gone.checked_rem(modulus).unwrap_or(0);
        u64::from(self.count).saturating_add(modulus).saturating_sub(gone).checked_rem(modulus).unwrap_or(0)
    }

    fn status(&self, t: u64) -> u8 {
        let out = u8::from(self.output(t).is_high()) << 7;
        let null = u8::from(self.null_count) << 6;
        out | null | (self.access.bits() << 4) | (self.mode.bits() << 1) | u8::from(self.bcd)
    }

    /// A control word for this counter with the access bits `access`.
    pub(super) fn program(&mut self, word: u8, access: CountAccess) {
        *self = PitChannel {
            mode: CountMode::from_bits(word >> 1),
            access,
            bcd: word & 1 != 0,
            gate: self.gate,
            count: self.count,
            // The element keeps its old count until a new one is written, and reads show that.
            null_count: true,
            ..PitChannel::default()
        };
    }

    #[inline]
    pub(super) fn latch_count(&mut self, t: u64) {
        // 82C54, "Counter Latch Command": a second latch before the first one was read is ignored.
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(t));
            self.read_high = false;
        }
    }

    pub(super) fn latch_status(&mut self, t: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(t));
        }
    }

    /// Reads a byte of what was latched, if anything was, whatever the time is.
    #[inline]
    pub(super) fn read_latched(&mut self) -> Option<u8> {
        // 82C54, "Read-Back Command": of both the status is read first, whichever was latched first.
        let status = self.latched_status.take();
        status.or_else(|| self.latched_count.map(|count| self.read_byte(count)))
    }

    /// Reads a byte of the count, where nothing was latched.
    #[inline]
    pub(super) fn read_count(&mut self, t: u64) -> u8 {
        self.read_byte(self.current(t))
    }

    /// Returns the byte of `count` whose turn it is. After the last one, nothing is latched any more.
    #[inline]
    fn read_byte(&mut self, count: u16) -> u8 {
        let [low, high] = count.to_le_bytes();
        let (byte, last) = match self.access {
            CountAccess::Low => (low, true),
            CountAccess::High => (high, true),
            CountAccess::Word => {
                self.read_high = !self.read_high;
                if self.read_high {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if last {
            self.latched_count = None;
        }
        byte
    }

    pub(super) fn write(&mut self, value: u8, t: u64) {
        let raw = match (self.access, self.write_low) {
            (CountAccess::Low, _) => u16::from_le_bytes([value, 0]),
            (CountAccess::High, _) => u16::from_le_bytes([0, value]),
            (CountAccess::Word, Some(low)) => u16::from_le_bytes([low, value]),
            (CountAccess::Word, None) => {
                self.write_low = Some(value);
                // The first byte stops a count of mode 0, and its output falls.
                if self.mode == CountMode::Terminal {
                    self.phase = CountPhase::Waiting;
                }
                return;
            }
        };
        self.write_low = None;
        self.load(raw, t);
    }

    fn load(&mut self, raw: u16, t: u64) {
        let count = if self.bcd { from_bcd(raw) } else { u32::from(raw) };
        self.written = if count == 0 { self.modulus() } else { count };
        self.null_count = true;
        // A periodic count is changed at the end of its period, so that no period is cut short; only the first one
        // starts at once. In modes 0 and 4 a new count starts over.
        let starts = match self.mode {
            CountMode::Terminal | CountMode::SoftStrobe => true,
            CountMode::Rate | CountMode::Square => self.phase == CountPhase::Waiting,
            CountMode::OneShot | CountMode::HardStrobe => false,
        };
        if starts {
            self.start(t);
        } else if self.mode.is_periodic() && self.written == self.count {
            self.null_count = false;
        }
    }

    /// Takes the count register over and counts from tick `t` on, as the gate allows.
    fn start(&mut self, t: u64) {
        if self.written == 0 {
            return;
        }
        self.count = self.written;
        self.null_count = false;
        self.fired = false;
        // The triggered modes go by the edge of GATE, which called this, not by its level.
        let runs = self.gate || self.mode.is_triggered();
        self.phase = if runs { CountPhase::Counting { since: t } } else { CountPhase::Held { done: 0 } };
    }

    pub(super) fn set_gate(&mut self, gate: bool, t: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        // 82C54, "Gate Pin Operations Summary": in modes 0 and 4 a low gate only pauses the count; in the others a
        // rising one starts it from the beginning, and only in 2 and 3 does a falling one stop it.
        match (self.mode, gate, self.phase) {
            (CountMode::Terminal | CountMode::SoftStrobe, true, CountPhase::Held { done }) => {
                self.phase = CountPhase::Counting { since: t.saturating_sub(done) };
            }
            (CountMode::Terminal | CountMode::SoftStrobe, true, _)
            | (CountMode::OneShot | CountMode::HardStrobe, false, _) => {}
            (_, true, _) => self.start(t),
            (_, false, CountPhase::Counting { since }) => {
                self.phase = CountPhase::Held { done: t.saturating_sub(since) };
            }
            (_, false, _) => {}
        }
    }

    pub(super) fn save(&self) -> SavedPitChannel {
        let PitChannel {
            mode,
            access,
            bcd,
            gate,
            count,
            written,
            null_count,
            phase,
            fired,
            write_low,
            read_high,
            latched_count,
            latched_status,
        } = *self;
        let (phase, ticks) = match phase {
            CountPhase::Waiting => (PHASE_WAITING, 0),
            CountPhase::Counting { since } => (PHASE_COUNTING, since),
            CountPhase::Held { done } => (PHASE_HELD, done),
        };
        SavedPitChannel {
            ticks,
            count,
            written,
            latched_count: latched_count.unwrap_or(0),
            phase,
            null_count: null_count.into(),
            fired: fired.into(),
            has_write_low: write_low.is_some().into(),
            write_low: write_low.unwrap_or(0),
            read_high: read_high.into(),
            has_latched_count: latched_count.is_some().into(),
            has_latched_status: latched_status.is_some().into(),
            latched_status: latched_status.unwrap_or(0),
            rw_mode: access.bits(),
            mode: mode.bits(),
            bcd: bcd.into(),
            gate: gate.into(),
            pad: 0,
        }
    }

    pub(super) fn from_state(state: &SavedPitChannel) -> PitChannel {
        let SavedPitChannel {
            ticks: _,
            count,
            written,
            latched_count,
            phase: _,
            null_count,
            fired,
            has_write_low,
            write_low,
            read_high,
            has_latched_count,
            has_latched_status,
            latched_status,
            rw_mode,
            mode,
            bcd,
            gate,
            pad: _,
        } = *state;
        let mut channel = PitChannel {
            mode: CountMode::from_bits(mode),
            access: CountAccess::from_bits(rw_mode).unwrap_or_default(),
            bcd: bcd != 0,
            gate: gate != 0,
            count,
            written,
            null_count: null_count != 0,
            phase: state.phase(),
            fired: fired != 0,
            write_low: (has_write_low != 0).then_some(write_low),
            read_high: read_high != 0,
            latched_count: (has_latched_count != 0).then_some(latched_count),
            latched_status: (has_latched_status != 0).then_some(latched_status),
        };
        let modulus = channel.modulus();
        channel.count = if count == 0 { modulus } else { count.min(0x1_0000) };
        channel.written = written.min(0x1_0000);
        channel
    }
}

/// Returns the value of four BCD digits; digits above nine count for what they are.
fn from_bcd(raw: u16) -> u32 {
    let digit = |shift: u32| u32::from(raw.wrapping_shr(shift) & 0xf);
    let value = digit(12)
        .wrapping_mul(1000)
        .wrapping_add(digit(8).wrapping_mul(100))
        .wrapping_add(digit(4).wrapping_mul(10))
        .wrapping_add(digit(0));
    value.min(10_000)
}

/// Returns `value` modulo 10000 as four BCD digits.
fn to_bcd(value: u16) -> u16 {
    let digit = |place: u16, shift: u32| (value.checked_div(place).unwrap_or(0) % 10).wrapping_shl(shift);
    digit(1000, 12) | digit(100, 8) | digit(10, 4) | digit(1, 0)
}

/// [`SavedPitChannel::phase`]: no count since the control word, or no trigger yet.
pub(super) const PHASE_WAITING: u8 = 0;
/// The same: counts.
pub(super) const PHASE_COUNTING: u8 = 1;
/// The same: the gate stopped it.
pub(super) const PHASE_HELD: u8 = 2;

state_struct! {
    /// The state of one counter; what KVM's `struct kvm_pit_channel_state` has goes by its names.
    struct SavedPitChannel = 32 {
        /// The tick since which it counts, or how many had passed when the gate stopped it.
        ticks: u64,
        /// The count in progress, 1 to 65536.
        count: u32,
        /// The count written last, 1 to 65536; 0 for none since the control word.
        written: u32,
        /// A latched count.
        latched_count: u16,
        /// What `ticks` is: 0 nothing, 1 the tick since which it counts, 2 ticks done.
        phase: u8,
        /// The written count waits to be taken over.
        null_count: u8,
        /// The end of a one-shot count was seen.
        fired: u8,
        /// The second byte of a word is awaited (`write_state` 4).
        has_write_low: u8,
        /// The first byte of it (`write_latch`).
        write_low: u8,
        /// The next read of a word gives its high byte (`read_state` 4, or `count_latched` 4).
        read_high: u8,
        /// A count is latched (`count_latched` not 0).
        has_latched_count: u8,
        /// A status byte is latched.
        has_latched_status: u8,
        /// That byte.
        latched_status: u8,
        /// 1 low byte, 2 high byte, 3 word.
        rw_mode: u8,
        /// 0 to 5.
        mode: u8,
        /// Counts in BCD.
        bcd: u8,
        /// The level of GATE.
        gate: u8,
        /// 0.
        pad: u8,
    }
}

impl SavedPitChannel {
    /// Returns where the counting element is.
    pub(super) fn phase(&self) -> CountPhase {
        match self.phase {
            PHASE_COUNTING => CountPhase::Counting { since: self.ticks },
            PHASE_HELD => CountPhase::Held { done: self.ticks },
            _ => CountPhase::Waiting,
        }
    }
}
