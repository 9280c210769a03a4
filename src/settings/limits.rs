//! `[limits]`

use std::time::Duration;

use super::Limits;
use super::section::Section;
use crate::limits::{
    DEFAULT_BODY_TIMEOUT_MILLI, DEFAULT_HANDSHAKE_TIMEOUT_MILLI, DEFAULT_HEAD_TIMEOUT_MILLI,
    DEFAULT_IDLE_TIMEOUT_MILLI, DEFAULT_MAX_AAD_IN_BASE64_BYTES, DEFAULT_MAX_BUFFERED_BYTES,
    DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
    DEFAULT_MAX_REQUESTS_PER_CONNECTION, DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC,
    DEFAULT_REQUEST_DEADLINE_MILLI, DEFAULT_WRITE_TIMEOUT_MILLI, KMS_TIMEOUT_MILLI, MAX_AAD_BYTES,
    MAX_CONNECTIONS, MAX_MAX_BUFFERED_BYTES, MAX_PLAINTEXT_IN_BASE64_BYTES, MAX_RATE_PER_SEC,
    MAX_TIMEOUT_MILLI, MIN_MAX_AAD_BYTES, MIN_MAX_BUFFERED_BYTES, MIN_MAX_PLAINTEXT_BYTES,
};
use crate::proto::service_config::Timeouts;

/// How many bytes of base64 that many bytes make, padded (RFC 4648, 4).
const fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// A file without the section has the defaults. One of a wrong shape is reported by `section`.
pub(super) fn read(root: &Section<'_>) -> Option<Limits> {
    let section = root.section("limits");
    let size = |name, default, minimum, maximum| {
        let Some(member) = section.as_ref().and_then(|section| section.get(name)) else {
            return Some(default);
        };
        let size: usize = member.integer(0..=maximum as u64, "a number of bytes")?;
        if size < minimum {
            let problem = format!("{size} is less than the XKS specification asks of a proxy");
            member.warning(problem, format!("write at least {minimum}"));
        }
        Some(size)
    };
    let max_plaintext_in_base64 = size(
        "max_plaintext_in_base64",
        DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
        base64_bytes(MIN_MAX_PLAINTEXT_BYTES),
        MAX_PLAINTEXT_IN_BASE64_BYTES,
    );
    let max_aad_in_base64 = size(
        "max_aad_in_base64",
        DEFAULT_MAX_AAD_IN_BASE64_BYTES,
        base64_bytes(MIN_MAX_AAD_BYTES),
        base64_bytes(MAX_AAD_BYTES),
    );
    let get = |name| section.as_ref().and_then(|section| section.get(name));
    let max_connections = match get("max_connections") {
        Some(member) => member.integer(1..=MAX_CONNECTIONS as u64, "a number of connections"),
        None => Some(DEFAULT_MAX_CONNECTIONS),
    };
    let max_connections_per_address = match get("max_connections_per_address") {
        Some(member) => member
            .integer(0..=MAX_CONNECTIONS as u64, "a number of connections (0: no limit)")
            .map(|max: u32| (max > 0).then_some(max)),
        None => Some(None),
    };
    let max_requests_per_connection = match get("max_requests_per_connection") {
        Some(member) => member.integer(0..=u64::MAX / 2, "a number of requests (0: no limit)"),
        None => Some(DEFAULT_MAX_REQUESTS_PER_CONNECTION),
    };
    let max_buffered_bytes = match get("max_buffered_bytes") {
        Some(member) => {
            let range = MIN_MAX_BUFFERED_BYTES as u64..=MAX_MAX_BUFFERED_BYTES as u64;
            member.integer(range, "a number of bytes")
        }
        None => Some(DEFAULT_MAX_BUFFERED_BYTES),
    };
    let max_tls_handshakes_per_sec = match get("max_tls_handshakes_per_sec") {
        Some(member) => {
            member.integer(0..=u64::from(MAX_RATE_PER_SEC), "a number of handshakes (0: no limit)")
        }
        None => Some(DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC),
    };
    let time = |name, default| {
        let milli = match section.as_ref().and_then(|section| section.get(name)) {
            Some(member) => {
                let milli: u64 =
                    member.integer(1..=MAX_TIMEOUT_MILLI, "a number of milliseconds")?;
                if name == "request_deadline_milli" && milli > KMS_TIMEOUT_MILLI {
                    member.warning(
                        format!("KMS hangs up after {KMS_TIMEOUT_MILLI} ms, before {milli} ms"),
                        format!("write {DEFAULT_REQUEST_DEADLINE_MILLI}, or leave it out"),
                    );
                }
                milli
            }
            None => default,
        };
        Some(Duration::from_millis(milli))
    };
    let request = time("request_deadline_milli", DEFAULT_REQUEST_DEADLINE_MILLI);
    let head = time("head_timeout_milli", DEFAULT_HEAD_TIMEOUT_MILLI);
    let body = time("body_timeout_milli", DEFAULT_BODY_TIMEOUT_MILLI);
    let idle = time("idle_timeout_milli", DEFAULT_IDLE_TIMEOUT_MILLI);
    let write = time("write_timeout_milli", DEFAULT_WRITE_TIMEOUT_MILLI);
    let handshake = time("handshake_timeout_milli", DEFAULT_HANDSHAKE_TIMEOUT_MILLI);
    Some(Limits {
        max_plaintext_in_base64: max_plaintext_in_base64?,
        max_aad_in_base64: max_aad_in_base64?,
        max_connections: max_connections?,
        max_connections_per_address: max_connections_per_address?,
        max_requests_per_connection: max_requests_per_connection?,
        max_buffered_bytes: max_buffered_bytes?,
        max_tls_handshakes_per_sec: max_tls_handshakes_per_sec?,
        timeouts: Timeouts {
            request: request?,
            head: head?,
            body: body?,
            idle: idle?,
            write: write?,
            handshake: handshake?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bounds that warnings and mistakes name are those of the specification.
    #[test]
    fn base64_of_the_specifications_sizes() {
        assert_eq!(base64_bytes(MIN_MAX_PLAINTEXT_BYTES), 5736);
        assert_eq!(base64_bytes(MIN_MAX_AAD_BYTES), 10_924);
        assert_eq!(base64_bytes(MAX_AAD_BYTES), 87_380);
    }
}
