#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::Ipv6Addr;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::limits::MAX_LOG_STRING_BYTES;
use crate::observe::log::tests::{file_config, read_logged};
use crate::observe::log::{Log, LogConfig};
use crate::observe::syslog::copies::Copies;

const AT: Duration = Duration::new(784_111_777, 123_456_000);

fn record() -> CallRecord<'static> {
    CallRecord {
        peer: Some(Ipv6Addr::LOCALHOST.into()),
        is_authenticated: true,
        call: "decrypt",
        store: Some("/example"),
        access_key_id: Some("ABCDEFGHIJKLMNOPQRSTUVWX"),
        key_id: Some("key.1"),
        key_version: Some(7),
        kms_request_id: Some("4112f4d6-db54-4af4-ae30-c55a22a8dfae"),
        kms_operation: Some("Decrypt"),
        principal: Some("arn:aws:iam::123456789012:user/Al Ice"),
        kms_key_arn: Some("arn:aws:kms:us-east-2:123456789012:key/1234abcd"),
        kms_via_service: Some("ebs"),
        source_vpc: Some("vpc-1234"),
        source_vpce: Some("vpce-5678"),
        status: 200,
        error_name: None,
        reason: None,
        token: Some("hsm-a"),
        request_bytes: 812,
        response_bytes: 64,
        queue_micros: Some(7),
        hsm_micros: Some(2_031),
        total_micros: u32::MAX,
        ..CallRecord::default()
    }
}

fn logged_with(
    format: LogFormat,
    level: Level,
    work: impl FnOnce(&mut AccessLog, &Path),
) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { level, ..file_config(directory.path(), format) };
    let log = Log::open(&config, Copies::default()).unwrap();
    let mut access_log = log.access_log();
    work(&mut access_log, directory.path());
    access_log.flush_buffer();
    assert!(log.stop());
    assert_eq!(log.dropped_lines(), 0);
    read_logged(directory.path())
}

