// SPDX-License-Identifier: GPL-2.0

//! The timers of a synthetic interrupt controller.
//!
//! TLFS, "Synthetic Timers". They go by the reference time, in units of 100 ns, and send a message or, in direct mode,
//! raise a vector. A timer holds no clock: it is told the time when it is looked at, and says when it wants that
//! ([`SynTimer::deadline`]). A message whose slot holds another one waits until the guest has taken that; a periodic
//! timer's does not, so that ticks do not pile up.

use crate::arch::addr::Gpa;
use crate::chipset::lapic::timer::MIN_PERIOD_NS;
use crate::machine::pvclock::REFERENCE_UNIT_NS;

/// CONFIG: it runs.
const ENABLE: u64 = 1 << 0;
/// CONFIG: again and again; COUNT is the period, and not a time.
const PERIODIC: u64 = 1 << 1;
/// CONFIG: it runs from when COUNT is written.
const AUTO_ENABLE: u64 = 1 << 3;
/// CONFIG: it raises a vector.
const DIRECT: u64 = 1 << 12;

/// The shortest period, so that a guest cannot keep the host busy with its timer: that of the local APIC's.
const MIN_PERIOD: u64 = MIN_PERIOD_NS / REFERENCE_UNIT_NS;

/// The type of a timer's message.
const MESSAGE_TYPE: u32 = 0x8000_0010;
/// Bytes of what a timer's message carries.
const PAYLOAD_BYTES: u8 = 24;
/// Bytes of the message with its header.
pub(crate) const MESSAGE_BYTES: usize = 40;

/// What a timer does when its time comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimerAction {
    /// Raises a vector.
    Interrupt(u8),
    /// Sends a message to a source.
    Message {
        /// Which.
        sint: usize,
        /// The message need not wait for its slot.
        is_lazy: bool,
        /// The time for which it was set.
        expired: u64,
    },
}

/// One timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SynTimer {
    config: u64,
    count: u64,
    /// When it fires next; 0: that is not worked out yet.
    expires: u64,
    /// It has fired, and its message waits.
    is_waiting: bool,
    /// It is to be looked at, whatever the time.
    is_marked: bool,
}

/// Returns whether a configuration is one of direct mode.
pub(crate) fn is_direct(config: u64) -> bool {
    config & DIRECT != 0
}

impl SynTimer {
    /// Returns CONFIG.
    pub(crate) fn config(&self) -> u64 {
        self.config
    }

    /// Returns COUNT.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn is_enabled(&self) -> bool {
        self.config & ENABLE != 0
    }

    fn is_periodic(&self) -> bool {
        self.config & PERIODIC != 0
    }

    fn sint(config: u64) -> usize {
        (config >> 16 & 15) as usize
    }

    fn stop(&mut self) {
        (self.expires, self.is_waiting, self.is_marked) = (0, false, false);
    }

    /// Sets CONFIG.
    pub(crate) fn set_config(&mut self, value: u64) {
        // Source 0 is not for timers: one that ran stops with it.
        let stops = self.is_enabled() && !is_direct(value) && SynTimer::sint(value) == 0;
        self.stop();
        self.config = if stops { value & !ENABLE } else { value };
        self.is_marked = self.is_enabled();
    }

    /// Sets COUNT. The guest's write stops the timer or may start it; user space puts back what was.
    pub(crate) fn set_count(&mut self, value: u64, by_guest: bool) {
        self.stop();
        self.count = value;
        if by_guest && value == 0 {
            self.config &= !ENABLE;
        } else if by_guest && self.config & AUTO_ENABLE != 0 {
            self.config |= ENABLE;
        }
        self.is_marked = self.is_enabled();
    }

    /// Returns whether its message waits for the slot.
    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting && self.is_enabled() && !is_direct(self.config)
    }

    /// The slot may be empty now: a message that waits is tried again.
    pub(crate) fn retry(&mut self) {
        self.is_marked |= self.is_waiting();
    }

    /// Returns when it is to be looked at, by the reference time.
    pub(crate) fn deadline(&self) -> Option<u64> {
        let runs = self.is_enabled() && self.count != 0 && !self.is_waiting;
        (runs && self.expires != 0).then_some(self.expires)
    }

    fn action(&self) -> TimerAction {
        if is_direct(self.config) {
            return TimerAction::Interrupt((self.config >> 4) as u8);
        }
        TimerAction::Message {
            sint: SynTimer::sint(self.config),
            is_lazy: self.is_periodic(),
            expired: self.expires,
        }
    }

    /// Looks at the timer at the reference time `now`; `act` does what it does, and says whether that is done.
    ///
    /// # Errors
    /// Those of `act`, which is called again with the next look.
    pub(crate) fn serve(
        &mut self,
        now: u64,
        mut act: impl FnMut(TimerAction) -> Result<bool, Gpa>,
    ) -> Result<(), Gpa> {
        let is_due = self.deadline().is_some_and(|at| now >= at);
        if !self.is_marked && !is_due {
            return Ok(());
        }
        // Twice at most: one whose time has passed when it is started fires at once, and is off then or waits.
        for _ in 0..2 {
            self.is_marked = false;
            if self.expires != 0 && now >= self.expires {
                self.fire(&mut act)?;
            }
            if !self.is_enabled() || self.count == 0 {
                self.stop();
            } else if !self.is_waiting {
                self.start(now);
            }
            if self.deadline().is_none_or(|at| now < at) {
                break;
            }
        }
        Ok(())
    }

    fn fire(&mut self, act: &mut impl FnMut(TimerAction) -> Result<bool, Gpa>) -> Result<(), Gpa> {
        let is_done = act(self.action()).inspect_err(|_| self.is_marked = true)?;
        self.is_waiting = !is_done;
        if is_done && !self.is_periodic() {
            self.config &= !ENABLE;
        }
        Ok(())
    }

    /// Works out when it fires next.
    fn start(&mut self, now: u64) {
        let period = self.count.max(MIN_PERIOD);
        if !self.is_periodic() {
            self.expires = self.count;
        } else if self.expires == 0 {
            self.expires = now.saturating_add(period);
        } else if now >= self.expires {
            // Periods that were missed are.
            let over = now.wrapping_sub(self.expires).checked_rem(period).unwrap_or(0);
            self.expires = now.saturating_add(period.wrapping_sub(over));
        }
    }
}

/// Returns the message of timer `index`, which was set for `expired` and is sent at `now`.
pub(crate) fn message(index: u32, expired: u64, now: u64) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [0; MESSAGE_BYTES];
    // Header: type, bytes of the payload, flags, sender. Payload: the timer, both times.
    let words = [u64::from(MESSAGE_TYPE) | u64::from(PAYLOAD_BYTES) << 32, 0, index.into(), expired, now];
    for (to, from) in bytes.iter_mut().zip(words.into_iter().flat_map(u64::to_le_bytes)) {
        *to = from;
    }
    bytes
}
