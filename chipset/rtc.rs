// SPDX-License-Identifier: GPL-2.0

//! Motorola MC146818A real-time clock with 128 bytes of CMOS memory.
//!
//! Follows the MC146818A datasheet, "Registers", "Update Cycle" and "Interrupts"; the memory sizes and the checksum are
//! where PC firmware keeps them. Time, alarm, periodic and update-ended interrupts, BCD and binary, 12 and 24 hours,
//! the century at 0x32. Daylight saving, the square wave output and other time bases than 32,768 Hz are not modelled.
//!
//! The guest's clock is the host's monotonic one plus an offset. The guest setting its clock changes the offset; while
//! it does (SET, or the divider held in reset) the time stands still in the registers. Flags are found when someone
//! looks; several periods of one interrupt that nobody saw are one.
//!
//! No lock inside: the bus owns it, and the timer for [`Rtc::deadline`].

mod date;

use self::date::{AlarmTime, DateTime};
use super::saved::{state_struct, HasState, SectionId};
use super::time::{TickClock, NS_PER_SEC};
use super::{all_ones, PinLevel, PioDevice};
use crate::arch::addr::AccessWidth;
use crate::arch::rule::rule;
use crate::arch::time::{earliest, Ns};
use core::ops::RangeInclusive;

/// The port that offset 0 stands for.
pub(crate) const FIRST_PORT: u16 = 0x70;
/// The ports decoded: index (with the NMI mask) and data.
#[allow(dead_code, reason = "what the device decodes; the bus has its own table")]
pub(crate) const PORTS: [RangeInclusive<u16>; 1] = [0x70..=0x71];

/// The divider chain's clock.
type RtcClock = TickClock<32_768>;

/// How long before an update UIP warns of it: 244 us.
const UIP_NS: u64 = 244_000;
/// [`NS_PER_SEC`], for what may be negative.
const NS: i64 = 1_000_000_000;
/// Half a second, before and after.
const HALF: i64 = NS / 2;
const HALF_BELOW: i64 = -HALF;
/// No clock that a guest can set is further from the host's than this, in seconds.
const MAX_OFFSET: i64 = 1 << 40;
/// Register and memory numbers.
mod reg {
    pub(super) const SECONDS: u8 = 0x00;
    pub(super) const SECONDS_ALARM: u8 = 0x01;
    pub(super) const MINUTES: u8 = 0x02;
    pub(super) const MINUTES_ALARM: u8 = 0x03;
    pub(super) const HOURS: u8 = 0x04;
    pub(super) const HOURS_ALARM: u8 = 0x05;
    pub(super) const WEEKDAY: u8 = 0x06;
    pub(super) const DAY: u8 = 0x07;
    pub(super) const MONTH: u8 = 0x08;
    pub(super) const YEAR: u8 = 0x09;
    pub(super) const A: u8 = 0x0a;
    pub(super) const B: u8 = 0x0b;
    pub(super) const C: u8 = 0x0c;
    pub(super) const D: u8 = 0x0d;
    pub(super) const CENTURY: u8 = 0x32;
}

/// Register A: UIP, divider, rate.
const A_UIP: u8 = 0x80;
const A_DIVIDER: u8 = 0x70;
const A_RATE: u8 = 0x0f;
/// The divider for 32,768 Hz; from 0x60 on the chain is held in reset.
const A_32KHZ: u8 = 0x20;
/// The rate that firmware leaves: 1,024 Hz.
const A_RATE_RESET: u8 = 6;
/// Register C: an enabled flag is set.
const C_IRQ: u8 = 0x80;
/// Register D: the battery is good.
const D_VALID: u8 = 0x80;
/// From here on an alarm byte matches anything.
const ALARM_ANY: u8 = 0xc0;
/// The afternoon in a 12-hour register.
const PM: u8 = 0x80;

bitflags::bitflags! {
    /// Register B.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    struct RegisterB: u8 {
        /// The clock is being set and stands still.
        const SET = 1 << 7;
        const PERIODIC = 1 << 6;
        const ALARM = 1 << 5;
        const UPDATE = 1 << 4;
        const SQUARE_WAVE = 1 << 3;
        /// Binary rather than BCD.
        const BINARY = 1 << 2;
        /// 24 rather than 12 hours.
        const HOURS_24 = 1 << 1;
        const DAYLIGHT = 1 << 0;
        /// The three that are shaped like register C's flags.
        const INTERRUPTS = 0x70;
    }
}

