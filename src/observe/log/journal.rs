//! Standard output that is systemd's journal: lines with their priority (sd-daemon(3)), or with
//! fields, by the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
//!
//! The crates for that protocol do not fit: they send each event in the thread that it occurs in.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use memchr::memchr_iter;
use rustix::fs::fstat;

use crate::limits::LOG_BUFFER_BYTES;
use crate::observe::line_parts::LineParts;

/// The journal's socket.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
const IDENTIFIER: &[u8] = b"xks-proxy";
/// Begins the names of fields that are ours.
const PREFIX: &[u8] = b"XKS_";

/// Returns whether the stream is the journal's (systemd.exec(5), `$JOURNAL_STREAM`).
pub(super) fn is_journal(stream: impl AsFd) -> bool {
    let Some(named) = std::env::var_os("JOURNAL_STREAM") else { return false };
    fstat(stream).is_ok_and(|stat| *format!("{}:{}", stat.st_dev, stat.st_ino) == *named)
}

/// Writes lines with the prefix `<N>`, N being the priority, which the journal takes off.
pub(super) struct Prefixed<W> {
    to: W,
    /// Prefixed lines that wait to be written.
    out: Vec<u8>,
    written: usize,
    /// Number of bytes without prefixes that [`Self::out`] stands for.
    taken: usize,
    /// True if part of a line was written before a failure.
    is_mid_line: bool,
}

impl<W: Write> Prefixed<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, out: Vec::new(), written: 0, taken: 0, is_mid_line: false }
    }

    fn fill(&mut self, lines: &[u8]) {
        self.out.clear();
        self.written = 0;
        self.taken = 0;
        if std::mem::take(&mut self.is_mid_line) {
            self.out.push(b'\n');
        }
        for newline in memchr_iter(b'\n', lines) {
            let line = lines.get(self.taken..=newline).unwrap_or_default();
            let priority = LineParts::of(line).severity;
            self.out.extend_from_slice(&[b'<', b'0' + priority, b'>']);
            self.out.extend_from_slice(line);
            self.taken = newline + 1;
            if self.out.len() >= LOG_BUFFER_BYTES {
                break;
            }
        }
    }
}

impl<W: Write> Write for Prefixed<W> {
    /// Writes whole lines, and returns their length. After an error that is not worth another
    /// attempt, gives up the lines that were begun.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.out.is_empty() {
            self.fill(lines);
        }
        while let Some(rest) = self.out.get(self.written..).filter(|rest| !rest.is_empty()) {
            let result = match self.to.write(rest) {
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                result => result,
            };
            match result {
                Ok(count) => self.written += count,
                Err(error) => {
                    // The caller repeats the call with the same lines.
                    if !matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) {
                        let written = self.out.get(..self.written).unwrap_or_default();
                        self.is_mid_line = written.last().is_some_and(|last| *last != b'\n');
                        self.out.clear();
                    }
                    return Err(error);
                }
            }
        }
        self.out.clear();
        Ok(self.taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Sends each line as a datagram with fields.
pub(super) struct Fielded {
    socket: UnixDatagram,
    path: PathBuf,
    entry: Vec<u8>,
}

impl Fielded {
    pub(super) fn new(path: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self { socket: UnixDatagram::unbound()?, path: path.into(), entry: Vec::new() })
    }

    fn begin(&mut self, line: &[u8]) {
        self.entry.clear();
        let parts = LineParts::of(line);
        self.field(b"PRIORITY", &[b'0' + parts.severity]);
        self.field(b"SYSLOG_IDENTIFIER", IDENTIFIER);
        self.field(b"MESSAGE", parts.text);
        if let Some(time) = parts.time {
            self.field(b"SYSLOG_TIMESTAMP", time.as_bytes());
        }
        for (name, value) in parts.fields() {
            let mut field = PREFIX.to_vec();
            for byte in name {
                if byte.is_ascii_uppercase() {
                    field.push(b'_');
                }
                field.push(byte.to_ascii_uppercase());
            }
            self.field(&field, value);
        }
    }

    /// Adds a field. A line has no line end or other control character, so the form of binary
    /// values is never needed; should there be one, it is replaced.
    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.entry.extend_from_slice(name);
        self.entry.push(b'=');
        self.entry.extend(value.iter().map(|byte| match byte {
            b' '..=b'~' => *byte,
            _ => b'?',
        }));
        self.entry.push(b'\n');
    }
}

impl Write for Fielded {
    /// Sends the first line, and returns its length.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let Some(newline) = memchr::memchr(b'\n', lines) else { return Ok(lines.len()) };
        self.begin(lines.get(..newline).unwrap_or_default());
        self.socket.send_to(&self.entry, &self.path)?;
        Ok(newline + 1)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
