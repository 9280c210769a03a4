//! The canonical request (XKS specification, Appendix A, Task 1).

use std::borrow::Cow;

use super::unauthentic::Unauthentic;
use crate::proto::http::request::Head;

/// Writes the canonical request into `out`, which must be empty.
///
/// # Errors
/// [`Unauthentic::MissingSignedHeader`]
pub fn write(
    out: &mut Vec<u8>,
    head: &Head<'_, '_>,
    signed_headers: &[u8],
    payload_hash: &[u8; 32],
) -> Result<(), Unauthentic> {
    debug_assert!(out.is_empty());
    out.extend_from_slice(head.method.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(path(head.path).as_bytes());
    out.push(b'\n');
    if !head.query.is_empty() {
        out.extend_from_slice(query(head.query).as_bytes());
    }
    out.push(b'\n');
    for name in signed_headers.split(|byte| *byte == b';') {
        header(out, head, name)?;
    }
    out.push(b'\n');
    out.extend_from_slice(signed_headers);
    out.push(b'\n');
    out.extend_from_slice(&hex(payload_hash));
    Ok(())
}

/// Appends `name:value,value\n`: values in order, trimmed, with each run of blanks collapsed to
/// one.
fn header(out: &mut Vec<u8>, head: &Head<'_, '_>, name: &[u8]) -> Result<(), Unauthentic> {
    out.extend_from_slice(name);
    let mut separator = b':';
    for field in head.headers {
        if !field.name.as_bytes().eq_ignore_ascii_case(name) {
            continue;
        }
        out.push(separator);
        separator = b',';
        let value = field.value.trim_ascii();
        if !value.windows(2).any(|pair| pair == b"  ") {
            out.extend_from_slice(value);
            continue;
        }
        let words = value.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        for (index, word) in words.enumerate() {
            if index > 0 {
                out.push(b' ');
            }
            out.extend_from_slice(word);
        }
    }
    if separator == b':' {
        return Err(Unauthentic::MissingSignedHeader);
    }
    out.push(b'\n');
    Ok(())
}

/// Returns the canonical URI: segments "." and ".." resolved, empty ones dropped, each octet
/// re-encoded. The paths of XKS calls are canonical already, and are not copied.
#[must_use]
pub fn path(path: &str) -> Cow<'_, str> {
    if is_canonical(path.as_bytes()) {
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

/// Returns whether nothing has to be encoded, and no segment is empty or begins with a dot. All
/// bytes are always examined: without an early exit, the compiler processes several at once.
fn is_canonical(path: &[u8]) -> bool {
    let mut is_encoded = false;
    for byte in path {
        is_encoded |= !IS_PLAIN[usize::from(*byte)];
    }
    let mut is_normal = true;
    for (byte, next) in path.iter().zip(path.get(1..).unwrap_or_default()) {
        is_normal &= (*byte != b'/') | ((*next != b'/') & (*next != b'.'));
    }
    is_normal && !is_encoded
}

/// Returns whether the byte is an unreserved character (RFC 3986, 2.3) or "/".
const IS_PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'/');
        byte += 1;
    }
    table
};

/// Appends the canonical query: names and values decoded, re-encoded and sorted. KMS sends none.
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

/// Formats a SHA-256 as lower-case hexadecimal.
#[must_use]
pub fn hex(hash: &[u8; 32]) -> [u8; 64] {
    let mut text = [0; 64];
    for (digits, byte) in text.chunks_exact_mut(2).zip(hash) {
        digits[0] = byte >> 4;
        digits[1] = byte & 15;
    }
    // The compiler vectorizes arithmetic, but not a table lookup.
    for digit in &mut text {
        *digit += if *digit < 10 { b'0' } else { b'a' - 10 };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each byte becomes its two digits.
    #[test]
    fn hexadecimal() {
        for first in (0..=255_u8).step_by(32) {
            let mut bytes = [0; 32];
            bytes.iter_mut().zip(first..=first + 31).for_each(|(byte, value)| *byte = value);
            let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex(&bytes), expected.as_bytes());
        }
    }

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
            ("/.a/..b/c.", "/.a/..b/c."),
            ("/a+b", "/a%2Bb"),
            ("/\u{e9}", "/%C3%A9"),
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
            ("&&", ""),
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
