// SPDX-License-Identifier: GPL-2.0

//! The local APIC's timer: one-shot, periodic and TSC deadline.
//!
//! SDM, "APIC Timer" and "TSC-Deadline Mode". The input clock is 1 GHz, or what user space has chosen, so one count is
//! `divisor` nanoseconds, or that many of its periods. Counting is not simulated: an armed timer is its deadline, and the
//! current count is worked out from it when read.
//!
//! A periodic timer reloads at least every [`MIN_PERIOD_NS`], so that a guest cannot keep the host
//! busy with its timer alone; periods missed altogether give one interrupt.

use crate::arch::rule::rule;
use crate::arch::time::{scale, Ns};

/// The shortest period of a periodic timer, in nanoseconds.
pub(crate) const MIN_PERIOD_NS: u64 = 200_000;

/// Now, on the clocks that the timer counts by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerClock {
    /// The host's monotonic clock.
    pub(crate) now: Ns,
    /// The guest's time stamp counter at `now`.
    pub(crate) tsc: u64,
    /// Nanoseconds for each tick of the guest's counter, a 32.32 factor:
    /// [`ratio`](crate::arch::time::ratio)`(1_000_000, tsc_khz)`.
    pub(crate) ns_per_tick: u64,
}

/// The timer modes of the LVT timer register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TimerMode {
    /// Counts down once.
    #[default]
    OneShot,
    /// Reloads at zero.
    Periodic,
    /// Fires when the time stamp counter reaches a value.
    TscDeadline,
    /// The reserved encoding: never fires.
    Reserved,
}

impl TimerMode {
    /// Returns the mode that an LVT timer register selects.
    pub(super) fn from_lvt(lvt: u32) -> TimerMode {
        match (lvt >> 17) & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }
}

/// The timer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LapicTimer {
    /// A period of the input clock in nanoseconds, which stays as it was made.
    pub(super) bus_ns: BusPeriod,
    pub(super) mode: TimerMode,
    /// Initial count register.
    pub(super) initial: u32,
    /// Divide configuration register.
    pub(super) divide: u32,
    /// IA32_TSC_DEADLINE; 0 when disarmed.
    pub(super) tsc_deadline: u64,
    /// When it fires next; `None` when it does not run.
    pub(super) deadline: Option<Ns>,
}

/// Nanoseconds of a period of the input clock: no count takes more than fits 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BusPeriod(u64);

impl BusPeriod {
    /// 1 GHz.
    pub(crate) const DEFAULT: BusPeriod = BusPeriod(1);

    /// Returns the period, unless it is 0 or too long.
    pub(crate) fn new(ns: u64) -> Option<BusPeriod> {
        let longest = u64::from(u32::MAX).checked_mul(128)?;
        (ns != 0 && longest.checked_mul(ns).is_some()).then_some(BusPeriod(ns))
    }

    /// Returns its nanoseconds.
    pub(crate) fn ns(self) -> u64 {
        self.0
    }
}

impl LapicTimer {
    /// A timer that does not run.
    pub(super) const fn new(bus_ns: BusPeriod) -> LapicTimer {
        LapicTimer {
            bus_ns,
            mode: TimerMode::OneShot,
            initial: 0,
            divide: 0,
            tsc_deadline: 0,
            deadline: None,
        }
    }

    /// log2 of the divisor.
    fn shift(&self) -> u32 {
        // SDM, "Divide Configuration Register": bit 2 is reserved, 000 divides by 2, 110 by 128 and 111 by 1.
        let code = (self.divide & 3) | ((self.divide & 8) >> 1);
        code.wrapping_add(1) & 7
    }

    /// Nanoseconds of `count` counts.
    fn span(&self, count: u32) -> u64 {
        u64::from(count).wrapping_shl(self.shift()).wrapping_mul(self.bus_ns.0)
    }

    /// Nanoseconds from one periodic interrupt to the next; never 0.
    fn period(&self) -> u64 {
        self.span(self.initial).max(MIN_PERIOD_NS)
    }

    /// Follows a write of the LVT timer register. Into or out of TSC deadline mode disarms.
    pub(super) fn set_mode(&mut self, mode: TimerMode) {
        if (self.mode == TimerMode::TscDeadline) != (mode == TimerMode::TscDeadline)
            || mode == TimerMode::Reserved
        {
            *self = LapicTimer { divide: self.divide, ..LapicTimer::new(self.bus_ns) };
        }
        self.mode = mode;
    }

    /// Writes the initial count and starts from there; ignored in TSC deadline mode.
    pub(super) fn set_initial(&mut self, count: u32, now: Ns) {
        if self.mode == TimerMode::TscDeadline {
            return;
        }
        self.initial = count;
        self.start_at(count, now);
    }

