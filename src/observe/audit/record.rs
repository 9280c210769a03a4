//! The members of a line, as JSON with escaped strings. None of them contains plaintext,
//! ciphertext, AAD or a secret.

use std::time::Duration;

use crate::limits::{AUDIT_LINE_OVERHEAD_BYTES, MAX_LOG_STRING_BYTES};
use crate::observe::call_record::CallRecord;
use crate::observe::line::Line;
use crate::observe::timestamp::Rfc3339;

/// Upper bound of the length of an escaped byte, `\u00XX`.
const MAX_ESCAPED_BYTES: usize = 6;

/// Returns an upper bound of the length of a call's line, given the lengths of its strings.
pub(super) fn max_bytes(string_bytes: impl Iterator<Item = usize>) -> usize {
    let longest = MAX_LOG_STRING_BYTES + 3;
    let escaped = string_bytes.map(|bytes| bytes.saturating_mul(MAX_ESCAPED_BYTES).min(longest));
    AUDIT_LINE_OVERHEAD_BYTES + escaped.sum::<usize>()
}

/// Appends the members of an event.
pub(super) fn write_event<'a>(
    out: &'a mut Vec<u8>,
    time: &mut Rfc3339,
    since_1970: Duration,
    event: &str,
    members: &[(&str, &str)],
) -> Line<'a> {
    let mut line = Line::continue_json(out);
    // Never `None`, since it is ASCII.
    line.optional("time", std::str::from_utf8(time.at(since_1970)).ok());
    line.string("event", event);
    for (name, value) in members {
        line.string(name, value);
    }
    line
}

/// Appends the members of a call, and the line end.
pub(super) fn write_call(
    out: &mut Vec<u8>,
    time: &mut Rfc3339,
    since_1970: Duration,
    record: &CallRecord<'_>,
) {
    let mut line = write_event(out, time, since_1970, "call", &[]);
    line.string("operation", record.call);
    line.optional("store", record.store);
    line.optional("accessKeyId", record.access_key_id);
    if let Some(peer) = record.peer {
        line.address("peer", peer);
    }
    line.optional("externalKeyId", record.key_id);
    if let Some(version) = record.key_version {
        line.number("keyVersion", u64::from(version));
    }
    line.optional("kmsKeyArn", record.kms_key_arn);
    line.optional("awsPrincipalArn", record.principal);
    line.optional("kmsOperation", record.kms_operation);
    line.optional("kmsRequestId", record.kms_request_id);
    line.optional("kmsViaService", record.kms_via_service);
    line.optional("awsSourceVpc", record.source_vpc);
    line.optional("awsSourceVpce", record.source_vpce);
    if record.status == 0 {
        // The peer disconnected before there was an answer, but the HSM may have done the work.
        line.string("outcome", "abandoned");
    } else {
        line.number("status", u64::from(record.status));
    }
    line.optional("errorName", record.error_name);
    line.optional("reason", record.reason);
    line.optional("token", record.token);
    out.push(b'\n');
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const AT: Duration = Duration::new(784_111_777, 123_456_000);

    fn record() -> CallRecord<'static> {
        CallRecord {
            peer: Some("2001:db8::1".parse().unwrap()),
            is_authenticated: true,
            call: "decrypt",
            store: Some(""),
            access_key_id: Some("ABCDEFGHIJKLMNOPQRSTUVWX"),
            key_id: Some("key.1"),
            key_version: Some(2),
            kms_request_id: Some("an id\n\u{1b}[31m\u{e9}"),
            kms_operation: Some("Decrypt"),
            principal: Some("arn:aws:iam::123456789012:user/Alice"),
            kms_key_arn: Some("arn:aws:kms:us-east-2:123456789012:key/1234abcd"),
            kms_via_service: Some("ebs"),
            source_vpc: Some("vpc-1"),
            source_vpce: Some("vpce-1"),
            status: 400,
            error_name: Some("InvalidCiphertextException"),
            reason: Some("they do not fit together"),
            token: Some("hsm-a"),
            ..CallRecord::default()
        }
    }

    fn written(record: &CallRecord<'_>) -> (Vec<u8>, Value) {
        let mut out = Vec::new();
        write_call(&mut out, &mut Rfc3339::default(), AT, record);
        let text = String::from_utf8(out.clone()).unwrap();
        let members = text.strip_prefix(',').unwrap().strip_suffix('\n').unwrap();
        (out, serde_json::from_str(&format!("{{{members}}}")).unwrap())
    }

    /// Each member has the name used in the specification, and there are no others.
    #[test]
    fn a_call() {
        let (bytes, value) = written(&record());
        assert_eq!(
            value,
            json!({
                "time": "1994-11-06T08:49:37.123456Z", "event": "call", "operation": "decrypt",
                "store": "", "accessKeyId": "ABCDEFGHIJKLMNOPQRSTUVWX", "peer": "2001:db8::1",
                "externalKeyId": "key.1", "keyVersion": 2,
                "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:key/1234abcd",
                "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
                "kmsOperation": "Decrypt", "kmsRequestId": "an id\n\u{1b}[31m\u{e9}",
                "kmsViaService": "ebs", "awsSourceVpc": "vpc-1", "awsSourceVpce": "vpce-1",
                "status": 400, "errorName": "InvalidCiphertextException",
                "reason": "they do not fit together", "token": "hsm-a"
            })
        );
        let line = bytes.strip_suffix(b"\n").unwrap();
        assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')));
        let (_, gone) = written(&CallRecord { status: 0, ..record() });
        assert_eq!((&gone["outcome"], gone.get("status")), (&json!("abandoned"), None));
    }

    /// A reservation is large enough for any strings from the peer and any token label.
    #[test]
    fn the_bound_holds() {
        for unit in ["a", "\u{1}", "\"", "\u{e9}", "\u{20ac}", "\u{1f511}"] {
            for count in [0, 1, 300, MAX_LOG_STRING_BYTES] {
                let text = unit.repeat(count);
                let long = Some(text.as_str());
                let token = "\u{1}".repeat(32);
                let record = CallRecord {
                    peer: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
                    call: "metadata",
                    store: long,
                    access_key_id: Some("ABCDEFGHIJKLMNOPQRSTUVWXYZ2345"),
                    key_id: long,
                    key_version: Some(u32::MAX),
                    kms_request_id: long,
                    kms_operation: long,
                    principal: long,
                    kms_key_arn: long,
                    kms_via_service: long,
                    source_vpc: long,
                    source_vpce: long,
                    status: 503,
                    error_name: Some("UnsupportedOperationException"),
                    reason: Some(&"r".repeat(2 * MAX_LOG_STRING_BYTES)),
                    token: Some(&token),
                    ..CallRecord::default()
                };
                let (bytes, _) = written(&record);
                let bound = max_bytes(std::iter::repeat_n(text.len(), 9));
                assert!(bytes.len() <= bound, "{} > {bound}, {unit:?} x {count}", bytes.len());
            }
        }
    }
}
