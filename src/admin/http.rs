//! One HTTP/1.1 request and its answer, as bytes.

use std::net::IpAddr;

use crate::limits::MAX_HEADERS;
use crate::proto::http::authority::is_host;

/// The head of a request. Bodies are not read, as no path accepts one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) method: String,
    /// The path without the query.
    pub(super) path: String,
    pub(super) host: Option<String>,
}

/// An answer. The connection ends after it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    content_type: &'static str,
    /// Additional header fields, each with its line end.
    fields: String,
    body: Vec<u8>,
    /// True if the request is HEAD, so that the body is left out (RFC 9110, 9.3.2).
    pub(super) is_head: bool,
}

impl Answer {
    pub(super) fn new(status: u16, content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status, content_type, fields: String::new(), body, is_head: false }
    }

    pub(super) fn text(status: u16, text: &str) -> Self {
        let mut answer = Self::new(status, "text/plain; charset=utf-8", text.into());
        if status == 405 {
            answer.field("Allow", "GET, HEAD");
        }
        answer
    }

    pub(super) fn redirect(location: &str) -> Self {
        let mut answer = Self::text(307, "");
        answer.field("Location", location);
        answer
    }

    /// Adds a header field. Neither argument may come from a peer.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        self.fields.extend([name, ": ", value, "\r\n"]);
    }

    /// Returns the answer as it is sent.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            307 => "Temporary Redirect",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            503 => "Service Unavailable",
            _ => "Internal Server Error",
        };
        let mut bytes = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nConnection: close\r\n{}\r\n",
            self.status,
            self.content_type,
            self.body.len(),
            self.fields
        )
        .into_bytes();
        if !self.is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// The state of a head, as far as it has been received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The whole head.
    Whole(RequestHead),
    /// The head continues.
    Partial,
    /// Not a head of HTTP/1.1, or one with several Host fields or an invalid one.
    Invalid,
}

/// Parses what has arrived so far.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Invalid,
    }
    let target = head.path.unwrap_or_default();
    let mut hosts = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("host"));
    let host = hosts.next();
    // RFC 9112, 3.2
    if hosts.next().is_some() || host.is_some_and(|field| !is_host(field.value)) {
        return Parsed::Invalid;
    }
    Parsed::Whole(RequestHead {
        method: head.method.unwrap_or_default().to_owned(),
        path: target.split('?').next().unwrap_or_default().to_owned(),
        host: host.map(|field| String::from_utf8_lossy(field.value).into_owned()),
    })
}

/// Returns the answer to a request that is refused whatever its path: not to this machine, if
/// `wants_local_host`, or neither GET nor HEAD.
pub(super) fn refusal(request: &RequestHead, wants_local_host: bool) -> Option<Answer> {
    if wants_local_host && !is_local(request.host.as_deref()) {
        let text = "this listener serves this machine only: ask for localhost\n";
        return Some(Answer::text(421, text));
    }
    let is_read = ["GET", "HEAD"].contains(&request.method.as_str());
    (!is_read).then(|| Answer::text(405, "the methods are GET and HEAD\n"))
}

/// Returns whether a Host field names this machine: `localhost`, or an IP address, which DNS cannot
/// redirect.
pub(super) fn is_local(host: Option<&str>) -> bool {
    let Some(host) = host else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads may arrive in pieces; anything that is not a head is refused.
    #[test]
    fn heads() {
        let head = b"GET /status.json?x=1 HTTP/1.1\r\nHost: localhost:9443\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]), Parsed::Partial, "{end}");
        }
        let whole = RequestHead {
            method: "GET".to_owned(),
            path: "/status.json".to_owned(),
            host: Some("localhost:9443".to_owned()),
        };
        assert_eq!(parse(head), Parsed::Whole(whole));
        assert_eq!(parse(b"\x16\x03\x01\x00\xa5\x01\x00"), Parsed::Invalid);
        for hosts in ["Host: a b", "Host: localhost@evil", "Host: a\r\nHost: a"] {
            let head = format!("GET / HTTP/1.1\r\n{hosts}\r\n\r\n");
            assert_eq!(parse(head.as_bytes()), Parsed::Invalid, "{hosts}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(parse(many.as_bytes()), Parsed::Invalid);
    }

    /// A DNS name does not count as this machine, because others control it.
    #[test]
    fn local_hosts() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9443", "[::1]:9443", "10.0.0.1"] {
            assert!(is_local(Some(host)), "{host}");
        }
        for host in ["evil.example:9443", "localhost.evil.example", "127.0.0.1.nip.io", ""] {
            assert!(!is_local(Some(host)), "{host}");
        }
        assert!(is_local(None));
    }

    /// The answer to HEAD has a length but no body.
    #[test]
    fn answers() {
        let mut answer = Answer::text(405, "no\n");
        let text = String::from_utf8_lossy(&answer.bytes()).into_owned();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{text}");
        assert!(
            text.contains("\r\nContent-Length: 3\r\n") && text.contains("\r\nAllow: GET, HEAD\r\n")
        );
        assert!(text.ends_with("\r\n\r\nno\n"), "{text}");
        answer.is_head = true;
        let text = String::from_utf8_lossy(&answer.bytes()).into_owned();
        assert!(text.contains("\r\nContent-Length: 3\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }
}
