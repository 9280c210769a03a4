//! HTTP/1.1 answers (RFC 9112, 6.3), parsed from the bytes received so far.

use std::time::Duration;
use std::{error, fmt, io};

use httparse::{Header, Response, Status};

use crate::limits::{MAX_CHUNK_LINE_BYTES, MAX_HEADERS};

/// Largest number of interim answers, such as `100 Continue`.
const MAX_INTERIM_ANSWERS: usize = 4;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// `x` of HTTP/1.x.
    pub minor_version: u8,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, without transfer coding.
    pub body: Vec<u8>,
    /// Time from the request's first byte to the answer's last.
    pub time: Duration,
}

impl Answer {
    /// Returns the first field with this name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Returns whether the peer ends the connection after this answer (RFC 9112, 9.3).
    #[must_use]
    pub fn is_last(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default().to_ascii_lowercase();
        let has = |word: &str| connection.split(',').any(|part| part.trim() == word);
        has("close") || (self.minor_version == 0 && !has("keep-alive"))
    }

    /// Returns a complete answer and its length in bytes, or `None` if more bytes are needed. If
    /// `is_at_end`, the peer has closed the connection, which may end the body.
    ///
    /// # Errors
    /// The bytes are not HTTP, or were cut short.
    pub(super) fn parse(received: &[u8], is_at_end: bool) -> io::Result<Option<(Self, usize)>> {
        let mut before = 0;
        for _ in 0..MAX_INTERIM_ANSWERS {
            let Some((mut answer, head)) = Self::parse_head(&received[before..], is_at_end)? else {
                return Ok(None);
            };
            before += head;
            if (100..200).contains(&answer.status) {
                // An interim answer; the final one follows.
                continue;
            }
            let rest = &received[before..];
            let Some((body, count)) = answer.parse_body(rest, is_at_end)? else {
                let cut = is_at_end.then(|| Err(io::ErrorKind::UnexpectedEof.into()));
                return cut.unwrap_or(Ok(None));
            };
            answer.body = body;
            return Ok(Some((answer, before + count)));
        }
        Err(no_http("too many interim answers"))
    }

    fn parse_head(received: &[u8], is_at_end: bool) -> io::Result<Option<(Self, usize)>> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = Response::new(&mut slots);
        let head = match response.parse(received) {
            Ok(Status::Complete(head)) => head,
            Ok(Status::Partial) if is_at_end => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Status::Partial) => return Ok(None),
            Err(error) => return Err(no_http(error)),
        };
        let answer = Self {
            status: response.code.unwrap_or(0),
            minor_version: response.version.unwrap_or(0),
            headers: response.headers.iter().map(field).collect(),
            body: Vec::new(),
            time: Duration::ZERO,
        };
        Ok(Some((answer, head)))
    }

    /// Returns the body that follows this head, and its length in bytes.
    fn parse_body(&self, rest: &[u8], is_at_end: bool) -> io::Result<Option<(Vec<u8>, usize)>> {
        if self.status == 204 || self.status == 304 {
            return Ok(Some((Vec::new(), 0)));
        }
        if let Some(coding) = self.header("transfer-encoding") {
            if !coding.trim().eq_ignore_ascii_case("chunked") {
                return Err(no_http(format!("Transfer-Encoding: {coding}")));
            }
            return chunked(rest);
        }
        if let Some(length) = self.header("content-length") {
            let length: usize =
                length.parse().map_err(|_| no_http(format!("Content-Length: {length}")))?;
            return Ok(rest.get(..length).map(|body| (body.to_vec(), length)));
        }
        Ok(is_at_end.then(|| (rest.to_vec(), rest.len())))
    }
}

fn field(field: &Header<'_>) -> (String, String) {
    let value = String::from_utf8_lossy(field.value).trim().to_owned();
    (field.name.to_ascii_lowercase(), value)
}

/// The source of the error for bytes that came, but that are not an answer.
#[derive(Debug)]
pub struct UnusableAnswer(String);

impl UnusableAnswer {
    pub(super) fn error(why: impl Into<String>) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, Self(why.into()))
    }
}

impl fmt::Display for UnusableAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl error::Error for UnusableAnswer {}

fn no_http(why: impl fmt::Display) -> io::Error {
    UnusableAnswer::error(format!("the answer is no HTTP/1.1: {why}"))
}

/// Returns a chunked body (RFC 9112, 7.1) and its length in bytes, including the trailer section.
fn chunked(received: &[u8]) -> io::Result<Option<(Vec<u8>, usize)>> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let rest = received.get(at..).unwrap_or_default();
        let size = match httparse::parse_chunk_size(rest) {
            Ok(Status::Complete((line, size))) => {
                at += line;
                usize::try_from(size).map_err(no_http)?
            }
            Ok(Status::Partial) if rest.len() <= MAX_CHUNK_LINE_BYTES => return Ok(None),
            _ => return Err(no_http("a chunk's size")),
        };
        if size == 0 {
            let rest = received.get(at..).unwrap_or_default();
            if rest.starts_with(b"\r\n") {
                return Ok(Some((body, at + 2)));
            }
            let end = memchr::memmem::find(rest, b"\r\n\r\n");
            return Ok(end.map(|end| (body, at + end + 4)));
        }
        let end = at.saturating_add(size);
        let Some(chunk) = received.get(at..end) else { return Ok(None) };
        body.extend_from_slice(chunk);
        match received.get(end..end + 2) {
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err(no_http("a chunk's end")),
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// An answer is complete when its body is, for every kind of framing.
    #[test]
    fn answers() {
        for wire in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\n{}"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;a=b\r\n}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ] {
            for end in 0..wire.len() {
                assert!(Answer::parse(&wire[..end], false).unwrap().is_none(), "{end}");
                assert!(Answer::parse(&wire[..end], true).is_err(), "{end}");
            }
            let (answer, count) = Answer::parse(wire, false).unwrap().unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, &b"{}"[..]));
            assert_eq!(count, wire.len());
            assert!(!answer.is_last());
        }
        let wire = b"HTTP/1.0 200 OK\r\n\r\n{}";
        assert!(Answer::parse(wire, false).unwrap().is_none());
        let (answer, _) = Answer::parse(wire, true).unwrap().unwrap();
        assert!(answer.body == b"{}" && answer.is_last());
        for wire in [
            &b"SSH-2.0\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        ] {
            assert!(Answer::parse(wire, false).is_err());
        }
    }
}
