//! The request head: request line and header fields (RFC 9112, 3 and 5).

use std::mem::MaybeUninit;
use std::sync::LazyLock;

use memchr::memmem;

use super::HttpError;
use super::authority::{is_authority, is_host};
use super::body::Framing;
use crate::limits::{MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES};

// The errors' texts contain these numbers.
const _: () = assert!(MAX_HEAD_BYTES == 8192 && MAX_HEADERS == 64);

/// Space for the header fields of one request.
pub type HeaderSlots<'b> = [MaybeUninit<httparse::Header<'b>>; MAX_HEADERS];

/// Makes empty space for header fields.
#[must_use]
pub fn header_slots<'b>() -> HeaderSlots<'b> {
    [MaybeUninit::uninit(); MAX_HEADERS]
}

/// A request head; all slices borrow from the received bytes.
#[derive(Debug)]
pub struct Head<'h, 'b> {
    /// Method as sent; methods are case-sensitive.
    pub method: &'b str,
    /// Path without the query; begins with "/".
    pub path: &'b str,
    /// Query, "" if there is none.
    pub query: &'b str,
    /// All fields, in order.
    pub headers: &'h [httparse::Header<'b>],
    /// Framing of the body.
    pub framing: Framing,
    /// The connection may be used for another request.
    pub keep_alive: bool,
    /// The peer speaks HTTP/1.0, so the answer must announce that the connection stays open.
    pub is_http_1_0: bool,
    /// The peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Value of the one Content-Type field, if any.
    pub content_type: Option<&'b [u8]>,
    /// Authorization
    pub authorization: Occurrence<'b>,
    /// X-Amz-Date
    pub amz_date: Occurrence<'b>,
}

/// Number of occurrences of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Occurrence<'b> {
    /// None.
    #[default]
    Never,
    /// One, with this value.
    Once(&'b [u8]),
    /// Several.
    Several,
}

impl<'b> Occurrence<'b> {
    fn add(&mut self, value: &'b [u8]) {
        *self = if matches!(self, Self::Never) { Self::Once(value) } else { Self::Several };
    }
}

/// Position in `bytes` just past the empty line that ends the head. The search begins at `from`,
/// which may be any position up to the end of an earlier search.
#[must_use]
pub fn find_end(bytes: &[u8], from: usize) -> Option<usize> {
    // The empty line may straddle the end of the earlier search.
    static EMPTY_LINE: LazyLock<memmem::Finder<'static>> =
        LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));
    let from = from.saturating_sub(3).min(bytes.len());
    EMPTY_LINE.find(&bytes[from..]).map(|at| from + at + 4)
}

/// Length in bytes of the empty lines before the request line, which a server skips (RFC 9112,
/// 2.2).
#[must_use]
pub fn leading_empty_lines(bytes: &[u8]) -> usize {
    let mut skipped = 0;
    while bytes[skipped..].starts_with(b"\r\n") {
        skipped += 2;
    }
    skipped
}

/// The error for a head, or the beginning of one, that is over the limit.
#[must_use]
pub fn too_large(bytes: &[u8]) -> Option<HttpError> {
    if bytes.len() <= MAX_HEAD_BYTES {
        return None;
    }
    // The method and the version fit into the other 64 bytes.
    let max_line = MAX_TARGET_BYTES + 64;
    if memchr::memchr(b'\n', &bytes[..max_line]).is_none() {
        return Some(HttpError::TargetTooLong);
    }
    Some(HttpError::HeadTooLarge("the request head is larger than 8192 bytes"))
}

/// The error for a head that [`has_lone_line_end`] refuses.
pub const LONE_LINE_END: HttpError =
    HttpError::BadRequest("a line of the request head does not end with CRLF");

/// Returns whether a line in `bytes`, the beginning of a head, ends with a lone LF or CR: such a head
/// is refused at once, since its empty line may never come. The first `searched` bytes have been
/// searched before.
#[must_use]
pub fn has_lone_line_end(bytes: &[u8], searched: usize) -> bool {
    if bytes.len() == searched {
        return false;
    }
    // Whether the last CR is a lone one can be seen only now.
    let from = searched.saturating_sub(1).min(bytes.len());
    memchr::memchr2_iter(b'\r', b'\n', &bytes[from..]).any(|at| match bytes[from + at] {
        b'\r' => bytes.get(from + at + 1).is_some_and(|next| *next != b'\n'),
        _ => from + at == 0 || bytes[from + at - 1] != b'\r',
    })
}

