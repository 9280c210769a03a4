//! Addresses, and networks in CIDR notation (RFC 4632, 3.1; RFC 4291, 2.3).
//!
//! An IPv4 address that is mapped into IPv6 (`::ffff:192.0.2.1`; RFC 4291, 2.5.5.2) is an IPv4
//! address everywhere: a client must not have two addresses.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Bits of the prefix that all IPv4 addresses mapped into IPv6 share.
const MAPPED_PREFIX_BITS: u32 = 96;

/// Returns the address of a peer as it is compared and logged. On a socket for both families, IPv4
/// addresses are mapped into IPv6.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        // It may have a scope.
        IpAddr::V6(_) => address,
    }
}

/// A network: all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    prefix_bits: u32,
}

/// The error for a text that is not a network: it has no address, its prefix is too long, or bits
/// are set beyond the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError;

impl Network {
    /// Returns whether `address` is in the network. IPv4 addresses mapped into IPv6
    /// (`::ffff:192.0.2.1`) count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                masked(address.to_bits().into(), 32, self.prefix_bits) == first.to_bits().into()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                masked(address.to_bits(), 128, self.prefix_bits) == first.to_bits()
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Parses `192.0.2.0/24` or `2001:db8::/32`; a plain address is a network of one. A network of
    /// mapped addresses (`::ffff:192.0.2.0/120`) is the IPv4 network.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let (bits, width) = match first {
            IpAddr::V4(first) => (first.to_bits().into(), 32),
            IpAddr::V6(first) => (first.to_bits(), 128),
        };
        let prefix_bits = match prefix {
            None => width,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| NetworkError)?
            }
            Some(_) => return Err(NetworkError),
        };
        if prefix_bits > width || masked(bits, width, prefix_bits) != bits {
            return Err(NetworkError);
        }
        // A shorter prefix than the mapped addresses' is that of IPv6 networks, with no IPv4.
        match (first, first.to_canonical(), prefix_bits.checked_sub(MAPPED_PREFIX_BITS)) {
            (IpAddr::V6(_), first @ IpAddr::V4(_), Some(prefix_bits)) => {
                Ok(Self { first, prefix_bits })
            }
            _ => Ok(Self { first, prefix_bits }),
        }
    }
}

/// The first `prefix_bits` of an address that is `width` bits wide.
fn masked(bits: u128, width: u32, prefix_bits: u32) -> u128 {
    let low_bits = width.saturating_sub(prefix_bits);
    let low = if low_bits >= 128 { u128::MAX } else { (1 << low_bits) - 1 };
    bits & !low
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn contains() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.255.255", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::a01:203", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("10.1.2.2/31", "10.1.2.3", true),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "ffff::1", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1/128", "::1", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.0.0.0", false),
            ("::ffff:10.1.2.3", "10.1.2.3", true),
            ("::ffff:10.1.2.3/128", "10.1.2.2", false),
            ("::ffff:0:0/96", "192.0.2.1", true),
            ("::ffff:0:0/96", "::1", false),
            ("::/0", "192.0.2.1", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), expected, "{network} {address}");
        }
    }

    #[test]
    fn canonical_addresses() {
        for (address, expected) in [
            ("192.0.2.1:1", "192.0.2.1:1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1:1"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("[fe80::1%2]:1", "[fe80::1%2]:1"),
            ("[::192.0.2.1]:1", "[::192.0.2.1]:1"),
        ] {
            assert_eq!(canonical(address.parse().unwrap()), expected.parse().unwrap());
        }
    }

    #[test]
    fn what_is_no_network() {
        for text in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0/8",
            "::/129",
            "::ffff:10.0.0.1/104",
            "::ffff:10.0.0.0/8",
            "::1/64",
            "10.0.0.0/+8",
            "10.0.0.0/8 ",
            "localhost",
            "10.0.0.0/8/8",
            "10.0.0.0/4294967296",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }
}
