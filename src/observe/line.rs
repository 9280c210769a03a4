//! The format of one line of the log.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use tracing::Level;

use super::escape::{push_escaped, push_quoted, push_word};
use super::timestamp::Rfc3339;
use crate::decimal::push_decimal;

/// `[tracing] format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// A line under construction, appended to a buffer.
///
/// Text: `2026-11-25T08:16:31.123456Z INFO a message key=value key="quoted value"`.
/// JSON: `{"time":"2026-11-25T08:16:31.123456Z","level":"INFO","message":"...","key":"value"}`.
pub(super) struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: LogFormat,
}

impl<'a> Line<'a> {
    /// Begins a line with time and level.
    pub(super) fn begin(
        out: &'a mut Vec<u8>,
        format: LogFormat,
        time: &mut Rfc3339,
        since_1970: Duration,
        level: Level,
    ) -> Self {
        let time = time.at(since_1970);
        match format {
            LogFormat::Text => {
                out.extend_from_slice(time);
                out.push(b' ');
                out.extend_from_slice(level.as_str().as_bytes());
            }
            LogFormat::Json => {
                out.extend_from_slice(b"{\"time\":\"");
                out.extend_from_slice(time);
                out.extend_from_slice(b"\",\"level\":\"");
                out.extend_from_slice(level.as_str().as_bytes());
                out.push(b'"');
            }
        }
        Self { out, format }
    }

    /// Continues a JSON object to which a first member has been, or will be, added.
    pub(super) fn continue_json(out: &'a mut Vec<u8>) -> Self {
        Self { out, format: LogFormat::Json }
    }

    /// Appends the message. As text it has neither a name nor quotes, so it comes first.
    pub(super) fn message(&mut self, message: &str) {
        match self.format {
            LogFormat::Text => {
                self.out.push(b' ');
                push_escaped(self.out, message);
            }
            LogFormat::Json => self.string("message", message),
        }
    }

    /// Appends a string. `key` is a constant and is not escaped.
    pub(super) fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        match self.format {
            LogFormat::Text => push_word(self.out, value),
            LogFormat::Json => push_quoted(self.out, value),
        }
    }

    /// Appends a string, if there is one.
    pub(super) fn optional(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(key, value);
        }
    }

    /// Appends a number.
    pub(super) fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        push_decimal(self.out, value);
    }

    /// Appends an IP address.
    pub(super) fn address(&mut self, key: &str, value: IpAddr) {
        // The longest IPv6 address has 45 characters (RFC 4291, 2.2).
        let mut text = [0; 48];
        let mut rest = &mut text[..];
        let _ = write!(rest, "{value}");
        let unused = rest.len();
        let text = &text[..text.len() - unused];
        self.optional(key, std::str::from_utf8(text).ok());
    }

    /// Appends a value that is the same in both formats and needs no quotes, such as `true`.
    pub(super) fn literal(&mut self, key: &str, value: &str) {
        self.key(key);
        self.out.extend_from_slice(value.as_bytes());
    }

    /// Ends the line.
    pub(super) fn end(self) {
        self.out.extend_from_slice(match self.format {
            LogFormat::Text => b"\n",
            LogFormat::Json => b"}\n",
        });
    }

    fn key(&mut self, key: &str) {
        match self.format {
            LogFormat::Text => {
                self.out.push(b' ');
                self.out.extend_from_slice(key.as_bytes());
                self.out.push(b'=');
            }
            LogFormat::Json => {
                self.out.extend_from_slice(b",\"");
                self.out.extend_from_slice(key.as_bytes());
                self.out.extend_from_slice(b"\":");
            }
        }
    }
}