/// Parses a complete head that ends with its empty line. The lines that [`leading_empty_lines`]
/// counts must have been removed.
///
/// # Errors
/// An [`HttpError`] for anything malformed, ambiguous or over a limit. Requests that two parsers
/// could read in two ways are refused, since that is how requests are smuggled.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut HeaderSlots<'b>,
) -> Result<Head<'h, 'b>, HttpError> {
    if let Some(error) = too_large(bytes) {
        return Err(error);
    }
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, slots) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(HttpError::BadRequest("the request head is malformed")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HttpError::HeadTooLarge("the request has more than 64 header fields"));
        }
        Err(httparse::Error::Version) => return Err(version_error(bytes)),
        Err(httparse::Error::HeaderName) => {
            return Err(HttpError::BadRequest("a header field's name is malformed"));
        }
        Err(httparse::Error::HeaderValue) => {
            return Err(HttpError::BadRequest("a header field's value is malformed"));
        }
        Err(_) => return Err(HttpError::BadRequest("the request line is malformed")),
    }
    let (Some(method), Some(target), Some(minor_version)) =
        (request.method, request.path, request.version)
    else {
        return Err(HttpError::BadRequest("the request line is malformed"));
    };
    let (path, query) = split_target(target)?;
    let headers: &'h [httparse::Header<'b>] = request.headers;
    if has_bare_line_feed(bytes, headers.len()) {
        return Err(LONE_LINE_END);
    }
    let fields = Fields::collect(headers)?;
    let is_http_1_0 = minor_version == 0;
    match fields.host {
        Some(host) if !is_host(host) => {
            return Err(HttpError::BadRequest("the Host header field is malformed"));
        }
        None if !is_http_1_0 => {
            return Err(HttpError::BadRequest("the Host header field is missing"));
        }
        _ => {}
    }
    let framing = fields.framing(is_http_1_0)?;
    Ok(Head {
        method,
        path,
        query,
        headers,
        framing,
        keep_alive: !fields.close && (!is_http_1_0 || fields.keep_alive),
        is_http_1_0,
        expects_continue: fields.expects_continue && !is_http_1_0,
        content_type: fields.content_type,
        authorization: fields.authorization,
        amz_date: fields.amz_date,
    })
}

/// Returns whether a line ends with a lone LF. RFC 9112, 2.2 lets a server accept that; not all
/// parsers do, so we don't. In a parsed head without leading empty lines, a CR occurs only before
/// an LF, and each LF ends the request line, a field or the empty line.
fn has_bare_line_feed(bytes: &[u8], fields: usize) -> bool {
    matches!(bytes, [b'\r' | b'\n', ..]) || memchr::memchr_iter(b'\r', bytes).count() != fields + 2
}

/// The error for a malformed request line: another version of HTTP, or not HTTP at all.
fn version_error(bytes: &[u8]) -> HttpError {
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match line.rsplit(|byte| *byte == b' ').next() {
        // A version other than 1.0 and 1.1; otherwise the line is malformed in another way.
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !matches!((major, minor), (b'1', b'0' | b'1')) =>
        {
            HttpError::UnknownVersion
        }
        _ => HttpError::BadRequest("the request line is malformed"),
    }
}

/// Path and query of an origin-form or absolute-form target (RFC 9112, 3.2).
fn split_target(target: &str) -> Result<(&str, &str), HttpError> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(HttpError::TargetTooLong);
    }
    let origin = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target
            .split_once("://")
            .ok_or(HttpError::BadRequest("the request target is not a path"))?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(HttpError::BadRequest("the request target's scheme is not http or https"));
        }
        // A query or a fragment may follow the authority too, without a path (RFC 3986, 3.2).
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if !path.starts_with('/') {
            return Err(HttpError::BadRequest("the request target has no path"));
        }
        if !is_authority(authority.as_bytes()) {
            return Err(HttpError::BadRequest("the request target's authority is malformed"));
        }
        path
    };
    let bytes = origin.as_bytes();
    match memchr::memchr2(b'?', b'#', bytes) {
        None => Ok((origin, "")),
        Some(at) if !bytes[at..].contains(&b'#') => Ok((&origin[..at], &origin[at + 1..])),
        Some(_) => Err(HttpError::BadRequest("the request target has a fragment")),
    }
}

