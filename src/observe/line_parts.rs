//! A line of the log, taken apart again for outputs that have fields of their own for its parts. See
//! [`super::line`] for the format.

use memchr::{memchr, memmem};

/// Length of a time as [`super::timestamp::Rfc3339`] writes it.
pub(super) const TIME_BYTES: usize = "2026-11-25T08:16:31.123456Z".len();

/// The parts of a line, without its line end.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineParts<'l> {
    /// The time, if the line begins with one.
    pub(super) time: Option<&'l str>,
    /// Severity of the level, as syslog(3) numbers them.
    pub(super) severity: u8,
    /// True if the line is about a call.
    pub(super) is_call: bool,
    /// The line as it is if it is JSON, otherwise without time and level.
    pub(super) text: &'l [u8],
    fields: Fields<'l>,
}

impl<'l> LineParts<'l> {
    /// Takes a line apart.
    pub(super) fn of(line: &'l [u8]) -> Self {
        const JSON_BEFORE_LEVEL: &[u8] = b"\",\"level\":\"";
        let is_json = line.starts_with(b"{");
        let begin = if is_json { b"{\"time\":\"".len() } else { 0 };
        let time = line.get(begin..begin + TIME_BYTES).and_then(time);
        let after_time = line.get(begin + TIME_BYTES..).unwrap_or_default();
        let (separator, end) = if is_json { (JSON_BEFORE_LEVEL, b'"') } else { (&b" "[..], b' ') };
        let after = after_time.strip_prefix(separator).unwrap_or_default();
        let mut level_and_rest = after.splitn(2, |byte| *byte == end);
        let level = level_and_rest.next().unwrap_or_default();
        let rest = level_and_rest.next().unwrap_or_default();
        let call = if is_json { &b",\"call\":"[..] } else { b"call=" };
        // An event's message could begin like a call, but an event ends with its target.
        let target = if is_json { &b",\"target\":\""[..] } else { b" target=" };
        let last = memmem::rfind(rest, target).and_then(|at| rest.get(at + target.len()..));
        let is_event = last.is_some_and(|last| !last.contains(if is_json { &b',' } else { &b' ' }));
        Self {
            time,
            severity: severity(level),
            is_call: rest.starts_with(call) && !is_event,
            text: if is_json || time.is_none() { line } else { rest },
            fields: Fields { rest, is_json },
        }
    }

    /// Returns names and values of a call's fields; values are still escaped.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'l [u8], &'l [u8])> {
        let is_call = self.is_call;
        self.fields.take_while(move |_| is_call)
    }
}

/// Returns the time if it is one of ours.
pub(super) fn time(bytes: &[u8]) -> Option<&str> {
    let is_time = bytes.ends_with(b"Z") && bytes.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(bytes).ok().filter(|_| is_time)
}

fn severity(level: &[u8]) -> u8 {
    match level {
        b"ERROR" => 3,
        b"WARN" => 4,
        b"DEBUG" | b"TRACE" => 7,
        _ => 6,
    }
}

/// The fields that are still to come: `key=value ...`, or `,"key":value...}`.
#[derive(Clone, Copy, Debug)]
struct Fields<'l> {
    rest: &'l [u8],
    is_json: bool,
}

impl<'l> Iterator for Fields<'l> {
    type Item = (&'l [u8], &'l [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (begin, end, after) = match self.is_json {
            true => (self.rest.strip_prefix(b",\"")?, b'"', &b"\":"[..]),
            false => (self.rest.strip_prefix(b" ").unwrap_or(self.rest), b'=', &b"="[..]),
        };
        let (name, rest) = begin.split_at_checked(memchr(end, begin)?)?;
        let rest = rest.strip_prefix(after)?;
        let (value, rest) = match rest.strip_prefix(b"\"") {
            Some(quoted) => {
                let (value, rest) = quoted.split_at_checked(end_of_string(quoted)?)?;
                (value, rest.strip_prefix(b"\"")?)
            }
            None => {
                let is_end =
                    |byte: &u8| if self.is_json { b",}".contains(byte) } else { *byte == b' ' };
                rest.split_at_checked(rest.iter().position(is_end).unwrap_or(rest.len()))?
            }
        };
        self.rest = rest;
        Some((name, value))
    }
}

/// Returns the index of the quote that ends a string.
fn end_of_string(text: &[u8]) -> Option<usize> {
    let mut is_escaped = false;
    text.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-25T08:16:31.123456Z";

    /// Quotes, backslashes and separators within values; the same fields in both formats.
    #[test]
    fn fields_of_a_call() {
        let text = format!("{TIME} WARN call=decrypt status=403 reason=\"a \\\"b=c\\\\\" peer=::1");
        let json = format!(
            "{{\"time\":\"{TIME}\",\"level\":\"WARN\",\"call\":\"decrypt\",\"status\":403,\
             \"reason\":\"a \\\"b=c\\\\\",\"peer\":\"::1\"}}"
        );
        for line in [text, json] {
            let parts = LineParts::of(line.as_bytes());
            assert_eq!((parts.time, parts.severity, parts.is_call), (Some(TIME), 4, true));
            let fields: Vec<_> = parts
                .fields()
                .map(|(name, value)| [name, value].map(|it| std::str::from_utf8(it).unwrap()))
                .collect();
            let expected = [
                ["call", "decrypt"],
                ["status", "403"],
                ["reason", "a \\\"b=c\\\\"],
                ["peer", "::1"],
            ];
            assert_eq!(fields, expected, "{line}");
        }
    }

    /// An event has no fields, even if its message looks like a call.
    #[test]
    fn an_event_that_looks_like_a_call() {
        for line in [
            format!("{TIME} INFO call=decrypt principal=forged target=xks_proxy::x"),
            format!("{TIME} INFO listening api=1 target=xks_proxy::x"),
            format!("{{\"time\":\"{TIME}\",\"level\":\"INFO\",\"message\":\"call=x\"}}"),
        ] {
            let parts = LineParts::of(line.as_bytes());
            assert!(!parts.is_call && parts.fields().next().is_none(), "{line}");
        }
    }

    /// A call stays one, whatever its values contain.
    #[test]
    fn a_call_that_looks_like_an_event() {
        let line = format!("{TIME} INFO call=x principal=\"a target=xks_proxy\" peer=::1");
        let parts = LineParts::of(line.as_bytes());
        assert_eq!((parts.is_call, parts.fields().count()), (true, 3));
    }

    /// Anything that is not a line of the log.
    #[test]
    fn other_lines() {
        for line in ["", "{", "{\"time\":\"", "x", "call=", TIME, "call=a b"] {
            let parts = LineParts::of(line.as_bytes());
            assert_eq!((parts.severity, parts.fields().count()), (6, 0), "{line}");
        }
    }
}
