//! The response head (RFC 9112, 4).

use bytes::BufMut as _;

use crate::decimal::push_decimal;

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// Status code.
    pub status: u16,
    /// Content-Type
    pub content_type: &'a str,
    /// Content-Length
    pub content_length: usize,
    /// Date in the form of RFC 9110.
    pub date: &'a [u8],
    /// The connection ends after this answer.
    pub close: bool,
    /// The answer must announce to an HTTP/1.0 peer that the connection stays open.
    pub announce_keep_alive: bool,
    /// Methods for a 405 (RFC 9110, 15.5.6).
    pub allow: Option<&'a str>,
}

/// The answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl ResponseHead<'_> {
    /// Appends the head, including the empty line.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.put_slice(beginning(self.status).as_bytes());
        out.put_slice(self.date);
        out.put_slice(b"\r\nContent-Type: ");
        out.put_slice(self.content_type.as_bytes());
        out.put_slice(b"\r\nContent-Length: ");
        push_decimal(out, self.content_length as u64);
        if let Some(allow) = self.allow {
            out.put_slice(b"\r\nAllow: ");
            out.put_slice(allow.as_bytes());
        }
        if self.close {
            out.put_slice(b"\r\nConnection: close");
        } else if self.announce_keep_alive {
            out.put_slice(b"\r\nConnection: keep-alive");
        }
        out.put_slice(b"\r\n\r\n");
    }
}

/// The status line, with the reason phrase (RFC 9110, 15), and the name of the next field: one copy.
fn beginning(status: u16) -> &'static str {
    macro_rules! beginning {
        ($status:literal) => {
            concat!("HTTP/1.1 ", $status, "\r\nDate: ")
        };
    }
    match status {
        200 => beginning!("200 OK"),
        400 => beginning!("400 Bad Request"),
        401 => beginning!("401 Unauthorized"),
        403 => beginning!("403 Forbidden"),
        404 => beginning!("404 Not Found"),
        405 => beginning!("405 Method Not Allowed"),
        408 => beginning!("408 Request Timeout"),
        413 => beginning!("413 Content Too Large"),
        414 => beginning!("414 URI Too Long"),
        417 => beginning!("417 Expectation Failed"),
        429 => beginning!("429 Too Many Requests"),
        431 => beginning!("431 Request Header Fields Too Large"),
        501 => beginning!("501 Not Implemented"),
        503 => beginning!("503 Service Unavailable"),
        505 => beginning!("505 HTTP Version Not Supported"),
        _ => beginning!("500 Internal Server Error"),
    }
}