    /// Lets the counter run on from `count` as if it had come down to there; 0 stops it.
    pub(super) fn start_at(&mut self, count: u32, now: Ns) {
        let span = match self.mode {
            _ if count == 0 => None,
            TimerMode::OneShot => Some(self.span(count)),
            TimerMode::Periodic if count == self.initial => Some(self.period()),
            TimerMode::Periodic => Some(self.span(count)),
            TimerMode::TscDeadline | TimerMode::Reserved => None,
        };
        self.deadline = span.map(|ns| now.after(ns));
    }

    /// Writes the divide configuration; a running counter keeps its count.
    pub(super) fn set_divide(&mut self, value: u32, now: Ns) {
        let count = self.current(now);
        self.divide = value & 0xb;
        if matches!(self.mode, TimerMode::OneShot | TimerMode::Periodic) {
            self.start_at(count, now);
        }
    }

    /// Looks whether mode and deadline go together; `lvt` is the timer's entry of the local vector table.
    ///
    /// # Errors
    /// The name of what does not hold.
    pub(super) fn check(&self, lvt: u32) -> Result<(), &'static str> {
        rule(self.mode == TimerMode::from_lvt(lvt), "the timer's mode is in its entry")?;
        let runs = self.deadline.is_some();
        match self.mode {
            TimerMode::Reserved => rule(!runs, "the reserved mode never fires"),
            TimerMode::TscDeadline => {
                rule(runs == (self.tsc_deadline != 0), "a deadline of the TSC is armed")
            }
            TimerMode::OneShot | TimerMode::Periodic => {
                rule(self.tsc_deadline == 0, "a deadline of the TSC is of its mode")
            }
        }
    }

    /// Returns the current count register.
    pub(super) fn current(&self, now: Ns) -> u32 {
        let Some(deadline) = self.deadline else { return 0 };
        let left = match self.mode {
            TimerMode::OneShot => deadline.since(now),
            TimerMode::Periodic if deadline > now => deadline.since(now),
            TimerMode::Periodic => {
                let period = self.period();
                period.wrapping_sub(now.since(deadline).checked_rem(period).unwrap_or(0))
            }
            TimerMode::TscDeadline | TimerMode::Reserved => return 0,
        };
        // Rounded up, so that a running counter never reads 0; cut to the initial count, which the shortest period may
        // exceed.
        let one = self.span(1);
        let count = left.saturating_add(one.wrapping_sub(1)).checked_div(one).unwrap_or(0);
        u32::try_from(count).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Writes IA32_TSC_DEADLINE; ignored outside TSC deadline mode, 0 disarms.
    pub(super) fn set_tsc_deadline(&mut self, tsc: u64, clock: &TimerClock) {
        if self.mode != TimerMode::TscDeadline {
            return;
        }
        self.tsc_deadline = tsc;
        self.follow_tsc(clock);
    }

    /// Works out anew when the TSC deadline comes, as after a change of the guest's counter.
    pub(super) fn follow_tsc(&mut self, clock: &TimerClock) {
        if self.mode != TimerMode::TscDeadline {
            return;
        }
        self.deadline = match self.tsc_deadline {
            0 => None,
            tsc => Some(match tsc.checked_sub(clock.tsc) {
                None | Some(0) => clock.now,
                // One more for what the factor rounds off: firing early would show the guest a
                // counter below its deadline.
                Some(ticks) => clock.now.after(scale(ticks, clock.ns_per_tick)).after(1),
            }),
        };
    }

    /// Returns the guest's TSC at which the timer fires, where it goes by that.
    pub(super) fn armed_tsc(&self) -> Option<u64> {
        (self.mode == TimerMode::TscDeadline && self.deadline.is_some()).then_some(self.tsc_deadline)
    }

    /// Returns IA32_TSC_DEADLINE; 0 once it has passed.
    pub(super) fn tsc_deadline(&self, now: Ns) -> u64 {
        match self.deadline {
            Some(deadline) if deadline > now => self.tsc_deadline,
            _ => 0,
        }
    }

    /// Takes an expiry that has come by `now`: re-arms or stops. Returns whether there was one.
    pub(super) fn expire(&mut self, now: Ns) -> bool {
        let Some(deadline) = self.deadline else { return false };
        if deadline > now {
            return false;
        }
        self.deadline = None;
        self.tsc_deadline = 0;
        if self.mode == TimerMode::Periodic {
            let period = self.period();
            let late = now.since(deadline);
            // The division is for a late caller only.
            let missed = if late < period { 0 } else { late.checked_div(period).unwrap_or(0) };
            self.deadline = Some(deadline.after(period.saturating_mul(missed.saturating_add(1))));
        }
        true
    }
}