/// What the machine tells its guest through the CMOS memory, and the clock it starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RtcSetup {
    /// RAM from 0 up, in bytes.
    pub(crate) ram_below_4g: u64,
    /// RAM from 4 GiB up, in bytes.
    pub(crate) ram_above_4g: u64,
    /// What the guest's clock is ahead of UTC, in seconds.
    pub(crate) utc_offset_seconds: i64,
    /// UTC since 1970 minus the monotonic clock, in nanoseconds.
    pub(crate) wall_offset_ns: i64,
}

state_struct! {
    /// The state of the clock and its memory.
    struct SavedRtc = 168 {
        /// The guest's clock minus the monotonic one: whole seconds.
        offset_seconds: i64,
        /// The guest's clock minus the monotonic one: the rest, in nanoseconds below a second.
        offset_ns: u64,
        /// The guest's second at which flags were last looked for.
        seen_second: i64,
        /// The divider's tick at which the periodic flag was last looked for.
        seen_tick: u64,
        /// Registers and memory; the time's bytes count only while the clock stands still.
        ram: [u8; 128],
        /// The register selected by the index port.
        index: u8,
        /// Bit 7 of the index port.
        nmi_masked: u8,
        /// 0.
        pad: [u8; 6],
    }
}

/// The clock and its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rtc {
    index: u8,
    nmi_masked: bool,
    ram: [u8; 128],
    offset_seconds: i64,
    /// Below a second.
    offset_ns: u64,
    seen_second: i64,
    seen_tick: u64,
}

/// Returns the CMOS memory that firmware would leave.
fn memory(config: &RtcSetup) -> [u8; 128] {
    let mut ram = [0u8; 128];
    let mut put = |at: usize, value: u64, bytes: usize| {
        for (slot, byte) in ram.iter_mut().skip(at).zip(value.to_le_bytes()).take(bytes) {
            *slot = byte;
        }
    };
    let extended_kib = config.ram_below_4g.saturating_sub(1 << 20) >> 10;
    let above_16m = config.ram_below_4g.saturating_sub(16 << 20) >> 16;
    let above_4g = config.ram_above_4g >> 16;
    // Equipment: a coprocessor.
    put(0x14, 0x02, 1);
    // KiB below 1 MiB and from there to 64 MiB, twice; then units of 64 KiB above 16 MiB and above 4 GiB.
    put(0x15, 640, 2);
    put(0x17, extended_kib.min(0xffff), 2);
    put(0x30, extended_kib.min(0xffff), 2);
    put(0x34, above_16m.min(0xffff), 2);
    put(0x5b, above_4g.min(0xff_ffff), 3);
    put(usize::from(reg::A), u64::from(A_32KHZ | A_RATE_RESET), 1);
    put(usize::from(reg::B), u64::from(RegisterB::HOURS_24.bits()), 1);
    let sum = ram.iter().skip(0x10).take(0x1e).fold(0u16, |sum, byte| sum.wrapping_add(u16::from(*byte)));
    // The checksum alone is big endian.
    let [low, high] = sum.to_le_bytes();
    for (at, byte) in [(0x2e, high), (0x2f, low)] {
        if let Some(slot) = ram.get_mut(at) {
            *slot = byte;
        }
    }
    ram
}

impl Rtc {
    /// Returns the clock of a machine that starts at `now`: 24 hours, BCD, no interrupts.
    pub(crate) fn new(config: &RtcSetup, now: Ns) -> Rtc {
        let mut rtc = Rtc {
            index: 0,
            nmi_masked: false,
            ram: memory(config),
            offset_seconds: config
                .wall_offset_ns
                .div_euclid(NS)
                .saturating_add(config.utc_offset_seconds)
                .clamp(-MAX_OFFSET, MAX_OFFSET),
            offset_ns: config.wall_offset_ns.rem_euclid(NS).unsigned_abs(),
            seen_second: 0,
            seen_tick: RtcClock::ticks(now.0),
        };
        // From 0 on, the first look would find decades of updates and a daily alarm.
        rtc.seen_second = rtc.second(now);
        rtc
    }

