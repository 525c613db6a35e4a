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
//! that a guest counts all of them however late; without, pulses that were not taken in time melt into one. An
//! acknowledge that does not come (the line was masked, or the guest changed controllers) is waited for [`ACK_TICKS`].
//!
//! DEVIATION: a count takes effect at once, not at the next clock; a new count in mode 3 waits for the end of the period,
//! not of its half; the edge that writing a mode may make on the output is no pulse of IRQ 0. KVM leaves all three out.
//!
//! No lock inside: the bus owns it, and the timer for [`Pit::deadline`].

mod channel;
mod kvm;

use self::channel::{CountAccess, PitChannel};
pub(crate) use self::channel::{CountPhase, SavedPitChannel};
use super::saved::{state_struct, HasState, SectionId};
use super::time::TickClock;
use super::{all_ones, PinLevel, PioDevice};
use crate::arch::addr::AccessWidth;
use crate::arch::rule::rule;
use crate::arch::time::Ns;
use core::ops::RangeInclusive;

/// The port that offset 0 stands for.
pub(crate) const FIRST_PORT: u16 = 0x40;
/// Port B of the system board.
pub(crate) const SPEAKER: u16 = 0x61;
/// The ports decoded: the three counters, the control word, port B of the system board.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const PORTS: [RangeInclusive<u16>; 2] = [0x40..=0x43, SPEAKER..=SPEAKER];

/// The input clock.
pub(crate) type PitClock = TickClock<1_193_182>;

/// Shortest time between two deadlines of a periodic channel 0, about 200 us: a host that wakes more
/// often for a guest can be held down by it. Periods in between are counted all the same.
const MIN_PERIOD_TICKS: u64 = 239;

/// How long a pulse waits for its acknowledge, 10 ms: then it is taken for lost, and the next may go.
const ACK_TICKS: u64 = 11_932;

state_struct! {
    /// The state of the timer.
    struct SavedPit = 120 {
        /// The tick of the last [`Pit::tick`].
        seen: u64,
        /// The tick at which a pulse was last handed out.
        handed: u64,
        /// The three counters.
        channels: [SavedPitChannel; 3],
        /// Pulses due and not handed out.
        pending: u32,
        /// Bit 1 of port 0x61: the speaker is on.
        speaker_data: u8,
        /// Whether missed pulses are made up for.
        reinject: u8,
        /// No pulse waits for its acknowledge.
        acked: u8,
        /// Another timer has taken IRQ 0 over.
        replaced: u8,
    }
}

/// The timer.
///
/// # Invariants
/// While another timer has taken IRQ 0 over no pulse is due. The gates of channels 0 and 1 are high.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pit {
    channels: [PitChannel; 3],
    speaker_data: bool,
    reinject: bool,
    /// Another timer has taken IRQ 0 over: the counter goes on, without pulses.
    replaced: bool,
    pending: u32,
    acked: bool,
    seen: u64,
    handed: u64,
}

impl Default for Pit {
    fn default() -> Pit {
        Pit::new()
    }
}

impl Pit {
    /// Returns the timer at power-on: nothing counts, re-injection is on.
    pub(crate) fn new() -> Pit {
        let tied = PitChannel::at_reset(true);
        Pit {
            channels: [tied, tied, PitChannel::at_reset(false)],
            speaker_data: false,
            reinject: true,
            replaced: false,
            pending: 0,
            acked: true,
            seen: 0,
            handed: 0,
        }
    }

