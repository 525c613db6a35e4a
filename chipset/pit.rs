// SPDX-License-Identifier: GPL-2.0

//! Intel 8254 programmable interval timer: three channels, and the speaker port 0x61 of a PC.
//!
//! Follows the 82C54 datasheet, "Mode Definitions", "Read Operations" and "Programming the 82C54". All six modes, BCD,
//! counter latch and read-back. Channels 0 and 1 have their GATE tied high, so their modes 1 and 5 never start;
//! channel 2's is bit 0 of port 0x61.
//!
//! Time is counted in ticks of 1,193,182 Hz since the start of the host's clock. A counting channel is the tick at
//! which it was loaded and the count it was loaded with; everything else is a function of those and of now.
//!
//! Channel 0 is IRQ 0. Each rising edge of its output is one pulse. [`Pit::tick`] finds the pulses due, and
//! [`Pit::take_pulse`] hands them out one by one. With re-injection (KVM's default) the next waits for [`Pit::ack`], so
//! that a guest counts all of them however late; without, pulses that were not taken in time melt into one.
//!
//! DEVIATION: a count takes effect at once, not at the next clock; a new count in mode 3 waits for the end of the period,
//! not of its half; the edge that writing a mode may make on the output is no pulse of IRQ 0. KVM leaves all three out.
//!
//! No lock inside: the bus owns it, and the timer for [`Pit::deadline`].

use super::time::Clock;
use super::{all_ones, Level, PioDevice};
use crate::arch::addr::Width;
use crate::arch::time::Ns;
use core::ops::RangeInclusive;

/// The port that offset 0 stands for.
pub(crate) const FIRST_PORT: u16 = 0x40;
/// The ports decoded: the three counters, the control word, port B of the system board.
pub(crate) const PORTS: [RangeInclusive<u16>; 2] = [0x40..=0x43, 0x61..=0x61];

/// The input clock.
pub(crate) type PitClock = Clock<1_193_182>;

/// Shortest time between two deadlines of a periodic channel 0, about 200 us: a host that wakes more
/// often for a guest can be held down by it. Periods in between are counted all the same.
const MIN_PERIOD_TICKS: u64 = 239;

/// The six modes of a counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
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

impl Mode {
    /// Decodes the three bits of a control word; 6 and 7 are 2 and 3.
    fn from_bits(bits: u8) -> Mode {
        match bits & 7 {
            0 => Mode::Terminal,
            1 => Mode::OneShot,
            2 | 6 => Mode::Rate,
            3 | 7 => Mode::Square,
            4 => Mode::SoftStrobe,
            _ => Mode::HardStrobe,
        }
    }

    fn bits(self) -> u8 {
        match self {
            Mode::Terminal => 0,
            Mode::OneShot => 1,
            Mode::Rate => 2,
            Mode::Square => 3,
            Mode::SoftStrobe => 4,
            Mode::HardStrobe => 5,
        }
    }

    fn is_periodic(self) -> bool {
        matches!(self, Mode::Rate | Mode::Square)
    }

    /// Returns whether a rising gate starts the count, rather than a written count.
    fn is_triggered(self) -> bool {
        matches!(self, Mode::OneShot | Mode::HardStrobe)
    }
}

/// How the guest reads and writes a 16-bit count through an 8-bit port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Access {
    Low,
    High,
    #[default]
    Word,
}

