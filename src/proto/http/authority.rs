//! The authority of a request: a Host field's value, or that of an absolute-form target (RFC 9110,
//! 7.2; RFC 3986, 3.2).

use std::net::IpAddr;

/// Returns whether `value` is a host with an optional port, as a Host field may have. The host may
/// be empty. User information, which nothing may send there, is refused.
#[must_use]
pub fn is_host(value: &[u8]) -> bool {
    is_plain_name(value) || is_any_host(value)
}

/// Returns whether `name` is at least eight letters, digits, dots and hyphens, as nearly every Host
/// is. Blocks of a known length, which may overlap, cost a few vector instructions each.
fn is_plain_name(name: &[u8]) -> bool {
    if let Some(last) = name.last_chunk::<16>() {
        return name.as_chunks::<16>().0.iter().all(are_plain) && are_plain(last);
    }
    match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(first), Some(last)) => are_plain(first) & are_plain(last),
        _ => false,
    }
}

fn are_plain<const N: usize>(bytes: &[u8; N]) -> bool {
    bytes.iter().fold(true, |are_plain, byte| {
        let is_letter = (byte | 0x20).is_ascii_lowercase();
        are_plain & (is_letter | byte.is_ascii_digit() | matches!(byte, b'-' | b'.'))
    })
}

fn is_any_host(value: &[u8]) -> bool {
    let (host, rest) = match value {
        [b'[', literal @ ..] => {
            let Some(end) = memchr::memchr(b']', literal) else { return false };
            let (address, rest) = literal.split_at(end);
            if !is_address(address) {
                return false;
            }
            (&[][..], rest.get(1..).unwrap_or_default())
        }
        name => {
            let end = name.iter().position(|byte| !is_of_name(*byte));
            name.split_at(end.unwrap_or(name.len()))
        }
    };
    is_encoded(host)
        && match rest {
            [] => true,
            [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
            _ => false,
        }
}

/// Returns whether `value` is a host, which is not empty, with an optional port, as the target of a
/// request must have (RFC 9110, 4.2.1 and 4.2.4).
#[must_use]
pub fn is_authority(value: &[u8]) -> bool {
    !matches!(value, [] | [b':', ..]) && is_host(value)
}

/// Returns whether a registered name may have this byte: unreserved, a sub-delim, or the percent sign
/// of an encoded byte.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte)
}

/// Returns whether each percent sign is followed by two hexadecimal digits.
fn is_encoded(name: &[u8]) -> bool {
    memchr::memchr_iter(b'%', name).all(|at| {
        name.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Returns whether this is an IPv6 address. Other literals (RFC 3986, `IPvFuture`) have never been
/// defined, and a zone (RFC 6874) is known to the sender alone.
fn is_address(literal: &[u8]) -> bool {
    let address = std::str::from_utf8(literal).ok().and_then(|text| text.parse().ok());
    address.is_some_and(|address: IpAddr| address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (value, expected) in [
            ("xks.example.com", true),
            ("xks.example.com:443", true),
            ("xks.example.com:", true),
            ("", true),
            ("192.0.2.1:8443", true),
            ("[2001:db8::1]", true),
            ("[2001:db8::1]:443", true),
            ("[::ffff:192.0.2.1]", true),
            ("a_b~c!$&'()*+,;=", true),
            ("caf%C3%A9.example", true),
            ("a b", false),
            ("a/b", false),
            ("a?b", false),
            ("a#b", false),
            ("a\\b", false),
            ("user@host", false),
            ("user:password@host", false),
            ("a:b", false),
            ("a:4 43", false),
            ("a:443:443", false),
            ("a:-1", false),
            ("a:+1", false),
            ("2001:db8::1", false),
            ("[2001:db8::1", false),
            ("[2001:db8::1]x", false),
            ("[fe80::1%25eth0]", false),
            ("[v1.x]", false),
            ("[]", false),
            ("[a.example]", false),
            ("a%2", false),
            ("a%zz", false),
            ("%", false),
            ("\"a\"", false),
            ("a\tb", false),
            ("caf\u{e9}", false),
        ] {
            assert_eq!(is_host(value.as_bytes()), expected, "{value}");
        }
    }

    /// A byte that no host has is found wherever it is in a long name.
    #[test]
    fn each_byte_of_a_name_counts() {
        for length in 1..70 {
            let name = vec![b'x'; length];
            assert!(is_host(&name));
            for at in 0..length {
                for byte in 0..=255 {
                    let mut name = name.clone();
                    name[at] = byte;
                    // A colon at the end is that of an empty port.
                    let is_port = byte == b':' && at == length - 1;
                    let is_right = is_of_name(byte) && byte != b'%' || is_port;
                    assert_eq!(is_host(&name), is_right, "{length} {at} {byte}");
                }
            }
        }
    }

    #[test]
    fn an_authority_has_a_host() {
        for (value, expected) in [("a", true), ("[::1]:1", true), ("", false), (":80", false)] {
            assert_eq!(is_authority(value.as_bytes()), expected, "{value}");
        }
    }
}
