//! The PROXY protocol, version 2: the header in which a load balancer names the client of a
//! connection (haproxy.org, The PROXY protocol, 2.2).

mod tlvs;

use std::fmt;
use std::net::IpAddr;

use bytes::Buf as _;

use self::tlvs::BadTlvs;
use crate::limits::MAX_PROXY_HEADER_BYTES;

/// The first bytes of every header. No HTTP or TLS connection begins with them.
pub const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Length of signature, version and command, family and protocol, and length.
const FIXED_BYTES: usize = 16;

/// A valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Address and port of the client, if the header has them: a load balancer's own connections
    /// (LOCAL) and those of an unspecified family keep the peer's.
    pub source: Option<(IpAddr, u16)>,
    /// Length of the whole header in bytes, including addresses and TLVs.
    pub length: usize,
}

/// The reason why a connection without a valid header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderError {
    /// It begins with something else.
    Missing,
    /// It begins with a header in the text form of version 1.
    VersionOne,
    /// Another version, or a command that is neither LOCAL nor PROXY.
    UnknownCommand(u8),
    /// Not TCP over IPv4 or IPv6.
    UnknownFamily(u8),
    /// Too short for the addresses of its family.
    TooShort,
    /// Longer than [`MAX_PROXY_HEADER_BYTES`].
    TooLong,
    /// An additional field (TLV) runs over the end of the header.
    BadTlv,
    /// The checksum in it is not its own.
    BadChecksum,
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => formatter.write_str("the connection does not begin with a header"),
            Self::VersionOne => formatter.write_str("it is of version 1 instead of 2"),
            Self::UnknownCommand(byte) => {
                write!(formatter, "unknown version and command 0x{byte:02x}")
            }
            Self::UnknownFamily(byte) => {
                write!(formatter, "unknown family and protocol 0x{byte:02x}")
            }
            Self::TooShort => formatter.write_str("it is too short for its addresses"),
            Self::TooLong => {
                write!(formatter, "it is longer than {MAX_PROXY_HEADER_BYTES} bytes")
            }
            Self::BadTlv => formatter.write_str("an additional field runs over its end"),
            Self::BadChecksum => formatter.write_str("its checksum is wrong"),
        }
    }
}

/// Reads the header at the start of `received`; `None` if more bytes are needed. Of the TLVs only the
/// checksum is of interest.
///
/// # Errors
/// [`ProxyHeaderError`], as soon as the bytes received suffice to detect it.
pub fn parse(received: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let known = received.len().min(SIGNATURE.len());
    if received[..known] != SIGNATURE[..known] {
        let is_version_one = received.starts_with(b"PROXY ");
        return Err(if is_version_one {
            ProxyHeaderError::VersionOne
        } else {
            ProxyHeaderError::Missing
        });
    }
    let mut fixed = received.get(SIGNATURE.len()..).unwrap_or_default();
    let (Ok(command), Ok(family), Ok(rest)) =
        (fixed.try_get_u8(), fixed.try_get_u8(), fixed.try_get_u16())
    else {
        return Ok(None);
    };
    let length = FIXED_BYTES + usize::from(rest);
    if !matches!(command, 0x20 | 0x21) {
        return Err(ProxyHeaderError::UnknownCommand(command));
    }
    if length > MAX_PROXY_HEADER_BYTES {
        return Err(ProxyHeaderError::TooLong);
    }
    let is_local = command == 0x20;
    let address_bytes = match family {
        0x11 if !is_local => 12,
        0x21 if !is_local => 36,
        // Whatever follows in a header without addresses that count is skipped (section 2.2).
        _ if is_local || family == 0 => 0,
        _ => return Err(ProxyHeaderError::UnknownFamily(family)),
    };
    if length < FIXED_BYTES + address_bytes {
        return Err(ProxyHeaderError::TooShort);
    }
    let Some(header) = received.get(..length) else {
        return Ok(None);
    };
    let end = FIXED_BYTES + address_bytes;
    let source = header.get(FIXED_BYTES..end).and_then(source);
    if source.is_some() {
        tlvs::check(header, end).map_err(|bad| match bad {
            BadTlvs::Overrun => ProxyHeaderError::BadTlv,
            BadTlvs::Checksum => ProxyHeaderError::BadChecksum,
        })?;
    }
    Ok(Some(ProxyHeader { source, length }))
}

