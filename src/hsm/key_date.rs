//! The dates between which a key is meant to be used: CKA_START_DATE and CKA_END_DATE.

use std::fmt;

use crate::observe::timestamp::{civil_from_days, days_from_civil};

const SECS_PER_DAY: u64 = 86_400;

/// A key's CKA_START_DATE or CKA_END_DATE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyDate {
    /// The token does not report it, or reports something that is not a date.
    #[default]
    Unreported,
    /// The key has no such date.
    None,
    /// A date.
    On(Date),
}

/// A day since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    days_since_1970: u32,
}

impl Date {
    /// Returns the day that contains a time in seconds since 1970.
    #[must_use]
    pub fn of_unix_secs(unix_secs: u64) -> Self {
        let days_since_1970 = u32::try_from(unix_secs / SECS_PER_DAY).unwrap_or(u32::MAX);
        Self { days_since_1970 }
    }

    /// Returns the time at which the day begins (UTC), in seconds since 1970.
    #[must_use]
    pub fn unix_secs(self) -> u64 {
        u64::from(self.days_since_1970) * SECS_PER_DAY
    }

    /// Returns the number of days from this day to `later`, negative if that is earlier.
    #[must_use]
    pub fn days_until(self, later: Self) -> i64 {
        i64::from(later.days_since_1970) - i64::from(self.days_since_1970)
    }

    /// Returns the value of a date attribute, such as `20261130`.
    #[must_use]
    pub fn digits(self) -> String {
        self.to_string().replace('-', "")
    }

    /// Reads `2026-11-30`.
    #[must_use]
    pub fn parse_text(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let is_dash = |at: usize| bytes.get(at) == Some(&b'-');
        let digits: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != b'-').collect();
        if bytes.len() == 10 && is_dash(4) && is_dash(7) { Self::parse(&digits) } else { None }
    }

    /// Reads `20261130`.
    fn parse(text: &[u8]) -> Option<Self> {
        let digits = std::str::from_utf8(text).ok()?;
        if digits.len() != 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = digits.split_at_checked(4)?;
        let (month, day) = rest.split_at_checked(2)?;
        let (year, month, day) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
        let days = days_from_civil(year, month, day);
        // A day that does not exist, such as 31 April, stands for none.
        if civil_from_days(days) != (year, month, day) {
            return None;
        }
        u32::try_from(days).ok().map(|days_since_1970| Self { days_since_1970 })
    }
}

impl fmt::Display for Date {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(i64::from(self.days_since_1970));
        write!(formatter, "{year:04}-{month:02}-{day:02}")
    }
}

impl KeyDate {
    /// Returns the meaning of an attribute's value, a `CK_DATE`: nothing, or year, month and day in
    /// digits.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        if value.is_empty() {
            return Self::None;
        }
        // Some modules have zeros or blanks in a date that was never set.
        if value.iter().all(|byte| matches!(byte, 0 | b' ' | b'0')) {
            return Self::None;
        }
        Date::parse(value).map_or(Self::Unreported, Self::On)
    }

    /// Returns the date, if there is one.
    #[must_use]
    pub fn date(self) -> Option<Date> {
        match self {
            Self::On(date) => Some(date),
            Self::Unreported | Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A date is eight digits; nothing, zeros and blanks are no date, and anything else is unknown.
    #[test]
    fn values() {
        let on = |text: &[u8]| KeyDate::of(text).date().map(|date| date.to_string());
        assert_eq!(on(b"20261130").as_deref(), Some("2026-11-30"));
        assert_eq!(on(b"20280229").as_deref(), Some("2028-02-29"));
        assert_eq!(on(b"19700101").as_deref(), Some("1970-01-01"));
        for none in [&b""[..], b"00000000", b"        ", &[0; 8]] {
            assert_eq!(KeyDate::of(none), KeyDate::None);
        }
        for unknown in [&b"20260230"[..], b"20261301", b"2026113", b"+2026113", b"19691231", b"x"] {
            assert_eq!(KeyDate::of(unknown), KeyDate::Unreported, "{unknown:?}");
        }
    }

    /// Days are counted across months and years.
    #[test]
    fn distances() {
        let day = |text: &[u8]| KeyDate::of(text).date().unwrap_or(Date { days_since_1970: 0 });
        assert_eq!(day(b"20261201").days_until(day(b"20270101")), 31);
        assert_eq!(day(b"20270101").days_until(day(b"20261201")), -31);
        let day = day(b"20261130");
        assert_eq!(Date::of_unix_secs(day.unix_secs()), day);
        assert_eq!(
            (Date::parse_text("2026-11-30"), day.digits().as_str()),
            (Some(day), "20261130")
        );
        for wrong in ["20261130", "2026-11-3", "2026-1130-", "2026/11/30", "2026-11-31"] {
            assert_eq!(Date::parse_text(wrong), None, "{wrong}");
        }
        assert_eq!(Date::of_unix_secs(day.unix_secs() + 86_399), day);
    }
}