fn logged(format: LogFormat, records: &[CallRecord<'_>]) -> String {
    logged_with(format, Level::INFO, |access_log, _| {
        records.iter().for_each(|record| access_log.write_at(record, AT));
    })
}

/// The complete format of a text line.
#[test]
fn text() {
    assert_eq!(
        logged(LogFormat::Text, &[record()]),
        "1994-11-06T08:49:37.123456Z INFO call=decrypt status=200 \
         kmsRequestId=4112f4d6-db54-4af4-ae30-c55a22a8dfae kmsOperation=Decrypt \
         principal=\"arn:aws:iam::123456789012:user/Al Ice\" store=/example externalKeyId=key.1 keyVersion=7 \
         kmsKeyArn=arn:aws:kms:us-east-2:123456789012:key/1234abcd kmsViaService=ebs \
         sourceVpc=vpc-1234 sourceVpce=vpce-5678 token=hsm-a requestBytes=812 responseBytes=64 \
         queueMicros=7 hsmMicros=2031 totalMicros=4294967295 peer=::1\n"
    );
}

/// A JSON line contains every member that is present; an empty string counts as present.
#[test]
fn json() {
    let lines = logged(
        LogFormat::Json,
        &[record(), CallRecord { store: Some(""), ..CallRecord::default() }],
    );
    let mut lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    assert_eq!(
        lines.next().unwrap(),
        json!({
            "time": "1994-11-06T08:49:37.123456Z", "level": "INFO", "call": "decrypt",
            "status": 200, "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
            "kmsOperation": "Decrypt", "principal": "arn:aws:iam::123456789012:user/Al Ice",
            "store": "/example", "externalKeyId": "key.1", "keyVersion": 7,
            "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:key/1234abcd",
            "kmsViaService": "ebs", "sourceVpc": "vpc-1234", "sourceVpce": "vpce-5678",
            "token": "hsm-a", "requestBytes": 812, "responseBytes": 64, "queueMicros": 7,
            "hsmMicros": 2031, "totalMicros": 4_294_967_295_u32, "peer": "::1"
        })
    );
    assert_eq!(
        lines.next().unwrap(),
        json!({
            "time": "1994-11-06T08:49:37.123456Z", "level": "INFO", "call": "none", "status": 0,
            "store": "", "requestBytes": 0, "responseBytes": 0, "totalMicros": 0
        })
    );
    assert_eq!(lines.next(), None);
}

/// No string from a peer can begin or end a line, or look like another field.
#[test]
fn hostile_strings_stay_in_their_place() {
    let forged =
        "x\n1994-11-06T08:49:37.123456Z INFO call=encrypt status=200\r\u{2028}\" status=200 \\";
    let hostile = CallRecord {
        call: forged,
        store: Some(forged),
        key_id: Some(forged),
        kms_request_id: Some(forged),
        kms_operation: Some(forged),
        principal: Some(forged),
        kms_key_arn: Some(forged),
        kms_via_service: Some(forged),
        source_vpc: Some(forged),
        source_vpce: Some(forged),
        error_name: Some(forged),
        reason: Some(forged),
        token: Some(forged),
        ..record()
    };
    let text = logged(LogFormat::Text, &[hostile]);
    assert_eq!(text.lines().count(), 1);
    assert!(text.trim_end().bytes().all(|byte| matches!(byte, b' '..=b'~')));
    // Outside quotes there is only the proxy's own status.
    let outside: String =
        text.replace("\\\\", "").replace("\\\"", "").split('"').step_by(2).collect();
    assert_eq!(outside.matches("status=").count(), 1);
    assert_eq!(outside.matches("call=").count(), 1);

    let json = logged(LogFormat::Json, &[hostile]);
    assert_eq!(json.lines().count(), 1);
    let value: Value = serde_json::from_str(&json).unwrap();
    for member in ["call", "principal", "reason", "token", "sourceVpce"] {
        assert_eq!(value[member], forged);
    }
    assert_eq!(value["status"], 200);
}

/// A line never exceeds the limits, no matter what its strings contain.
#[test]
fn the_longest_line() {
    let long = "\u{1}".repeat(2 * MAX_LOG_STRING_BYTES);
    let long = Some(long.as_str());
    let longest = CallRecord {
        call: "decrypt",
        store: long,
        access_key_id: long,
        key_id: long,
        key_version: Some(u32::MAX),
        kms_request_id: long,
        kms_operation: long,
        principal: long,
        kms_key_arn: long,
        kms_via_service: long,
        source_vpc: long,
        source_vpce: long,
        error_name: long,
        reason: long,
        token: long,
        peer: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
        is_authenticated: true,
        status: 500,
        request_bytes: usize::MAX,
        response_bytes: usize::MAX,
        queue_micros: Some(u32::MAX),
        hsm_micros: Some(u32::MAX),
        total_micros: u32::MAX,
        ..CallRecord::default()
    };
    for format in [LogFormat::Text, LogFormat::Json] {
        let line = logged(format, &[longest]);
        assert!(line.len() <= MAX_ACCESS_LOG_LINE_BYTES, "{}", line.len());
        assert!(line.len() > 12 * (MAX_LOG_STRING_BYTES - 6));
    }
}

/// The level depends on whose fault the outcome was; lines below the configured level are left out.
#[test]
fn levels() {
    for (least_severe, expected) in [
        (Level::TRACE, "INFO WARN WARN ERROR ERROR"),
        (Level::WARN, "WARN WARN ERROR ERROR"),
        (Level::ERROR, "ERROR ERROR"),
    ] {
        let lines = logged_with(LogFormat::Text, least_severe, |access_log, _| {
            for status in [200, 400, 429, 500, 503] {
                access_log.write_at(&CallRecord { status, ..record() }, AT);
            }
        });
        let levels: Vec<_> = lines.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
        assert_eq!(levels.join(" "), expected);
    }
}

/// Unauthenticated requests cannot fill the disk or displace other lines. The number of lines left
/// out is logged once the second is over.
#[test]
fn unauthenticated_requests_are_limited() {
    let flood = CallRecord { status: 401, is_authenticated: false, ..record() };
    let lines = logged_with(LogFormat::Text, Level::INFO, |access_log, _| {
        for number in 0..1000 {
            let status = if number < 500 { 401 } else { 501 };
            access_log.write_at(&CallRecord { status, ..flood }, AT);
        }
        access_log.write_at(&CallRecord { status: 400, ..record() }, AT);
        access_log.write_at(&flood, AT + Duration::from_secs(1));
    });
    let max = usize::try_from(MAX_UNAUTHENTICATED_LINES_PER_SEC).unwrap();
    let (of_first, rest): (Vec<_>, Vec<_>) =
        lines.lines().partition(|line| line.starts_with("1994-11-06T08:49:37"));
    assert_eq!(of_first.iter().filter(|line| line.contains(" status=401 ")).count(), max);
    assert_eq!(of_first.iter().filter(|line| line.contains(" status=400 ")).count(), 1);
    assert_eq!(of_first.len(), max + 1);
    let told = format!(
        "1994-11-06T08:49:38.123456Z WARN lines of unauthenticated requests were left out \
         leftOutLines={}",
        1000 - max
    );
    assert_eq!(rest[0], told);
    assert!(rest[1].contains(" status=401 "));
    assert_eq!(rest.len(), 2);
}

/// An idle loop also logs how many lines were left out, in a later tick.
#[test]
fn a_flush_tells_what_was_left_out() {
    let flood = CallRecord { status: 404, is_authenticated: false, ..record() };
    let lines = logged_with(LogFormat::Text, Level::INFO, |access_log, _| {
        for _ in 0..=MAX_UNAUTHENTICATED_LINES_PER_SEC {
            access_log.write_at(&flood, AT);
        }
        access_log.flush();
    });
    assert!(lines.lines().last().unwrap().ends_with(" leftOutLines=1"));
}