/// Reads source and destination address, source and destination port.
fn source(mut addresses: &[u8]) -> Option<(IpAddr, u16)> {
    let address = match addresses.len() {
        12 => {
            let source = addresses.try_get_u32().ok()?;
            let _destination = addresses.try_get_u32().ok()?;
            IpAddr::from(source.to_be_bytes())
        }
        36 => {
            let source = addresses.try_get_u128().ok()?;
            let _destination = addresses.try_get_u128().ok()?;
            IpAddr::from(source.to_be_bytes())
        }
        _ => return None,
    };
    Some((address.to_canonical(), addresses.try_get_u16().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend_from_slice(rest);
        bytes
    }

    /// A header as a Network Load Balancer sends it: addresses, then the endpoint service's TLV.
    fn version_4() -> Vec<u8> {
        let mut rest = vec![192, 0, 2, 7, 198, 51, 100, 1, 0xd9, 0x03, 0x01, 0xbb];
        rest.extend([0xea, 0, 5, 1, b'v', b'p', b'c', b'e']);
        header(0x21, 0x11, &rest)
    }

    fn version_6(source: [u8; 16]) -> Vec<u8> {
        let mut rest = source.to_vec();
        rest.extend([0; 16]);
        rest.extend([0x12, 0x34, 0x01, 0xbb]);
        header(0x21, 0x21, &rest)
    }

    #[test]
    fn clients_of_both_families() {
        let bytes = version_4();
        let source = Some((IpAddr::from([192, 0, 2, 7]), 0xd903));
        assert_eq!(parse(&bytes), Ok(Some(ProxyHeader { source, length: bytes.len() })));
        let mut address = [0; 16];
        address[..2].copy_from_slice(&[0x20, 0x01]);
        let source = Some((IpAddr::from(address), 0x1234));
        assert_eq!(parse(&version_6(address)), Ok(Some(ProxyHeader { source, length: 52 })));
        // One client must not have two addresses.
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7];
        let parsed = parse(&version_6(mapped)).ok().flatten().and_then(|header| header.source);
        assert_eq!(parsed.map(|source| source.0), Some(IpAddr::from([192, 0, 2, 7])));
    }

    fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
        header(
            0x21,
            0x11,
            &[&[192, 0, 2, 7, 198, 51, 100, 1, 0xd9, 0x03, 0x01, 0xbb], tlvs].concat(),
        )
    }

    /// A checksum is verified wherever it is, and covers the whole header. (The sums were
    /// computed by another program.)
    #[test]
    fn checksums() {
        for (tlvs, sum) in [
            (&[3, 0, 4][..], [0xee, 0x9b, 0x62, 0x41]),
            (&[0xea, 0, 1, 7, 3, 0, 4], [0x0b, 0xe5, 0xb0, 0x51]),
        ] {
            let mut bytes = with_tlvs(&[tlvs, &sum].concat());
            assert!(matches!(parse(&bytes), Ok(Some(_))));
            for at in SIGNATURE.len() + 4..bytes.len() - 7 {
                bytes[at] ^= 1;
                assert!(parse(&bytes).is_err(), "{at}");
                bytes[at] ^= 1;
            }
            let twice = with_tlvs(&[tlvs, &sum, tlvs, &sum].concat());
            assert_eq!(parse(&twice), Err(ProxyHeaderError::BadChecksum));
        }
    }

    /// Bytes after the header are not touched.
    #[test]
    fn what_follows_is_left_alone() {
        let mut bytes = version_4();
        let length = bytes.len();
        bytes.extend_from_slice(b"\x16\x03\x01");
        assert_eq!(parse(&bytes).map(|header| header.map(|it| it.length)), Ok(Some(length)));
    }

    /// A header that the network splits at any point is neither refused nor accepted too early.
    #[test]
    fn in_pieces() {
        for bytes in [version_4(), version_6([1; 16]), header(0x20, 0, b"")] {
            for cut in 0..bytes.len() {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut}");
            }
            assert!(matches!(parse(&bytes), Ok(Some(_))));
        }
    }

    /// Health checks that the load balancer makes for itself.
    #[test]
    fn the_peer_itself() {
        for (command, family, rest) in [
            (0x20, 0x00, &[][..]),
            (0x20, 0x11, &[1; 12]),
            (0x20, 0x31, &[1; 3]),
            (0x21, 0, &[9; 5]),
        ] {
            let parsed = parse(&header(command, family, rest));
            let length = FIXED_BYTES + rest.len();
            assert_eq!(parsed, Ok(Some(ProxyHeader { source: None, length })));
        }
    }

    #[test]
    fn what_is_refused() {
        use ProxyHeaderError as Error;
        let too_long = header(0x21, 0x11, &[0; MAX_PROXY_HEADER_BYTES]);
        for (bytes, error) in [
            (b"GET / HTTP/1.1".to_vec(), Error::Missing),
            (b"\x16\x03\x01".to_vec(), Error::Missing),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Error::Missing),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), Error::VersionOne),
            (header(0x22, 0x11, &[0; 12]), Error::UnknownCommand(0x22)),
            (header(0x11, 0x11, &[0; 12]), Error::UnknownCommand(0x11)),
            (header(0x21, 0x12, &[0; 12]), Error::UnknownFamily(0x12)),
            (header(0x21, 0x31, &[0; 216]), Error::UnknownFamily(0x31)),
            (header(0x21, 0x11, &[0; 11]), Error::TooShort),
            (header(0x21, 0x21, &[0; 35]), Error::TooShort),
            (too_long, Error::TooLong),
            (with_tlvs(&[0xea]), Error::BadTlv),
            (with_tlvs(&[0xea, 0]), Error::BadTlv),
            (with_tlvs(&[0xea, 0, 6, 1, b'v', b'p', b'c', b'e']), Error::BadTlv),
            (with_tlvs(&[4, 0, 1, 0, 0xea, 0xff, 0xff]), Error::BadTlv),
            (with_tlvs(&[3, 0, 4, 1, 2, 3, 4]), Error::BadChecksum),
            (with_tlvs(&[3, 0, 0]), Error::BadChecksum),
        ] {
            assert_eq!(parse(&bytes), Err(error), "{bytes:?}");
        }
        // Refused without waiting for the rest of a version 1 header's line.
        assert_eq!(parse(b"P"), Err(Error::Missing));
    }
}