    /// A platform reset: interrupts off and their flags gone. The battery keeps the time and the memory.
    #[allow(
        dead_code,
        reason = "for the reset of a running VM, which the tool does not ask for yet; used by the tests"
    )]
    pub(crate) fn reset(&mut self, now: Ns) {
        self.sync(now);
        self.index = 0;
        self.nmi_masked = false;
        let b = self.b() & !(RegisterB::INTERRUPTS | RegisterB::SQUARE_WAVE);
        self.put(reg::B, b.bits());
        self.put(reg::C, 0);
    }

    /// Returns what the guest's clock is ahead of UTC, to the nearest second. `wall_offset_ns`: as in [`RtcSetup`].
    pub(crate) fn utc_offset_seconds(&self, wall_offset_ns: i64) -> i64 {
        let seconds = self.offset_seconds.saturating_sub(wall_offset_ns.div_euclid(NS));
        let rest = (self.offset_ns as i64).saturating_sub(wall_offset_ns.rem_euclid(NS));
        match rest {
            ..HALF_BELOW => seconds.saturating_sub(1),
            HALF.. => seconds.saturating_add(1),
            _ => seconds,
        }
    }

    /// Returns the level of IRQ 8.
    pub(crate) fn irq(&self) -> PinLevel {
        PinLevel::from(self.flags_due() != 0)
    }

    /// Returns whether bit 7 of the index port masks the NMI.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn is_nmi_masked(&self) -> bool {
        self.nmi_masked
    }

    /// Returns when the next enabled interrupt is due; `None` while the line is high.
    pub(crate) fn deadline(&self) -> Option<Ns> {
        if self.irq().is_high() {
            return None;
        }
        let b = self.b();
        let periodic = if b.contains(RegisterB::PERIODIC) { self.next_periodic() } else { None };
        if !self.is_running() {
            return periodic;
        }
        let update = b.contains(RegisterB::UPDATE).then(|| self.seen_second.saturating_add(1));
        let alarm =
            if b.contains(RegisterB::ALARM) { self.alarm().next_after(self.seen_second) } else { None };
        let second = [update, alarm].into_iter().flatten().min();
        earliest(periodic, second.map(|s| self.time_of(s)))
    }

    /// Finds the interrupts that are due at `now`.
    pub(crate) fn tick(&mut self, now: Ns) {
        self.sync(now);
    }

    fn get(&self, at: u8) -> u8 {
        self.ram.get(usize::from(at)).copied().unwrap_or(0xff)
    }

    fn put(&mut self, at: u8, value: u8) {
        if let Some(slot) = self.ram.get_mut(usize::from(at)) {
            *slot = value;
        }
    }

    fn b(&self) -> RegisterB {
        RegisterB::from_bits_truncate(self.get(reg::B))
    }

    /// Returns the flags of register C that are enabled, in their places.
    fn flags_due(&self) -> u8 {
        self.get(reg::C) & self.get(reg::B) & RegisterB::INTERRUPTS.bits()
    }

    fn is_divider_running(&self) -> bool {
        // The codes below are for crystals of 1 and 4 MHz, which no PC has: taken for the one that there is.
        self.get(reg::A) & A_DIVIDER <= A_32KHZ
    }

    fn is_running(&self) -> bool {
        !self.b().contains(RegisterB::SET) && self.is_divider_running()
    }

    /// Returns the second that the guest's clock shows, since 1970.
    fn second(&self, now: Ns) -> i64 {
        let whole = now.after(self.offset_ns).0 / NS_PER_SEC;
        i64::try_from(whole).unwrap_or(i64::MAX).saturating_add(self.offset_seconds)
    }

    /// Returns the nanoseconds since that second began.
    fn phase_ns(&self, now: Ns) -> u64 {
        now.after(self.offset_ns).0 % NS_PER_SEC
    }

    /// Returns when the guest's clock reaches `second`.
    fn time_of(&self, second: i64) -> Ns {
        let whole = u64::try_from(second.saturating_sub(self.offset_seconds)).unwrap_or(0);
        Ns(whole.saturating_mul(NS_PER_SEC).saturating_sub(self.offset_ns))
    }

    /// Returns log2 of the periodic interrupt's period in ticks of 32,768 Hz.
    fn period_shift(&self) -> Option<u32> {
        if !self.is_divider_running() {
            return None;
        }
        match self.get(reg::A) & A_RATE {
            0 => None,
            // The two that the divider cannot make are 256 and 128 Hz.
            rate @ 1..=2 => Some(u32::from(rate).saturating_add(6)),
            rate => Some(u32::from(rate).saturating_sub(1)),
        }
    }

    fn next_periodic(&self) -> Option<Ns> {
        let shift = self.period_shift()?;
        let tick = self.seen_tick.wrapping_shr(shift).saturating_add(1).wrapping_shl(shift);
        Some(Ns(RtcClock::ns(tick)))
    }

    /// Sets the flags of what happened since the last call.
    fn sync(&mut self, now: Ns) {
        let mut flags = RegisterB::empty();
        let tick = RtcClock::ticks(now.0);
        if let Some(shift) = self.period_shift() {
            if tick.wrapping_shr(shift) > self.seen_tick.wrapping_shr(shift) {
                flags |= RegisterB::PERIODIC;
            }
        }
        self.seen_tick = tick;
        if self.is_running() {
            let second = self.second(now);
            if second > self.seen_second {
                flags |= RegisterB::UPDATE;
                if self.alarm().next_after(self.seen_second).is_some_and(|at| at <= second) {
                    flags |= RegisterB::ALARM;
                }
            }
            self.seen_second = second;
        }
        // Whether or not their interrupts are enabled: guests poll the flags, too.
        self.put(reg::C, self.get(reg::C) | flags.bits());
    }

    /// Returns `value` as the data mode of register B writes numbers.
    fn encode(&self, value: u8) -> u8 {
        if self.b().contains(RegisterB::BINARY) {
            value
        } else {
            ((value / 10 % 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, raw: u8) -> u8 {
        if self.b().contains(RegisterB::BINARY) {
            raw
        } else {
            (raw >> 4).wrapping_mul(10).wrapping_add(raw & 0xf)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b().contains(RegisterB::HOURS_24) {
            return self.encode(hour);
        }
        let pm = if hour >= 12 { PM } else { 0 };
        let hour = match hour % 12 {
            0 => 12,
            h => h,
        };
        self.encode(hour) | pm
    }

    fn decode_hour(&self, raw: u8) -> u8 {
        if self.b().contains(RegisterB::HOURS_24) {
            return self.decode(raw);
        }
        let hour = self.decode(raw & !PM) % 12;
        if raw & PM != 0 {
            hour.wrapping_add(12)
        } else {
            hour
        }
    }

    fn alarm(&self) -> AlarmTime {
        let field = |at: u8| Some(self.get(at)).filter(|raw| *raw < ALARM_ANY);
        AlarmTime {
            hour: field(reg::HOURS_ALARM).map(|raw| self.decode_hour(raw)),
            minute: field(reg::MINUTES_ALARM).map(|raw| self.decode(raw)),
            second: field(reg::SECONDS_ALARM).map(|raw| self.decode(raw)),
        }
    }

    /// Writes the running time into its registers.
    fn freeze(&mut self, now: Ns) {
        let time = DateTime::from_unix(self.second(now));
        let century = u8::try_from(time.year / 100).unwrap_or(99);
        let year = u8::try_from(time.year % 100).unwrap_or(0);
        for (at, value) in [
            (reg::SECONDS, self.encode(time.second)),
            (reg::MINUTES, self.encode(time.minute)),
            (reg::HOURS, self.encode_hour(time.hour)),
            (reg::WEEKDAY, self.encode(time.weekday)),
            (reg::DAY, self.encode(time.day)),
            (reg::MONTH, self.encode(time.month)),
            (reg::YEAR, self.encode(year)),
            (reg::CENTURY, self.encode(century)),
        ] {
            self.put(at, value);
        }
    }

    /// Sets the clock to what its registers say; the fraction of the second is `phase_ns`.
    fn thaw(&mut self, now: Ns, phase_ns: u64) {
        let number = |at: u8| self.decode(self.get(at));
        let time = DateTime {
            year: u16::from(number(reg::CENTURY))
                .wrapping_mul(100)
                .wrapping_add(u16::from(number(reg::YEAR))),
            month: number(reg::MONTH),
            day: number(reg::DAY),
            hour: self.decode_hour(self.get(reg::HOURS)),
            minute: number(reg::MINUTES),
            second: number(reg::SECONDS),
            weekday: number(reg::WEEKDAY),
        };
        // First the fraction, then the whole seconds on top of what it makes of `now`.
        let host_phase = now.0 % NS_PER_SEC;
        self.offset_ns = phase_ns.wrapping_add(NS_PER_SEC).wrapping_sub(host_phase) % NS_PER_SEC;
        self.offset_seconds = 0;
        self.offset_seconds = time.to_unix().saturating_sub(self.second(now)).clamp(-MAX_OFFSET, MAX_OFFSET);
        // A clock that was set has not run through the seconds in between: none of them is an update or an alarm.
        self.seen_second = self.second(now);
    }

    fn read_data(&mut self, now: Ns) -> u8 {
        self.sync(now);
        match self.index {
            reg::SECONDS | reg::MINUTES | reg::HOURS | reg::WEEKDAY..=reg::YEAR | reg::CENTURY => {
                if self.is_running() {
                    self.freeze(now);
                }
                self.get(self.index)
            }
            reg::A => {
                // Registers never change halfway here. UIP is for guests that wait for its fall to find the start of a
                // second.
                let updates = self.is_running() && self.phase_ns(now) >= NS_PER_SEC.saturating_sub(UIP_NS);
                self.get(reg::A) | if updates { A_UIP } else { 0 }
            }
            reg::C => {
                let irq = if self.irq().is_high() { C_IRQ } else { 0 };
                let flags = self.get(reg::C) | irq;
                self.put(reg::C, 0);
                flags
            }
            reg::D => D_VALID,
            at => self.get(at),
        }
    }

    fn write_data(&mut self, value: u8, now: Ns) {
        self.sync(now);
        match self.index {
            reg::SECONDS | reg::MINUTES | reg::HOURS | reg::WEEKDAY..=reg::YEAR | reg::CENTURY => {
                self.write_time(value, now);
            }
            // MC146818A, "Divider Control": the first update comes half a second after the divider leaves its reset.
            reg::A => self.write_control(now, NS_PER_SEC / 2, |rtc| rtc.put(reg::A, value & !A_UIP)),
            reg::B => self.write_control(now, self.phase_ns(now), |rtc| {
                let mut b = RegisterB::from_bits_truncate(value);
                if b.contains(RegisterB::SET) {
                    // MC146818A, "Register B": SET going high clears UIE.
                    b.remove(RegisterB::UPDATE);
                }
                rtc.put(reg::B, b.bits());
            }),
            // Flags and the battery's state are read only.
            reg::C | reg::D => {}
            at => self.put(at, value),
        }
    }

    fn write_time(&mut self, value: u8, now: Ns) {
        if !self.is_running() {
            return self.put(self.index, value);
        }
        self.freeze(now);
        self.put(self.index, value);
        // Other registers and the fraction of the second run on: a guest may set a single one.
        self.thaw(now, self.phase_ns(now));
    }

    /// Changes register A or B, and stops or starts the clock with it, at `phase_ns` into the second.
    fn write_control(&mut self, now: Ns, phase_ns: u64, change: impl FnOnce(&mut Rtc)) {
        let was_running = self.is_running();
        if was_running {
            self.freeze(now);
        }
        change(self);
        if !was_running && self.is_running() {
            self.thaw(now, phase_ns);
        }
    }
}

impl PioDevice for Rtc {
    /// The index cannot be read.
    fn read(&mut self, offset: u16, width: AccessWidth, now: Ns) -> u32 {
        match (offset, width) {
            (1, AccessWidth::B1) => u32::from(self.read_data(now)),
            _ => all_ones(width),
        }
    }

    fn write(&mut self, offset: u16, width: AccessWidth, value: u32, now: Ns) {
        let [value, ..] = value.to_le_bytes();
        match (offset, width) {
            (0, AccessWidth::B1) => {
                self.index = value & 0x7f;
                self.nmi_masked = value & 0x80 != 0;
            }
            (1, AccessWidth::B1) => self.write_data(value, now),
            _ => {}
        }
    }
}

impl Rtc {
    /// Looks whether what the arithmetic of the clock counts on holds.
    ///
    /// # Errors
    /// The name of what does not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        rule(self.offset_ns < NS_PER_SEC, "less than a second is below a second")?;
        rule(self.offset_seconds.unsigned_abs() <= MAX_OFFSET.unsigned_abs(), "the offset is bounded")?;
        rule(self.index < 128, "the index is one of the memory's")
    }
}

impl HasState for Rtc {
    const SECTION: SectionId = SectionId { id: 0x06, version: 1 };
    type State = SavedRtc;

    fn save(&self) -> SavedRtc {
        let Rtc { index, nmi_masked, ram, offset_seconds, offset_ns, seen_second, seen_tick } = self;
        SavedRtc {
            index: *index,
            nmi_masked: u8::from(*nmi_masked),
            ram: *ram,
            offset_seconds: *offset_seconds,
            offset_ns: *offset_ns,
            seen_second: *seen_second,
            seen_tick: *seen_tick,
            pad: [0; 6],
        }
    }

    fn set_state(&mut self, state: &SavedRtc) {
        let SavedRtc { index, nmi_masked, ram, offset_seconds, offset_ns, seen_second, seen_tick, pad: _ } =
            *state;
        *self = Rtc {
            index: index & 0x7f,
            nmi_masked: nmi_masked != 0,
            ram,
            offset_seconds: offset_seconds.clamp(-MAX_OFFSET, MAX_OFFSET),
            offset_ns: offset_ns % NS_PER_SEC,
            seen_second,
            seen_tick,
        };
        // The summary bit and UIP are worked out when read; stored ones would be read forever.
        self.put(reg::C, self.get(reg::C) & RegisterB::INTERRUPTS.bits());
        self.put(reg::A, self.get(reg::A) & !A_UIP);
    }
}