/// Returns whether `name` is `known`, ignoring case. `known` consists of lower-case letters and
/// hyphens, so setting one bit makes upper case lower, and makes no other byte allowed in a name
/// equal. With a known length, the compiler turns this into a few vector instructions.
fn is<const N: usize>(name: &[u8], known: &[u8; N]) -> bool {
    let Ok(name) = <&[u8; N]>::try_from(name) else {
        return false;
    };
    let mut difference = 0;
    for (byte, known) in name.iter().zip(known) {
        difference |= (byte | 0x20) ^ known;
    }
    difference == 0
}

/// The fields that affect the connection itself.
#[derive(Default)]
struct Fields<'b> {
    host: Option<&'b [u8]>,
    content_length: Option<usize>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    content_type: Option<&'b [u8]>,
    authorization: Occurrence<'b>,
    amz_date: Occurrence<'b>,
}

impl<'b> Fields<'b> {
    fn collect(headers: &[httparse::Header<'b>]) -> Result<Self, HttpError> {
        let mut fields = Self::default();
        for header in headers {
            let name = header.name.as_bytes();
            match name.len() {
                4 if is(name, b"host") => fields.host(header.value)?,
                6 if is(name, b"expect") => {
                    if !header.value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(HttpError::UnknownExpectation);
                    }
                    fields.expects_continue = true;
                }
                10 if is(name, b"x-amz-date") => fields.amz_date.add(header.value),
                10 if is(name, b"connection") => fields.connection(header.value),
                12 if is(name, b"content-type") => fields.content_type(header.value)?,
                13 if is(name, b"authorization") => fields.authorization.add(header.value),
                14 if is(name, b"content-length") => fields.content_length(header.value)?,
                17 if is(name, b"transfer-encoding") => {
                    if fields.chunked {
                        return Err(HttpError::BadRequest(
                            "there are several Transfer-Encoding header fields",
                        ));
                    }
                    if !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(HttpError::UnknownTransferCoding);
                    }
                    fields.chunked = true;
                }
                _ => {}
            }
        }
        Ok(fields)
    }

    fn host(&mut self, value: &'b [u8]) -> Result<(), HttpError> {
        match self.host.replace(value) {
            None => Ok(()),
            Some(_) => Err(HttpError::BadRequest("there are several Host header fields")),
        }
    }

    fn content_type(&mut self, value: &'b [u8]) -> Result<(), HttpError> {
        match self.content_type.replace(value) {
            None => Ok(()),
            Some(_) => Err(HttpError::BadRequest("there are several Content-Type header fields")),
        }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// RFC 9112, 6.3 allows a list of equal lengths; no honest client sends one.
    fn content_length(&mut self, value: &[u8]) -> Result<(), HttpError> {
        const MALFORMED: HttpError = HttpError::BadRequest("the Content-Length is malformed");
        if self.content_length.is_some() {
            return Err(HttpError::BadRequest("there are several Content-Length header fields"));
        }
        if value.is_empty() {
            return Err(MALFORMED);
        }
        let mut length: usize = 0;
        for byte in value {
            if !byte.is_ascii_digit() {
                return Err(MALFORMED);
            }
            length = length
                .checked_mul(10)
                .and_then(|length| length.checked_add(usize::from(byte - b'0')))
                .ok_or(HttpError::BodyTooLarge)?;
        }
        self.content_length = Some(length);
        Ok(())
    }

    fn framing(&self, is_http_1_0: bool) -> Result<Framing, HttpError> {
        match (self.content_length, self.chunked) {
            (Some(_), true) => Err(HttpError::BadRequest(
                "both Content-Length and Transfer-Encoding are present (RFC 9112, 6.1)",
            )),
            (None, true) if is_http_1_0 => {
                Err(HttpError::BadRequest("HTTP/1.0 has no Transfer-Encoding (RFC 9112, 6.1)"))
            }
            (None, true) => Ok(Framing::Chunked),
            (Some(length), false) => Ok(Framing::Length(length)),
            (None, false) => Ok(Framing::Length(0)),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn error_of(head: &str) -> HttpError {
        parse(head.as_bytes(), &mut header_slots()).unwrap_err()
    }

    /// The parser returns, as sent, everything that the rest of the proxy uses.
    #[test]
    fn a_request_as_kms_sends_it() {
        let bytes = b"POST /p/kms/xks/v1/health?a=b HTTP/1.1\r\nHost: xks.example.com\r\n\
            Content-Type: application/json\r\nContent-Length: 12\r\n\r\n";
        let mut slots = header_slots();
        let head = parse(bytes, &mut slots).unwrap();
        assert_eq!((head.method, head.path, head.query), ("POST", "/p/kms/xks/v1/health", "a=b"));
        assert_eq!(head.framing, Framing::Length(12));
        assert_eq!(head.content_type, Some(&b"application/json"[..]));
        assert!(head.keep_alive && !head.is_http_1_0 && !head.expects_continue);
        assert_eq!(head.headers.len(), 3);
    }

    /// RFC 9112, 9.3: HTTP/1.1 connections persist by default, HTTP/1.0 ones do not.
    #[test]
    fn persistence() {
        for (line, header, keep_alive) in [
            ("HTTP/1.1", "", true),
            ("HTTP/1.1", "Connection: close\r\n", false),
            ("HTTP/1.1", "Connection: Keep-Alive, Close\r\n", false),
            ("HTTP/1.0", "", false),
            ("HTTP/1.0", "Connection: keep-alive\r\n", true),
        ] {
            let text = format!("GET /ping {line}\r\nHost: a\r\n{header}\r\n");
            let mut slots = header_slots();
            assert_eq!(
                parse(text.as_bytes(), &mut slots).unwrap().keep_alive,
                keep_alive,
                "{text}"
            );
        }
    }

    /// RFC 9112, 3.2.2: a server accepts the absolute form.
    #[test]
    fn absolute_form_is_taken() {
        let mut slots = header_slots();
        let bytes = b"GET http://other.example/ping?x HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = parse(bytes, &mut slots).unwrap();
        assert_eq!((head.path, head.query), ("/ping", "x"));
    }

    /// Every way to make two parsers disagree about the end of a request is refused.
    #[test]
    fn ambiguity_is_refused() {
        use HttpError::{BadRequest, UnknownTransferCoding};
        for fields in [
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 0x1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Host: b\r\n",
            "X: a\r\n folded\r\n",
            "X : a\r\n",
            "X: a\nY: b\r\n",
            "\nX: a\r\n",
            "X: a\r\r\n",
            "X: a\rb\r\n",
            "X:\r\n\nY: b\r\n",
            "X: a\0b\r\n",
        ] {
            let error = error_of(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            assert!(matches!(error, BadRequest(_)), "{fields:?}: {error:?}");
        }
        for coding in ["gzip", "gzip, chunked", "chunked, chunked", "xchunked"] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
            assert_eq!(error_of(&head), UnknownTransferCoding, "{coding}");
        }
        let error = error_of("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(matches!(error, BadRequest(_)));
    }

    /// Names match in any case, and no other byte matches a letter of a name.
    #[test]
    fn names_of_fields() {
        for byte in 0..=255_u8 {
            let is_token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if is_token {
                let letter = byte.eq_ignore_ascii_case(&b'h');
                assert_eq!(is(&[byte, b'O', b's', b't'], b"host"), letter, "{byte}");
                assert_eq!(is(&[b'A', byte, b'b'], b"a-b"), byte == b'-', "{byte}");
            }
        }
        assert!(!is(b"hosts", b"host") && !is(b"hos", b"host"));
    }

    /// RFC 9112, 3.2: a fragment is not part of a request target.
    #[test]
    fn fragments_are_refused() {
        for target in ["/a#", "/#?b", "/a?b#c", "http://h/a#b"] {
            let error = error_of(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert!(matches!(error, HttpError::BadRequest(_)), "{target}");
        }
    }

    /// A lone LF does not end a line, wherever it occurs, even if a surplus CR makes up for the
    /// missing one.
    #[test]
    fn bare_line_feeds_are_refused() {
        for head in [
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\nGET / HTTP/1.1\nHost: a\r\n\r\n",
            "\n\r\nGET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
        ] {
            assert!(matches!(error_of(head), HttpError::BadRequest(_)), "{head:?}");
        }
    }

    /// A lone line end is recognised as soon as it has arrived, wherever the network split the head.
    #[test]
    fn lone_line_ends_are_found_over_any_cut() {
        for (head, end) in [
            ("GET / HTTP/1.1\nHost: a\n\n", Some(15)),
            ("GET / HTTP/1.1\r\nHost: a\n", Some(24)),
            ("\n", Some(1)),
            ("GET / HTTP/1.1\rHost: a\r\r", Some(16)),
            ("GET / HTTP/1.1\r\r\n", Some(16)),
            ("GET / HTTP/1.1\r\nHost: a\r", None),
        ] {
            for first in 0..=head.len() {
                let mut searched = 0;
                let mut found = None;
                for length in [first].into_iter().chain(first + 1..=head.len()) {
                    let bytes = &head.as_bytes()[..length];
                    if has_lone_line_end(bytes, searched) {
                        found = Some(length);
                        break;
                    }
                    searched = length;
                }
                assert_eq!(found, end.map(|end| end.max(first)), "{head:?} {first}");
            }
        }
    }

    /// RFC 9112, 3.2: an invalid Host is refused, and so is an invalid authority of the target.
    #[test]
    fn invalid_authorities_are_refused() {
        for host in ["a b", "a/b", "u@a", "a:b", "[::1", "a, b"] {
            let error = error_of(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(error, HttpError::BadRequest("the Host header field is malformed"));
            let error = error_of(&format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"));
            assert_eq!(error, HttpError::BadRequest("the Host header field is malformed"));
        }
        for target in ["http://u@a/", "http://a:b/", "http://:80/", "http://a?x/", "http://a#x/"] {
            let error = error_of(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert!(matches!(error, HttpError::BadRequest(_)), "{target}: {error:?}");
        }
        let mut slots = header_slots();
        assert!(parse(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", &mut slots).is_ok());
        let mut slots = header_slots();
        let bytes = b"GET http://[::1]:80/ping?a HTTP/1.1\r\nHost: a:\r\n\r\n";
        assert_eq!(parse(bytes, &mut slots).unwrap().path, "/ping");
    }

    /// Each limit has its own answer.
    #[test]
    fn limits_have_their_own_answers() {
        assert_eq!(
            error_of(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(256))),
            HttpError::TargetTooLong
        );
        let many = "X: a\r\n".repeat(64);
        assert!(matches!(
            error_of(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
            HttpError::HeadTooLarge(_)
        ));
        assert!(matches!(
            error_of(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(8192))),
            HttpError::HeadTooLarge(_)
        ));
        assert_eq!(too_large(&[b'a'; MAX_HEAD_BYTES + 1]), Some(HttpError::TargetTooLong));
        assert_eq!(
            error_of("POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n"),
            HttpError::UnknownExpectation
        );
        assert_eq!(error_of("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), HttpError::UnknownVersion);
        assert!(matches!(error_of("GET / HTTQ/1.1\r\n\r\n"), HttpError::BadRequest(_)));
        assert!(matches!(error_of("GET / HTTP/1.1\r\n\r\n"), HttpError::BadRequest(_)));
        let huge = "9".repeat(40);
        assert_eq!(
            error_of(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {huge}\r\n\r\n")),
            HttpError::BodyTooLarge
        );
    }

    /// The end is found regardless of how the bytes are split.
    #[test]
    fn the_end_is_found_over_any_cut() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let end = bytes.len() - 4;
        for cut in 0..bytes.len() {
            let found = find_end(&bytes[..cut], 0);
            assert_eq!(found, (cut >= end).then_some(end));
            assert_eq!(find_end(bytes, cut.min(end - 1)), Some(end));
        }
        assert_eq!(leading_empty_lines(b"\r\n\r\nGET"), 4);
    }
}
