// SPDX-License-Identifier: GPL-2.0

//! Dates, times of day and alarms, in the proleptic Gregorian calendar.

use core::num::Wrapping as W;

const SECS_PER_DAY: i64 = 86_400;
/// Days in 400 years, and from 1 March of year 0 to 1 January 1970.
const DAYS_PER_ERA: i64 = 146_097;
const DAYS_TO_1970: i64 = 719_468;
const ERA: W<u64> = W(DAYS_PER_ERA.unsigned_abs());

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DateTime {
    pub(super) year: u16,
    /// 1 to 12.
    pub(super) month: u8,
    /// 1 to 31.
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
    /// 1 is Sunday.
    pub(super) weekday: u8,
}

/// Returns `value` as a byte; the caller has bounded it.
fn byte(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(0)
}

/// As [`byte()`].
fn low(value: W<u64>) -> u8 {
    u8::try_from(value.0).unwrap_or(0)
}

impl DateTime {
    /// Converts seconds since 1970, in years that start in March, so that the leap day comes last.
    pub(super) fn from_unix(secs: i64) -> DateTime {
        let days = secs.div_euclid(SECS_PER_DAY);
        let tod = secs.rem_euclid(SECS_PER_DAY);
        let (year, month, day) = civil_from_days(days);
        DateTime {
            year,
            month,
            day,
            hour: byte(tod / 3_600),
            minute: byte(tod / 60 % 60),
            second: byte(tod % 60),
            // 1970 began on a Thursday.
            weekday: byte(days.saturating_add(4).rem_euclid(7).saturating_add(1)),
        }
    }

    /// Converts to seconds since 1970. A day or hour out of range counts on into the next; a month is clamped.
    pub(super) fn to_unix(self) -> i64 {
        let month = u64::from(self.month.clamp(1, 12));
        let year = W(u64::from(self.year)) - W(u64::from(month <= 2)) + W(400);
        let era = year / W(400);
        let yoe = year % W(400);
        let mp = (W(month) + W(9)) % W(12);
        let doy = (W(153) * mp + W(2)) / W(5) + W(u64::from(self.day)) - W(1);
        let doe = yoe * W(365) + yoe / W(4) - yoe / W(100) + doy;
        // The era added above is taken back with the days from 1 March of year 0 to 1970.
        let days = era * ERA + doe - ERA - W(DAYS_TO_1970.unsigned_abs());
        let tod = W(u64::from(self.hour)) * W(3_600)
            + W(u64::from(self.minute)) * W(60)
            + W(u64::from(self.second));
        i64::from_ne_bytes((days * W(86_400) + tod).0.to_ne_bytes())
    }
}

/// Returns year, month and day of the day `days` after 1 January 1970.
fn civil_from_days(days: i64) -> (u16, u8, u8) {
    // An era more, so that the days before 1 March of year 0 have a place too; its years are taken off below.
    let z = W(u64::try_from(days.saturating_add(DAYS_TO_1970 + DAYS_PER_ERA)).unwrap_or(0));
    let era = z / ERA;
    let doe = z % ERA;
    let yoe = (doe - doe / W(1_460) + doe / W(36_524) - doe / W(146_096)) / W(365);
    let doy = doe - (W(365) * yoe + yoe / W(4) - yoe / W(100));
    let mp = (W(5) * doy + W(2)) / W(153);
    let month = if mp < W(10) { mp + W(3) } else { mp - W(9) };
    let year = era * W(400) + yoe + W(u64::from(month <= W(2)));
    let day = doy - (W(153) * mp + W(2)) / W(5) + W(1);
    (u16::try_from(year.0.saturating_sub(400)).unwrap_or(u16::MAX), low(month), low(day))
}

/// An alarm: each field a value, or `None` for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AlarmTime {
    pub(super) hour: Option<u8>,
    pub(super) minute: Option<u8>,
    pub(super) second: Option<u8>,
}

/// Returns the first value that `field` allows from `from` up to below `end`.
fn first_from(field: Option<u8>, from: u8, end: u8) -> Option<u8> {
    let value = field.unwrap_or(from);
    (value >= from && value < end).then_some(value)
}

impl AlarmTime {
    /// Returns the first second of the day at or after `tod` at which it rings.
    fn in_day(self, tod: i64) -> Option<i64> {
        let (h, m, s) = (byte(tod / 3_600), byte(tod / 60 % 60), byte(tod % 60));
        let at = |h: u8, m: u8, s: u8| i64::from(h) * 3_600 + i64::from(m) * 60 + i64::from(s);
        let first_second = first_from(self.second, 0, 60)?;
        let first_minute = first_from(self.minute, 0, 60)?;
        if first_from(self.hour, h, 24) == Some(h) {
            if first_from(self.minute, m, 60) == Some(m) {
                if let Some(second) = first_from(self.second, s, 60) {
                    return Some(at(h, m, second));
                }
            }
            if let Some(minute) = first_from(self.minute, m.saturating_add(1), 60) {
                return Some(at(h, minute, first_second));
            }
        }
        let hour = first_from(self.hour, h.saturating_add(1), 24)?;
        Some(at(hour, first_minute, first_second))
    }

    /// Returns the first second since 1970 after `now` at which it rings, or `None` for never.
    pub(super) fn next_after(self, now: i64) -> Option<i64> {
        let from = now.saturating_add(1);
        let tod = from.rem_euclid(SECS_PER_DAY);
        let day = from.saturating_sub(tod);
        match self.in_day(tod) {
            Some(at) => Some(day.saturating_add(at)),
            None => Some(day.saturating_add(SECS_PER_DAY).saturating_add(self.in_day(0)?)),
        }
    }
}
