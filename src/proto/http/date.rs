//! The Date header field (RFC 9110, 5.6.7), formatted once a second.

use std::io::Write as _;

use crate::observe::timestamp::civil_from_days;

/// The date as text, such as "Sun, 06 Nov 1994 08:49:37 GMT", cached for one second.
#[derive(Debug, Default)]
pub struct HttpDate {
    unix_secs: u64,
    text: Vec<u8>,
}

impl HttpDate {
    /// The date at `unix_secs` seconds after 1970.
    pub fn at(&mut self, unix_secs: u64) -> &[u8] {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        if self.text.is_empty() || self.unix_secs != unix_secs {
            self.unix_secs = unix_secs;
            self.text.clear();
            let days = unix_secs / 86_400;
            let second = unix_secs % 86_400;
            let (year, month, day) = civil_from_days(i64::try_from(days).unwrap_or(0));
            let weekday = DAYS[usize::try_from(days % 7).unwrap_or(0)];
            let month = MONTHS[(month as usize - 1) % 12];
            let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
            // Writing into a Vec cannot fail.
            let _ = write!(
                self.text,
                "{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT"
            );
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 9110, 5.6.7; the text changes when the second does.
    #[test]
    fn the_example_of_rfc_9110() {
        let mut date = HttpDate::default();
        assert_eq!(date.at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date.at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
    }
}