    /// Looks whether the invariants hold.
    ///
    /// # Errors
    /// The name of one that does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let [zero, one, _] = &self.channels;
        rule(!self.replaced || self.pending == 0, "no pulse is due while another timer has IRQ 0")?;
        rule(zero.gate && one.gate, "two gates are tied high")?;
        self.channels.iter().try_for_each(PitChannel::check)
    }

    /// Back to power-on; the re-injection policy is the VMM's and stays.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self) {
        *self = Pit { reinject: self.reinject, seen: self.seen, ..Pit::new() };
    }

    /// Returns the level of channel 0's output. IRQ 0 is driven by [`Pit::take_pulse`], not by this.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn irq(&mut self, now: Ns) -> PinLevel {
        self.output(0, now)
    }

    /// Returns the level of the output of `channel`, 0 to 2; low for any other.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn output(&mut self, channel: usize, now: Ns) -> PinLevel {
        let t = self.advance(now);
        self.channels.get(channel).map_or(PinLevel::Low, |c| c.output(t))
    }

    /// Finds the pulses of IRQ 0 that are due at `now`; then [`Pit::take_pulse`] until it says no.
    pub(crate) fn tick(&mut self, now: Ns) {
        self.seen = self.advance(now);
        if self.seen >= self.handed.saturating_add(ACK_TICKS) {
            self.acked = true;
        }
    }

    /// Hands out one pulse of IRQ 0: the line goes high and low again. Returns whether there is one.
    pub(crate) fn take_pulse(&mut self) -> bool {
        if self.pending == 0 || (self.reinject && !self.acked) {
            return false;
        }
        self.pending = if self.reinject { self.pending.saturating_sub(1) } else { 0 };
        self.acked = false;
        self.handed = self.seen;
        true
    }

    /// The guest ended its service of IRQ 0 (EOI at the PIC, the IOAPIC or the LAPIC), or the pulse
    /// reached nobody for the line is masked.
    pub(crate) fn ack(&mut self) {
        self.acked = true;
    }

    /// Returns how many pulses are due and not handed out.
    #[allow(dead_code, reason = "used by the tests")]
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

    /// Has another timer take IRQ 0 over, or gives it back: an HPET in legacy replacement mode. IA-PC HPET
    /// specification 1.0a, 2.3.5 ("General Configuration Register"). Call [`Pit::tick`] before.
    pub(crate) fn set_replaced(&mut self, replaced: bool) {
        self.replaced = replaced;
        self.forget_missed();
    }

    /// Returns whether missed pulses are made up for.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn reinjects(&self) -> bool {
        self.reinject
    }

    /// Returns when [`Pit::tick`] is next wanted: a pulse is due, or a missing acknowledge is given up.
    ///
    /// While a pulse waits for its acknowledge the later ones wake nobody, for they could not be
    /// handed out; call [`Pit::tick`] after [`Pit::ack`].
    pub(crate) fn deadline(&self) -> Option<Ns> {
        let [channel, ..] = &self.channels;
        if self.replaced {
            return None;
        }
        let waits = self.reinject && !self.acked;
        let give_up = self.handed.saturating_add(ACK_TICKS);
        let tick = match channel.next_edge() {
            _ if waits && self.pending > 0 => give_up,
            Some(edge) if waits => edge.max(give_up),
            Some(edge) if channel.mode.is_periodic() => edge.max(self.seen.saturating_add(MIN_PERIOD_TICKS)),
            Some(edge) => edge,
            None => return None,
        };
        Some(Ns(PitClock::ns(tick)))
    }

    /// Returns whether the next pulse waits for [`Pit::ack`]: one was handed out, re-injection is on, and
    /// more are due or to come.
    pub(crate) fn waits_for_ack(&self) -> bool {
        let [channel, ..] = &self.channels;
        self.reinject && !self.acked && !self.replaced && (self.pending != 0 || channel.next_edge().is_some())
    }

    /// Takes over counters from outside at `now`, and the speaker's switch if it is given. What of their pulses lies in
    /// the past is forgotten.
    pub(crate) fn set_channels(
        &mut self,
        channels: [SavedPitChannel; 3],
        speaker_data: Option<bool>,
        now: Ns,
    ) {
        let old = self.save();
        let speaker_data = speaker_data.map_or(old.speaker_data, u8::from);
        self.set_state(&SavedPit { channels, speaker_data, ..old });
        // First the pulses of the past are found, then forgotten: the other way round the next tick would find them.
        self.tick(now);
        self.forget_missed();
    }

    /// Brings all channels to `now`. Returns the tick.
    fn advance(&mut self, now: Ns) -> u64 {
        let t = PitClock::ticks(now.0);
        let [zero, one, two] = &mut self.channels;
        let pulses = zero.advance(t);
        let pulses = if self.replaced { 0 } else { pulses };
        self.pending = self.pending.saturating_add(u32::try_from(pulses).unwrap_or(u32::MAX));
        one.advance(t);
        two.advance(t);
        t
    }

    /// Reads the byte at `offset` where that hands out no pulse and moves no deadline; asks for the time
    /// only if the answer depends on it. `None`: nothing has been done, [`PioDevice::read`] must be.
    #[inline(always)]
    pub(crate) fn read_quietly(&mut self, offset: u16, now: impl FnOnce() -> Ns) -> Option<u8> {
        if offset.wrapping_add(FIRST_PORT) == SPEAKER {
            let now = now();
            let [_, _, two] = &mut self.channels;
            let t = if two.is_counting() { PitClock::ticks(now.0) } else { 0 };
            two.advance(t);
            return Some(self.read_speaker(now, t));
        }
        let channel = self.channels.get_mut(usize::from(offset))?;
        if let Some(byte) = channel.read_latched() {
            return Some(byte);
        }
        if !channel.is_counting() {
            return Some(channel.read_count(0));
        }
        let t = PitClock::ticks(now().0);
        // An edge of channel 0 is a pulse: for the caller that settles.
        if offset == 0 && channel.next_edge().is_some_and(|edge| edge <= t) {
            return None;
        }
        channel.advance(t);
        Some(channel.read_count(t))
    }

    /// Writes the byte at `offset` as [`Pit::read_quietly`] reads one. Returns whether it is done.
    #[inline(always)]
    pub(crate) fn write_quietly(&mut self, offset: u16, value: u8, now: impl FnOnce() -> Ns) -> bool {
        match offset.wrapping_add(FIRST_PORT) {
            SPEAKER => {
                let [_, _, two] = &self.channels;
                // A gate that moves starts or stops channel 2 at a point in time; the speaker's bit alone needs none.
                let same = (value & 1 != 0) == two.gate;
                if same {
                    self.speaker_data = value & 2 != 0;
                }
                same
            }
            // A latch command.
            0x43 if value & 0x30 == 0 => {
                let select = value >> 6;
                let Some(channel) = self.channels.get_mut(usize::from(select)) else { return false };
                let t = if channel.is_counting() { PitClock::ticks(now().0) } else { 0 };
                if select == 0 && channel.next_edge().is_some_and(|edge| edge <= t) {
                    return false;
                }
                channel.advance(t);
                channel.latch_count(t);
                true
            }
            _ => false,
        }
    }

    fn write_control(&mut self, word: u8, t: u64) {
        let select = word >> 6;
        if select == 3 {
            return self.read_back(word, t);
        }
        let Some(channel) = self.channels.get_mut(usize::from(select)) else { return };
        match CountAccess::from_bits(word >> 4) {
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
    #[inline]
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
    fn read(&mut self, offset: u16, width: AccessWidth, now: Ns) -> u32 {
        if width != AccessWidth::B1 {
            return all_ones(width);
        }
        let t = self.advance(now);
        u32::from(match offset.wrapping_add(FIRST_PORT) {
            SPEAKER => self.read_speaker(now, t),
            // The control word cannot be read.
            _ => match self.channels.get_mut(usize::from(offset)) {
                Some(channel) => channel.read_latched().unwrap_or_else(|| channel.read_count(t)),
                None => return all_ones(width),
            },
        })
    }

    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, now: Ns) {
        if width != AccessWidth::B1 {
            return;
        }
        let [value, ..] = value.to_le_bytes();
        let t = self.advance(now);
        match offset.wrapping_add(FIRST_PORT) {
            0x43 => self.write_control(value, t),
            SPEAKER => {
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

impl HasState for Pit {
    const SECTION: SectionId = SectionId { id: 0x05, version: 1 };
    type State = SavedPit;

    fn save(&self) -> SavedPit {
        let Pit { channels: [a, b, c], speaker_data, reinject, replaced, pending, acked, seen, handed } =
            self;
        SavedPit {
            channels: [a.save(), b.save(), c.save()],
            speaker_data: u8::from(*speaker_data),
            reinject: u8::from(*reinject),
            pending: *pending,
            acked: u8::from(*acked),
            seen: *seen,
            handed: *handed,
            replaced: u8::from(*replaced),
        }
    }

    fn set_state(&mut self, state: &SavedPit) {
        let SavedPit { channels: [a, b, c], speaker_data, reinject, replaced, pending, acked, seen, handed } =
            state;
        // No port moves these two gates: a state with one low would stop its channel for good.
        let tied = |s: &SavedPitChannel| PitChannel::from_state(&SavedPitChannel { gate: 1, ..*s });
        *self = Pit {
            channels: [tied(a), tied(b), PitChannel::from_state(c)],
            speaker_data: *speaker_data != 0,
            reinject: *reinject != 0,
            replaced: *replaced != 0,
            pending: if *replaced == 0 { *pending } else { 0 },
            acked: *acked != 0,
            seen: *seen,
            handed: *handed,
        };
    }
}
