//! Traced calls as spans: one of kind server for the call, and its parts below it.

use std::time::Duration;

use super::clock::nanos;
use super::messages::{Any, KeyValue, Span, SpanKind, SpanStatus, StatusCode};
use crate::observe::otlp::call_span::{CallSpan, Text};
use crate::random;

/// `SpanFlags`: sampled, and it is known that no parent is remote.
const FLAGS: u32 = 0x101;

/// Appends the spans of a call.
pub(super) fn push(call: &CallSpan, spans: &mut Vec<Span>) {
    let [server, ids @ ..] = span_ids();
    let start = call.end.saturating_sub(call.total);
    let mut push_child = |id: [u8; 8], name: &str, from: Duration, to: Duration, is_good: bool| {
        // The parts are measured by several threads, and must not leave the whole.
        let (from, to) = (from.min(call.total), to.min(call.total));
        spans.push(Span {
            trace_id: call.trace_id.to_vec(),
            span_id: id.to_vec(),
            parent_span_id: server.to_vec(),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: nanos(start + from),
            end_time_unix_nano: nanos(start + to),
            attributes: Vec::new(),
            status: (!is_good).then(|| error("no answer in time")),
            flags: FLAGS,
        });
    };
    if let Some(times) = call.hsm {
        let queued = times.until_queued;
        let [queue_id, hsm_id, encode_id] = ids;
        match times.answered {
            Some((queue, hsm)) => {
                push_child(queue_id, "queue", queued, queued + queue, true);
                push_child(hsm_id, "hsm", queued + queue, queued + queue + hsm, true);
                push_child(encode_id, "encode", queued + queue + hsm, call.total, true);
            }
            // Nobody knows yet which part of it was the queue's.
            None => push_child(hsm_id, "queue and hsm", queued, call.total, false),
        }
    }
    spans.push(Span {
        trace_id: call.trace_id.to_vec(),
        span_id: server.to_vec(),
        parent_span_id: Vec::new(),
        name: name(call),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(call.end),
        attributes: attributes(call),
        // The semantic conventions leave a server's span unset if the client is at fault.
        status: (call.status >= 500).then(|| error(call.text(Text::Reason).unwrap_or_default())),
        flags: FLAGS,
    });
}

fn error(message: &str) -> SpanStatus {
    SpanStatus { message: message.to_owned(), code: StatusCode::Error.into() }
}

/// Random ids; never zero, which OpenTelemetry reserves.
fn span_ids() -> [[u8; 8]; 4] {
    let mut bytes = [0; 32];
    // The system always has random bytes.
    let _ = random::fill(&mut bytes);
    let mut ids = [[1; 8]; 4];
    for (id, bytes) in ids.iter_mut().zip(bytes.chunks_exact(8)) {
        if bytes.iter().any(|byte| *byte != 0) {
            id.copy_from_slice(bytes);
        }
    }
    ids
}

/// Method and route, as the semantic conventions for HTTP name a server's span.
fn name(call: &CallSpan) -> String {
    route(call).map_or_else(|| "POST".to_owned(), |route| format!("POST {route}"))
}

fn route(call: &CallSpan) -> Option<String> {
    let prefix = call.text(Text::Store).unwrap_or_default();
    match call.text(Text::Call) {
        None | Some("") => None,
        Some("health") => Some(format!("{prefix}/kms/xks/v1/health")),
        Some(of_key) => Some(format!("{prefix}/kms/xks/v1/keys/{{externalKeyId}}/{of_key}")),
    }
}

fn attributes(call: &CallSpan) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::string("http.request.method", "POST"),
        KeyValue::int("http.response.status_code", call.status),
        KeyValue::int("http.request.body.size", call.request_bytes),
        KeyValue::int("http.response.body.size", call.response_bytes),
    ];
    if let Some(route) = route(call) {
        attributes.push(KeyValue::string("http.route", &route));
    }
    if let Some(peer) = call.peer {
        attributes.push(KeyValue::string("network.peer.address", &peer.to_string()));
    }
    // The names that the log's lines have.
    for (name, text) in [
        ("error.type", Text::ErrorName),
        ("call", Text::Call),
        ("errorName", Text::ErrorName),
        ("reason", Text::Reason),
        ("kmsRequestId", Text::KmsRequestId),
        ("kmsOperation", Text::KmsOperation),
        ("store", Text::Store),
        ("externalKeyId", Text::KeyId),
        ("token", Text::Token),
    ] {
        if let Some(text) = call.text(text) {
            attributes.push(KeyValue::string(name, text));
        }
    }
    if let Some(version) = call.key_version {
        attributes.push(KeyValue::of("keyVersion", Any::Int(version.into())));
    }
    attributes
}
