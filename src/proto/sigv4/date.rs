//! The time in `x-amz-date`: YYYYMMDD'T'HHMMSS'Z'.

use crate::observe::timestamp::days_from_civil;

/// Parses a time into seconds since 1970, or returns `None` if there is no such date and time in
/// the Gregorian calendar. A leap second, 60, is refused.
#[must_use]
pub fn parse(text: &[u8]) -> Option<i64> {
    let text: &[u8; 16] = text.try_into().ok()?;
    if text[8] != b'T' || text[15] != b'Z' {
        return None;
    }
    let year = number(&text[..4])?;
    let month = number(&text[4..6])?;
    let day = number(&text[6..8])?;
    let hour = number(&text[9..11])?;
    let minute = number(&text[11..13])?;
    let second = number(&text[13..15])?;
    if year == 0 || !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_from_civil(i64::from(year), month, day);
    Some(days * 86_400 + i64::from(hour * 3600 + minute * 60 + second))
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u32::from(digit - b'0'))
    })
}

fn days_in(year: u32, month: u32) -> u32 {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference proxy crashes on a date that does not exist; this one refuses it.
    #[test]
    fn only_dates_that_exist() {
        for (text, expected) in [
            ("19700101T000000Z", Some(0)),
            ("20150830T123600Z", Some(1_440_938_160)),
            ("20240229T235959Z", Some(1_709_251_199)),
            ("20230229T000000Z", None),
            ("19000229T000000Z", None),
            ("20240230T000000Z", None),
            ("20240431T000000Z", None),
            ("20241301T000000Z", None),
            ("20240001T000000Z", None),
            ("20240100T000000Z", None),
            ("00000101T000000Z", None),
            ("20240101T240000Z", None),
            ("20240101T006000Z", None),
            ("20240101T000060Z", None),
            ("20240101T000061Z", None),
            ("20240101 000000Z", None),
            ("20240101T000000z", None),
            ("20240101T000000", None),
            ("2024010\u{663}T0000Z", None),
            ("+0240101T000000Z", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }
}
