//! Times in UTC, as microseconds since 1970: those of lines, and the ends of the period.

use std::time::Duration;

use crate::observe::timestamp::{Rfc3339, civil_from_days, parse_rfc3339};

pub(super) const MICROS_PER_SEC: u64 = 1_000_000;
pub(super) const SECS_PER_DAY: u64 = 86_400;
const SECOND: &str = "2026-11-25T08:16:31";
const DAY: &str = "2026-11-25";

/// The period that a report is about: all of the log if it has no ends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Period {
    /// The first moment.
    pub(super) from: Option<u64>,
    /// The moment after the last.
    pub(super) to: Option<u64>,
}

impl Period {
    pub(super) fn contains(&self, micros: u64) -> bool {
        self.touches(micros, micros)
    }

    /// Returns whether any moment from `first` to `last`, inclusive, is of the period.
    pub(super) fn touches(&self, first: u64, last: u64) -> bool {
        self.from.is_none_or(|from| last >= from) && self.to.is_none_or(|to| first < to)
    }
}

/// Reads times of lines. Most lines are of the same day as the one before.
#[derive(Default)]
pub(super) struct Clock {
    day: String,
    /// Begin of the day.
    micros: u64,
}

impl Clock {
    /// Returns a line's time; `None` if it is not in the log's form.
    pub(super) fn read(&mut self, text: &str) -> Option<u64> {
        let (day, rest) = text.split_at_checked(DAY.len())?;
        let [b'T', hour @ .., b'Z'] = rest.as_bytes() else { return None };
        let [h1, h2, b':', m1, m2, b':', s1, s2, b'.', fraction @ ..] = hour else { return None };
        if day != self.day {
            self.micros = parse_rfc3339(&format!("{day}T00:00:00.0Z"))? * MICROS_PER_SEC;
            day.clone_into(&mut self.day);
        }
        let [hours, minutes, secs] =
            [[*h1, *h2], [*m1, *m2], [*s1, *s2]].map(|digits| number(&digits));
        let secs = (hours? * 60 + minutes?) * 60 + secs?;
        if secs >= SECS_PER_DAY || fraction.len() != 6 {
            return None;
        }
        Some(self.micros + secs * MICROS_PER_SEC + number(fraction)?)
    }
}

/// Returns the number that consists of these few digits.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}

/// Parses `--from`: a day, or a time as in RFC 3339.
pub(super) fn begin(text: &str) -> Result<u64, String> {
    moment(text, 0)
}

/// Parses `--to`. A day is part of the period, a time is not.
pub(super) fn end(text: &str) -> Result<u64, String> {
    moment(text, SECS_PER_DAY * MICROS_PER_SEC)
}

fn moment(text: &str, past_day: u64) -> Result<u64, String> {
    let wrong = "neither a day (2026-11-25) nor a time as in RFC 3339 (2026-11-25T08:16:31Z)";
    let parsed = match text.len() == DAY.len() {
        true => second(&format!("{text}T00:00:00")).map(|micros| micros + past_day),
        false => time(text),
    };
    parsed.ok_or_else(|| wrong.to_owned())
}

/// Returns a second without offset.
fn second(text: &str) -> Option<u64> {
    let is_like = |(byte, form): (u8, u8)| match form {
        b'0'..=b'9' => byte.is_ascii_digit(),
        _ => byte.eq_ignore_ascii_case(&form),
    };
    if text.len() != SECOND.len() || !text.bytes().zip(SECOND.bytes()).all(is_like) {
        return None;
    }
    let secs = parse_rfc3339(&format!("{}.0Z", text.to_ascii_uppercase()))?;
    // No 31 November.
    shown(secs * MICROS_PER_SEC)
        .starts_with(text.get(..DAY.len())?)
        .then_some(secs * MICROS_PER_SEC)
}

/// Parses a time of RFC 3339, 5.6, with an offset.
fn time(text: &str) -> Option<u64> {
    let (whole, mut rest) = text.split_at_checked(SECOND.len())?;
    let mut micros = second(whole)?;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let (fraction, offset) = fraction.split_at_checked(digits).filter(|_| digits > 0)?;
        let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
        micros += six.parse::<u64>().ok()?;
        rest = offset;
    }
    if matches!(rest, "Z" | "z") {
        return Some(micros);
    }
    let is_west = rest.starts_with('-');
    let (hours, minutes) = rest.strip_prefix(['+', '-'])?.split_once(':')?;
    let two = |text: &str, limit: u64| {
        let is_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| is_two && *number < limit)
    };
    let offset = (two(hours, 24)? * 3600 + two(minutes, 60)? * 60) * MICROS_PER_SEC;
    if is_west { micros.checked_add(offset) } else { micros.checked_sub(offset) }
}

/// Returns a time as the log has it.
pub(super) fn exact(micros: u64) -> String {
    let mut time = Rfc3339::default();
    String::from_utf8_lossy(time.at(Duration::from_micros(micros))).into_owned()
}

/// Returns a time in whole seconds, for people: `2026-11-25 08:16:31`.
pub(super) fn shown(micros: u64) -> String {
    let text = exact(micros).replacen('T', " ", 1);
    text.split('.').next().unwrap_or_default().to_owned()
}

