//! Times in UTC: the proleptic Gregorian calendar, and RFC 3339 timestamps.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns year, month (1 to 12) and day (1 to 31) of the day that is `days` after 1970-01-01.
#[must_use]
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    // Years begin in March here, so that a leap day is the last day of its year; an era is 400
    // years.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let narrow = |number: i64| u32::try_from(number).unwrap_or(0);
    (year, narrow(month), narrow(day))
}

/// The inverse of [`civil_from_days`].
#[must_use]
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Returns the time since 1970, or zero if the clock is set to before that.
pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Parses a time as [`Rfc3339`] writes it, and returns its whole seconds since 1970.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let (time, _micros) = time.split_once('.')?;
    let numbers = |text: &str, separator| {
        let mut parts = text.split(separator).map(|part| part.parse::<u32>().ok());
        let three = (parts.next()??, parts.next()??, parts.next()??);
        parts.next().is_none().then_some(three)
    };
    let (year, month, day) = numbers(date, '-')?;
    let (hour, minute, second) = numbers(time, ':')?;
    let is_date = (1970..=9999).contains(&year) && (1..=12).contains(&month) && day <= 31;
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = u64::try_from(days_from_civil(i64::from(year), month, day)).ok()?;
    Some(days * 86_400 + u64::from(hour * 3600 + minute * 60 + second))
}

/// Returns a time in whole seconds since 1970.
#[must_use]
pub fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Formats times as RFC 3339 with microseconds. All but the microseconds is reused for times in the
/// same second.
#[derive(Debug, Default)]
pub struct Rfc3339 {
    unix_secs: Option<u64>,
    text: Vec<u8>,
}

impl Rfc3339 {
    /// Returns the time that is `since_1970` after the epoch as `2026-11-25T08:16:31.123456Z`, or
    /// the last second of the year 9999 for anything later.
    pub fn at(&mut self, since_1970: Duration) -> &[u8] {
        const LAST_SECOND: u64 = 253_402_300_799;
        const BEFORE_MICROS: usize = "2026-11-25T08:16:31.".len();
        let unix_secs = since_1970.as_secs().min(LAST_SECOND);
        if self.unix_secs != Some(unix_secs) {
            self.unix_secs = Some(unix_secs);
            self.text.clear();
            let days = i64::try_from(unix_secs / 86_400).unwrap_or(0);
            let (year, month, day) = civil_from_days(days);
            let second = unix_secs % 86_400;
            let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
            // Writing into a Vec cannot fail.
            let _ = write!(
                self.text,
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000000Z"
            );
        }
        let mut micros = since_1970.subsec_micros();
        for digit in self.text.iter_mut().skip(BEFORE_MICROS).take(6).rev() {
            *digit = b"0123456789"[(micros % 10) as usize];
            micros /= 10;
        }
        &self.text
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Leap days, ends of years, and each digit: a log with wrong times is not evidence.
    #[test]
    fn known_times() {
        let mut time = Rfc3339::default();
        for (since_1970, text) in [
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
            (Duration::new(784_111_777, 999_999_999), "1994-11-06T08:49:37.999999Z"),
            (Duration::new(784_111_777, 12_000), "1994-11-06T08:49:37.000012Z"),
            (Duration::from_secs(951_782_400), "2000-02-29T00:00:00.000000Z"),
            (Duration::from_secs(4_107_542_399), "2100-02-28T23:59:59.000000Z"),
            (Duration::from_secs(4_107_542_400), "2100-03-01T00:00:00.000000Z"),
            (Duration::from_secs(u64::MAX), "9999-12-31T23:59:59.000000Z"),
        ] {
            assert_eq!(String::from_utf8_lossy(time.at(since_1970)), text);
        }
    }

    /// Times are read as they are written, and nothing else is.
    #[test]
    fn there_and_back() {
        let mut time = Rfc3339::default();
        for secs in [0, 784_111_777, 951_782_400, 4_107_542_399, 253_402_300_799] {
            let text = String::from_utf8(time.at(Duration::new(secs, 5_000)).to_vec()).unwrap();
            assert_eq!(parse_rfc3339(&text), Some(secs));
        }
        for wrong in [
            "",
            "2026-11-25T08:16:31.123456",
            "2026-11-25T08:16:31Z",
            "2026-11-25 08:16:31.1Z",
            "2026-13-25T08:16:31.1Z",
            "2026-11-25T24:16:31.1Z",
            "2026-11-25T08:16:31:1.1Z",
            "1969-11-25T08:16:31.1Z",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    /// The two conversions are each other's inverse over 800 years around now.
    #[test]
    fn days_and_dates() {
        for days in -146_097..146_097 {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }
}
