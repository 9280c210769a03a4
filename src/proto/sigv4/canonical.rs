//! The canonical request (XKS specification, Appendix A, Task 1), hashed part by part.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use super::Unauthentic;
use crate::proto::http::request::Head;

/// The SHA-256 of the canonical request.
///
/// # Errors
/// [`Unauthentic::MissingSignedHeader`]
pub fn hash(
    head: &Head<'_, '_>,
    signed_headers: &str,
    payload_hash: &[u8],
) -> Result<[u8; 32], Unauthentic> {
    let mut hash = Sha256::new();
    hash.update(head.method);
    hash.update(b"\n");
    hash.update(path(head.path).as_ref());
    hash.update(b"\n");
    hash.update(query(head.query));
    hash.update(b"\n");
    for name in signed_headers.split(';') {
        header(&mut hash, head, name)?;
    }
    hash.update(b"\n");
    hash.update(signed_headers);
    hash.update(b"\n");
    hash.update(hex(payload_hash));
    Ok(hash.finalize().into())
}

/// `name:value,value\n`: values in order, trimmed, runs of blanks made one.
fn header(hash: &mut Sha256, head: &Head<'_, '_>, name: &str) -> Result<(), Unauthentic> {
    hash.update(name);
    let mut separator: &[u8] = b":";
    for field in head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)) {
        hash.update(separator);
        separator = b",";
        let value = field.value.trim_ascii();
        if memchr::memmem::find(value, b"  ").is_none() {
            hash.update(value);
            continue;
        }
        for (index, word) in
            value.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).enumerate()
        {
            if index > 0 {
                hash.update(b" ");
            }
            hash.update(word);
        }
    }
    if separator == b":" {
        return Err(Unauthentic::MissingSignedHeader);
    }
    hash.update(b"\n");
    Ok(())
}

/// The canonical URI: segments "." and ".." resolved, empty ones dropped, each octet encoded
/// anew. The paths of XKS calls are canonical as they stand, and are not copied.
#[must_use]
pub fn path(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| is_unreserved(byte) || byte == b'/';
    if path.bytes().all(plain) && !path.contains("//") && !path.contains("/.") {
        return Cow::Borrowed(path);
    }
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut canonical = String::with_capacity(path.len() + 16);
    for segment in &segments {
        canonical.push('/');
        encode(&mut canonical, segment.as_bytes());
    }
    // RFC 3986, 5.2.4, 2.B and 2.C: a dot segment at the end leaves a slash.
    if segments.is_empty() || ["/", "/.", "/.."].iter().any(|end| path.ends_with(end)) {
        canonical.push('/');
    }
    Cow::Owned(canonical)
}

/// The canonical query: names and values decoded and encoded anew, sorted. KMS sends none.
fn query(query: &str) -> String {
    if query.is_empty() {
        return String::new();
    }
    let mut parameters: Vec<(String, String)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (reencoded(name), reencoded(value))
        })
        .collect();
    parameters.sort();
    let mut canonical = String::with_capacity(query.len() + 16);
    for (index, (name, value)) in parameters.iter().enumerate() {
        if index > 0 {
            canonical.push('&');
        }
        canonical.push_str(name);
        canonical.push('=');
        canonical.push_str(value);
    }
    canonical
}

fn reencoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let escaped = (*byte == b'%')
            .then(|| text.get(index + 1..index + 3))
            .flatten()
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        index += if escaped.is_some() { 3 } else { 1 };
    }
    let mut encoded = String::with_capacity(decoded.len());
    encode(&mut encoded, &decoded);
    encoded
}

/// Percent-encodes all but the unreserved characters (RFC 3986, 2.3).
fn encode(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if is_unreserved(*byte) {
            out.push(char::from(*byte));
        } else {
            out.push('%');
            for digit in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Lower-case hexadecimal of a SHA-256.
#[must_use]
pub fn hex(hash: &[u8]) -> [u8; 64] {
    let mut text = [b'0'; 64];
    for (digits, byte) in text.chunks_exact_mut(2).zip(hash) {
        digits[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        digits[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those of the AWS SigV4 test suite's normalize-path and query cases.
    #[test]
    fn paths_and_queries_are_canonical() {
        for (given, canonical) in [
            ("/", "/"),
            ("//", "/"),
            ("/./", "/"),
            ("//example//", "/example/"),
            ("/example/..", "/"),
            ("/example1/example2/../..", "/"),
            ("/./example", "/example"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/example space/", "/example%20space/"),
            ("/p/kms/xks/v1/keys/a.b_c-d/encrypt", "/p/kms/xks/v1/keys/a.b_c-d/encrypt"),
            ("/a%2Fb", "/a%252Fb"),
        ] {
            assert_eq!(path(given), canonical, "{given}");
        }
        assert!(matches!(path("/p/kms/xks/v1/keys/a.b/encrypt"), Cow::Borrowed(_)));
        for (given, canonical) in [
            ("", ""),
            ("Param2=value2&Param1=value1", "Param1=value1&Param2=value2"),
            ("Param1=value2&Param1=Value1", "Param1=Value1&Param1=value2"),
            ("Param1=", "Param1="),
            ("a", "a="),
            ("a=%e1%88%B4", "a=%E1%88%B4"),
            ("a=b c", "a=b%20c"),
            ("a=%zz%", "a=%25zz%25"),
            ("a=%+1", "a=%25%2B1"),
        ] {
            assert_eq!(query(given), canonical, "{given}");
        }
    }
}
