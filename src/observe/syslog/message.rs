//! One line as a syslog message (RFC 5424).
//!
//! A log line has no control characters, and consists of ASCII (see `escape`), so that a message
//! needs no byte order mark (RFC 5424, 6.4) and cannot end early. Should a byte be otherwise, it is
//! replaced.

use std::borrow::Cow;

use memchr::memmem;
use syslog_fmt::v5424::{Config, Formatter, Msg, Timestamp};
use syslog_fmt::{Facility, Severity};

use crate::decimal::push_decimal;
use crate::limits::{MAX_SYSLOG_MESSAGE_BYTES, MAX_SYSLOG_SEQUENCE};
use crate::observe::line_parts::{LineParts, TIME_BYTES, time};

/// Marker at the end of a truncated message.
const CUT: &[u8] = b"...[cut]";

/// The log that lines come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The log, with the lines of calls.
    Log,
    /// The audit log.
    Audit,
}

/// The way in which messages in a stream are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each message is a datagram.
    Datagram,
    /// A line end follows each message (RFC 6587, 3.4.2).
    Newline,
    /// The length precedes each message (RFC 5425, 4.3; RFC 6587, 3.4.1).
    OctetCount,
}

/// The headers of one log's messages, and the number of the next one.
pub(super) struct Origin {
    kind: Kind,
    formatter: Formatter,
    /// `sequenceId` of the next message (RFC 5424, 7.3.1).
    sequence: u64,
    message: Vec<u8>,
}

impl Origin {
    /// Creates the headers for this host and process.
    pub(super) fn of_process(tag: &str, facility: Facility, kind: Kind) -> Self {
        let system = rustix::system::uname();
        let hostname = system.nodename().to_string_lossy();
        Self::new(&hostname, tag, std::process::id(), facility, kind)
    }

    fn new(hostname: &str, tag: &str, process: u32, facility: Facility, kind: Kind) -> Self {
        // Lines of the two logs are numbered separately, so their origins must differ.
        let app_name = match kind {
            Kind::Log => Cow::Borrowed(tag),
            Kind::Audit => Cow::Owned(format!("{tag}-audit")),
        };
        let is_hostname =
            (1..=255).contains(&hostname.len()) && hostname.bytes().all(|it| it.is_ascii_graphic());
        let formatter = Config {
            facility,
            hostname: is_hostname.then_some(hostname),
            app_name: Some(&app_name),
            proc_id: Some(&process.to_string()),
        }
        .into_formatter();
        Self { kind, formatter, sequence: 1, message: Vec::with_capacity(MAX_SYSLOG_MESSAGE_BYTES) }
    }

    /// Returns the name of the log.
    pub(super) fn log(&self) -> &'static str {
        match self.kind {
            Kind::Log => "log",
            Kind::Audit => "audit",
        }
    }

    /// Leaves out the sequence numbers of lines that were lost.
    pub(super) fn leave_out(&mut self, lines: u64) {
        // From 1 to the maximum, and then from 1 again.
        self.sequence = (self.sequence - 1 + lines) % MAX_SYSLOG_SEQUENCE + 1;
    }

    /// Appends the message of one line, without its line end.
    pub(super) fn append(&mut self, out: &mut Vec<u8>, line: &[u8], framing: Framing) {
        let parts = match self.kind {
            Kind::Log => Parts::of_log(line),
            Kind::Audit => Parts::of_audit(line),
        };
        self.message.clear();
        let sequence = self.sequence.to_string();
        self.leave_out(1);
        // The crate would put two spaces before the sign for none.
        let time = Timestamp::PreformattedStr(parts.time.unwrap_or("-"));
        let data = [("meta", [("sequenceId", sequence.as_str())])];
        // Writing into a Vec cannot fail.
        let _ = self.formatter.write_with_data(
            &mut self.message,
            parts.severity,
            time,
            Msg::NonUnicodeBytes(&[]),
            Some(parts.id),
            data,
        );
        let room = MAX_SYSLOG_MESSAGE_BYTES.saturating_sub(self.message.len());
        let (text, mark) = match parts.text.get(..room.saturating_sub(CUT.len())) {
            Some(beginning) if parts.text.len() > room => (beginning, CUT),
            _ => (parts.text, &b""[..]),
        };
        let printable = |byte: &u8| if matches!(byte, b' '..=b'~') { *byte } else { b'?' };
        self.message.extend(text.iter().map(printable));
        self.message.extend_from_slice(mark);
        if framing == Framing::OctetCount {
            push_decimal(out, self.message.len() as u64);
            out.push(b' ');
        }
        out.extend_from_slice(&self.message);
        if framing == Framing::Newline {
            out.push(b'\n');
        }
    }
}

/// The parts of a message that come from its line.
struct Parts<'l> {
    severity: Severity,
    time: Option<&'l str>,
    /// MSGID
    id: &'static str,
    text: &'l [u8],
}

impl<'l> Parts<'l> {
    /// Takes a line of the log apart. As text it goes on without time and level, which are in the
    /// header.
    fn of_log(line: &'l [u8]) -> Self {
        let parts = LineParts::of(line);
        let severity = match parts.severity {
            3 => Severity::Err,
            4 => Severity::Warning,
            7 => Severity::Debug,
            _ => Severity::Info,
        };
        let id = if parts.is_call { "access" } else { "event" };
        Self { severity, time: parts.time, id, text: parts.text }
    }

    /// Takes a line of the audit log apart. It goes on as it is, so that it can be compared with
    /// the file.
    fn of_audit(line: &'l [u8]) -> Self {
        const TIME: &[u8] = b",\"time\":\"";
        // Only numbers and codes precede the time.
        let begin = memmem::find(line, TIME).map(|index| index + TIME.len());
        let time = begin.and_then(|begin| line.get(begin..begin + TIME_BYTES)).and_then(time);
        Self { severity: Severity::Info, time, id: "audit", text: line }
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
