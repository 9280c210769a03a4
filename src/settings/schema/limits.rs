//! `[limits]`

use super::member::{Absent, Form, SectionSchema, integer, optional};
use crate::limits::{
    DEFAULT_BODY_TIMEOUT_MILLI, DEFAULT_HANDSHAKE_TIMEOUT_MILLI, DEFAULT_HEAD_TIMEOUT_MILLI,
    DEFAULT_IDLE_TIMEOUT_MILLI, DEFAULT_MAX_AAD_IN_BASE64_BYTES, DEFAULT_MAX_BUFFERED_BYTES,
    DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES,
    DEFAULT_MAX_REQUESTS_PER_CONNECTION, DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC,
    DEFAULT_REQUEST_DEADLINE_MILLI, DEFAULT_WRITE_TIMEOUT_MILLI, MAX_AAD_IN_BASE64_BYTES,
    MAX_CONNECTIONS, MAX_MAX_BUFFERED_BYTES, MAX_PLAINTEXT_IN_BASE64_BYTES, MAX_RATE_PER_SEC,
    MAX_REQUESTS_PER_CONNECTION, MAX_TIMEOUT_MILLI, MIN_MAX_BUFFERED_BYTES,
};

const TIME: Form = integer(1, MAX_TIMEOUT_MILLI, "milliseconds");

pub(super) const LIMITS: SectionSchema = SectionSchema {
    path: "limits",
    is_list: false,
    meaning: "Bounds on sizes, connections and times.",
    members: &[
        optional(
            "max_plaintext_in_base64",
            integer(0, MAX_PLAINTEXT_IN_BASE64_BYTES as u64, "bytes"),
            Absent::Integer(DEFAULT_MAX_PLAINTEXT_IN_BASE64_BYTES as u64),
            "Longest plaintext and ciphertext, in base64; KMS needs 5736.",
        ),
        optional(
            "max_aad_in_base64",
            integer(0, MAX_AAD_IN_BASE64_BYTES as u64, "bytes"),
            Absent::Integer(DEFAULT_MAX_AAD_IN_BASE64_BYTES as u64),
            "Longest additional authenticated data, in base64; KMS needs 10924.",
        ),
        optional(
            "max_connections",
            integer(1, MAX_CONNECTIONS as u64, "connections"),
            Absent::Integer(DEFAULT_MAX_CONNECTIONS as u64),
            "Connections in all; at the limit a new one evicts the oldest that never sent an \
             authentic request, else the one that has been idle longest.",
        ),
        optional(
            "max_connections_per_address",
            integer(0, MAX_CONNECTIONS as u64, "connections"),
            Absent::Integer(0),
            "Connections of one client address (of IPv6, one /64); 0 is no limit.",
        ),
        optional(
            "max_requests_per_connection",
            integer(0, MAX_REQUESTS_PER_CONNECTION, "requests"),
            Absent::Integer(DEFAULT_MAX_REQUESTS_PER_CONNECTION),
            "Requests after which a connection is closed in good order; 0 is no limit.",
        ),
        optional(
            "max_buffered_bytes",
            integer(MIN_MAX_BUFFERED_BYTES as u64, MAX_MAX_BUFFERED_BYTES as u64, "bytes"),
            Absent::Integer(DEFAULT_MAX_BUFFERED_BYTES as u64),
            "Memory that all connections together may hold; at the limit connections are evicted, \
             in the order of `max_connections`.",
        ),
        optional(
            "max_tls_handshakes_per_sec",
            integer(0, MAX_RATE_PER_SEC as u64, "handshakes a second"),
            Absent::Integer(DEFAULT_MAX_TLS_HANDSHAKES_PER_SEC as u64),
            "TLS handshakes over all event loops; further ones wait, and open connections do not. \
             0 is no limit.",
        ),
        optional(
            "request_deadline_milli",
            TIME,
            Absent::Integer(DEFAULT_REQUEST_DEADLINE_MILLI),
            "Time from a request's first byte to its answer, whatever the HSM does; KMS hangs up \
             after 250 ms, network included.",
        ),
        optional(
            "head_timeout_milli",
            TIME,
            Absent::Integer(DEFAULT_HEAD_TIMEOUT_MILLI),
            "Time that a peer may take to send a request's head.",
        ),
        optional(
            "body_timeout_milli",
            TIME,
            Absent::Integer(DEFAULT_BODY_TIMEOUT_MILLI),
            "Time that a peer may take to send a request's body.",
        ),
        optional(
            "idle_timeout_milli",
            TIME,
            Absent::Integer(DEFAULT_IDLE_TIMEOUT_MILLI),
            "Time that a connection may be idle between two requests.",
        ),
        optional(
            "write_timeout_milli",
            TIME,
            Absent::Integer(DEFAULT_WRITE_TIMEOUT_MILLI),
            "Time that a peer may take to read an answer.",
        ),
        optional(
            "handshake_timeout_milli",
            TIME,
            Absent::Integer(DEFAULT_HANDSHAKE_TIMEOUT_MILLI),
            "Time that a TLS handshake may take.",
        ),
    ],
};
