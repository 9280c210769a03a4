//! Just enough HTTP and JSON to read a proxy's answer.

use memchr::memmem;

/// Maximum number of header fields, more than any proxy sends.
const MAX_FIELDS: usize = 32;
/// Maximum size of an answer's head and body; a larger answer is malformed.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Body, of the length given by `Content-Length`.
    pub body: &'a [u8],
    /// Set if the server closes the connection after this answer.
    pub close: bool,
    /// Number of bytes after this answer, which must be 0, since requests are not pipelined.
    pub extra_bytes: usize,
}

/// Not an HTTP answer with a Content-Length.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads an answer; `None` if it is incomplete.
///
/// # Errors
/// [`Malformed`] if it can never become a valid answer.
pub fn parse(bytes: &[u8]) -> Result<Option<Answer<'_>>, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_ANSWER_BYTES => return Ok(None),
        _ => return Err(Malformed),
    };
    let mut body_bytes: Option<usize> = None;
    let mut close = response.version != Some(1);
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(field.value).map_err(|_| Malformed)?;
            body_bytes = Some(text.trim().parse().map_err(|_| Malformed)?);
        } else if field.name.eq_ignore_ascii_case("connection") {
            close = field.value.eq_ignore_ascii_case(b"close");
        }
    }
    let body_bytes = body_bytes.filter(|n| *n <= MAX_ANSWER_BYTES).ok_or(Malformed)?;
    let Some(body) = bytes.get(head_bytes..head_bytes + body_bytes) else { return Ok(None) };
    let extra_bytes = bytes.len() - head_bytes - body_bytes;
    Ok(Some(Answer { status: response.code.unwrap_or(0), body, close, extra_bytes }))
}

/// Returns the string member `name` of a JSON object if it contains no escapes, as base64, names
/// and version numbers do not. `name` includes its quotation marks.
#[must_use]
pub fn string_member<'a>(body: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let after = &body[memmem::find(body, name.as_bytes())? + name.len()..];
    let value = after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let value = value.strip_prefix(b"\"")?;
    Some(&value[..memchr::memchr(b'"', value)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 2\r\n\r\n{}";

    /// An answer may arrive in pieces of any size.
    #[test]
    fn every_prefix_needs_more() {
        for end in 0..ANSWER.len() {
            assert_eq!(parse(&ANSWER[..end]), Ok(None), "{end}");
        }
        assert_eq!(
            parse(ANSWER),
            Ok(Some(Answer { status: 200, body: b"{}", close: false, extra_bytes: 0 }))
        );
    }

    #[test]
    fn a_closing_answer_an_answer_without_length_and_too_much() {
        let close = b"HTTP/1.1 503 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\nab";
        let answer = Answer { status: 503, body: b"", close: true, extra_bytes: 2 };
        assert_eq!(parse(close), Ok(Some(answer)));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n\r\n"), Err(Malformed));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"), Err(Malformed));
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), Err(Malformed));
    }

    #[test]
    fn members_are_found_with_and_without_white_space() {
        let body = br#"{"ciphertextMetadata": "AA==", "ciphertext" : "BB=="}"#;
        assert_eq!(string_member(body, "\"ciphertext\""), Some(&b"BB=="[..]));
        assert_eq!(string_member(body, "\"ciphertextMetadata\""), Some(&b"AA=="[..]));
        assert_eq!(string_member(body, "\"plaintext\""), None);
        assert_eq!(string_member(br#"{"plaintext":3}"#, "\"plaintext\""), None);
    }
}