impl Access {
    fn from_bits(bits: u8) -> Option<Access> {
        Some(match bits & 3 {
            1 => Access::Low,
            2 => Access::High,
            3 => Access::Word,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Access::Low => 1,
            Access::High => 2,
            Access::Word => 3,
        }
    }
}

/// Where a counting element is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No count since the control word, or no trigger yet.
    #[default]
    Waiting,
    /// Held its count at tick `since` of [`PitClock`].
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Channel {
    mode: Mode,
    access: Access,
    bcd: bool,
    gate: bool,
    /// The count in progress, 1 to 65536 (10000 in BCD).
    count: u32,
    /// The count register: what was written last; 0 for nothing since the control word.
    written: u32,
    /// The count register waits to be taken over.
    null_count: bool,
    phase: Phase,
    /// A one-shot mode has reached its end, and that was seen.
    fired: bool,
    /// First byte of a word, when the second is awaited.
    write_low: Option<u8>,
    /// The next read of a word gives its high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    fn at_reset(gate: bool) -> Channel {
        Channel { gate, count: 0x1_0000, ..Channel::default() }
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
    fn advance(&mut self, t: u64) -> u64 {
        let Phase::Counting { since } = self.phase else { return 0 };
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
            self.phase = Phase::Counting { since: since.saturating_add(periods.saturating_mul(count)) };
            return periods;
        }
        // The period in progress ends with the old count; then the new one counts.
        self.count = self.written;
        self.null_count = false;
        self.phase = Phase::Counting { since: since.saturating_add(count) };
        let next = u64::from(self.count.max(1));
        let left = gone.saturating_sub(count);
        let periods = left.checked_div(next).unwrap_or(0);
        let start = since.saturating_add(count).saturating_add(periods.saturating_mul(next));
        self.phase = Phase::Counting { since: start };
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
            Mode::SoftStrobe | Mode::HardStrobe => count.saturating_add(1),
            _ => count,
        }
    }

    /// Returns the tick at which the output rises next.
    fn next_edge(&self) -> Option<u64> {
        let Phase::Counting { since } = self.phase else { return None };
        if self.mode.is_periodic() {
            return Some(since.saturating_add(u64::from(self.count.max(1))));
        }
        (!self.fired).then(|| since.saturating_add(self.single_edge()))
    }

    /// Returns the ticks since the count was loaded, or `None` before that.
    fn gone(&self, t: u64) -> Option<u64> {
        match self.phase {
            Phase::Waiting => None,
            Phase::Counting { since } => Some(t.saturating_sub(since)),
            Phase::Held { done } => Some(done),
        }
    }

    /// Returns the level of OUT. [`Channel::advance`] was called for `t`.
    fn output(&self, t: u64) -> Level {
        let count = u64::from(self.count);
        let Some(gone) = self.gone(t) else { return Level::from(self.mode != Mode::Terminal) };
        Level::from(match self.mode {
            Mode::Terminal | Mode::OneShot => gone >= count,
            Mode::Rate => !self.gate || count < 2 || gone != count.saturating_sub(1),
            Mode::Square => !self.gate || gone < self.high_half(),
            Mode::SoftStrobe | Mode::HardStrobe => gone != count,
        })
    }

    /// Returns the length of the high half of a square wave; the longer one of an odd count.
    fn high_half(&self) -> u64 {
        u64::from(self.count).saturating_add(1) >> 1
    }

    /// Returns the counting element as it would be read. [`Channel::advance`] was called for `t`.
    fn current(&self, t: u64) -> u16 {
        let gone = self.gone(t).unwrap_or(0);
        let value = match self.mode {
            Mode::Rate => u64::from(self.count).saturating_sub(gone),
            Mode::Square => {
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
        let value = u16::try_from(value & 0xffff).unwrap_or(0);
        if self.bcd {
            to_bcd(value)
        } else {
            value
        }
    }

    /// Returns `count - gone` on a counter that wraps.
    fn run_down(&self, gone: u64) -> u64 {
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
    fn program(&mut self, word: u8, access: Access) {
        *self = Channel {
            mode: Mode::from_bits(word >> 1),
            access,
            bcd: word & 1 != 0,
            gate: self.gate,
            count: self.count,
            null_count: true,
            ..Channel::default()
        };
    }

    fn latch_count(&mut self, t: u64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.current(t));
            self.read_high = false;
        }
    }

    fn latch_status(&mut self, t: u64) {
        if self.latched_status.is_none() {
            self.latched_status = Some(self.status(t));
        }
    }

    fn read(&mut self, t: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched_count.unwrap_or_else(|| self.current(t)).to_le_bytes();
        let (byte, last) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Word => {
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

    fn write(&mut self, value: u8, t: u64) {
        let raw = match (self.access, self.write_low) {
            (Access::Low, _) => u16::from_le_bytes([value, 0]),
            (Access::High, _) => u16::from_le_bytes([0, value]),
            (Access::Word, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Word, None) => {
                self.write_low = Some(value);
                // The first byte stops a count of mode 0, and its output falls.
                if self.mode == Mode::Terminal {
                    self.phase = Phase::Waiting;
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
        let starts = match self.mode {
            Mode::Terminal | Mode::SoftStrobe => true,
            Mode::Rate | Mode::Square => self.phase == Phase::Waiting,
            Mode::OneShot | Mode::HardStrobe => false,
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
        let runs = self.gate || self.mode.is_triggered();
        self.phase = if runs { Phase::Counting { since: t } } else { Phase::Held { done: 0 } };
    }

    fn set_gate(&mut self, gate: bool, t: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate, self.phase) {
            (Mode::Terminal | Mode::SoftStrobe, true, Phase::Held { done }) => {
                self.phase = Phase::Counting { since: t.saturating_sub(done) };
            }
            (Mode::Terminal | Mode::SoftStrobe, true, _) | (Mode::OneShot | Mode::HardStrobe, false, _) => {}
            (_, true, _) => self.start(t),
            (_, false, Phase::Counting { since }) => {
                self.phase = Phase::Held { done: t.saturating_sub(since) };
            }
            (_, false, _) => {}
        }
    }

    fn save(&self) -> ChannelState {
        let Channel {
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
        ChannelState {
            count,
            written,
            null_count,
            phase,
            fired,
            write_low,
            read_high,
            latched_count,
            latched_status,
            rw_mode: access.bits(),
            mode: mode.bits(),
            bcd,
            gate,
        }
    }

    fn from_state(state: &ChannelState) -> Channel {
        let ChannelState {
            count,
            written,
            null_count,
            phase,
            fired,
            write_low,
            read_high,
            latched_count,
            latched_status,
            rw_mode,
            mode,
            bcd,
            gate,
        } = *state;
        let mut channel = Channel {
            mode: Mode::from_bits(mode),
            access: Access::from_bits(rw_mode).unwrap_or_default(),
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

/// The state of one counter; what KVM's `struct kvm_pit_channel_state` has goes by its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelState {
    /// The count in progress, 1 to 65536.
    pub(crate) count: u32,
    /// The count written last, 1 to 65536; 0 for none since the control word.
    pub(crate) written: u32,
    /// The written count waits to be taken over.
    pub(crate) null_count: bool,
    /// Where the count is: `count_load_time` is [`PitClock`]'s time of `since`.
    pub(crate) phase: Phase,
    /// The end of a one-shot count was seen.
    pub(crate) fired: bool,
    /// First byte of a word of which the second is awaited (`write_state` 4 and `write_latch`).
    pub(crate) write_low: Option<u8>,
    /// The next read of a word gives its high byte (`read_state` 4, or `count_latched` 4).
    pub(crate) read_high: bool,
    /// A latched count (`count_latched` not 0).
    pub(crate) latched_count: Option<u16>,
    /// A latched status byte.
    pub(crate) latched_status: Option<u8>,
    /// 1 low byte, 2 high byte, 3 word.
    pub(crate) rw_mode: u8,
    /// 0 to 5.
    pub(crate) mode: u8,
    /// Counts in BCD.
    pub(crate) bcd: bool,
    /// The level of GATE.
    pub(crate) gate: bool,
}

/// The state of the timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PitState {
    /// The three counters.
    pub(crate) channels: [ChannelState; 3],
    /// Bit 1 of port 0x61: the speaker is on.
    pub(crate) speaker_data: bool,
    /// Whether missed pulses are made up for.
    pub(crate) reinject: bool,
    /// Pulses due and not handed out.
    pub(crate) pending: u32,
    /// No pulse waits for its acknowledge.
    pub(crate) acked: bool,
    /// The tick of the last [`Pit::tick`].
    pub(crate) seen: u64,
}

/// The timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pit {
    channels: [Channel; 3],
    speaker_data: bool,
    reinject: bool,
    pending: u32,
    acked: bool,
    seen: u64,
}

impl Default for Pit {
    fn default() -> Pit {
        Pit::new()
    }
}

impl Pit {
    /// Returns the timer at power-on: nothing counts, re-injection is on.
    pub(crate) fn new() -> Pit {
        let tied = Channel::at_reset(true);
        Pit {
            channels: [tied, tied, Channel::at_reset(false)],
            speaker_data: false,
            reinject: true,
            pending: 0,
            acked: true,
            seen: 0,
        }
    }

    /// Back to power-on; the re-injection policy is the VMM's and stays.
    pub(crate) fn reset(&mut self) {
        *self = Pit { reinject: self.reinject, seen: self.seen, ..Pit::new() };
    }

    /// Returns the level of channel 0's output. IRQ 0 is driven by [`Pit::take_pulse`], not by this.
    pub(crate) fn irq(&mut self, now: Ns) -> Level {
        self.output(0, now)
    }

    /// Returns the level of the output of `channel`, 0 to 2; low for any other.
    pub(crate) fn output(&mut self, channel: usize, now: Ns) -> Level {
        let t = self.advance(now);
        self.channels.get(channel).map_or(Level::Low, |c| c.output(t))
    }

    /// Finds the pulses of IRQ 0 that are due at `now`; then [`Pit::take_pulse`] until it says no.
    pub(crate) fn tick(&mut self, now: Ns) {
        self.seen = self.advance(now);
    }

    /// Hands out one pulse of IRQ 0: the line goes high and low again. Returns whether there is one.
    pub(crate) fn take_pulse(&mut self) -> bool {
        if self.pending == 0 || (self.reinject && !self.acked) {
            return false;
        }
        self.pending = if self.reinject { self.pending.saturating_sub(1) } else { 0 };
        self.acked = false;
        true
    }

    /// The guest ended its service of IRQ 0 (EOI at the PIC, the IOAPIC or the LAPIC).
    pub(crate) fn ack(&mut self) {
        self.acked = true;
    }

    /// Returns how many pulses are due and not handed out.
    pub(crate) fn pending(&self) -> u32 {
        self.pending
    }

    /// Forgets missed pulses and a missing acknowledge: when IRQ 0 is unmasked, as KVM does.
    pub(crate) fn forget_missed(&mut self) {
        self.pending = 0;
        self.acked = true;
    }

    /// Chooses between making up for missed pulses and merging them (`KVM_REINJECT_CONTROL`).
    pub(crate) fn set_reinject(&mut self, on: bool) {
        self.reinject = on;
        self.forget_missed();
    }

    /// Returns whether missed pulses are made up for.
    pub(crate) fn reinjects(&self) -> bool {
        self.reinject
    }

    /// Returns when [`Pit::tick`] finds the next pulse; `None` also while one waits for its acknowledge,
    /// for then nothing can be handed out: call again after [`Pit::ack`].
    pub(crate) fn deadline(&self) -> Option<Ns> {
        let [channel, ..] = &self.channels;
        if self.reinject && !self.acked {
            return None;
        }
        let mut edge = channel.next_edge()?;
        if channel.mode.is_periodic() {
            edge = edge.max(self.seen.saturating_add(MIN_PERIOD_TICKS));
        }
        Some(Ns(PitClock::ns(edge)))
    }

    /// Returns whether channel 0 was loaded and has an edge to come.
    pub(crate) fn is_counting(&self) -> bool {
        let [channel, ..] = &self.channels;
        channel.next_edge().is_some()
    }

    /// Returns the whole state.
    pub(crate) fn save(&self) -> PitState {
        let Pit { channels: [a, b, c], speaker_data, reinject, pending, acked, seen } = self;
        PitState {
            channels: [a.save(), b.save(), c.save()],
            speaker_data: *speaker_data,
            reinject: *reinject,
            pending: *pending,
            acked: *acked,
            seen: *seen,
        }
    }

    /// Takes over a saved state. The gates of channels 0 and 1 are wired high whatever it says.
    pub(crate) fn restore(&mut self, state: &PitState) {
        let PitState { channels: [a, b, c], speaker_data, reinject, pending, acked, seen } = state;
        let tied = |s: &ChannelState| Channel::from_state(&ChannelState { gate: true, ..*s });
        *self = Pit {
            channels: [tied(a), tied(b), Channel::from_state(c)],
            speaker_data: *speaker_data,
            reinject: *reinject,
            pending: *pending,
            acked: *acked,
            seen: *seen,
        };
    }

    /// Brings all channels to `now`. Returns the tick.
    fn advance(&mut self, now: Ns) -> u64 {
        let t = PitClock::ticks(now.0);
        let [zero, one, two] = &mut self.channels;
        let pulses = zero.advance(t);
        self.pending = self.pending.saturating_add(u32::try_from(pulses).unwrap_or(u32::MAX));
        one.advance(t);
        two.advance(t);
        t
    }

    fn write_control(&mut self, word: u8, t: u64) {
        let select = word >> 6;
        if select == 3 {
            return self.read_back(word, t);
        }
        let Some(channel) = self.channels.get_mut(usize::from(select)) else { return };
        match Access::from_bits(word >> 4) {
            Some(access) => channel.program(word, access),
            None => channel.latch_count(t),
        }
    }

    fn read_back(&mut self, word: u8, t: u64) {
        for (channel, mask) in self.channels.iter_mut().zip([0x02u8, 0x04, 0x08]) {
            if word & mask == 0 {
                continue;
            }
            // Both bits are active low.
            if word & 0x20 == 0 {
                channel.latch_count(t);
            }
            if word & 0x10 == 0 {
                channel.latch_status(t);
            }
        }
    }

    /// Port 0x61: gate and speaker as written, the refresh toggle of every 16 us, and OUT of channel 2.
    fn read_speaker(&self, now: Ns, t: u64) -> u8 {
        let [_, _, two] = &self.channels;
        let refresh = u8::from((now.0 >> 14) & 1 != 0);
        u8::from(two.gate)
            | u8::from(self.speaker_data) << 1
            | refresh << 4
            | u8::from(two.output(t).is_high()) << 5
    }
}

impl PioDevice for Pit {
    fn read(&mut self, offset: u16, width: Width, now: Ns) -> u32 {
        if width != Width::B1 {
            return all_ones(width);
        }
        let t = self.advance(now);
        u32::from(match offset.wrapping_add(FIRST_PORT) {
            0x61 => self.read_speaker(now, t),
            // The control word cannot be read.
            _ => match self.channels.get_mut(usize::from(offset)) {
                Some(channel) => channel.read(t),
                None => return all_ones(width),
            },
        })
    }

    fn write(&mut self, offset: u16, width: Width, value: u32, now: Ns) {
        if width != Width::B1 {
            return;
        }
        let [value, ..] = value.to_le_bytes();
        let t = self.advance(now);
        match offset.wrapping_add(FIRST_PORT) {
            0x43 => self.write_control(value, t),
            0x61 => {
                self.speaker_data = value & 2 != 0;
                let [_, _, two] = &mut self.channels;
                two.set_gate(value & 1 != 0, t);
            }
            _ => {
                if let Some(channel) = self.channels.get_mut(usize::from(offset)) {
                    channel.write(value, t);
                }
            }
        }
    }
}