/// Returns the day of the week, 0 for Monday, and the hour.
pub(super) fn hour_of_week(micros: u64) -> (usize, usize) {
    let secs = micros / MICROS_PER_SEC;
    // 1970-01-01 was a Thursday.
    let number = |number: u64| usize::try_from(number).unwrap_or(0);
    (number((secs / SECS_PER_DAY + 3) % 7), number(secs % SECS_PER_DAY / 3600))
}

/// Returns a short form of a moment for an axis: the day, or the time on this day.
pub(super) fn axis_label(micros: u64, has_hours: bool) -> String {
    let secs = micros / MICROS_PER_SEC;
    let days = i64::try_from(secs / SECS_PER_DAY).unwrap_or(0);
    let (year, month, day) = civil_from_days(days);
    let (hour, minute) = (secs % SECS_PER_DAY / 3600, secs % 3600 / 60);
    match has_hours {
        true => format!("{month:02}-{day:02} {hour:02}:{minute:02}"),
        false => format!("{year:04}-{month:02}-{day:02}"),
    }
}

/// Returns a duration for people: `3 d 4 h`, `2 h 5 min`, `12 min 3 s`, `9 s`.
pub(super) fn length(micros: u64) -> String {
    let secs = micros / MICROS_PER_SEC;
    let parts = [
        ("d", secs / SECS_PER_DAY),
        ("h", secs / 3600 % 24),
        ("min", secs / 60 % 60),
        ("s", secs % 60),
    ];
    let from = parts.iter().position(|(_, number)| *number > 0).unwrap_or(3);
    let shown = parts.iter().skip(from).take(2).filter(|(_, number)| *number > 0);
    let shown: Vec<_> = shown.map(|(unit, number)| format!("{number} {unit}")).collect();
    if shown.is_empty() { "0 s".to_owned() } else { shown.join(" ") }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Days and times, with offsets and fractions; nothing else is taken.
    #[test]
    fn ends_of_a_period() {
        const NOON: &str = "2026-02-28 12:00:00";
        for text in [
            "2026-02-28T12:00:00Z",
            "2026-02-28t12:00:00z",
            "2026-02-28T13:30:00+01:30",
            "2026-02-27T23:00:00.0-13:00",
        ] {
            assert_eq!(shown(begin(text).unwrap()), NOON, "{text}");
            assert_eq!(begin(text), end(text));
        }
        assert_eq!(
            exact(begin("2026-02-28T12:00:00.1234567Z").unwrap()),
            "2026-02-28T12:00:00.123456Z"
        );
        assert_eq!(shown(begin("2026-02-28").unwrap()), "2026-02-28 00:00:00");
        assert_eq!(shown(end("2026-02-28").unwrap()), "2026-03-01 00:00:00");
        for wrong in [
            "",
            "2026",
            "2026-02-29",
            "2026-2-281",
            "2026-11-31",
            "2026-02-28T12:00:00",
            "2026-02-28 12:00:00Z",
            "2026-02-28T24:00:00Z",
            "2026-02-28T12:00:00.Z",
            "2026-02-28T12:00:00+1:00",
            "2026-02-28T12:00:00+24:00",
            "1969-12-31",
            "heute",
            "2026-02-28T12:00:00Zé",
            "é26-02-28T12:00:00Z",
            "2026-+2-28",
            "2026-02-28T+2:00:00Z",
        ] {
            assert!(begin(wrong).is_err(), "{wrong}");
        }
    }

    /// The first moment is part of the period, the end is not.
    #[test]
    fn edges() {
        let period = Period { from: Some(10), to: Some(20) };
        let inside: Vec<u64> = (8..22).filter(|micros| period.contains(*micros)).collect();
        assert_eq!(inside, (10..20).collect::<Vec<_>>());
        assert!(Period::default().contains(0) && Period::default().contains(u64::MAX));
        for (first, last, touches) in
            [(0, 9, false), (0, 10, true), (0, 99, true), (19, 19, true), (20, 30, false)]
        {
            assert_eq!(period.touches(first, last), touches, "{first} to {last}");
        }
    }

    /// Times of lines in the same second, another one, and in no form.
    #[test]
    fn lines() {
        let mut clock = Clock::default();
        for text in [
            "2026-11-25T08:16:31.000001Z",
            "2026-11-25T08:16:31.999999Z",
            "2026-11-25T08:16:32.000000Z",
        ] {
            assert_eq!(exact(clock.read(text).unwrap()), text);
        }
        for wrong in [
            "",
            "2026-11-25T08:16:32Z",
            "2026-11-25T08:16:32.+00001Z",
            "2026-11-25T99:16:32.000000Z",
            "2026-11-25T08:16:32.99999999999999999999999Z",
        ] {
            assert_eq!(clock.read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn for_people() {
        assert_eq!(hour_of_week(begin("2026-11-29T23:10:00Z").unwrap()), (6, 23));
        assert_eq!(hour_of_week(begin("2026-11-30T00:00:00Z").unwrap()), (0, 0));
        for (secs, text) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_000, "1 d 1 h")]
        {
            assert_eq!(length(secs * MICROS_PER_SEC), text);
        }
        let micros = begin("2026-11-25T08:16:31Z").unwrap();
        assert_eq!(axis_label(micros, true), "11-25 08:16");
        assert_eq!(axis_label(micros, false), "2026-11-25");
    }
}
